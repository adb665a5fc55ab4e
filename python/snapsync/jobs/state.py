"""The recorded state of each job: when it last ran, and how that run ended."""

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

from snapsync import _native, render
from snapsync._native import Location
from snapsync.errors import IntegrityError, RefusedError, UsageError, told
from snapsync.jobs import own
from snapsync.jobs.config import Job, tree_of

# Without a period one that fails is tried so often at least, in seconds.
_LONGEST_DELAY = 3600


@dataclass(frozen=True, slots=True)
class Run:
    """The runs of one job. `good` is when the last good run began: the standby is what the primary was then.

    `snapshot`, `snapshot_id`, `data_bytes`, `seconds`, `notes` and `skipped` are of that run, `losses` is
    what the standby goes without since then or an earlier one. `error` and `exit_code` are those of the last
    attempt: a round that went through is good and has no error, also with exit code 4, for files that it
    found to differ, or 6, for what it `skipped`. `failures` is how many have failed since the last good one:
    it alone says how long a job waits, and what is told. `told` is when people were told of a failure that
    lasts, `warned` what they were warned of last.
    """

    source: str
    target: str
    attempt: datetime
    good: datetime | None = None
    snapshot: str | None = None
    snapshot_id: str | None = None
    data_bytes: int | None = None
    seconds: float | None = None
    error: str | None = None
    failures: int = 0
    losses: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: int = 0
    skipped: tuple[Mapping[str, Any], ...] = ()
    told: datetime | None = None
    warned: str | None = None

    def age(self, now: datetime) -> float | None:
        """Seconds since the last good run began."""
        return None if self.good is None else (now - self.good).total_seconds()


def home() -> Path:
    """The directory where state is kept."""
    named = os.environ.get("SNAPSYNC_STATE_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/snapsync")
    his = own.state_home()
    if his is None:
        message = "there is no directory to keep the state of jobs in: this user has no home"
        raise told(UsageError(message), message, "name one in SNAPSYNC_STATE_DIR")
    return his / "snapsync"


def now() -> datetime:
    return datetime.now(UTC)


def runs() -> dict[str, Run]:
    """The recorded state of each job, by name."""
    file = home() / "jobs.json"
    try:
        with _open() as directory:
            content = json.loads(_read(directory, file.name))
        return {name: _run(known) for name, known in content["jobs"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"cannot understand {file}: {error}"
        advice = "remove it: every job then runs as if for the first time"
        raise told(IntegrityError(message), message, advice) from None


def of(job: Job, known: Mapping[str, Run]) -> Run | None:
    """The recorded state of a job, unless it was about another source or target."""
    run = known.get(job.name)
    return run if run and (run.source, run.target) == (job.source, job.target) else None


def due(job: Job, run: Run | None, at: datetime) -> datetime | None:
    """When a job is due; None for a job that runs only when it is named.

    That is when its period has passed since the last good run, or at the first time of its calendar since
    then; timers are not exact, so nearly a period is enough. One that never ran is due at once. One that
    fails is tried again at once, then after a minute, two, four: not at its full cost each time.
    """
    if not job.is_scheduled:
        return None
    if run is None:
        return at
    if run.failures > 1:
        delay = min(job.period or _LONGEST_DELAY, 60 * 2 ** min(run.failures - 2, 20))
        return run.attempt + timedelta(seconds=delay)
    if run.good is None:
        return at
    if job.when is not None:
        late = _late(job, "")
        return job.when.following(run.good - late) + late
    period = job.period or 0
    return run.good + timedelta(seconds=period - min(30, period / 10)) + _late(job, run.good.isoformat())


def _late(job: Job, run: str) -> timedelta:
    """How much later than others a job begins: each day the same for a calendar, else each time anew."""
    seed = f"{os.uname().nodename} {job.name} {run}".encode("utf-8", "surrogateescape")
    number = int.from_bytes(blake2b(seed, digest_size=8).digest(), "big")
    return timedelta(seconds=number % (job.jitter + 1))


def why(job: Job, run: Run | None, at: datetime) -> str:
    """Why a job is due, or not before some moment, in words."""
    if run is None or (run.good is None and run.failures < 2):
        return "it never ran well"
    if run.failures > 1:
        return f"it has failed {run.failures} times, and waits longer each time"
    age = render.seconds(max(0.0, run.age(at) or 0.0))
    rule = (
        f"when = {job.when.text!r}" if job.when else f"a period of {render.seconds(float(job.period or 0))}"
    )
    return f"its last good round began {age} ago, and it has {rule}"


def is_due(job: Job, known: Mapping[str, Run], at: datetime) -> bool:
    """Whether it is time for a job. If the clock was put back, it is."""
    run = of(job, known)
    when = due(job, run, at)
    if when is None:
        return False
    since = (run.attempt if run.failures > 1 else run.good or at) if run else at
    return when <= at or since > at


def attempted(job: Job, at: datetime) -> None:
    """Record that a job begins."""
    _note(job, attempt=at)


def succeeded(job: Job, at: datetime, good: datetime, report: Mapping[str, Any], exit_code: int) -> None:
    """Record the result of a round that began then, and brought what the primary was at `good`."""
    _note(
        job,
        attempt=at,
        good=good,
        error=None,
        exit_code=exit_code,
        failures=0,
        skipped=tuple(report.get("skipped", ())),
        losses=_losses(job, report),
        notes=(*report["recovered"], *report["notes"]),
        snapshot=str(report["snapshot"]["name"]),
        snapshot_id=str(report["snapshot"]["id"]),
        data_bytes=int(report["data_bytes"]),
        seconds=float(report["seconds"]),
    )


def failed(job: Job, at: datetime, error: str, exit_code: int) -> None:
    """Record why a round failed."""
    run = of(job, runs())
    _note(job, attempt=at, error=error, exit_code=exit_code, failures=(run.failures if run else 0) + 1)


def announced(job: Job, at: datetime, **what: Any) -> None:
    """Record what people were told of a job, in `told` and `warned`."""
    run = of(job, runs())
    _note(job, attempt=run.attempt if run else at, **what)


def _losses(job: Job, report: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """What the standby lacks: also what earlier rounds could not bring, unless this one brought all."""
    run = of(job, runs()) if report["base"] else None
    known = {loss["what"]: loss for loss in run.losses} if run else {}
    for loss in report["losses"]:
        before = known.get(loss["what"], loss)
        known[loss["what"]] = {**loss, "count": max(loss["count"], before["count"])}
    return tuple(known.values())


def _note(job: Job, **what: Any) -> None:
    with _locked() as opened:
        known = runs()
        before = of(job, known) or Run(job.source, job.target, what["attempt"])
        known[job.name] = replace(before, **what)
        jobs = {name: asdict(run) for name, run in known.items()}
        text = json.dumps({"format": 2, "jobs": jobs}, default=datetime.isoformat, indent=1)
        _write(opened, "jobs.json", text, 0o600)


@contextmanager
def directory(*, make: bool = False) -> Iterator[int]:
    """The directory where state is kept, opened."""
    if make:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
    with _open() as opened:
        yield opened


@contextmanager
def _locked() -> Iterator[int]:
    with directory(make=True) as opened:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open("lock", flags, 0o600, dir_fd=opened), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield opened


@contextmanager
def _open() -> Iterator[int]:
    """Open the directory of the state, and refuse it if others can write in it."""
    place = home()
    directory = _native.trusted("the state directory", str(place))
    try:
        mode = os.fstat(directory).st_mode
        if not stat.S_ISDIR(mode) or mode & 0o022:
            message = f"{place} cannot keep the state of jobs: others can write in it, or it is no directory"
            raise told(
                RefusedError(message), message, f"`chmod 0700 {place}`, or name another in SNAPSYNC_STATE_DIR"
            )
        yield directory
    finally:
        os.close(directory)


def _read(directory: int, name: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        return file.read()


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically: a reader sees the old text or the new one."""
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _write(directory, file.name, text, mode)
    finally:
        os.close(directory)


def _write(directory: int, name: str, text: str, mode: int) -> None:
    """Write a new private file, and rename it when it is complete: no existing file is written to."""
    temporary = f".{name}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as out:
            out.write(text)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        # An interrupt may come when it has its name already: that this one is gone must not hide it.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise


def has_store(place: str) -> bool:
    """Whether there is still a volume at a place on this machine."""
    tree = tree_of(place)
    part = ("parts", Location.known(place).part or "") if tree != place else ()
    try:
        return stat.S_ISDIR(os.stat(os.path.join(tree, ".snapsync", *part)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # the round will report it
        return True


def _run(known: dict[str, Any]) -> Run:
    moments: dict[str, Any] = {
        key: _moment(known[key]) for key in ("attempt", "good", "told") if known.get(key)
    }
    lists: dict[str, Any] = {key: tuple(known[key]) for key in ("losses", "notes", "skipped") if key in known}
    names = {field.name for field in fields(Run)}
    run = Run(**{key: value for key, value in known.items() if key in names} | moments | lists)
    if not (isinstance(run.failures, int) and isinstance(run.exit_code, int)):
        raise TypeError("a number of failures is none")
    return run


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not 1971 < moment.year < 9000:
        raise ValueError(f"{text} is no moment that a job can have run at")
    return moment
