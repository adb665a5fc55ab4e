"""Where a verb's words go: results to stdout, progress and notes to stderr."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper

from snapsync import render
from snapsync.declare import Annotated, Option, TypedDict
from snapsync.errors import Failure, told
from snapsync.reports.base import Report
from snapsync.types import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TextIO


class OutputOptions(TypedDict, total=False):
    """What every verb can be told about its words."""

    as_json: Annotated[bool, Option("--json", help="One JSON object on stdout; sizes are bytes.")]
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress, notes or summary.")]


class Output:
    """What --json and --quiet make of a verb's words.

    With --json stdout gets exactly one JSON object; with --quiet there is no progress, no note and no
    summary.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        if isinstance(sys.stdout, TextIOWrapper):  # names go through in any locale, as on stderr
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

    def note(self, text: str) -> None:
        """Something worth knowing that is not the result."""
        if not self.quiet:
            print(f"snapsync: {render.name(text)}", file=sys.stderr)

    def notes(self, texts: Iterable[str]) -> None:
        """The same for each."""
        for text in texts:
            self.note(text)

    def healed(self, recovered: Iterable[str]) -> None:
        """What an earlier command had left, and was done about it."""
        self.notes(f"healed: {what}" for what in recovered)

    def summary(self, report: Report, lines: Iterable[str]) -> None:
        """The end of a verb that did something: the report, or lines that --quiet drops."""
        if self.as_json or not self.quiet:
            self.result(report, lines)

    def aside(self, report: Report, lines: Iterable[str]) -> None:
        """The same where stdout holds something else: on stderr."""
        if self.as_json or not self.quiet:
            for line in [report.to_json()] if self.as_json else lines:
                print(line, file=sys.stderr)

    def result(self, report: Report, lines: Iterable[str]) -> None:
        """The answer of a verb that was asked for one."""
        for line in [report.to_json()] if self.as_json else lines:
            with writing():
                print(line)

    def say(self, text: str = "") -> None:
        """A line of a story: on stdout, or on stderr where stdout belongs to the JSON object."""
        if not self.quiet:
            with writing():
                print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout: ruled on a terminal, aligned columns otherwise."""
        if on_terminal(sys.stdout):
            from snapsync.cli.terminal import print_table

            print_table(title, headings, rows)
        else:
            with writing():
                print(title, *render.table(headings, rows), sep="\n")


_taken: list[str] = []


def take_stdout(whose: str) -> None:
    """From now on stdout belongs to a delta or a peer: no word may get into it."""
    _taken.append(whose)


@contextmanager
def writing() -> Iterator[None]:
    """Where the answer cannot be written, say that it was this that failed."""
    try:
        yield
    except BrokenPipeError:  # not worth a word: see main.run
        raise
    except OSError as error:
        raise told(error, f"cannot write the answer: {error.strerror}") from None


def on_terminal(stream: "TextIO | None") -> bool:
    """Whether someone looks at `stream`, on a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def print_failure(failure: Failure, *, as_json: bool) -> None:
    """Tell a failure on stderr, and with --json as the one object on stdout as well."""
    print(f"snapsync: {render.name(failure.message)}", file=sys.stderr)
    for line in failure.advice.splitlines():
        print(f"  {render.name(line)}", file=sys.stderr)
    if as_json:
        error = {
            "message": failure.message,
            "advice": failure.advice,
            "exit_code": int(failure.exit_code),
        }
        print(json.dumps({"error": error}), file=sys.stderr if _taken else sys.stdout)
