"""How options are declared: each once, with its help, in a group that is handed through whole.

A group is a typed dictionary of options. It is the keywords of a function of the API, the options of a verb
on the command line, and what the native half is given. At run time nothing here is `typing`'s, whose import
takes a tenth of a start; a type checker sees the real thing.
"""

from collections.abc import Callable, Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any, TypedDict, Unpack
else:

    class Annotated:
        """A type, and what is to be known about it."""

        def __init__(self, origin, *metadata):
            self.__origin__, self.__metadata__ = origin, metadata

        def __class_getitem__(cls, given):
            return cls(*given)

    class TypedDict:
        """The base of groups: `fields` has the annotations of a group's bases, and then its own."""

        fields = {}  # noqa: RUF012

        def __init_subclass__(cls, *, total=True):
            cls.fields = {name: kind for base in cls.__bases__ for name, kind in base.fields.items()}
            cls.fields |= cls.__annotations__

    class Unpack:
        """`Unpack[Group]` is the group itself."""

        def __class_getitem__(cls, group):
            return group


__all__ = [
    "Annotated",
    "Argument",
    "Option",
    "TypedDict",
    "Unpack",
    "defaults",
    "options",
    "pick",
]


class Option:
    """An option by its names, `--on/--off` for one that can be unsaid.

    `default` is its default as it would be typed. `read` makes its value of the text that is
    typed, or raises ValueError with the reason why it cannot; without it the type says how it is read. An
    option that is for `once` cannot be a key of a job. `how` is passed to typer.
    """

    def __init__(
        self,
        *names: str,
        default: "Any" = None,
        read: "Callable[[str], Any] | None" = None,
        once: bool = False,
        **how: "Any",
    ) -> None:
        self.names = names
        self.default = default
        self.read = read
        self.once = once
        self.how = how


class Argument:
    """An argument, which is known by its place in the line."""

    read = None

    def __init__(self, **how: "Any") -> None:
        self.how = how


def options(group: "Any") -> "dict[str, tuple[Any, Option]]":
    """The options of a group by name, each with its type."""
    return {name: (kind.__origin__, kind.__metadata__[0]) for name, kind in group.fields.items()}


def defaults(group: "Any") -> "dict[str, Any]":
    """The default of each option of a group."""
    return {name: _default(kind, option) for name, (kind, option) in options(group).items()}


def pick(group: "Any", given: "Mapping[str, Any]") -> "dict[str, Any]":
    """The options of a group out of those that were given, with the defaults of the others."""
    return {name: given.get(name, usual) for name, usual in defaults(group).items()}


def _default(kind: "Any", option: Option) -> "Any":
    if option.default is not None:
        return option.read(option.default) if option.read else option.default
    if kind == Sequence[str]:
        return ()
    return False if kind is bool else None
