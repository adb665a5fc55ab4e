"""`snapsync status`: where a volume or a log stands, or jobs."""

import os
from collections.abc import Iterable, Iterator, Sequence

from snapsync import render, units
from snapsync.cli.arguments import ConfigFile, path
from snapsync.cli.output import Output, print_failure
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode, SnapsyncError, describe, told
from snapsync.options import SshOptions
from snapsync.reports.snapshots import StatusReport
from snapsync.reports.values import Lag, Part, ScrubStatus, Standby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from snapsync.jobs.reports import JobsReport, JobStatus


@verb(
    place=240,
    examples=[
        "snapsync status /srv/data",
        "snapsync status root@backup:/srv/standby",
        "snapsync status s3://backups/data",
        "snapsync status --json",
        "snapsync status --max-lag 15m --prometheus /var/lib/node_exporter/snapsync.prom",
    ],
)
def status(
    output: Output,
    volume: Annotated[
        str | None,
        Argument(
            metavar="VOLUME",
            help="The root directory of a volume, [user@]host:PATH, or a log; or a job, where no directory is"
            " called so. All jobs without it.",
        ),
    ] = None,
    config: ConfigFile = None,
    max_lag: Annotated[
        int | None,
        Option(
            "--max-lag",
            read=units.duration,
            metavar="TIME",
            help="Judge: standbys may be so old, as in 90s, 15m, 1h30m or 1d; see above.",
        ),
    ] = None,
    prometheus: Annotated[
        "Path | None",
        Option(
            "--prometheus", read=path, metavar="FILE", help="Write metrics there, for a textfile collector."
        ),
    ] = None,
    **options: Unpack[SshOptions],
) -> int:
    """Show where VOLUME stands, or all jobs of the configuration.

    Role, epoch, snapshots and what holds them, how far standbys lag behind, and what is unfinished. A volume
    on another machine is asked there; of the standbys of a volume it tells what is known at that volume. What
    history costs beside the tree is not known of subvolumes, which share with it. Of a log it shows which
    standbys follow it, by the paths that they have on their machines, and how far each is; the log keeps for
    each of them what it needs next.

    The status is printed with --quiet, too, but not where metrics are written to FILE: then only the line of
    --max-lag is.

    A standby is as old as the newest snapshot that it holds. With --max-lag this is a monitoring plugin: one
    line tells the verdict, and the exit code is that of such plugins, not those of other verbs: 0 ok,
    1 warning (young enough, but the last round failed or something is missing, such as a directory of a
    wildcard), 2 critical (older than TIME, or a target that is no standby of its source, as after `promote`),
    3 unknown (how old cannot be told, as before the first round). Critical counts over unknown, and that over
    warning.
    """
    try:
        return _status(output, volume, config, max_lag, prometheus, **options)
    except (SnapsyncError, OSError) as error:
        if max_lag is None:
            raise
        from snapsync.cli.monitoring import Verdict, plugin_words

        # Monitoring takes every exit code for a verdict, and the only right one for a failure is UNKNOWN.
        failure = describe(error)
        if output.as_json:
            print_failure(failure, as_json=True)
        else:
            print(plugin_words(Verdict.UNKNOWN, failure.message))
        return Verdict.UNKNOWN


def _status(
    output: Output,
    volume: str | None,
    config: "Path | None",
    max_lag: int | None,
    prometheus: "Path | None",
    **options: Unpack[SshOptions],
) -> int:
    from dataclasses import replace

    from snapsync.cli import monitoring

    report, lags, jobs = _look(volume, config, history=max_lag is None, **options)
    gone = () if isinstance(report, StatusReport) else report.gone
    if prometheus is not None:
        _write_metrics(prometheus, lags, jobs, gone)
    if max_lag is None:
        output.notes(gone)
        show = output.result if prometheus is None else output.summary  # the metrics are the answer
        show(report, _lines(report) if isinstance(report, StatusReport) else _jobs(jobs))
        return ExitCode.DONE
    verdict = monitoring.judge_all(lags, max_lag, gone)
    judged = replace(report, verdict=verdict.name.lower())
    output.result(judged, [monitoring.plugin_line(lags, max_lag, gone)])
    return verdict


def _look(
    volume: str | None, config: "Path | None", *, history: bool, **options: Unpack[SshOptions]
) -> "tuple[StatusReport | JobsReport, Sequence[Lag], list[JobStatus]]":
    """The report on a volume or on all jobs, and what it says of standbys and jobs."""
    from snapsync.jobs import lag, state
    from snapsync.jobs.config import load
    from snapsync.jobs.reports import JobsReport

    named = None if volume is None or os.path.lexists(volume) else _of_a_job(volume, config)
    if volume is not None and named is None:
        report = lag.volume(volume, state.now(), history=history, **options)
        return report, report.lags, []
    found = load(config)
    jobs = [job for job in lag.jobs(found, state.now()) if named is None or job.job in named]
    gone = tuple(lag.gone(found)) if named is None else ()
    return JobsReport(tuple(jobs), gone=gone), [job.lag for job in jobs], jobs


def _of_a_job(name: str, config: "Path | None") -> set[str] | None:
    """The jobs that a name of the configuration stands for; None if it stands for none."""
    from snapsync.jobs.config import is_remote, load

    if "/" in name or is_remote(name):
        return None
    try:
        return {job.name for job in load(config).named([name])}
    except (SnapsyncError, OSError):
        return None


def _write_metrics(file: "Path", lags: Sequence[Lag], jobs: "list[JobStatus]", gone: Sequence[str]) -> None:
    from snapsync.jobs import prometheus, state

    try:
        prometheus.write(file, lags, jobs, state.now(), gone)
    except OSError as error:
        message = f"cannot write the metrics to {file}: {error.strerror}"
        raise told(error, message, "name a file in a directory that is there") from None


def _jobs(jobs: "Iterable[JobStatus]") -> Iterator[str]:
    from snapsync.cli.monitoring import behind

    for job in jobs:
        lost = f", with losses in {render.entries(job.lag.lost)}" if job.lag.lost else ""
        running = f", running since {render.moment(job.running_since)}" if job.running_since else ""
        yield f"{job.job}: {behind(job.lag)}{lost}{running}"
        good = "never" if job.good is None else f"{render.moment(job.good)}, moved {_moved(job.lag)}"
        yield f"  last good  {good}"
        for side, place, report in (
            ("source", job.lag.source, job.source),
            ("target", job.lag.target, job.target),
        ):
            yield f"  {side}     {render.name(place or '')}{_side(report)}"
        for problem in job.problems:
            yield f"  problem    {render.name(problem)}"
        for loss in job.losses:
            times = f"{render.count(loss.count, 'time')}, for example {render.name(loss.example)}"
            yield f"  lost       {render.name(loss.what)}: {times}"
        for entry in job.skipped:
            yield f"  unread     {render.name(entry.path)}: {render.name(entry.why)}"
        for note in job.notes:
            yield f"  note       {render.name(note)}"


def _moved(lag: Lag) -> str:
    return "an unknown amount" if lag.bytes is None else render.size(lag.bytes)


def _side(report: StatusReport | None) -> str:
    if report is None:
        return ""
    words = [report.volume.role, f"epoch {report.volume.epoch}", render.count(report.snapshots, "snapshot")]
    held = len({hold.snapshot for hold in report.holds})
    words += [f"{held} held"] if held else []
    words += [f"unfinished: {_unfinished(report)}"] if report.unfinished else []
    return f": {', '.join(words)}"


def _lines(report: StatusReport) -> Iterator[str]:
    volume = report.volume
    kind = "log" if volume.is_log else "volume"
    yield f"{render.name(volume.path)}: {'log' if volume.is_log else volume.role}"
    yield f"  {kind:<10} {volume.id}"
    if report.latest or not volume.is_log:
        yield f"  lineage    {volume.lineage}, epoch {volume.epoch}"
    if not volume.is_log:
        yield f"  provider   {volume.provider}, on {volume.filesystem}"
    yield f"  subset     {render.subset(volume.subset)}"
    yield f"  snapshots  {report.snapshots:,}{_latest(report)}"
    yield from _standbys(report) if volume.is_log else _of_volume(report)
    for hold in report.holds:
        if hold.standby is None:
            yield f"  held       {render.name(hold.name)}, {render.hold(hold)}"


def _of_volume(report: StatusReport) -> Iterator[str]:
    if report.manifests:
        kept = render.count(report.manifests, "manifest")
        yield f"  changes    {kept} of rounds kept, {render.size(report.manifest_bytes)}"
    if report.history:
        inodes = render.count(report.history.inodes, "inode")
        yield f"  history    {render.size(report.history.bytes)} and {inodes} beside the tree"
    if report.replaced:
        by = report.replaced
        says = f"says {render.name(by.path)}: if so, rejoin that one"
        yield f"  replaced   by a primary of epoch {by.epoch}, {says}"
    if report.read_only:
        yield "  read-only  between rounds, while it is a standby"
    if report.by_name:
        yield "  owners     found by name"
    yield f"  unfinished {_unfinished(report)}"
    if report.busy:
        yield "  busy       another command holds the volume"
    yield from _standbys(report)
    for part in report.parts:
        yield f"  part       {_part(part)}"


def _standbys(report: StatusReport) -> Iterator[str]:
    is_primary = report.volume.role == "primary"
    problems = [lag.problem for lag in report.lags] if is_primary else [None] * len(report.standbys)
    for standby, problem in zip(report.standbys, problems, strict=False):
        yield f"  standby    {_standby(standby)}{f'; {render.name(problem)}' if problem else ''}"
        if standby.scrub:
            yield f"  scrub      {_scrub(standby.scrub)}"


def _part(part: Part) -> str:
    if part.volume is None:
        return f"{render.name(part.name)}: unreadable: {render.name(part.problem or '')}"
    newest = "" if part.latest is None else f", latest {render.snapshot(part.latest)}"
    held = render.count(part.snapshots, "snapshot")
    words = f"{part.volume.role}, {held}{newest}; {render.subset(part.volume.subset)}"
    return f"{render.name(part.name)}: {words}"


def _latest(report: StatusReport) -> str:
    if report.latest is None:
        return ""
    return f", latest {render.snapshot(report.latest)} of {render.moment(report.latest.created)}"


def _unfinished(report: StatusReport) -> str:
    if report.unfinished is None:
        return "nothing"
    left = f"{report.unfinished.phase} of snapshot {report.unfinished.snapshot}"
    back = ", `snapsync recover --back` takes it back" if report.unfinished.can_go_back else ""
    return f"{render.name(left)}; the next sync or `snapsync recover` finishes or discards it{back}"


def _scrub(scrub: ScrubStatus) -> str:
    words = f"everything read since {render.moment(scrub.all_since)}"
    if scrub.bytes:
        words += f", {render.size(scrub.bytes)} again so far"
    if scrub.differences:
        words += f"; {render.count(scrub.differences, 'file')} differed"
    if scrub.pending:
        shown = ", ".join(map(render.name, scrub.pending[:3]))
        words += f", {len(scrub.pending):,} until the next round: {shown}"
    return words


def _standby(standby: Standby) -> str:
    behind = f"{render.count(standby.lag, 'snapshot')} behind" if standby.lag else "up to date"
    return f"{render.name(standby.path)}: {behind}, at {render.name(standby.name)}"
