"""What became of each job: when it last ran, and how that ended."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snapsync.config import Job
from snapsync.errors import IntegrityError, told


@dataclass(frozen=True, slots=True)
class Run:
    """The runs of one job. `good` is when the last good one began: the standby is what the primary was then.

    `snapshot`, `data_bytes` and `seconds` are of that run; `error` is that of the last attempt, None where it
    was good.
    """

    source: str
    target: str
    attempt: datetime
    good: datetime | None = None
    snapshot: str | None = None
    data_bytes: int | None = None
    seconds: float | None = None
    error: str | None = None

    def age(self, now: datetime) -> float | None:
        """Seconds since the last good run began."""
        return None if self.good is None else (now - self.good).total_seconds()


def home() -> Path:
    """The directory where state is kept."""
    own = os.environ.get("SNAPSYNC_STATE_DIR")
    if own:
        return Path(own)
    if os.geteuid() == 0:
        return Path("/var/lib/snapsync")
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "snapsync")


def now() -> datetime:
    return datetime.now(UTC)


def runs() -> dict[str, Run]:
    """What is known of each job, by name."""
    file = home() / "jobs.json"
    try:
        content = json.loads(file.read_bytes())
        return {name: _run(known) for name, known in content["jobs"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"cannot understand {file}: {error}"
        advice = "remove it: every job then runs as if for the first time"
        raise told(IntegrityError(message), message, advice) from None


def of(job: Job, known: Mapping[str, Run]) -> Run | None:
    """What is known of a job, if it was about the same two places."""
    run = known.get(job.name)
    return run if run and (run.source, run.target) == (job.source, job.target) else None


def is_due(job: Job, known: Mapping[str, Run], at: datetime) -> bool:
    """Whether its period has passed since the last good run. Timers are not exact: nearly is enough."""
    if job.period is None:
        return False
    run = of(job, known)
    age = run.age(at) if run else None
    # A clock that was put back says nothing.
    return age is None or age < 0 or age >= job.period - min(30, job.period / 10)


def attempted(job: Job, at: datetime) -> None:
    """Note that a job begins."""
    _note(job, attempt=at)


def succeeded(job: Job, at: datetime, report: Mapping[str, Any]) -> None:
    """Note what a good round came to."""
    _note(
        job,
        attempt=at,
        good=at,
        error=None,
        snapshot=str(report["snapshot"]["name"]),
        data_bytes=int(report["data_bytes"]),
        seconds=float(report["seconds"]),
    )


def failed(job: Job, at: datetime, error: str) -> None:
    """Note why a round failed."""
    _note(job, attempt=at, error=error)


def _note(job: Job, **what: Any) -> None:
    with _locked():
        known = runs()
        before = of(job, known) or Run(job.source, job.target, what["attempt"])
        known[job.name] = replace(before, **what)
        jobs = {name: asdict(run) for name, run in known.items()}
        text = json.dumps({"format": 1, "jobs": jobs}, default=datetime.isoformat, indent=1)
        write(home() / "jobs.json", text)


@contextmanager
def _locked() -> Iterator[None]:
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file as a whole: whoever reads it sees the old text or the new."""
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as out:
            out.write(text)
            os.fchmod(out.fileno(), mode)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _run(known: dict[str, Any]) -> Run:
    moments = {key: datetime.fromisoformat(known[key]) for key in ("attempt", "good") if known.get(key)}
    return Run(**{**known, **moments})
