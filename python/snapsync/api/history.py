"""What changed from snapshot to snapshot, and what was where."""

import os

from snapsync import _native
from snapsync.api import checks, elsewhere
from snapsync.declare import Unpack
from snapsync.options_of_history import FindOptions
from snapsync.reports.history import FindReport, LifeReport, LogReport
from snapsync.types import AnyPath, Progress


def log(
    volume: AnyPath,
    *,
    since: str | None = None,
    until: str | None = None,
    most: int | None = None,
    stat: bool = False,
    progress: Progress | None = None,
) -> LogReport:
    """What changed in each round of a volume or a log, newest first, `most` of them at most.

    `since` and `until` are dates or times, as for SNAP. With `stat` each round has some of the paths that
    changed in it. Raises UsageError where `until` is before the first snapshot.
    """
    place = os.fsdecode(volume)
    text = _native.log(place, since=since, until=until, most=most, stat=stat, progress=progress)
    return LogReport.from_json(text)


def log_of(
    volume: AnyPath,
    path: AnyPath,
    *,
    since: str | None = None,
    until: str | None = None,
    progress: Progress | None = None,
) -> LifeReport:
    """What became of whatever had `path` at any time, under all its names, newest first.

    Raises UsageError where nothing ever was at that path.
    """
    place, path = os.fsdecode(volume), os.fsdecode(path)
    return LifeReport.from_json(_native.log_of(place, path, since=since, until=until, progress=progress))


def find(
    volume: AnyPath,
    *patterns: str,
    deleted: bool = False,
    progress: Progress | None = None,
    **options: Unpack[FindOptions],
) -> FindReport:
    """The paths that match any of `patterns`, in all snapshots of a volume or a log, also in those that are
    gone.

    A pattern without a slash matches a name anywhere, one with a slash the path from the root. `type` is a
    letter as for find(1) or a word, `larger` a size in bytes, `newer` a date or time of the last change;
    `since` and `until` tell which snapshots count. With `deleted` only what is not in the tree any more.
    """
    checks.keywords("find", FindOptions, options)
    if elsewhere.is_elsewhere(volume):
        select = {
            "match": checks.patterns("patterns", patterns),
            **{name: options.get(name) for name in ("type", "larger", "newer")},
        }
        window = {name: options.get(name) for name in ("since", "until")}
        question = {"find": {"select": select, "deleted": deleted, **window}}
        return FindReport.from_peer(*elsewhere.ask(volume, question, options, progress=progress))
    text = _native.find(
        os.fsdecode(volume),
        list(patterns),
        deleted=deleted,
        kind=options.get("type"),
        larger=options.get("larger"),
        newer=options.get("newer"),
        since=options.get("since"),
        until=options.get("until"),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return FindReport.from_json(text)
