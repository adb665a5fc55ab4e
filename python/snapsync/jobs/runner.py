"""Running the jobs of the configuration that are due."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from subprocess import DEVNULL, PIPE, Popen
from threading import BoundedSemaphore, Lock
from time import monotonic, sleep
from typing import NoReturn

from snapsync.errors import ExitCode, SnapsyncError, describe
from snapsync.jobs import around, sharing, shown, state, turns
from snapsync.jobs.child import Child, Process
from snapsync.jobs.config import Job, is_remote
from snapsync.jobs.hooks import Command
from snapsync.jobs.outcomes import failure, outcome_of, words
from snapsync.jobs.places import no_directory, not_there
from snapsync.jobs.reports import JobRun, Level, RunReport, Tell
from snapsync.jobs.shown import Board
from snapsync.jobs.spelled import command

Start = Callable[[Sequence[str], int | None], Process]
"""Starts a command of snapsync. It may hold a turn too, by the number of its file."""

# A job that stands still is ended after this many times its time-out: a round has given up waiting by then.
_STILL_FOR = 800
# The most jobs that are under way at once, with those that wait for their turn.
_MOST = 256
# A job does not begin again earlier than this after it began.
_SOON = 1.0


def run(
    asked: Sequence[Job],
    *,
    parallel: int,
    only_due: bool,
    waits: bool,
    note: Tell,
    board: Board | None = None,
) -> RunReport:
    """Run the jobs that were asked for, or those of them that are due. `note` is told what a log needs.

    A job that another process runs is waited for if it `waits`. `board` shows how far each is.
    """
    known, at = state.runs(), state.now()
    due = [job for job in asked if not only_due or state.is_due(job, known, at)]
    outcomes = _Runner(parallel, _new_process, note, only_due=only_due, waits=waits, board=board).run(due)
    ran = [outcomes.get(job.name) or _waiting(job, known) for job in asked]
    return RunReport(tuple(ran), max((job.exit_code for job in ran), default=0))


def plan(asked: Sequence[Job], *, only_due: bool) -> RunReport:
    """What `run` would do now, and why. Nothing is changed."""
    known, at = state.runs(), state.now()
    return RunReport(tuple(_planned(job, known, at, only_due=only_due) for job in asked), 0, dry_run=True)


def _planned(job: Job, known: Mapping[str, state.Run], at: datetime, *, only_due: bool) -> JobRun:
    where, run = (job.name, job.source, job.target), state.of(job, known)
    if (turn := turns.runs(job.name)) is not None:
        return JobRun(*where, "running", 0, 0.0, why=f"process {turn.process or 'unknown'} runs it")
    if only_due and not state.is_due(job, known, at):
        told = "" if state.due(job, run, at) is None else state.why(job, run, at)
        return replace(_waiting(job, known), why=told)
    if (lost := not_there(job, run) or no_directory(job)) is not None:
        failed = outcome_of(job, *lost, 0.0)
        return replace(failed, outcome="refused", why=failed.error or "")
    return JobRun(*where, "due", 0, 0.0, why=state.why(job, run, at) if only_due else "it was asked for")


def watch(
    jobs: Callable[[], Sequence[Job]],
    *,
    parallel: int,
    start: Start,
    note: Tell,
    ran: Callable[[JobRun], None],
) -> NoReturn:
    """Run each job whenever it is due, until an exception ends it, as an interrupt does.

    `jobs` is asked at least every second, so its answer may change; and
    `ran` is told of each round.
    """
    runner = _Runner(parallel, start, note, only_due=True, waits=False)
    under_way: dict[str, Future[JobRun]] = {}
    began: dict[str, float] = {}
    with runner.stopping(ThreadPoolExecutor(_MOST)) as pool:
        while True:
            known, at = state.runs(), state.now()
            idle = [job for job in jobs() if job.name not in under_way]
            for job in idle:
                # Also where its state cannot be written, so that it seems to be due again at once.
                if state.is_due(job, known, at) and monotonic() - began.get(job.name, -_SOON) >= _SOON:
                    began[job.name] = monotonic()
                    under_way[job.name] = pool.submit(runner.job, job)
            _pause(under_way.values(), _until_due(idle, known, at))
            for name in [name for name, future in under_way.items() if future.done()]:
                outcome = under_way.pop(name).result()
                if outcome.outcome in ("done", "failed"):
                    ran(outcome)


def _pause(under_way: Iterable[Future[JobRun]], seconds: float) -> None:
    """Wait until a round has ended, and at most so long."""
    if rounds := list(under_way):
        wait(rounds, seconds, FIRST_COMPLETED)
    else:
        sleep(seconds)


def _until_due(idle: Sequence[Job], known: Mapping[str, state.Run], at: datetime) -> float:
    """Seconds until one of these jobs will be due, and at most one: clocks and configurations change."""
    times = (state.due(job, state.of(job, known), at) for job in idle)
    return min([1.0, *((when - at).total_seconds() for when in times if when and when > at)])


class _Runner:
    """Runs jobs, each in a process of its own: a crash of one does not affect the others.

    One that stands still, because it waits for another machine or for a disk, keeps no other from running.
    """

    def __init__(
        self,
        parallel: int,
        start: Start,
        note: Tell,
        *,
        only_due: bool,
        waits: bool,
        board: Board | None = None,
    ) -> None:
        self._start, self._tell = start, note
        self._only_due, self._waits, self._board = only_due, waits, board
        self._slots = BoundedSemaphore(parallel)
        self._lock = Lock()
        self._places: defaultdict[str, Lock] = defaultdict(Lock)
        self._running: list[Child | Command] = []
        self._is_stopped = False
        # When all that are run were asked for; None where each is run when it is due.
        self._asked: datetime | None = None
        self._turns: dict[str, int] = {}

    def run(self, jobs: Sequence[Job]) -> dict[str, JobRun]:
        """Run all jobs and return their results by name."""
        self._asked = state.now()
        with self.stopping(ThreadPoolExecutor(max(len(jobs), 1))) as pool:
            futures = {job.name: pool.submit(self.job, job) for job in jobs}
            # A signal wakes the thread that sleeps, not the one that is about to: it never sleeps for long.
            while wait(futures.values(), _SOON).not_done:
                pass
            return {name: future.result() for name, future in futures.items()}

    @contextmanager
    def stopping(self, threads: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
        """The threads of the jobs. An exception, such as an interrupt, stops them; their end is awaited."""
        with threads:
            try:
                yield threads
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise

    def _stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for child in self._running:
                child.terminate()

    def job(self, job: Job) -> JobRun:
        """Run a job, unless another process does."""
        with ExitStack() as turn:
            try:
                taken = turn.enter_context(turns.taken(job.name, self._may_wait(job)))
                is_taken = taken is not None
                if taken is not None:
                    self._turns[job.name] = taken
                    turn.callback(self._turns.pop, job.name)
            except (OSError, SnapsyncError) as error:
                # As with all that is kept of a job: the round counts for more.
                self._tell(
                    f"{job.name}: whether it runs already is not known: {describe(error).message}", "warning"
                )
                is_taken = True
            if not is_taken:
                return JobRun(job.name, job.source, job.target, "running", ExitCode.DONE, 0.0)
            try:
                known = state.runs()
            except (OSError, SnapsyncError) as error:
                # Without it an empty mount point could be taken for a new target.
                why = describe(error)
                return outcome_of(job, *failure(why.exit_code, why.message, why.advice), 0.0)
            if self._only_due and not state.is_due(job, known, state.now()):
                return _waiting(job, known)  # another process has just run it
            return self._alone(job, state.of(job, known))

    def _may_wait(self, job: Job) -> Callable[[turns.Turn], bool]:
        """Asked while another process runs a job: whether to wait on. The first time it is told."""
        told: list[turns.Turn] = []

        def may(turn: turns.Turn) -> bool:
            if not self._waits or self._is_stopped:
                return False
            if turn.process is not None and not told:
                told.append(turn)
                self._tell(f"{job.name}: waiting for process {turn.process}, which runs it", "notice")
            return True

        return may

    def _alone(self, job: Job, before: state.Run | None) -> JobRun:
        """Run a job as soon as no other one of its volumes does, and tell of it."""
        self._complain(job, around.began(job, self._is_over))
        outcome = self._in_turn(job, before)
        if not self._is_stopped:
            self._complain(job, around.ended(job, before, outcome, self._held, self._is_over))
        return outcome

    def _is_over(self) -> bool:
        return self._is_stopped

    def _complain(self, job: Job, problems: Iterable[str], level: Level = "warning") -> None:
        try:
            for problem in problems:
                self._tell(f"{job.name}: {problem}", level)
        except Exception as error:
            # Its words may hold what is secret. The round, and those of other jobs, count for more.
            self._tell(f"{job.name}: what became of it cannot be told ({type(error).__name__})", "warning")

    def _in_turn(self, job: Job, before: state.Run | None) -> JobRun:
        source, target = _whole(job.source), _whole(job.target)
        with ExitStack() as held, ExitStack() as yielded:
            # Jobs of one volume run one after the other, because its lock would keep the second one
            # waiting. The locks are taken in one order, so that no two jobs wait for each other.
            for place in sorted({source, target}):
                with self._lock:
                    lock = self._places[place]
                (held if place == target else yielded).enter_context(lock)
            yielded.enter_context(self._slots)
            return self._round(job, before, yielded.close)

    def _round(self, job: Job, before: state.Run | None, give_way: Callable[[], None]) -> JobRun:
        at, started = state.now(), monotonic()
        lost = not_there(job, before)
        self._note(job, lambda: state.attempted(job, at))
        failed = lost or self._hooked(job)
        other = None if failed else self._shared(job, before)
        code, out, err = failed or self._sync(job, give_way, other.snapshot_id if other else None)
        if other and sharing.is_refused(outcome_of(job, code, out, err, 0.0)):
            other = None
            code, out, err = self._sync(job, give_way)
        outcome = outcome_of(job, code, out, err, monotonic() - started)
        for name in ("failed", "after") if outcome.error else ("after",):
            error = self._hook(job, name, outcome)
            outcome = replace(outcome, notes=(*outcome.notes, error)) if error else outcome
        if outcome.error is None:
            report = {**json.loads(out), "recovered": []}
            # If the primary is on another machine, nothing else on this one records which files differ.
            report["notes"] = [*outcome.notes, *([outcome.advice] if outcome.differences else [])]
            # What it brought is as old as the round that took the snapshot.
            good = other.good if other and other.good else at
            self._note(job, lambda: state.succeeded(job, at, good, report, outcome.exit_code))
        else:
            self._note(job, lambda: state.failed(job, at, str(outcome.error), outcome.exit_code))
        for line, level in words(outcome):
            self._tell(f"{job.name}: {line}", level)
        return outcome

    def _hooked(self, job: Job) -> tuple[int, str, str] | None:
        """The failure of a job whose hook `before` failed; None where it may go on."""
        error = self._hook(job, "before", None)
        if error is None:
            return None
        return failure(ExitCode.FAILED, error, "the round was not begun: mend the hook, or what it looks at")

    def _hook(self, job: Job, name: str, outcome: JobRun | None) -> str | None:
        error, said = around.hook(job, name, outcome, self._held)
        self._complain(job, said, "notice")
        return error

    @contextmanager
    def _held(self, command: Command) -> Iterator[None]:
        """Keep a command where an interrupt ends it."""
        with self._lock:
            self._running.append(command)
        if self._is_stopped:
            command.terminate()
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(command)

    def _note(self, job: Job, write: Callable[[], None]) -> None:
        """Record something of a job. If that fails the round still counts; the job runs again earlier."""
        try:
            write()
        except (OSError, SnapsyncError) as error:
            self._tell(f"{job.name}: cannot keep what became of it: {describe(error).message}", "warning")

    def _begun(self, job: Job, snapshot: str | None, turn: int | None) -> Process:
        if self._board is not None:
            return _shown(job, snapshot, turn, self._board)
        return self._start(command(job, snapshot=snapshot), turn)

    def _shared(self, job: Job, before: state.Run | None) -> state.Run | None:
        """The round of another target of the same table whose snapshot this one brings too."""
        asked = self._asked or state.now()
        due = state.due(job, before, asked) if self._only_due else None
        try:
            return sharing.shared(job, state.runs(), asked, due)
        except (OSError, SnapsyncError):  # that it cannot be read was told
            return None

    def _sync(
        self, job: Job, give_way: Callable[[], None], snapshot: str | None = None
    ) -> tuple[int, str, str]:
        with self._lock:
            if self._is_stopped:
                return ExitCode.INTERRUPTED, "", "interrupted before it began"
            turn = self._turns.get(job.name)
            process = self._begun(job, snapshot, turn)
            if turn is not None:
                turns.handed(turn, process.pid)
            child = Child(process)
            self._running.append(child)
        code, out, err = child.wait(give_way, _STILL_FOR * job.timeout)
        with self._lock:
            self._running.remove(child)
        if code is None:
            message = "it stood still for too long, and was ended"
            advice = "see whether both file systems answer, and try it by hand"
            return failure(ExitCode.FAILED, message, advice)
        return code, out, err


def _shown(job: Job, snapshot: str | None, turn: int | None, board: Board) -> Process:
    """Start the round of a job, and show how far it is."""
    writer, _ = shown.heard(board, job.name)
    words = command(job, f"--progress-to={writer}", snapshot=snapshot)
    try:
        return _new_process(words, turn, [writer])
    finally:
        os.close(writer)


def _new_process(command: Sequence[str], turn: int | None, handles: Sequence[int] = ()) -> Process:
    """Start a command of snapsync in an interpreter of its own, which holds the turn of its job, too, and
    these open handles."""
    # -P: a directory named snapsync where this was started is not the program.
    words = [sys.executable, "-P", "-m", "snapsync", *command]
    if turn is not None:
        words[2:2] = ["-X", f"snapsync-turn={turn}"]
        handles = [*handles, turn]
    return Popen(words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, pass_fds=handles)


def _whole(place: str) -> str:
    return place if is_remote(place) else os.path.realpath(place)


def _waiting(job: Job, known: Mapping[str, state.Run]) -> JobRun:
    run = state.of(job, known)
    due = state.due(job, run, state.now()) if run else None
    return JobRun(job.name, job.source, job.target, "waiting", 0, 0.0, due=due)
