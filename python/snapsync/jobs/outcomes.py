"""The result of a job, out of what its process said."""

import json
from collections.abc import Iterator
from typing import Any

from snapsync import render
from snapsync._native import Location
from snapsync.errors import ExitCode
from snapsync.jobs.config import Job
from snapsync.jobs.reports import JobRun, Level
from snapsync.jobs.spelled import by_hand
from snapsync.reports.values import Loss, Skipped, Subset


def outcome_of(job: Job, code: int, out: str, err: str, seconds: float) -> JobRun:
    """The result of a job whose process ended with this exit code and output."""
    where = (job.name, job.source, job.target)
    answer = _answer(out)
    if code in (ExitCode.DONE, ExitCode.INTEGRITY, ExitCode.SKIPPED) and "snapshot" in answer:
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
            notes=(*answer["recovered"], *answer["notes"], *_left_out(job, answer["snapshot"])),
            losses=tuple(Loss(**loss) for loss in answer["losses"]),
            differences=found,
            skipped=tuple(Skipped(**entry) for entry in answer.get("skipped", ())),
            advice="\n".join([*_differing(scrub), *_passed_over(answer)]),
        )
    error = answer.get("error", {})
    last_words = err.strip().splitlines()[-1:] or [f"its process ended with {code}, and no word"]
    message = error.get("message") or last_words[0]
    # A negative code is the signal that killed the process.
    code = code if code > 0 else ExitCode.FAILED
    advice = _of_this_job(job, error.get("advice", ""))
    return JobRun(*where, "failed", code, seconds, error=message, advice=advice)


# What advice says of any round, and the option that it is about.
_OPTIONS = {
    "`snapsync sync` with --accept-changes": "--accept-changes",
    "sync with --discard-drift": "--discard-drift",
}


def _of_this_job(job: Job, advice: str) -> str:
    """Advice with the line to type: who reads a log or a mail does not know paths and options by heart."""
    for said, option in _OPTIONS.items():
        advice = advice.replace(said, f"`{by_hand(job, option)}`")
    return advice


def _left_out(job: Job, snapshot: dict[str, Any]) -> list[str]:
    """A note where patterns of earlier rounds still count, and whoever reads the job sees none.

    A part is what its patterns name, and a log has those of its primary.
    """
    source = Location.known(job.source)
    if job.exclude is not None or job.include or source.is_log or source.part is not None:
        return []
    found = snapshot.get("subset") or {}
    subset = Subset(tuple(found.get("exclude", ())), tuple(found.get("include", ())))
    if not subset:
        return []
    patterns = f"{job.source} leaves out {render.left_out(subset)}: patterns of earlier rounds"
    return [f"{patterns}, which the job does not say; `exclude = []` in it leaves nothing out any more"]


def _differing(scrub: dict[str, Any]) -> list[str]:
    """A sentence about the files that a finished round found to differ."""
    if not scrub.get("difference_count"):
        return []
    files = render.count(scrub["difference_count"], "file is", "files are")
    shown = ", ".join(render.name(unlike["path"]) for unlike in scrub["differences"][:3])
    return [f"{files} not the same on both sides, and travel again with the next round: {shown}"]


def _passed_over(answer: dict[str, Any]) -> list[str]:
    """A sentence about what a finished round could not read."""
    skipped = answer.get("skipped")
    if not skipped:
        return []
    shown = ", ".join(render.name(entry["path"]) for entry in skipped[:3])
    return [f"{render.entries(len(skipped))} could not be read, and later rounds try again: {shown}"]


def failure(code: int, message: str, advice: str) -> tuple[int, str, str]:
    """What a process says that ends with this failure."""
    return code, json.dumps({"error": {"message": message, "advice": advice}}), ""


def _answer(out: str) -> dict[str, Any]:
    try:
        answer = json.loads(out)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def words(outcome: JobRun) -> Iterator[tuple[str, Level]]:
    """What a reader of the log needs beyond the summary, and how much it matters."""
    yield from ((note, "notice") for note in outcome.notes)
    yield from ((line.strip(), "warning") for line in render.losses(outcome.losses))
    yield from ((line.strip(), "warning") for line in render.skipped(outcome.skipped))
    matters: Level = "warning" if outcome.error is None else "error"
    if outcome.error is not None:
        yield outcome.error, matters
    yield from ((line, matters) for line in outcome.advice.splitlines())
