"""Progress bars and tables for a terminal. No other module imports rich."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from snapsync import render, types


@contextmanager
def bars() -> Iterator[types.Progress]:
    """One bar a stage, on stderr. Finished stages stay on the screen."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        stages = _Bars(progress)
        yield stages
        stages.finish()


class _Bars:
    """The progress callback behind `bars`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._task: TaskID | None = None

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        if stage != self._stage or self._task is None:
            self.finish()
            self._stage = stage
            self._task = self._progress.add_task(stage, total=None, amount="", rate="")
        self._progress.update(
            self._task,
            completed=done,
            total=total or None,
            amount=render.amount(done, total, unit),
            rate=self._rate(self._task, unit),
        )

    def finish(self) -> None:
        """Fill the bar of the current stage, which has ended."""
        if self._task is not None:
            done = max(self._progress.tasks[self._task].completed, 1)
            self._progress.update(self._task, total=done, completed=done)

    def _rate(self, task: TaskID, unit: str) -> str:
        speed = int(self._progress.tasks[task].speed or 0)
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
