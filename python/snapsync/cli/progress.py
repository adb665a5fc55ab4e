"""Progress without a terminal: one line on stderr at the end of each stage."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from snapsync import render
from snapsync.types import Progress


@contextmanager
def lines() -> Iterator[Progress]:
    """A progress callback; the last stage has ended when the context is left without an error."""
    stages = _Lines()
    yield stages
    stages.finish()


class _Lines:
    """The callback behind `lines`."""

    def __init__(self) -> None:
        self._stage = ""
        self._amount = ""
        self._started = 0.0

    def __call__(self, stage: str, done: int, _total: int, unit: str) -> None:
        if stage != self._stage:
            self.finish()
            self._stage, self._started = stage, time.monotonic()
        self._amount = render.amount(done, 0, unit)

    def finish(self) -> None:
        """Print the result of the current stage."""
        if self._stage:
            took = render.seconds(time.monotonic() - self._started)
            print(f"snapsync: {self._stage}: {self._amount} in {took}", file=sys.stderr)
