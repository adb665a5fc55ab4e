"""Summaries that more than one verb prints: of rounds, changes, roles, restores and differences."""

from collections.abc import Iterator

from snapsync import render
from snapsync.reports.comparisons import VerifyReport
from snapsync.reports.restores import RestorePathsReport, RestoreToReport
from snapsync.reports.roles import PromoteReport, RejoinReport
from snapsync.reports.rounds import PlanReport, SyncReport
from snapsync.reports.values import Difference, Mended, PlannedChange, Scrubbed, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snapsync.manifest import Change

# Paths that are told one by one.
_SHOWN = 100


def round_summary(report: SyncReport) -> Iterator[str]:
    """What a round did."""
    sides = f"{render.name(report.primary.path)} -> {render.name(report.standby.path)}"
    tree = f"{render.size(report.tree_bytes)} in {render.entries(report.tree_entries)}"
    took = render.seconds(report.seconds)
    yield f"{render.snapshot(report.snapshot)}: {sides}"
    if report.unchanged:
        what = "no data was sent" if report.standby.is_log else "the standby's tree was not written"
        yield f"  nothing changed: {what}"
        yield f"  tree {tree}, {took}"
    else:
        yield f"  {render.changes(report.changes)}"
        yield f"  moved {render.size(report.data_bytes)} of a tree of {tree}, in {took}"
    if report.snapshot.subset:
        yield f"  subset: {render.subset(report.snapshot.subset)}"
    if report.pruned:
        yield f"  pruned {', '.join(map(render.snapshot, report.pruned))}"
    yield from render.losses(report.losses)
    yield from render.skipped(report.skipped)
    if report.scrub:
        is_told = report.claimed is not None and "scrub" in report.claimed.what
        says = f", says {render.name(report.claimed.by)}" if report.claimed and is_told else ""
        yield from (f"{line}{says}" for line in _scrubbed(report.scrub))


def plan_summary(report: PlanReport) -> Iterator[str]:
    """What a round would do."""
    tree = f"{render.size(report.tree_bytes)} in {render.entries(report.tree_entries)}"
    yield from map(change_line, report.paths or ())
    yield f"would sync {render.name(report.source)} -> {render.name(report.target)}"
    yield "  nothing changed" if report.unchanged else f"  {render.changes(report.changes)}"
    yield f"  would move {render.size(report.data_bytes)} of a tree of {tree}"
    needs = f"takes {render.size(report.needed)} there, where " if report.needed is not None else ""
    if report.available is not None:
        yield f"  {needs}{render.size(report.available)} are free on the standby's file system"
    yield from render.losses(report.losses or ())
    if report.refused is not None:
        yield f"  would be refused: {render.name(report.refused)}"
        yield from (f"    {render.name(line)}" for line in (report.advice or "").splitlines())


def _scrubbed(scrub: Scrubbed) -> Iterator[str]:
    """What a round read again, which files differ, and what happens to them."""
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


def change_line(change: "Change | PlannedChange") -> str:
    """One changed inode: what happened, from where to where, which parts, how much data."""
    what, *parts = change.flags
    if what not in ("created", "deleted", "renamed"):
        what, parts = "changed", list(change.flags)
    if what == "created":
        parts = [change.kind]
    if change.data_bytes:
        parts.append(render.size(change.data_bytes))
    old = f"{render.name(change.old_path)} -> " if change.old_path is not None else ""
    remarks = f"  ({', '.join(parts)})" if parts else ""
    return f"{what}  {old}{render.name(change.path)}{remarks}"


def change_lines(path: str) -> Iterator[str]:
    """A line for each change in a manifest."""
    from snapsync.manifest import Manifest

    yield from map(change_line, Manifest(path).changes())


def restored_to(report: RestoreToReport) -> Iterator[str]:
    """What was restored to another directory."""
    if report.searched is not None and not report.paths:
        yield _nothing(report.searched, report.snapshot)
        return
    what = render.count(len(report.paths), "path") + " of " if report.paths else ""
    yield f"{what}{render.snapshot(report.snapshot)} -> {render.name(report.to)}"
    yield _brought(report)
    yield from render.losses(report.losses)


def restored_in_place(report: RestorePathsReport) -> Iterator[str]:
    """What was restored in place."""
    volume = render.name(report.volume.path)
    if report.before is None:
        yield _nothing(report.searched or 0, report.snapshot)
        return
    for path in report.paths[:_SHOWN]:
        yield f"{render.name(path)} of {volume} is that of {render.snapshot(report.snapshot)}"
    if len(report.paths) > _SHOWN:
        yield f"{render.count(len(report.paths) - _SHOWN, 'more path')} of {volume} are, too"
    yield _brought(report)
    yield f"  what was there before is in {render.snapshot(report.before)}"
    yield from render.losses(report.losses)


def _nothing(searched: int, snapshot: Snapshot) -> str:
    among = f"{render.entries(searched)} of {render.snapshot(snapshot)}"
    return f"nothing is selected among {among}, and nothing was written"


def _brought(report: RestoreToReport | RestorePathsReport) -> str:
    shared = f", {render.size(report.shared_bytes)} of it shared" if report.shared_bytes else ""
    created = render.entries(report.changes.created)
    return (
        f"  {created}, {render.size(report.data_bytes)} of data{shared}, in {render.seconds(report.seconds)}"
    )


def promoted(report: PromoteReport) -> Iterator[str]:
    """What was promoted, in lines."""
    volume = report.volume
    yield f"{render.name(volume.path)} is the primary of epoch {volume.epoch}"
    yield f"  it goes on from {render.snapshot(report.newest)}, with {render.snapshot(report.snapshot)}"
    if report.set_aside:
        yield f"  what was changed by hand is kept as {render.snapshot(report.set_aside)}"


def rejoined(report: RejoinReport) -> Iterator[str]:
    """How the old primary became a standby, in lines."""
    old, new = report.round.standby, report.round.primary
    does = "follows" if new.is_log else "is a standby of"
    yield f"{render.name(old.path)} {does} {render.name(new.path)}"
    yield f"  went back to {render.snapshot(report.common)}: {render.changes(report.back)}"
    for left in report.left:
        yield f"  kept {render.snapshot(left)}"
    yield from round_summary(report.round)


def verdict(report: VerifyReport) -> Iterator[str]:
    """The verdict, and before it each difference."""
    sides = f"{render.name(report.a)} and {render.name(report.b)}"
    read = f", {render.size(report.bytes)}" if report.mode != "quick" else ""
    checked = f"{render.entries(report.entries)}{read}, in {render.seconds(report.seconds)}"
    if report.mended and report.mended.difference_count:
        yield from _mended(report.mended)
    yield from map(_difference, report.differences)
    unnamed = report.difference_count - len(report.differences)
    if unnamed:
        yield f"... and {unnamed:,} more"
    if not report.equal:
        found = render.count(report.difference_count, "difference")
        yield f"not equal: {found} between {sides} ({checked})"
    elif report.unproven:
        yield f"no difference found: {sides} hold the same entries and metadata ({checked})"
    else:
        yield f"equal: {sides} hold the same, by content and metadata ({checked})"
    if report.unproven:
        yield f"  {_unread(report)}"


def _mended(mended: Mended) -> Iterator[str]:
    yield from (f"mended: {_difference(difference)}" for difference in mended.differences)
    unnamed = mended.difference_count - len(mended.differences)
    if unnamed:
        yield f"mended: ... and {unnamed:,} more"
    yield f"  {render.changes(mended.changes)}; moved {render.size(mended.data_bytes)}"
    yield from render.losses(mended.losses)


def _unread(report: VerifyReport) -> str:
    """What was not proven, and how much of the content was read."""
    files, data = render.count(report.unproven, "file"), render.size(report.unproven_bytes)
    whole = report.bytes + report.unproven_bytes
    share = f"; {report.bytes / whole:.1%} of the content was" if report.bytes else ""
    return f"the content of {files} ({data}) was not read{share}"


def _difference(difference: Difference) -> str:
    path, what = render.name(difference.path), render.name(difference.what)
    return f"{path}: {what}: {render.name(difference.a)} | {render.name(difference.b)}"
