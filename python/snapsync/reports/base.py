"""The base of all reports: frozen dataclasses, built from the JSON of the native half."""

import json
from datetime import datetime
from types import GenericAlias, UnionType

from snapsync.errors import IntegrityError, told
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

    @classmethod
    def from_peer(cls, text: str, host: str) -> "Self":
        """Read a report that another machine sent, as if the volume were here: its path begins with `host`.

        Raises IntegrityError for what is no such report.
        """
        try:
            value = json.loads(text)
            _expect(cls, value)
            if "volume" in value:
                value["volume"]["path"] = f"{host}:{value['volume']['path']}"
            report: Self = _build(cls, value)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            message = f"{host} answers with a report that makes no sense"
            raise told(IntegrityError(message), message, "use the same snapsync on both machines") from None
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


def _expect(kind: "Any", value: "Any") -> None:
    """Raise ValueError where decoded JSON is nothing of the annotation `kind`: who shows it trusts it."""
    if isinstance(kind, GenericAlias):
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is no list")
        for item in value:
            _expect(kind.__args__[0], item)
    elif isinstance(kind, UnionType):
        if value is not None:
            _expect(kind.__args__[0], value)
    elif issubclass(kind, Record):
        for name, of in kind.__annotations__.items():
            if name in value:
                _expect(of, value[name])
    elif kind is datetime:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
    elif not isinstance(value, (int, float) if kind is float else kind) or _is_beyond(value):
        raise ValueError(f"{value!r} is not of the kind {kind.__name__}")


def _is_beyond(value: "Any") -> bool:
    """Whether it is a number that no field has room for."""
    return isinstance(value, int | float) and not -(2**63) <= value < 2**64
