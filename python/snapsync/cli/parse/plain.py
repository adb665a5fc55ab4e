"""Reading the usual command lines without typer; the page in this package explains it."""

from collections.abc import Iterator, Sequence
from types import NoneType

from snapsync.cli.parse.verbs import Parameter, Verb, choices
from snapsync.declare import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _NotPlainError(Exception):
    """A line that has to be read by typer."""


def understand(verb: Verb, words: Sequence[str]) -> "dict[str, Any] | None":
    """What `words` give to a verb, by its parameters; None where the line is not plain."""
    try:
        return _Line(verb).read(words)
    except _NotPlainError:
        return None


class _Line:
    def __init__(self, verb: Verb) -> None:
        self.flags: dict[str, tuple[str, bool]] = {}
        self.options: dict[str, str] = {}
        self.positions: list[str] = []
        self.given: dict[str, Any] = {}
        self.parameters = verb.parameters()
        for name, parameter in self.parameters.items():
            self._declare(name, parameter)

    def _declare(self, name: str, parameter: Parameter) -> None:
        if isinstance(parameter.info, Argument):
            self.positions.append(name)
            return
        is_flag = bool in choices(parameter.kind)
        if is_flag and not parameter.info.names:
            raise _NotPlainError  # typer makes up a name for its opposite
        for spelled in parameter.info.names or ("--" + name.replace("_", "-"),):
            on, _, off = spelled.partition("/")
            if is_flag:
                self.flags[on] = name, True
                self.flags |= {off: (name, False)} if off else {}
            else:
                self.options[on] = name

    def read(self, words: Sequence[str]) -> "dict[str, Any]":
        rest = iter(words)
        free: list[str] = []
        for word in rest:
            if word == "--":
                free += rest
            elif not word.startswith("-") or word == "-":
                free.append(word)
            elif word in self.flags:
                self._give(*self.flags[word])
            else:
                self._option(word, rest)
        self._place(free)
        return self.given

    def _option(self, word: str, rest: Iterator[str]) -> None:
        spelled, is_joined, value = word.partition("=")
        if is_joined and not spelled.startswith("--"):
            raise _NotPlainError
        if not is_joined:
            value = next(rest, "-")
        if spelled not in self.options or (value.startswith("-") and not is_joined):
            raise _NotPlainError
        name = self.options[spelled]
        parameter = self.parameters[name]
        if list[str] in choices(parameter.kind):
            self.given.setdefault(name, []).append(value)
        else:
            self._give(name, _value(parameter, value))

    def _place(self, free: list[str]) -> None:
        """Give the words that are no options to the arguments in order; the last may take all the rest."""
        for name in self.positions:
            parameter = self.parameters[name]
            if free and list[str] in choices(parameter.kind):
                self.given[name], free = free, []
            elif free:
                self._give(name, _value(parameter, free.pop(0)))
            elif NoneType not in choices(parameter.kind):
                raise _NotPlainError
        if free:
            raise _NotPlainError

    def _give(self, name: str, value: object) -> None:
        if name in self.given:
            raise _NotPlainError
        self.given[name] = value


def _value(parameter: Parameter, text: str) -> str | int:
    kinds = set(choices(parameter.kind)) - {NoneType}
    if kinds == {str}:
        return text
    if kinds != {int} or not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _NotPlainError
    number, how = int(text), parameter.info.how
    if not how.get("min", 0) <= number <= how.get("max", number):
        raise _NotPlainError
    return number
