"""Command lines as most are written, understood without typer's parser, which takes longer than a round.

Plain is a line whose options are spelled out, each given once unless it may be repeated, with a text or a
number as its value. Everything else is left to typer, mistakes and --help included. Both read the same
declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType, UnionType

from snapsync.commands.declare import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _NotPlainError(Exception):
    """A line, or a declaration, that is typer's to understand."""


def understand(verb: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """The arguments that `words` give to the function of a verb; None where the line is not plain."""
    try:
        return _Line(verb).read(words)
    except _NotPlainError:
        return None


class _Line:
    def __init__(self, verb: Callable[..., Any]) -> None:
        self.flags: dict[str, tuple[str, bool]] = {}
        self.options: dict[str, str] = {}
        self.positions: list[str] = []
        self.declared: dict[str, tuple[Any, Option | Argument]] = {}
        self.given: dict[str, Any] = {}
        for name, annotation in verb.__annotations__.items():
            if name != "return":
                self._declare(name, annotation.__origin__, annotation.__metadata__[0])

    def _declare(self, name: str, kind: Any, info: Option | Argument) -> None:
        self.declared[name] = kind, info
        if isinstance(info, Argument):
            self.positions.append(name)
            return
        is_flag = bool in _choices(kind)
        if is_flag and not info.names:
            raise _NotPlainError  # typer makes up a name for its opposite
        for spelled in info.names or ("--" + name.replace("_", "-"),):
            on, _, off = spelled.partition("/")
            if is_flag:
                self.flags[on] = name, True
                self.flags |= {off: (name, False)} if off else {}
            else:
                self.options[on] = name

    def read(self, words: Sequence[str]) -> dict[str, Any]:
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

    def _option(self, word: str, rest: Any) -> None:
        spelled, is_joined, value = word.partition("=")
        if is_joined and not spelled.startswith("--"):
            raise _NotPlainError
        if not is_joined:
            value = next(rest, "-")
        if spelled not in self.options or (value.startswith("-") and not is_joined):
            raise _NotPlainError
        name = self.options[spelled]
        kind, info = self.declared[name]
        if list[str] in _choices(kind):
            self.given.setdefault(name, []).append(value)
        else:
            self._give(name, _value(kind, info, value))

    def _place(self, free: list[str]) -> None:
        """What is no option, in the order of its declaration; the last may take all that is left."""
        for name in self.positions:
            kind, info = self.declared[name]
            if list[str] in _choices(kind):
                if free:
                    self.given[name], free = free, []
            elif free:
                self._give(name, _value(kind, info, free.pop(0)))
            elif NoneType not in _choices(kind):
                raise _NotPlainError
        if free:
            raise _NotPlainError

    def _give(self, name: str, value: Any) -> None:
        if name in self.given:
            raise _NotPlainError
        self.given[name] = value


def _choices(kind: Any) -> tuple[Any, ...]:
    """What an annotation allows: of `str | None` a text or nothing."""
    return kind.__args__ if isinstance(kind, UnionType) else (kind,)


def _value(kind: Any, info: Option | Argument, text: str) -> Any:
    kinds = set(_choices(kind)) - {NoneType}
    if kinds == {str}:
        return text
    if kinds != {int} or not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _NotPlainError
    number = int(text)
    if not info.how.get("min", 0) <= number <= info.how.get("max", number):
        raise _NotPlainError
    return number
