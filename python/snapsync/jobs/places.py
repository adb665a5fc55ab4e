"""Whether the two sides of a job on this machine are where they should be."""

import os
import shlex
import stat

from snapsync.errors import ExitCode
from snapsync.jobs import state
from snapsync.jobs.config import Job, is_remote, tree_of
from snapsync.jobs.outcomes import failure
from snapsync.jobs.spelled import by_hand


def not_there(job: Job, run: state.Run | None) -> tuple[int, str, str] | None:
    """The refusal of a job one of whose volumes on this machine is missing; None if none is.

    An empty mount point must not be taken for a new target.
    """
    for side, place in (("source", job.source), ("target", job.target)):
        if run is None or run.good is None or is_remote(place) or state.has_store(place):
            continue
        message = f"the {side} {place} was a volume in the last good round, and is none now"
        gone = (
            f"`{by_hand(job, '--new-standby')}` begins anew"
            if side == "target"
            else f"`snapsync promote {shlex.quote(job.target)}` makes its standby the primary"
        )
        advice = f"mount its file system, and the job goes on by itself; if it is gone, {gone}"
        return failure(ExitCode.REFUSED, message, advice)
    return None


def no_directory(job: Job) -> tuple[int, str, str] | None:
    """The failure of a job whose source, or what its target is to lie in, is not there; None if both are.

    A round finds that out by itself: this is for who asks what it would do.
    """
    for side, place in (("source", job.source), ("target", job.target)):
        tree = tree_of(place)
        needed = tree if side == "source" else os.path.dirname(os.path.normpath(tree))
        if is_remote(place) or _is_there(needed):
            continue
        lies = "" if side == "source" else f", and the {side} {place} is to lie in it"
        message = f"the directory {needed} does not exist{lies}"
        return failure(
            ExitCode.USAGE, message, f"make it (`mkdir -p {shlex.quote(needed)}`), or mount its disk"
        )
    return None


def _is_there(directory: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(directory).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # the round will report it
        return True
