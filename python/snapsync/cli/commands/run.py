"""`snapsync run`: the jobs of the configuration that are due."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

from snapsync import render
from snapsync.cli.arguments import ConfigFile
from snapsync.cli.journal import Priority, marked
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import find, verb
from snapsync.declare import Annotated, Argument, Option, options
from snapsync.errors import SnapsyncError, UsageError, describe, told
from snapsync.options import SyncOptions, size
from snapsync.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

    from snapsync.jobs.config import Config, Job
    from snapsync.jobs.reports import JobRun, Tell


_NoWait = Annotated[bool, Option("--no-wait", help="Leave a job alone that another process runs.")]
_Parallel = Annotated[int, Option("--parallel", min=1, max=64, metavar="N", help="Jobs at the same time.")]
_Rate = Annotated[
    int | None,
    Option(
        "--bwlimit",
        read=size,
        metavar="RATE",
        help="Send no faster in each round, in bytes a second, as in 500K or 20M, whatever the job says.",
    ),
]


@verb(
    place=250,
    examples=[
        "snapsync run",
        "snapsync run web mail",
        "snapsync run --now --parallel 4",
        "snapsync run --dry-run",
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
    due: Annotated[bool, Option("--due", help="Of the named jobs, run those that are due.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Only show what would run, and why.")] = False,
    no_wait: _NoWait = False,
    config: ConfigFile = None,
    parallel: _Parallel = 2,
    bwlimit: _Rate = None,
) -> int:
    """Run the jobs of the configuration that are due.

    A job is due when its period has passed since the start of its last good run, or a time of its calendar,
    as in when = "daily 03:00"; one with neither runs only when it is named, or with --now. Each is a
    `snapsync sync` of its own: one that fails does not stop the others. The exit code is their highest one.

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

    targets = ["PLACE", "PLACE"] makes jobs web.1, web.2; source = "/srv/*" with target = "/mnt/{name}" makes
    one for each directory. The name of the table means all of them.

    Either side may be a log, s3://BUCKET/PREFIX or file:///DIR. Other keys are {keys}: the options of
    `snapsync sync`. `exclude = []` leaves nothing out any more. A job that fails again is tried after a
    minute, two, four, up to its period; one whose disk is not mounted is refused, and goes on when it is.
    A job runs once at a time: one that is named waits for another process that runs it. What became of each
    is kept in /var/lib/snapsync for root, else in $XDG_STATE_HOME/snapsync, or where SNAPSYNC_STATE_DIR says.
    Under sudo HOME and the XDG variables do not count. Files that others can write are refused: the
    configuration, and what rsh and ssh_options name.

    On a terminal each running job has a line: its stage, how far it is, how fast, and for how long yet.
    With --watch it ends only when it is told to stop. A round then begins in a few milliseconds, and as often
    as every second; the configuration is read again as it changes. A line is printed for each round, with
    --json an object. Where JOURNAL_STREAM tells that a line goes to the journal, it has a priority: err for
    a round that failed, warning for losses and differences.
    """
    how = _How(bool(jobs), now=now, watch=watch, due=due, dry_run=dry_run, no_wait=no_wait, bwlimit=bwlimit)
    how.check()
    if watch:
        _watch(output, config, jobs or (), parallel)
    found = _load(config)
    if not due:
        _tell_gone(output, found)
    return _once(output, config, how.limited(_jobs(found, jobs or ())), parallel, how)


class _How(Record):
    """Which jobs are run, and how."""

    is_named: bool
    now: bool
    watch: bool
    due: bool
    dry_run: bool
    no_wait: bool
    bwlimit: int | None

    @property
    def only_due(self) -> bool:
        return self.due or not (self.is_named or self.now)

    def check(self) -> None:
        """Refuse what contradicts itself."""
        if self.now and (self.is_named or self.watch or self.due):
            message = "--now runs every job once, whether it is due or not"
            raise told(
                UsageError(message), message, "leave out --now, or the names of jobs, --due and --watch"
            )
        if self.watch and (self.due or self.dry_run or self.no_wait):
            message = "--watch runs what is due, and waits for nobody"
            raise told(UsageError(message), message, "leave out --due, --dry-run and --no-wait")
        if self.watch and self.bwlimit is not None:
            message = "--bwlimit is for rounds that are run once"
            raise told(UsageError(message), message, 'write bwlimit = "20M" in the jobs, or in [defaults]')

    def limited(self, jobs: "list[Job]") -> "list[Job]":
        """The jobs with the rate that was asked for."""
        from dataclasses import replace

        if self.bwlimit is None:
            return jobs
        return [replace(job, options={**job.options, "bwlimit": self.bwlimit}) for job in jobs]


def _once(output: Output, config: "Path | None", asked: "list[Job]", parallel: int, how: _How) -> int:
    from snapsync.jobs import runner

    if how.dry_run:
        planned = runner.plan(asked, only_due=how.only_due)
        output.result(planned, _lines(planned.jobs))
        return planned.exit_code
    waits = not (how.only_due or how.no_wait)
    with output.board() as board:
        report = runner.run(
            asked, parallel=parallel, only_due=how.only_due, waits=waits, note=output.log, board=board
        )
    output.summary(report, _lines(report.jobs))
    _write_metrics(output, config)
    return report.exit_code


def _write_metrics(output: Output, config: "Path | None") -> None:
    from snapsync.jobs import metered

    try:
        found = _load(config)
    except (SnapsyncError, OSError) as error:  # it has changed since the rounds began
        output.note(f"no metrics are written: {describe(error).message}", Priority.WARNING)
        return
    for line in metered.write(found):
        output.note(line, Priority.WARNING)


def _tell_gone(output: Output, found: "Config") -> None:
    from snapsync.jobs import lag

    for line in lag.gone(found):
        output.note(line, Priority.WARNING)


def _load(config: "Path | None") -> "Config":
    from snapsync.jobs.config import load

    return load(config)


def _jobs(found: "Config", names: Sequence[str]) -> "list[Job]":
    """The jobs of these names, or all that are configured."""
    if not (found.jobs or found.wild):
        message = f"there is no job in {' and '.join(map(str, found.files))}"
        raise told(UsageError(message), message, "write a table [job.NAME] with source, target and period")
    return found.named(names) if names else list(found.jobs.values())


def _is_scheduled(found: "Config", names: Sequence[str]) -> bool:
    """Whether there is a job to watch, or may be one as soon as a wildcard finds a directory."""
    wild = [job for job in found.lasting() if job.name in (names or (job.name,))]
    return any(job.is_scheduled for job in [*_jobs(found, names), *wild])


def _watch(output: Output, config: "Path | None", named: Sequence[str], parallel: int) -> "NoReturn":
    from snapsync.cli import main
    from snapsync.jobs import runner
    from snapsync.jobs.fork_server import ForkServer
    from snapsync.jobs.reports import RunReport

    if not _is_scheduled(_load(config), named):
        message = "no job that is to be watched has a period, or a time in `when`"
        raise told(UsageError(message), message, 'say how often it is to run, as in period = "15m"')

    def ran(job: "JobRun") -> None:
        output.summary(RunReport((job,), job.exit_code), _lines([job]))
        print(end="", flush=True)
        _write_metrics(output, config)

    find("sync")  # loaded once, for all rounds
    with closing(ForkServer(main.run)) as server:
        runner.watch(
            _Latest(lambda: _jobs(_load(config), named), output.log),
            parallel=parallel,
            start=lambda command, _turn: server.start(command),  # it ends with its owner
            note=output.log,
            ran=ran,
        )


class _Latest:
    """The jobs as they are configured now; as they were before, while the configuration has a mistake."""

    def __init__(self, read: "Callable[[], list[Job]]", note: "Tell") -> None:
        self._read, self._note = read, note
        self._jobs: list[Job] = []
        self._mistake = ""

    def __call__(self) -> "list[Job]":
        try:
            self._jobs, self._mistake = self._read(), ""
        except (SnapsyncError, OSError) as error:
            mistake = describe(error).message
            if mistake != self._mistake:
                self._note(f"{mistake}; the jobs stay as they were", "error")
            self._mistake = mistake
        return self._jobs


def _keys() -> str:
    """The keys of a job that are options of `sync`, as a sentence names them."""
    *others, last = (name for name, (_, option) in options(SyncOptions).items() if not option.once)
    return f"{', '.join(others)} and {last}"


run.__doc__ = str(run.__doc__).replace("{keys}", _keys())


def _lines(jobs: "Sequence[JobRun]") -> Iterator[str]:
    for job in jobs:
        yield marked(sys.stdout, _priority(job), f"{job.job}: {_line(job)}")


def _priority(job: "JobRun") -> Priority:
    """How urgent the line of a job is for whoever reads the journal."""
    if job.error is not None:
        return Priority.ERROR
    return Priority.WARNING if job.exit_code or job.losses else Priority.INFO


def _line(job: "JobRun") -> str:
    if job.outcome in ("due", "refused"):
        todo = f"; {job.advice}" if job.advice else ""
        return f"would {'run' if job.outcome == 'due' else 'be refused'}: {render.name(job.why + todo)}"
    if job.outcome == "waiting":
        why = f": {job.why}" if job.why else ""
        return f"not due before {render.moment(job.due)}{why}" if job.due else "runs only when it is named"
    if job.outcome == "running":
        return "is run by another process"
    if job.error is not None:
        return f"failed with exit code {job.exit_code}"
    moved = "nothing changed" if job.unchanged else f"moved {render.size(job.data_bytes or 0)}"
    differ = f", {render.count(job.differences, 'file differs', 'files differ')}" if job.differences else ""
    unread = f", {render.entries(len(job.skipped))} not read" if job.skipped else ""
    lost = f", with losses in {render.entries(sum(loss.count for loss in job.losses))}" if job.losses else ""
    what = f"{moved}{differ}{unread}"
    return f"snapshot {render.name(job.snapshot or '')}, {what}, in {render.seconds(job.seconds)}{lost}"
