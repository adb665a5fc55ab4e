"""Questions about volumes on another machine, which the snapsync there answers as it does for itself."""

import json
import os
from collections.abc import Mapping

from snapsync import _native
from snapsync._native import Location
from snapsync.declare import pick
from snapsync.errors import UsageError, told
from snapsync.options import SshOptions
from snapsync.types import AnyPath, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_elsewhere(place: AnyPath) -> bool:
    """Whether `place` is written as one on another machine."""
    return Location.known(os.fsdecode(place)).host is not None


def ask(
    place: AnyPath,
    question: "Mapping[str, Any]",
    options: "Mapping[str, Any]",
    *,
    output: AnyPath | None = None,
    progress: Progress | None = None,
) -> tuple[str, str]:
    """What a verb reports of `place`, in JSON, and the host that says so; see `Report.from_peer`."""
    name = os.fsdecode(place)
    text = json.dumps(question, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"cannot ask {name}: what is asked for is not UTF-8"
        raise told(UsageError(message), message, "name such entries with `*` or `?`") from None
    answer = _native.ask(
        name,
        text,
        output=None if output is None else os.fsdecode(output),
        ssh=pick(SshOptions, options),
        progress=progress,
    )
    return answer, str(Location.known(name).host)
