"""Errors, and their descriptions for people.

Every failure has three parts: one sentence (what was attempted, on which path, why), an exit code, and
advice on what to do next. The native half sets them on each exception it raises, built-in OSErrors
included; `describe` finds them again and fills them in for exceptions that never came from there.
"""

from __future__ import annotations

import os
from enum import IntEnum

from snapsync._native import (
    IntegrityError,
    InterruptedRound,
    RefusedError,
    SnapsyncError,
    UsageError,
    fault_points,
)
from snapsync.record import Record

__all__ = [
    "ExitCode",
    "Failure",
    "HistoryWarning",
    "IntegrityError",
    "InterruptedRound",
    "RefusedError",
    "SnapsyncError",
    "UsageError",
    "debugging",
    "describe",
    "told",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    E = TypeVar("E", bound=Exception)


class HistoryWarning(UserWarning):
    """A history is not whole: a manifest of it, for example, is damaged and was passed over."""


class ExitCode(IntEnum):
    """What the command's exit status means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    INTEGRITY = 4
    INTERRUPTED = 5
    SKIPPED = 6


_CODES = {
    UsageError: ExitCode.USAGE,
    RefusedError: ExitCode.REFUSED,
    IntegrityError: ExitCode.INTEGRITY,
    InterruptedRound: ExitCode.INTERRUPTED,
    KeyboardInterrupt: ExitCode.INTERRUPTED,
}


_ARROW = """`pip install 'snapsync[arrow]'` brings it; with Debian's package see its README.Debian
rounds, restores, `status`, `list`, `log` and `find` go without it"""
_ITSELF = "`pip install snapsync` brings it"
_BROUGHT_BY = {"pyarrow": _ARROW, "prometheus_client": _ITSELF, "rich": _ITSELF, "typer": _ITSELF}
"""The libraries that only some verbs import, and how each is installed."""


class Failure(Record):
    """A failure in words. `advice` is empty where there is none to give; `guard` is what a guard measured."""

    message: str
    advice: str
    exit_code: int
    guard: dict[str, object] | None = None


def told(error: E, message: str, advice: str = "") -> E:
    """Give `error` the words that `describe` looks for, and return it to be raised."""
    vars(error).update(message=message, advice=advice, exit_code=int(_exit_code(error)))
    return error


def describe(error: BaseException) -> Failure:
    """Say what happened in one sentence, with advice and an exit code."""
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted; nothing is torn, and the next command heals what was left"
        return Failure(message, "", ExitCode.INTERRUPTED)
    if isinstance(error, SnapsyncError | OSError):
        guard = getattr(error, "guard", None)
        return Failure(_sentence(error), getattr(error, "advice", ""), _exit_code(error), guard)
    if isinstance(error, ImportError) and (library := (error.name or "").partition(".")[0]) in _BROUGHT_BY:
        message = f"this takes the Python library {library}, which cannot be imported: {error}"
        return Failure(message, _BROUGHT_BY[library], ExitCode.USAGE)
    if isinstance(error, MemoryError):
        return Failure("out of memory", "try fewer --jobs", ExitCode.FAILED)
    message = f"unexpected {type(error).__name__}: {error}{_place(error)}"
    return Failure(message, "this is a mistake of snapsync: report it with this sentence", ExitCode.FAILED)


def debugging() -> bool:
    """Whether to print a traceback: a developer asked for it, and this is not a release."""
    return os.environ.get("SNAPSYNC_DEBUG", "") not in ("", "0") and bool(fault_points())


def _place(error: BaseException) -> str:
    """The line of code that raised the error, because no traceback is printed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" (in {os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})"


def _sentence(error: Exception) -> str:
    told_so = getattr(error, "message", None)
    if told_so:
        return str(told_so)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _exit_code(error: BaseException) -> int:
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), ExitCode.FAILED)
