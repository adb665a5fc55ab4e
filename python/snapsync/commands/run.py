"""`snapsync run`: the jobs of the configuration that are due."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from threading import BoundedSemaphore, Lock
from time import monotonic
from typing import Any

from snapsync import config as configuration
from snapsync import render, state
from snapsync.child import Child
from snapsync.config import Job, is_remote
from snapsync.errors import ExitCode, IntegrityError, UsageError, describe, told
from snapsync.output import Output
from snapsync.reports import JobRun, Loss, RunReport

# A job that stands still is ended after this many times its time-out: a round has given up waiting by then.
_STILL_FOR = 800


def run(output: Output, names: Sequence[str], *, now: bool, config: Path | None, parallel: int) -> int:
    if names and now:
        message = "either some jobs are to run, or all of them"
        raise told(UsageError(message), message, "name the jobs, or use --now")
    found = configuration.load(config)
    if not found.jobs:
        message = f"there is no job in {' and '.join(map(str, found.files))}"
        raise told(UsageError(message), message, "write a table [job.NAME] with source, target and period")
    known, at = state.runs(), state.now()
    asked = found.named(names) or list(found.jobs.values())
    due = [job for job in asked if names or now or state.is_due(job, known, at)]
    outcomes = _Runner(output, parallel).run(due)
    waiting = [] if names else [_waiting(job, known) for job in asked if job.name not in outcomes]
    order = {job.name: place for place, job in enumerate(asked)}
    ran = sorted([*outcomes.values(), *waiting], key=lambda job: order[job.job])
    report = RunReport(tuple(ran), max((job.exit_code for job in ran), default=0))
    output.summary(report, _lines(report))
    return report.exit_code


def arguments(job: Job) -> list[str]:
    """The options of the `snapsync sync` that a job is."""
    words = [f"--keep-{period}={count}" for period, count in (job.keep or {}).items()]
    words += [f"--exclude={pattern}" for pattern in job.exclude or ()]
    words += [f"--include={pattern}" for pattern in job.include]
    words += ["--everything"] if job.exclude == () else []
    words += ["--strict"] if job.strict else []
    words += ["--no-space-check"] if job.no_space_check else []
    words += ["--check"] if job.check else []
    if job.read_only is not None:
        words.append("--read-only" if job.read_only else "--read-write")
    words += [f"--scrub={job.scrub}"] if job.scrub else []
    words += [f"--scrub-limit={job.scrub_limit}"] if job.scrub_limit else []
    words.append(f"--compress={job.compress}")
    words += [f"--bwlimit={job.bwlimit}"] if job.bwlimit else []
    if is_remote(job.source) or is_remote(job.target):
        words += [f"--rsh={job.rsh}", f"--remote-path={job.remote_path}", f"--channels={job.channels}"]
        words += [f"--timeout={job.timeout}"]
        words += [word for option in job.ssh_options for word in ("-o", option)]
    return [*words, "--", job.source, job.target]


class _Runner:
    """Runs jobs, each in a process of its own: what one does to its process, the others do not feel.

    One that stands still, because it waits for another machine or for a disk, keeps no other from running.
    """

    def __init__(self, output: Output, parallel: int) -> None:
        self._output = output
        self._slots = BoundedSemaphore(parallel)
        self._lock = Lock()
        self._places: defaultdict[str, Lock] = defaultdict(Lock)
        self._running: list[Child] = []
        self._is_stopped = False

    def run(self, jobs: Sequence[Job]) -> dict[str, JobRun]:
        """Run them all; what came of each, by name. Told to stop, it stops them and waits for their end."""
        with ThreadPoolExecutor(max(len(jobs), 1)) as pool:
            futures = {job.name: pool.submit(self._job, job) for job in jobs}
            try:
                return {name: future.result() for name, future in futures.items()}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for child in self._running:
                child.terminate()

    def _job(self, job: Job) -> JobRun:
        source, target = _whole(job.source), _whole(job.target)
        with ExitStack() as held, ExitStack() as yielded:
            # Jobs of one volume wait for each other: it would keep the second waiting. In one order, so that
            # none waits for one that waits for it. A standby has one round at a time.
            for place in sorted({source, target}):
                with self._lock:
                    lock = self._places[place]
                (held if place == target else yielded).enter_context(lock)
            yielded.enter_context(self._slots)
            return self._round(job, yielded.close)

    def _round(self, job: Job, give_way: Callable[[], None]) -> JobRun:
        at, started = state.now(), monotonic()
        lost = _not_there(job)
        self._note(lambda: state.attempted(job, at))
        code, out, err = lost or self._sync(job, give_way)
        outcome = _outcome(job, code, out, err, monotonic() - started)
        if outcome.error is None:
            report = json.loads(out)
            # What differs is nowhere else told where the primary is on another machine.
            report["notes"] += [outcome.advice] if outcome.differences else []
            self._note(lambda: state.succeeded(job, at, report))
        else:
            self._note(lambda: state.failed(job, at, str(outcome.error)))
        for line in _told(outcome):
            self._output.note(f"{job.name}: {line}")
        return outcome

    def _note(self, write: Callable[[], None]) -> None:
        """A round is not undone because nobody could write it down; then it runs again the sooner."""
        try:
            write()
        except (OSError, IntegrityError) as error:
            self._output.note(f"cannot keep what became of a job: {describe(error).message}")

    def _sync(self, job: Job, give_way: Callable[[], None]) -> tuple[int, str, str]:
        # Not from the directory that this was started in: whatever is called snapsync there is not this.
        command = [sys.executable, "-P", "-m", "snapsync", "sync", "--json", "--quiet", *arguments(job)]
        with self._lock:
            if self._is_stopped:
                return ExitCode.INTERRUPTED, "", "interrupted before it began"
            child = Child(command)
            self._running.append(child)
        code, out, err = child.wait(give_way, _STILL_FOR * job.timeout)
        with self._lock:
            self._running.remove(child)
        if code is None:
            message = "it stood still for too long, and was ended"
            advice = "see whether both file systems answer, and try it by hand"
            return ExitCode.FAILED, json.dumps({"error": {"message": message, "advice": advice}}), ""
        return code, out, err


def _not_there(job: Job) -> tuple[int, str, str] | None:
    """The refusal of a job that has had a volume on this machine where there is none now; None for others.

    An empty mount point is no place to begin anew.
    """
    run = state.of(job, state.runs())
    for side, place in (("source", job.source), ("target", job.target)):
        if run is None or run.good is None or is_remote(place) or state.has_store(place):
            continue
        message = f"the {side} {place} was a volume in the last good round, and is none now"
        advice = (
            "mount its file system, and the job goes on by itself; if it is gone, "
            f"`snapsync sync {job.source} {job.target} --new-standby` begins anew"
        )
        return ExitCode.REFUSED, json.dumps({"error": {"message": message, "advice": advice}}), ""
    return None


def _whole(place: str) -> str:
    return place if is_remote(place) else os.path.realpath(place)


def _outcome(job: Job, code: int, out: str, err: str, seconds: float) -> JobRun:
    """What a round that ended so came to."""
    where = (job.name, job.source, job.target)
    answer = _answer(out)
    if code in (ExitCode.DONE, ExitCode.INTEGRITY) and "snapshot" in answer:
        scrub = answer.get("scrub") or {}
        found = scrub.get("difference_count", 0)
        return JobRun(
            *where,
            "done",
            code,
            seconds,
            snapshot=answer["snapshot"]["name"],
            data_bytes=answer["data_bytes"],
            unchanged=answer["unchanged"],
            notes=tuple(answer["recovered"]) + tuple(answer["notes"]),
            losses=tuple(Loss(**loss) for loss in answer["losses"]),
            differences=found,
            advice=_differing(scrub) if found else "",
        )
    error = answer.get("error", {})
    last_words = err.strip().splitlines()[-1:] or [f"its process ended with {code}, and no word"]
    message = error.get("message") or last_words[0]
    # A signal that killed it is no exit code.
    code = code if code > 0 else ExitCode.FAILED
    return JobRun(*where, "failed", code, seconds, error=message, advice=error.get("advice", ""))


def _differing(scrub: dict[str, Any]) -> str:
    """What a round that is done found to differ."""
    files = render.count(scrub["difference_count"], "file is", "files are")
    shown = ", ".join(render.name(unlike["path"]) for unlike in scrub["differences"][:3])
    return f"{files} not the same on both sides, and travel again with the next round: {shown}"


def _answer(out: str) -> dict[str, Any]:
    try:
        answer = json.loads(out)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _waiting(job: Job, known: dict[str, state.Run]) -> JobRun:
    run = state.of(job, known)
    if run is not None and run.failures > 1:
        due = state.due(job, run, run.attempt)
    else:
        due = run.good + timedelta(seconds=job.period) if run and run.good and job.period else None
    return JobRun(job.name, job.source, job.target, "waiting", 0, 0.0, due=due)


def _told(outcome: JobRun) -> Iterator[str]:
    """What a reader of the log needs beyond the summary."""
    yield from outcome.notes
    yield from (line.strip() for line in render.losses(outcome.losses))
    if outcome.error is not None:
        yield outcome.error
    if outcome.advice:
        yield from outcome.advice.splitlines()


def _lines(report: RunReport) -> Iterator[str]:
    for job in report.jobs:
        yield f"{job.job}: {_line(job)}"


def _line(job: JobRun) -> str:
    if job.outcome == "waiting":
        return f"not due before {render.moment(job.due)}" if job.due else "runs only when it is named"
    if job.error is not None:
        return f"failed with exit code {job.exit_code}"
    moved = "nothing changed" if job.unchanged else f"moved {render.size(job.data_bytes or 0)}"
    differ = f", {render.count(job.differences, 'file differs', 'files differ')}" if job.differences else ""
    lost = f", with losses in {render.entries(sum(loss.count for loss in job.losses))}" if job.losses else ""
    return (
        f"snapshot {render.name(job.snapshot or '')}, {moved}{differ}, in {render.seconds(job.seconds)}{lost}"
    )
