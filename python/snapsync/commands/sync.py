"""`snapsync sync`: one round."""

from collections.abc import Iterator, Mapping, Sequence

from snapsync import api, render
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output
from snapsync.reports import Scrubbed, SyncReport
from snapsync.shell import words


def run(
    output: Output,
    source: str,
    target: str,
    *,
    name: str | None,
    snap: str | None,
    keep: Mapping[str, int],
    strict: bool,
    no_space_check: bool,
    exclude: Sequence[str],
    exclude_from: Sequence[str],
    include: Sequence[str],
    everything: bool,
    check: bool,
    discard_drift: bool,
    read_only: bool | None,
    new_standby: bool,
    scrub: int | None,
    scrub_limit: int,
    compress: str,
    bwlimit: int | None,
    rsh: str,
    remote_path: str,
    ssh_options: Sequence[str],
    timeout: int,
    channels: int,
    jobs: int,
) -> int:
    exclude = [*(pattern for file in exclude_from for pattern in _read(file)), *exclude]
    with output.progress() as progress:
        report = api.sync(
            source,
            target,
            name=name,
            snap=snap,
            keep=keep,
            strict=strict,
            no_space_check=no_space_check,
            exclude=exclude,
            include=include,
            everything=everything,
            check=check,
            discard_drift=discard_drift,
            read_only=read_only,
            new_standby=new_standby,
            scrub=scrub,
            scrub_limit=scrub_limit,
            compress=compress,
            bwlimit=bwlimit,
            rsh=words(rsh),
            remote_path=remote_path,
            ssh_options=ssh_options,
            timeout=timeout,
            channels=channels,
            jobs=jobs,
            progress=progress,
        )
    for recovered in report.recovered:
        output.note(f"healed: {recovered}")
    for note in report.notes:
        output.note(note)
    if report.set_aside:
        output.note(f"what was changed by hand is kept as {render.snapshot(report.set_aside)}")
    output.summary(report, summary(report))
    differs = report.scrub and report.scrub.difference_count
    return ExitCode.INTEGRITY if differs else ExitCode.DONE


def _read(file: str) -> list[str]:
    """The patterns of a file as git reads it: without comments and empty lines."""
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
            text = opened.read()
    except OSError as error:
        message = f"cannot read the patterns in {file}: {error.strerror}"
        raise told(UsageError(message), message, "check the path") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    patterns = [line for line in lines if line.strip(" ") and not line.startswith("#")]
    if not patterns:
        message = f"{file} holds no pattern"
        raise told(UsageError(message), message, "use --everything to leave nothing out")
    return patterns


def summary(report: SyncReport) -> Iterator[str]:
    """What the round did, in lines."""
    sides = f"{render.name(report.primary.path)} -> {render.name(report.standby.path)}"
    tree = f"{render.size(report.tree_bytes)} in {render.entries(report.tree_entries)}"
    took = render.seconds(report.seconds)
    yield f"{render.snapshot(report.snapshot)}: {sides}"
    if report.unchanged:
        yield "  nothing changed: the standby's tree was not written"
        yield f"  tree {tree}, {took}"
    else:
        yield f"  {render.changes(report.changes)}"
        yield f"  moved {render.size(report.data_bytes)} of a tree of {tree}, in {took}"
    if report.snapshot.subset:
        yield f"  subset: {render.subset(report.snapshot.subset)}"
    if report.pruned:
        yield f"  pruned {', '.join(map(render.snapshot, report.pruned))}"
    yield from render.losses(report.losses)
    if report.scrub:
        is_told = report.claimed is not None and "scrub" in report.claimed.what
        says = f", says {render.name(report.claimed.by)}" if report.claimed and is_told else ""
        yield from (f"{line}{says}" for line in scrubbed(report.scrub))


def scrubbed(scrub: Scrubbed) -> Iterator[str]:
    """What was read again, what differs, and what becomes of it."""
    if scrub.mended:
        yield f"  brought {render.count(scrub.mended, 'file')} again that were found to differ"
    if scrub.files:
        yield f"  read {render.count(scrub.files, 'file')} again on both sides, {render.size(scrub.bytes)}"
    for unlike in scrub.differences:
        yield f"  differs: {render.name(unlike.path)}: {render.name(unlike.what)}"
    unnamed = scrub.difference_count - len(scrub.differences)
    if unnamed:
        yield f"  ... and {render.count(unnamed, 'file')} more"
    if scrub.difference_count:
        found = render.count(scrub.difference_count, "file is", "files are")
        yield f"  {found} not the same on both sides: the next round brings them again"
