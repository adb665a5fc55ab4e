"""What happens around a round of a job: its hooks, and who is told of it."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from snapsync.errors import SnapsyncError, describe
from snapsync.jobs import hooks, state, telling
from snapsync.jobs.config import Job
from snapsync.jobs.reports import JobRun
from snapsync.jobs.telling import Held


def hook(job: Job, name: str, told: JobRun | None, held: Held) -> tuple[str | None, list[str]]:
    """Run the hook `name` of a job, if there is one: why it failed, and the lines for the log."""
    words: tuple[str, ...] = getattr(job.hooks, name)
    if not words:
        return None, []
    started = hooks.start(words, _environment(job, name, told))
    if isinstance(started, str):
        return f"the hook `{name}` cannot be started: {started}", []
    with held(started):
        error, said = started.wait(job.hooks.timeout)
    last = f": {said[-1]}" if error and said else ""
    return error and f"the hook `{name}` failed: {error}{last}", [f"{name}: {line}" for line in said]


def _environment(job: Job, name: str, told: JobRun | None) -> dict[str, str]:
    texts = {"HOOK": name, "JOB": job.name, "SOURCE": job.source, "TARGET": job.target}
    if told is not None:
        texts |= {
            "OUTCOME": told.outcome,
            "EXIT_CODE": str(told.exit_code),
            "SNAPSHOT": told.snapshot or "",
            "DATA_BYTES": str(told.data_bytes or 0),
            "ERROR": (told.error or "").replace("\0", ""),
        }
    return {f"SNAPSYNC_{key}": text for key, text in texts.items()}


def began(job: Job, is_over: Callable[[], bool]) -> Iterator[str]:
    """Tell that a round begins. Yields a sentence for each that cannot be told."""
    yield from telling.ping(job.notify, "/start", "", is_over)


def ended(
    job: Job, before: state.Run | None, outcome: JobRun, held: Held, is_over: Callable[[], bool]
) -> Iterator[str]:
    """Tell how a round ended, if that is new. Yields a sentence for each that cannot be told."""
    yield from telling.ping(job.notify, "/fail" if outcome.error else "", outcome.error or "", is_over)
    if not telling.means(job.notify):
        return
    at = state.now()
    event, kept = _event(job, before, outcome, at)
    if event is not None and event.event in job.notify.about:
        problems = list(telling.tell(job.notify, event, held, is_over))
        yield from problems
        if len(problems) >= telling.means(job.notify):
            return  # nobody was told: the next round tries again
    if kept:
        try:
            state.announced(job, at, **kept)
        except (SnapsyncError, OSError) as error:
            yield f"cannot keep what was told: {describe(error).message}"


def _event(
    job: Job, before: state.Run | None, outcome: JobRun, at: datetime
) -> tuple[telling.Event | None, dict[str, Any]]:
    """What there is to tell, and what is to be remembered of it."""
    last = before.told if before else None
    if outcome.error is not None:
        if last is not None and timedelta(0) <= at - last < timedelta(seconds=job.notify.again):
            return None, {}
        failures = (before.failures if before else 0) + 1
        return _made("failure", job, outcome, at, failures), {"told": at}
    warning = telling.differs(outcome.notes, outcome.losses, outcome.advice)
    known = before.warned if before else None
    kept = {"told": None, "warned": warning} if last is not None or warning != known else {}
    if last is not None:
        return _made("recovery", job, outcome, at), kept
    is_new = warning is not None and warning != known
    return (_made("warning", job, outcome, at) if is_new else None), kept


def _made(event: str, job: Job, outcome: JobRun, at: datetime, failures: int = 0) -> telling.Event:
    return telling.Event(
        event,
        job.name,
        job.source,
        job.target,
        telling.host(),
        at,
        snapshot=outcome.snapshot,
        exit_code=outcome.exit_code,
        error=outcome.error,
        advice=outcome.advice,
        failures=failures,
        notes=outcome.notes,
        losses=outcome.losses,
    )
