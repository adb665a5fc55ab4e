"""`snapsync run`: the jobs of the configuration that are due."""

from collections.abc import Iterator, Sequence
from contextlib import closing

from snapsync import render
from snapsync.cli.arguments import ConfigFile
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import find, verb
from snapsync.declare import Annotated, Argument, Option, options
from snapsync.errors import SnapsyncError, UsageError, describe, told
from snapsync.options import SyncOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

    from snapsync.jobs.config import Job
    from snapsync.jobs.reports import JobRun


@verb(
    place=250,
    examples=[
        "snapsync run",
        "snapsync run web mail",
        "snapsync run --now --parallel 4",
        "snapsync run --watch",
    ],
)
def run(
    output: Output,
    jobs: Annotated[list[str] | None, Argument(metavar="JOB", help="Jobs to run now, due or not.")] = None,
    now: Annotated[bool, Option("--now", "--all", help="Run every job, due or not.")] = False,
    watch: Annotated[
        bool, Option("--watch", help="Stay, and run these jobs, or all, whenever they are due.")
    ] = False,
    no_wait: Annotated[
        bool, Option("--no-wait", help="Leave a job alone that another process runs.")
    ] = False,
    config: ConfigFile = None,
    parallel: Annotated[
        int, Option("--parallel", min=1, max=64, metavar="N", help="Jobs at the same time.")
    ] = 2,
) -> int:
    """Run the jobs of the configuration that are due.

    A job is due when its period has passed since the start of its last good run; one without a period runs
    only when it is named, or with --now. Each is a `snapsync sync` of its own: one that fails does not stop
    the others. The exit code is the highest one of them.

    The configuration is read from /etc/snapsync/config.toml and $XDG_CONFIG_HOME/snapsync/config.toml
    (~/.config without it), each key of the second over the first. It is TOML:

    \b
      [defaults]
      keep = { last = 10, hourly = 24, daily = 14, weekly = 8, monthly = 12 }

    \b
      [job.web]
      source = "/srv/web"
      target = "root@backup:/standby/web"
      period = "15m"

    Either side may be a log, s3://BUCKET/PREFIX or file:///DIR. Other keys are {keys}: the options of
    `snapsync sync`. `exclude = []` leaves nothing out any more. A job that fails again is tried after a
    minute, two, four, up to its period; one whose disk is not mounted is refused, and goes on when it is.
    A job runs once at a time: one that is named waits for another process that runs it. What became of each
    is kept in /var/lib/snapsync for root, else in $XDG_STATE_HOME/snapsync, or where SNAPSYNC_STATE_DIR says.
    Under sudo HOME and the XDG variables do not count. Files that others can write are refused: the
    configuration, and what rsh and ssh_options name.

    With --watch it ends only when it is told to stop. A round then begins in a few milliseconds, and as often
    as every second; the configuration is read again as it changes. A line is printed for each round, with
    --json an object.
    """
    if now and (jobs or watch):
        message = "--now runs every job once, whether it is due or not"
        raise told(UsageError(message), message, "leave out --now, or the names of jobs and --watch")
    if watch:
        _watch(output, lambda: _jobs(config, jobs or ()), parallel)
    from snapsync.jobs import runner

    asked = _jobs(config, jobs or ())
    only_due = not (jobs or now)
    report = runner.run(
        asked, parallel=parallel, only_due=only_due, waits=not (only_due or no_wait), note=output.note
    )
    output.summary(report, _lines(report.jobs))
    return report.exit_code


def _jobs(config: "Path | None", names: Sequence[str]) -> "list[Job]":
    """The jobs of these names, or all that are configured."""
    from snapsync.jobs.config import load

    found = load(config)
    if not found.jobs:
        message = f"there is no job in {' and '.join(map(str, found.files))}"
        raise told(UsageError(message), message, "write a table [job.NAME] with source, target and period")
    return found.named(names) or list(found.jobs.values())


def _watch(output: Output, jobs: "Callable[[], list[Job]]", parallel: int) -> "NoReturn":
    from snapsync.cli import main
    from snapsync.jobs import runner
    from snapsync.jobs.fork_server import ForkServer
    from snapsync.jobs.reports import RunReport

    if not any(job.period for job in jobs()):
        message = "no job that is to be watched has a period"
        raise told(UsageError(message), message, 'say how often it is to run, as in period = "15m"')

    def ran(job: "JobRun") -> None:
        output.summary(RunReport((job,), job.exit_code), _lines([job]))
        print(end="", flush=True)

    find("sync")  # loaded once, for all rounds
    with closing(ForkServer(main.run)) as server:
        runner.watch(
            _Latest(jobs, output.note), parallel=parallel, start=server.start, note=output.note, ran=ran
        )


class _Latest:
    """The jobs as they are configured now; as they were before, while the configuration has a mistake."""

    def __init__(self, read: "Callable[[], list[Job]]", note: "Callable[[str], None]") -> None:
        self._read, self._note = read, note
        self._jobs: list[Job] = []
        self._mistake = ""

    def __call__(self) -> "list[Job]":
        try:
            self._jobs, self._mistake = self._read(), ""
        except (SnapsyncError, OSError) as error:
            mistake = describe(error).message
            if mistake != self._mistake:
                self._note(f"{mistake}; the jobs stay as they were")
            self._mistake = mistake
        return self._jobs


def _keys() -> str:
    """The keys of a job that are options of `sync`, as a sentence names them."""
    *others, last = (name for name, (_, option) in options(SyncOptions).items() if not option.once)
    return f"{', '.join(others)} and {last}"


run.__doc__ = str(run.__doc__).replace("{keys}", _keys())


def _lines(jobs: "Sequence[JobRun]") -> Iterator[str]:
    for job in jobs:
        yield f"{job.job}: {_line(job)}"


def _line(job: "JobRun") -> str:
    if job.outcome == "waiting":
        return f"not due before {render.moment(job.due)}" if job.due else "runs only when it is named"
    if job.outcome == "running":
        return "is run by another process"
    if job.error is not None:
        return f"failed with exit code {job.exit_code}"
    moved = "nothing changed" if job.unchanged else f"moved {render.size(job.data_bytes or 0)}"
    differ = f", {render.count(job.differences, 'file differs', 'files differ')}" if job.differences else ""
    lost = f", with losses in {render.entries(sum(loss.count for loss in job.losses))}" if job.losses else ""
    return (
        f"snapshot {render.name(job.snapshot or '')}, {moved}{differ}, in {render.seconds(job.seconds)}{lost}"
    )
