"""How verbs and what they take are declared: without typer, which is loaded only where a line needs it."""

from collections.abc import Callable

from snapsync.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any
else:

    class Annotated:
        """What `typing.Annotated` makes, without the rest of typing, which takes long to import."""

        def __init__(self, origin, *metadata):
            self.__origin__, self.__metadata__ = origin, metadata

        def __class_getitem__(cls, given):
            return cls(*given)


__all__ = ["Annotated", "Argument", "Option", "Verb", "Verbs"]


class Option:
    """An option by its names, `--on/--off` for one that can be unsaid; without any it is called as its
    parameter is. `how` is what typer is told of it."""

    def __init__(self, *names: str, **how: "Any") -> None:
        self.names = names
        self.how = how


class Argument:
    """What is known by its place in the line."""

    def __init__(self, **how: "Any") -> None:
        self.how = how


class Verb(Record):
    """A function whose parameters are annotated with the above, and what stands below its help."""

    function: Callable[..., int]
    epilog: str


class Verbs(dict[str, Verb]):
    """Verbs by name."""

    def verb(
        self, name: str | None = None, *, epilog: str
    ) -> Callable[[Callable[..., int]], Callable[..., int]]:
        """Declare that a function is a verb, by its own name or another."""

        def declare(function: Callable[..., int]) -> Callable[..., int]:
            self[name or function.__name__] = Verb(function, epilog)
            return function

        return declare
