"""How far standbys are behind."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from snapsync import render
from snapsync._native import Location
from snapsync.api import snapshots as api
from snapsync.declare import Unpack
from snapsync.errors import SnapsyncError, describe
from snapsync.jobs import state, turns
from snapsync.jobs.config import Config, Job, is_remote
from snapsync.jobs.reports import JobStatus
from snapsync.options import SshOptions
from snapsync.reports.snapshots import StatusReport
from snapsync.reports.values import Lag, Loss, ScrubStatus, Skipped, Snapshot, Standby


def volume(path: str, now: datetime, *, history: bool = False, **options: Unpack[SshOptions]) -> StatusReport:
    """The status of a volume: a primary with the lag of each standby, a standby with its own."""
    report = api.status(path, history=history, **options)
    if report.volume.role == "standby":
        own = Lag(path, None, path, None, _age(report.latest, now))
        return replace(report, lags=(own,))
    snapshots = _line(path, **options)
    lags = [
        _with_scrub(
            _since(standby.path, path, standby.path, standby.snapshot, standby.at, snapshots, now), standby
        )
        for standby in report.standbys
    ]
    if not is_remote(path):  # only there it can be seen whether they are
        lags = list(map(_if_there, lags))
    return replace(report, lags=tuple(lags))


def _if_there(lag: Lag) -> Lag:
    """Add a problem if the standby should be on this machine, and there is no volume."""
    if lag.target is None or is_remote(lag.target) or state.has_store(lag.target):
        return lag
    return replace(lag, problem="it is not there: is its file system mounted?")


def _with_scrub(lag: Lag, standby: Standby) -> Lag:
    """Add the scrub of a standby, and the problems that its primary knows of."""
    problems = [*_claims(standby), *_differs(standby.scrub)]
    return replace(lag, scrub=standby.scrub, problem="; ".join(problems) or None)


def _claims(standby: Standby | None) -> list[str]:
    if standby is None or standby.claim is None:
        return []
    return [f"it says that it is of epoch {standby.claim.epoch}, and is not fed"]


def _differs(scrub: ScrubStatus | None) -> list[str]:
    if scrub is None or not scrub.pending:
        return []
    files = render.count(len(scrub.pending), "file differs", "files differ")
    return [f"{files} from the primary's until the next round, such as {scrub.pending[0]}"]


def _passed_over(skipped: Sequence[Skipped]) -> list[str]:
    if not skipped:
        return []
    return [f"the last round could not read {render.entries(len(skipped))}, such as {skipped[0].path}"]


def _standby_of(job: Job, source: StatusReport, target: StatusReport | None) -> Standby | None:
    """The standby of a job, as its primary has recorded it."""
    here = [
        standby
        for standby in source.standbys
        if (standby.volume == target.volume.id if target else _is_at(standby.path, job.target))
    ]
    return max(here, key=lambda standby: standby.at) if here else None


def jobs(found: Config, now: datetime) -> list[JobStatus]:
    """The status of each job. A side that cannot be read is a problem of that job."""
    known = state.runs()
    return [_job(job, state.of(job, known), now) for job in found.jobs.values()]


def gone(found: Config) -> list[str]:
    """What to say of jobs that ran, and whose directory is gone, and whose standby may be there."""
    known = state.runs()
    lost = found.gone({name: run.source for name, run in known.items()})
    return [
        f"{name}: {source} is not there any more; what {known[name].target} holds of it stays as it is"
        for name, source in lost.items()
        if is_remote(known[name].target) or state.has_store(known[name].target)
    ]


def _job(job: Job, run: state.Run | None, now: datetime) -> JobStatus:
    problems: list[str] = []
    source, target = (_look(place, now, problems) for place in (job.source, job.target))
    if source and source.volume.role == "standby":
        problems.append(f"{job.source} is not the primary any more")
    if run and run.error:
        problems.append(f"{_failed(run)}: {run.error}")
    strange = _no_standby(job, source, target)
    problems += [strange] if strange else []
    lag = Lag(job.name, job.source, job.target, None, None, is_standby=False)
    lag = lag if strange else _lag(job, source, target, now)
    if lag.seconds is None and not problems:
        problems.append("no round has ended well yet")
    moved = run.data_bytes if run else None
    standby = _standby_of(job, source, target) if source else None
    scrub = standby.scrub if standby else None
    differs = _differs(scrub)
    # Where neither is told its primary is elsewhere, and knows more.
    if run and run.exit_code and not (run.error or differs or run.skipped):
        said = f": {run.notes[-1]}" if run.notes else ""
        problems.append(f"the last round went through, with exit code {run.exit_code}{said}")
    skipped = tuple(Skipped(**entry) for entry in run.skipped) if run else ()
    problems += [*_claims(standby), *differs, *_passed_over(skipped)]
    losses = tuple(Loss(**loss) for loss in run.losses) if run else ()
    lost = sum(loss.count for loss in losses)
    lag = replace(lag, bytes=moved, problem="; ".join(problems) or None, lost=lost, scrub=scrub)
    good, notes = (run.good, run.notes) if run else (None, ())
    code, failures = (run.exit_code, run.failures) if run else (None, 0)
    turn = turns.runs(job.name)
    since = turn.since if turn else None
    return JobStatus(
        job.name, source, target, good, lag, tuple(problems), losses, notes, since, code, failures, skipped
    )


def _no_standby(job: Job, source: StatusReport | None, target: StatusReport | None) -> str | None:
    """Why a target takes no rounds of the source; None if it does, or if that cannot be seen from here.

    Its own snapshots are as young as can be, and hold nothing that the source has written since.
    """
    if target is None or target.volume.is_log:
        return None
    it = target.volume
    if it.role == "primary":
        what = f"it is a primary of epoch {it.epoch} itself"
    elif source is None or source.volume.role == "standby":
        return None
    elif it.lineage != source.volume.lineage:
        what = "it follows a primary of another lineage"
    elif it.epoch > source.volume.epoch:
        what = f"it follows a primary of epoch {it.epoch}, and that is of epoch {source.volume.epoch}"
    else:
        return None
    return f"{job.target} is no standby of {job.source}: {what}"


def _failed(run: state.Run) -> str:
    """That rounds failed, and how many."""
    if run.failures < 2:
        return f"the last round failed with exit code {run.exit_code}"
    return f"the last {run.failures} rounds failed, the newest with exit code {run.exit_code}"


def _look(place: str, now: datetime, problems: list[str]) -> StatusReport | None:
    if is_remote(place):
        return None
    try:
        return volume(place, now)
    except (SnapsyncError, OSError) as error:
        problems.append(describe(error).message)
        return None


def _lag(job: Job, source: StatusReport | None, target: StatusReport | None, now: datetime) -> Lag:
    """The lag by what the standby holds or, if it is on another machine, by what the primary recorded."""
    where = (job.name, job.source, job.target)
    if target is None and not is_remote(job.target):
        return Lag(*where, None, None)
    if source is None:
        return Lag(*where, None, _age(target.latest, now) if target else None)
    if target is None:
        known = zip(source.standbys, source.lags, strict=False)
        here = [(standby.at, lag) for standby, lag in known if _is_at(standby.path, job.target)]
        if not here:
            return Lag(*where, None, None)
        # Several standbys may have been made at one place, one after the other: the last one counts.
        _, lag = max(here, key=lambda found: found[0])
        return replace(lag, name=job.name, source=job.source, target=job.target)
    if target.latest is None:
        return Lag(*where, None, None)
    held = target.latest
    return _since(*where, held.id, held.created, _line(job.source), now)


def _line(path: str, **options: Unpack[SshOptions]) -> list[Snapshot]:
    """The snapshots of a volume without those that were kept aside: standbys follow only these."""
    return [snap for snap in api.list_(path, **options).snapshots if not snap.aside]


def _is_at(known: str, place: str) -> bool:
    """Whether `host:/whole/path` is the same place as `place`, whose path may be relative on that host."""
    return Location.known(known).is_at(Location.known(place))


def _since(
    name: str,
    source: str,
    target: str,
    held: str,
    at: datetime,
    snapshots: Sequence[Snapshot],
    now: datetime,
) -> Lag:
    """The lag of a standby that has held the snapshot `held` since `at`."""
    place = next((place for place, snap in enumerate(snapshots) if snap.id == held), None)
    if place is None:
        return Lag(name, source, target, len(snapshots), (now - at).total_seconds())
    return Lag(name, source, target, len(snapshots) - 1 - place, _age(snapshots[place], now))


def _age(snap: Snapshot | None, now: datetime) -> float | None:
    return None if snap is None else (now - snap.created).total_seconds()
