"""How far a round is, told by its process to the one that started it, through a pipe of its own.

Each line is a list in JSON: the stage, what is done, the total or 0, and the unit. What a round says on
standard error is for people and kept with its outcome; this is for a terminal, and lost lines do not matter.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Thread

from snapsync.types import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

Board: "TypeAlias" = Callable[[str], AbstractContextManager[Progress]]
"""Shows the progress of the job of this name while the context lasts; several may be under way at once."""


@contextmanager
def telling(handle: int) -> Iterator[Progress]:
    """A progress callback that writes to a pipe. Nobody waits for its reader, or fails when that is gone."""
    os.set_blocking(handle, False)

    def tell(stage: str, done: int, total: int, unit: str) -> None:
        with suppress(OSError):  # a line is shorter than what a pipe takes whole or not at all
            os.write(handle, json.dumps([stage, done, total, unit]).encode() + b"\n")

    yield tell


def heard(board: Board, job: str) -> tuple[int, Thread]:
    """A handle for `telling`, and the thread that shows what comes until everybody has closed it."""
    reader, writer = os.pipe()

    def show() -> None:
        with board(job) as progress, open(reader, "rb") as lines:
            for line in lines:
                progress(*json.loads(line))

    thread = Thread(target=show, daemon=True)
    thread.start()
    return writer, thread
