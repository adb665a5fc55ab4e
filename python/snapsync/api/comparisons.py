"""Two sides compared: what changed between them, or whether they hold the same."""

import os
from collections.abc import Mapping

from snapsync import _native
from snapsync._native import Location
from snapsync.api import checks, elsewhere
from snapsync.declare import Unpack, pick
from snapsync.errors import UsageError, told
from snapsync.options import SshOptions, VerifyOptions
from snapsync.reports.comparisons import Delta, DiffReport, VerifyReport
from snapsync.types import AnyPath, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snapsync.manifest import Manifest


def diff(
    base: AnyPath,
    target: AnyPath,
    output: AnyPath | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[VerifyOptions],
) -> "Manifest":
    """Find the set of changes that leads from `base` to `target`: VOLUME@SNAP or directories.

    The manifest is written to the Arrow file `output`; without one, to a temporary file that is removed
    together with the Manifest. Both may be on another machine, as `[user@]host:VOLUME@SNAP`.
    """
    checks.keywords("diff", VerifyOptions, options)
    from snapsync.manifest import Manifest

    if output is not None:
        report = write_manifest(base, target, output, progress=progress, **options)
        return Manifest(output, notes=report.notes, counters=report.counters)
    import shutil
    import tempfile

    directory = tempfile.mkdtemp(prefix="snapsync-")
    try:
        path = os.path.join(directory, "manifest.arrow")
        report = write_manifest(base, target, path, progress=progress, **options)
        return Manifest(path, notes=report.notes, counters=report.counters, owned=directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def write_manifest(
    base: AnyPath,
    target: AnyPath,
    output: AnyPath | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[VerifyOptions],
) -> DiffReport:
    """Do the same as `diff` without loading Arrow: write the file, or only count the changes."""
    if elsewhere.is_elsewhere(base) or elsewhere.is_elsewhere(target):
        return _manifest_of_another(base, target, output, options, progress)
    paths = os.fsdecode(base), os.fsdecode(target), None if output is None else os.fsdecode(output)
    jobs = options.get("jobs", 0)
    return DiffReport.from_json(_native.diff(*paths, jobs=jobs, progress=progress))


def _manifest_of_another(
    base: AnyPath,
    target: AnyPath,
    output: AnyPath | None,
    options: "Mapping[str, Any]",
    progress: Progress | None,
) -> DiffReport:
    """The same of two sides on one other machine."""
    names = os.fsdecode(base), os.fsdecode(target)
    old, new = (Location(name) for name in names)
    if old.host != new.host:
        message = f"cannot compare {names[0]} with {names[1]}: they are on two machines"
        advice = "diff two sides on one machine; `snapsync verify` compares two of different ones"
        raise told(UsageError(message), message, advice)
    there = names[1].removeprefix(f"{new.host}:") if new.host else names[1]
    question = {"diff": {"target": list(os.fsencode(there)), "manifest": output is not None}}
    report = DiffReport.from_peer(*elsewhere.ask(base, question, options, output=output, progress=progress))
    from dataclasses import replace

    written = None if output is None else os.path.abspath(os.fsdecode(output))
    return replace(report, base=names[0], target=names[1], output=written)


def verify(
    a: AnyPath,
    b: AnyPath,
    *,
    quick: bool = False,
    sample: float | None = None,
    seed: int | None = None,
    repair: bool = False,
    discard_drift: bool = False,
    progress: Progress | None = None,
    **options: Unpack[VerifyOptions],
) -> VerifyReport:
    """Prove that two volumes, snapshots or directories hold the same, by content and metadata.

    Each may be `[user@]host:PATH` or `[user@]host:VOLUME@SNAP`, as for `sync`: only digests travel then. Of a
    volume or snapshot that is replicated in part, that part is compared. Differences are not an exception:
    they are in the report, and `equal` is False.

    `quick` reads no file: sizes and times stand for content, and where both are snapshots that share blocks,
    their addresses prove it. `sample` reads so many percent of the files, in each run others until all have
    been read, unless `seed` chooses them. The report says what was not proven.

    `repair` makes the tree of `b`, a standby here, what the newest snapshot that it has in common with its
    primary `a` is. Changes by hand are refused, or kept as a snapshot with `discard_drift`.
    """
    checks.keywords("verify", VerifyOptions, options)
    jobs = options.get("jobs", 0)
    if repair or discard_drift:
        if not repair or quick or sample is not None:
            message = "to repair everything is read" if repair else "only a repair discards drift"
            raise told(UsageError(message), message, "give repair alone, or with discard_drift")
        text = _native.verify_and_mend(
            os.fsdecode(a), os.fsdecode(b), discard_drift=discard_drift, jobs=jobs, progress=progress
        )
        return VerifyReport.from_json(text)
    text = _native.verify(
        os.fsdecode(a),
        os.fsdecode(b),
        quick=quick,
        sample=sample,
        seed=seed,
        ssh=pick(SshOptions, options),
        jobs=jobs,
        progress=progress,
    )
    return VerifyReport.from_json(text)


def inspect_delta(file: AnyPath, manifest: AnyPath) -> Delta:
    """Read the description of the delta in `file`, and write its manifest to the file `manifest`."""
    return Delta.from_json(_native.inspect_delta(os.fsdecode(file), os.fsdecode(manifest)))
