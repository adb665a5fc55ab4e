"""Priorities of lines for the journal of systemd, where a stream leads there, as sd-daemon(3) has them."""

import os
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


class Priority(IntEnum):
    """How urgent a line is."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


def leads_there(stream: "TextIO | None") -> bool:
    """Whether a stream is the one that the service manager has connected to the journal.

    Its variable alone says nothing: programs inherit it whose streams lead elsewhere.
    """
    told = os.environ.get("JOURNAL_STREAM")
    if not told or stream is None:
        return False
    try:
        about = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is closed, or no file
        return False
    return told == f"{about.st_dev}:{about.st_ino}"


def marked(stream: "TextIO | None", priority: Priority, line: str) -> str:
    """A line as it is printed on a stream: with its priority in front where the journal reads it."""
    return f"<{priority:d}>{line}" if leads_there(stream) else line
