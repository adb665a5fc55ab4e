"""Reports of `run`, `status` and `service` about the jobs of the configuration."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from snapsync.record import Record
from snapsync.reports.base import Report
from snapsync.reports.snapshots import StatusReport
from snapsync.reports.values import Lag, Loss, Skipped

Level = Literal["error", "warning", "notice"]
"""How much a line of the log matters."""
Tell = Callable[[str, Level], None]
"""Takes a line for the log."""


class JobRun(Record):
    """The result of one job: `outcome` is done, failed, waiting (not due before `due`), or running. Of
    what would run it is due, or refused, and `why` says what makes it so.

    `exit_code` is that of its round, and `advice` goes with `error`; `snapshot`, `data_bytes`, `unchanged`
    and `losses` are of a good one. One that found `differences` is done, with exit code 4, and one that has
    `skipped` what it could not read with 6.
    """

    job: str
    source: str
    target: str
    outcome: str
    exit_code: int
    seconds: float
    due: datetime | None = None
    snapshot: str | None = None
    data_bytes: int | None = None
    unchanged: bool | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None
    advice: str = ""
    losses: tuple[Loss, ...] = ()
    differences: int = 0
    why: str = ""
    skipped: tuple[Skipped, ...] = ()


class RunReport(Report):
    """The result of each job, in the order of the configuration. `exit_code` is the highest of theirs.

    With `dry_run` nothing was run.
    """

    verb = "run"
    jobs: tuple[JobRun, ...]
    exit_code: int
    dry_run: bool = False


class JobStatus(Record):
    """The status of a job. `source` and `target` are None if they are on another machine or cannot be read.

    `good` is when its last good round began, and `notes` what that had to say; `losses` is what the standby
    goes without, `skipped` what could not be read in that round. `problems` says what cannot be looked at,
    and how the last round failed. `running_since` is when the round began that is under way. `exit_code` is
    that of its last round, None where it never ran, and `failures` how many have failed since the last good
    one.
    """

    job: str
    source: StatusReport | None
    target: StatusReport | None
    good: datetime | None
    lag: Lag
    problems: tuple[str, ...]
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()
    running_since: datetime | None = None
    exit_code: int | None = None
    failures: int = 0
    skipped: tuple[Skipped, ...] = ()


class JobsReport(Report):
    """The status of all jobs of the configuration; `verdict` is the worst of theirs, if it was asked for.

    `gone` says which directories of wildcards are not there any more, while their standbys may be.
    """

    verb = "status"
    jobs: tuple[JobStatus, ...]
    verdict: str | None = None
    gone: tuple[str, ...] = ()


class Unit(Record):
    """A unit of systemd: its file, and what is in it (None where it was removed)."""

    path: str
    text: str | None


class ServiceReport(Report):
    """Units that were written or removed, or would be (`dry_run`), and the commands that come next."""

    verb = "service"
    action: str
    units: tuple[Unit, ...]
    commands: tuple[str, ...]
    dry_run: bool
