"""Frozen dataclasses that load quickly: importing `dataclasses` takes longer than a whole round."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import Field
    from typing import Any, ClassVar, Never, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda kind: kind


class _Fields:
    """The fields of a dataclass, made only when somebody asks for them."""

    def __get__(self, _: object, owner: "type[Record]") -> "Any":
        from dataclasses import dataclass

        dataclass(init=False, repr=False, eq=False)(owner)  # replaces this attribute by its own
        return owner.__dataclass_fields__


@dataclass_transform(frozen_default=True)
class Record:
    """Subclasses are dataclasses by their annotations alone.

    What `dataclass` writes out for each class, as source that is compiled, is here once for all. Every name
    that is annotated is a field: what belongs to a class stands there without an annotation.
    """

    __dataclass_fields__: "ClassVar[dict[str, Field[Any]]]"
    _names: "ClassVar[tuple[str, ...]]" = ()

    def __init_subclass__(cls) -> None:
        cls._names = (*cls._names, *(name for name in cls.__annotations__ if name not in cls._names))
        cls.__match_args__ = cls._names  # type: ignore[attr-defined, misc]
        cls.__dataclass_fields__ = _Fields()  # type: ignore[assignment]

    def __init__(self, *values: "Any", **named: "Any") -> None:
        names = self._names
        given = dict(zip(names, values, strict=False)) | named
        wrong = named.keys() & set(names[: len(values)]) | given.keys() - set(names)
        if wrong or len(values) > len(names):
            raise TypeError(
                f"{type(self).__name__} cannot take {', '.join(sorted(wrong)) or 'so many values'}"
            )
        for name in names:
            if name not in given and not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} needs {name}")
            object.__setattr__(self, name, given[name] if name in given else getattr(type(self), name))

    def __setattr__(self, name: str, value: object) -> "Never":
        raise AttributeError(f"cannot assign to {name!r}: {type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> "Never":
        raise AttributeError(f"cannot delete {name!r}: {type(self).__name__} is frozen")

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> "tuple[Any, ...]":
        return tuple(getattr(self, name) for name in self._names)


def plain(value: "Any") -> "Any":
    """A record as a dictionary, with the records in it as dictionaries too."""
    if isinstance(value, Record):
        return {name: plain(getattr(value, name)) for name in value._names}
    return tuple(plain(item) for item in value) if isinstance(value, tuple) else value
