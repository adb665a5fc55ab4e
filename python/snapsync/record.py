"""Frozen dataclasses that are made quickly: to import the usual ones took longer than a round."""

from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, Never, dataclass_transform


@dataclass_transform(frozen_default=True)
class Record:
    """Subclasses are dataclasses by their annotations alone.

    What `dataclass` writes out for each class, as source that is compiled, is here once for all.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        dataclass(init=False, repr=False, eq=False)(cls)

    def __init__(self, *values: Any, **named: Any) -> None:
        names = [field.name for field in fields(self)]
        given = dict(zip(names, values, strict=False)) | named
        wrong = named.keys() & set(names[: len(values)]) | given.keys() - set(names)
        if wrong or len(values) > len(names):
            raise TypeError(
                f"{type(self).__name__} cannot take {', '.join(sorted(wrong)) or 'so many values'}"
            )
        for field in fields(self):
            value = given.get(field.name, field.default)
            if value is MISSING:
                raise TypeError(f"{type(self).__name__} needs {field.name}")
            object.__setattr__(self, field.name, value)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"cannot assign to {name!r}: {type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"cannot delete {name!r}: {type(self).__name__} is frozen")

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))
