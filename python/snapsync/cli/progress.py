"""Progress without a terminal: one line on stderr at the end of each stage that takes a while."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from snapsync import render
from snapsync.types import Progress

# What takes less is no progress that anybody waits for, and would be mail from cron.
_LONG = 2.0


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
        took = time.monotonic() - self._started
        if self._stage and took >= _LONG:
            print(f"snapsync: {self._stage}: {self._amount} in {render.seconds(took)}", file=sys.stderr)
