"""Where the output of a verb goes: results to stdout, progress and notes to stderr."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper

from snapsync import render
from snapsync.cli.journal import Priority, marked
from snapsync.declare import Annotated, Option, TypedDict
from snapsync.errors import Failure, told
from snapsync.reports.base import Report
from snapsync.types import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TextIO

    from snapsync.jobs.shown import Board


class OutputOptions(TypedDict, total=False):
    """The options that every verb has for its output."""

    as_json: Annotated[bool, Option("--json", help="One JSON object on stdout; sizes are bytes.")]
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="No progress, notes or summary; only what is asked for.")
    ]


class Output:
    """The output of one verb, as --json and --quiet want it.

    With --json stdout gets exactly one JSON object; with --quiet there is no progress, no note and no
    summary, and the answer of a verb that was asked a question is all that is printed.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        if isinstance(sys.stdout, TextIOWrapper):  # any name can be printed in any locale, as on stderr
            sys.stdout.reconfigure(errors="backslashreplace")

    def progress(self) -> "AbstractContextManager[Progress | None]":
        """A callback that shows progress on stderr while the context lasts."""
        if self.quiet:
            return nullcontext()
        if on_terminal(sys.stderr):
            from snapsync.cli.terminal import bars

            return bars()
        from snapsync.cli.progress import lines

        return lines()

    def board(self) -> "AbstractContextManager[Board | None]":
        """What shows several jobs at once on stderr while the context lasts; None without a terminal."""
        if self.quiet or not on_terminal(sys.stderr):
            return nullcontext()
        from snapsync.cli.terminal import board

        return board()

    def note(self, text: str, priority: Priority = Priority.NOTICE) -> None:
        """Print something on stderr that is worth knowing and is not the result."""
        if not self.quiet:
            print(marked(sys.stderr, priority, f"snapsync: {render.name(text)}"), file=sys.stderr)

    def log(self, text: str, level: str) -> None:
        """Print a line of the log of jobs on stderr: an `error`, a `warning` or a `notice`."""
        self.note(text, Priority[level.upper()])

    def notes(self, texts: Iterable[str]) -> None:
        """Print several notes."""
        for text in texts:
            self.note(text)

    def healed(self, recovered: Iterable[str]) -> None:
        """Print what was done about what an interrupted command had left."""
        self.notes(f"healed: {what}" for what in recovered)

    def summary(self, report: Report, lines: Iterable[str]) -> None:
        """Print the summary of a verb that did something: the report, or lines unless --quiet."""
        if self.as_json or not self.quiet:
            self.result(report, lines)

    def aside(self, report: Report, lines: Iterable[str]) -> None:
        """Print the summary on stderr, because stdout holds something else."""
        if self.as_json or not self.quiet:
            for line in [report.to_json()] if self.as_json else lines:
                print(line, file=sys.stderr)

    def result(self, report: Report, lines: Iterable[str]) -> None:
        """Print the answer of a verb that was asked a question."""
        for line in [report.to_json()] if self.as_json else lines:
            with writing():
                print(line)

    def patch(self, text: str) -> None:
        """Print a patch, byte for byte; on a terminal nothing in it moves the cursor."""
        with writing():
            if on_terminal(sys.stdout):
                for line in text.split("\n")[:-1]:
                    print("\t".join(map(render.name, line.split("\t"))))
            else:
                sys.stdout.flush()
                sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
                sys.stdout.buffer.flush()

    def say(self, text: str = "") -> None:
        """Print a line on stdout, or on stderr if stdout is for the JSON object."""
        if not self.quiet:
            with writing():
                print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout: ruled on a terminal, aligned columns otherwise."""
        if on_terminal(sys.stdout):
            from snapsync.cli.terminal import print_table

            print_table(title, headings, rows)
        else:
            with writing():
                print(title, *render.table(headings, rows), sep="\n")


_taken: list[str] = []


def take_stdout(whose: str) -> None:
    """From now on stdout is for a delta or a peer: nothing else may be printed there."""
    _taken.append(whose)


@contextmanager
def writing() -> Iterator[None]:
    """If writing to stdout fails, say that the answer could not be written."""
    try:
        yield
    except BrokenPipeError:  # no message is needed: see main.run
        raise
    except OSError as error:
        raise told(error, f"cannot write the answer: {error.strerror}") from None


def on_terminal(stream: "TextIO | None") -> bool:
    """Whether `stream` is a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def print_failure(failure: Failure, *, as_json: bool) -> None:
    """Print a failure on stderr, and with --json also as the one object on stdout."""
    words = [f"snapsync: {render.name(failure.message)}"]
    words += [f"  {render.name(line)}" for line in failure.advice.splitlines()]
    for line in words:
        print(marked(sys.stderr, Priority.ERROR, line), file=sys.stderr)
    if as_json:
        error = {
            "message": failure.message,
            "advice": failure.advice,
            "exit_code": int(failure.exit_code),
            **({"guard": failure.guard} if failure.guard else {}),
        }
        print(json.dumps({"error": error}), file=sys.stderr if _taken else sys.stdout)
