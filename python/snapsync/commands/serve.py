"""`snapsync serve`: the other end of a sync from another host."""

import os
import sys
from pathlib import Path

from snapsync import _native
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output, on_terminal, take_stdout


def run(
    output: Output,
    restrict_to: Path | None,
    *,
    read_only: bool,
    receive_only: bool,
    allow_prune: bool,
    jobs: int,
) -> int:
    del output  # whatever is said belongs to the client
    if on_terminal(sys.stdin):
        message = "nobody can talk to this from a terminal"
        raise told(UsageError(message), message, "`snapsync sync` starts it on the other host by itself")
    if read_only and receive_only:
        message = "a server that neither sends nor receives serves nobody"
        raise told(UsageError(message), message, "give --read-only or --receive-only")
    take_stdout("peer")
    beneath = None if restrict_to is None else os.fspath(restrict_to)
    code = _native.serve(
        restrict_to=beneath,
        read_only=read_only,
        receive_only=receive_only,
        allow_prune=allow_prune,
        jobs=jobs,
    )
    return ExitCode(int(code))
