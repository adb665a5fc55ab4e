"""Progress bars and tables for a terminal. No other module imports rich."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from snapsync import render, types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snapsync.jobs.shown import Board


@contextmanager
def bars() -> Iterator[types.Progress]:
    """One bar a stage, on stderr. Finished stages stay on the screen."""
    with _progress(30) as progress:
        stages = _Bars(progress)
        yield stages
        stages.finish()


@contextmanager
def board() -> "Iterator[Board]":
    """One line for each job under way, on stderr. It goes when the job has ended."""
    with _progress(15) as progress:

        @contextmanager
        def line(job: str) -> Iterator[types.Progress]:
            stages = _Bars(progress, f"{render.name(job)}: ", waits="begins")
            try:
                yield stages
            finally:
                stages.remove()

        yield line


def _progress(width: int) -> Progress:
    """Bars with how much of each is done in percent, how fast that goes, and how long it takes yet."""
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(bar_width=width),
        TextColumn("{task.fields[percent]:>4}"),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    return Progress(*columns, console=Console(stderr=True))


class _Bars:
    """The progress callback behind both; `whose` goes before each stage."""

    def __init__(self, progress: Progress, whose: str = "", waits: str = "") -> None:
        self._progress = progress
        self._whose = whose
        self._stage = ""
        self._task: TaskID | None = self._begun(waits) if waits else None

    def _begun(self, stage: str) -> TaskID:
        about = f"{self._whose}{stage}"
        return self._progress.add_task(about, total=None, amount="", rate="", percent="")

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        if stage != self._stage or self._task is None:
            self.remove() if self._whose else self.finish()
            self._stage = stage
            self._task = self._begun(stage)
        self._progress.update(
            self._task,
            completed=done,
            total=total or None,
            amount=render.amount(done, total, unit),
            rate=self._rate(self._task, unit),
            percent=f"{min(done, total) / total:.0%}" if total else "",
        )

    def remove(self) -> None:
        """Take the line away."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def finish(self) -> None:
        """Fill the bar of the current stage, which has ended."""
        if self._task is not None:
            done = max(self._at(self._task).completed, 1)
            self._progress.update(self._task, total=done, completed=done)

    def _at(self, task: TaskID) -> Task:
        return next(found for found in self._progress.tasks if found.id == task)

    def _rate(self, task: TaskID, unit: str) -> str:
        speed = int(self._at(task).speed or 0)
        if not speed:
            return ""
        return f"{render.size(speed) if unit == 'bytes' else f'{speed:,}'}/s"


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a ruled table on stdout. Columns whose heading starts with `>` are aligned to the right."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(
            heading.lstrip(">"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    for row in rows:
        # Text, because in a plain string rich would read [brackets] in a name as markup.
        table.add_row(*(Text(render.name(cell)) for cell in row))
    Console().print(table)
