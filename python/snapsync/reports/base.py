"""The base of all reports: frozen dataclasses, built from the JSON of the native half."""

import json
from datetime import datetime
from types import GenericAlias, UnionType

from snapsync.record import Record, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


class Report(Record):
    """The base of all reports; `verb` is the verb that made it."""

    verb = ""

    @classmethod
    def from_json(cls, text: str) -> "Self":
        """Read the report that the native half wrote."""
        report: Self = _build(cls, json.loads(text))
        return report

    def as_dict(self) -> "dict[str, Any]":
        """The same as nested dictionaries and sequences, with `verb` first."""
        return {"verb": self.verb, **plain(self)}

    def to_json(self) -> str:
        """The same as one JSON object. Moments are written as RFC 3339."""
        return json.dumps(self.as_dict(), default=datetime.isoformat)


def _build(kind: "Any", value: "Any") -> "Any":
    """Make an instance of the annotation `kind` out of decoded JSON."""
    if isinstance(kind, GenericAlias):  # always a tuple
        return tuple(_build(kind.__args__[0], item) for item in value)
    if isinstance(kind, UnionType):  # always `kind | None`
        return None if value is None else _build(kind.__args__[0], value)
    if issubclass(kind, Record):
        known = ((name, of) for name, of in kind.__annotations__.items() if name in value)
        return kind(**{name: _build(of, value[name]) for name, of in known})
    return datetime.fromisoformat(value) if kind is datetime else value
