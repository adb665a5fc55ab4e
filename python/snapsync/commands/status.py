"""`snapsync status`: where a volume stands, or all jobs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from snapsync import config as configuration
from snapsync import render, standing, state
from snapsync.errors import ExitCode, SnapsyncError, describe, told
from snapsync.output import Output, print_failure
from snapsync.reports import JobsReport, JobStatus, Lag, ScrubStatus, Standby, StatusReport
from snapsync.standing import Verdict


def run(
    output: Output, volume: str | None, *, config: Path | None, most: int | None, prometheus: Path | None
) -> int:
    try:
        return _run(output, volume, config, most, prometheus)
    except (SnapsyncError, OSError) as error:
        if most is None:
            raise
        # Monitoring takes every exit code for a verdict, and this is none but the last.
        failure = describe(error)
        if output.as_json:
            print_failure(failure, as_json=True)
        else:
            print(standing.plugin_words(Verdict.UNKNOWN, failure.message))
        return Verdict.UNKNOWN


def _run(
    output: Output, volume: str | None, config: Path | None, most: int | None, prometheus: Path | None
) -> int:
    now = state.now()
    report: StatusReport | JobsReport
    if volume is not None:
        report, jobs = standing.volume(volume, now), list[JobStatus]()
        lags: Sequence[Lag] = report.lags
        lines = _lines(report)
    else:
        jobs = standing.jobs(configuration.load(config), now)
        report, lags = JobsReport(tuple(jobs)), [job.lag for job in jobs]
        lines = _jobs(jobs)
    if prometheus is not None:
        from snapsync.prometheus import write

        try:
            write(prometheus, lags, jobs, now)
        except OSError as error:
            message = f"cannot write the metrics to {prometheus}: {error.strerror}"
            raise told(error, message, "name a file in a directory that is there") from None
    if most is None:
        output.result(report, lines)
        return ExitCode.DONE
    verdict = standing.worst(standing.judge(lag, most) for lag in lags)
    judged = replace(report, verdict=verdict.name.lower())
    output.result(judged, [standing.plugin_line(lags, most)])
    return verdict


def _jobs(jobs: Iterable[JobStatus]) -> Iterator[str]:
    for job in jobs:
        lost = f", with losses in {render.entries(job.lag.lost)}" if job.lag.lost else ""
        yield f"{job.job}: {standing.behind(job.lag)}{lost}"
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
            times = f"{loss.count:,} times, for example {render.name(loss.example)}"
            yield f"  lost       {render.name(loss.what)}: {times}"
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
    yield f"{render.name(volume.path)}: {volume.role}"
    yield f"  volume     {volume.id}"
    yield f"  lineage    {volume.lineage}, epoch {volume.epoch}"
    yield f"  provider   {volume.provider}, on {volume.filesystem}"
    yield f"  subset     {render.subset(volume.subset)}"
    yield f"  snapshots  {report.snapshots:,}{_latest(report)}"
    if report.replaced:
        by = report.replaced
        says = f"says {render.name(by.path)}: if so, rejoin that one"
        yield f"  replaced   by a primary of epoch {by.epoch}, {says}"
    if report.read_only:
        yield "  read-only  between rounds, while it is a standby"
    yield f"  unfinished {_unfinished(report)}"
    if report.busy:
        yield "  busy       another command holds the volume"
    problems = [lag.problem for lag in report.lags] if report.volume.role == "primary" else []
    for standby, problem in zip(report.standbys, problems, strict=False):
        yield f"  standby    {_standby(standby)}{f'; {render.name(problem)}' if problem else ''}"
        if standby.scrub:
            yield f"  scrub      {_scrub(standby.scrub)}"
    for hold in report.holds:
        if hold.standby is None:
            yield f"  held       {render.name(hold.name)}, {render.hold(hold)}"


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
