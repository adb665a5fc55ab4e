"""What a verb is, and which there are."""

from collections.abc import Callable, Sequence
from types import UnionType

from snapsync.cli.output import Output, OutputOptions
from snapsync.declare import Argument, Option, options
from snapsync.errors import UsageError, told
from snapsync.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COMMANDS = "snapsync.cli.commands"
_found: "dict[str, Verb]" = {}


class Parameter(Record):
    """One option or argument: its type on the command line, its declaration, and its default there."""

    kind: "Any"
    info: Option | Argument
    default: "Any"


class Verb(Record):
    """A function that does the work of a verb, with the examples and the place in its help."""

    function: Callable[..., int]
    epilog: str
    place: int

    def parameters(self) -> dict[str, Parameter]:
        """Everything that the verb takes on the command line, in the order of its help."""
        found: dict[str, Parameter] = {}
        given = _defaults(self.function)
        for name, kind in self.function.__annotations__.items():
            if hasattr(kind, "fields"):
                found |= {of: _parameter(*declared) for of, declared in options(kind).items()}
            elif hasattr(kind, "__metadata__"):
                found[name] = _parameter(kind.__origin__, kind.__metadata__[0], given.get(name))
        return found | {name: _parameter(*declared) for name, declared in options(OutputOptions).items()}

    def run(self, given: "dict[str, Any]") -> int:
        """Call the function with what was given on the command line, and return the exit code."""
        output = Output(as_json=given.pop("as_json", False), quiet=given.pop("quiet", False))
        parameters = self.parameters()
        verb = self.function.__module__.rpartition(".")[2]
        values = {name: _read(verb, parameters[name].info, value) for name, value in given.items()}
        return self.function(output, **values)


def verb(*, place: int = 999, examples: Sequence[str]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Declare that a function is the verb that its module is named after.

    `place` says where it stands in the help of snapsync, `examples` are shown below its own.
    """
    epilog = "\n".join(["Examples:", "", "\b", *(f"  {line}" for line in examples)])

    def declare(function: Callable[..., int]) -> Callable[..., int]:
        _found[function.__module__.rpartition(".")[2]] = Verb(function, epilog, place)
        return function

    return declare


def find(name: str) -> Verb | None:
    """The verb of that name."""
    if not name.isidentifier() or name.startswith("_"):
        return None
    module = f"{_COMMANDS}.{name}"
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    return _found.get(name)


def names() -> list[str]:
    """The names of all verbs, in the order of their places."""
    from pkgutil import iter_modules

    from snapsync.cli import commands

    there = [(found.place, name) for _, name, _ in iter_modules(commands.__path__) if (found := find(name))]
    return [name for _, name in sorted(there)]


def choices(kind: "Any") -> "tuple[Any, ...]":
    """The alternatives of a type: of `str | None` these are `str` and `None`."""
    return kind.__args__ if isinstance(kind, UnionType) else (kind,)


def _parameter(kind: "Any", info: Option | Argument, default: "Any" = None) -> Parameter:
    """The type and default on the command line, where a value that is `read` is still a text."""
    if isinstance(info, Option) and default is None:
        default = info.default
    if info.read is not None:
        kind = str | None if default is None else str
    elif Sequence[str] in choices(kind):
        kind = list[str] | None
    elif kind is bool and default is None and isinstance(info, Option):
        default = False
    return Parameter(kind, info, default)


def _defaults(function: "Any") -> "dict[str, Any]":
    """The defaults of a function's parameters: `inspect` would take long to load."""
    values = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return dict(zip(names[len(names) - len(values) :], values, strict=True)) | (function.__kwdefaults__ or {})


def _read(verb: str, info: Option | Argument, value: "Any") -> "Any":
    if info.read is None or value is None:
        return value
    try:
        return info.read(value)
    except ValueError as error:
        names = info.names if isinstance(info, Option) else (str(info.how.get("metavar")),)
        message = f"invalid value for {names[0]}: {error}"
        advice = f"`snapsync {verb} --help` shows what it may be"
        raise told(UsageError(message), message, advice) from None
