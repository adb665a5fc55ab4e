"""A round, in one step or as a delta that is sent and received."""

import os
from collections.abc import Mapping, Sequence

from snapsync import _native
from snapsync.api import checks
from snapsync.api.owners import naming
from snapsync.declare import Unpack, pick
from snapsync.errors import IntegrityError, UsageError, told
from snapsync.options import (
    ChannelOptions,
    DeltaOptions,
    DriftOptions,
    ReceiveOptions,
    RoundOptions,
    ScrubOptions,
    SnapshotOptions,
    StandbyOptions,
    SubsetOptions,
    SyncOptions,
    TargetOptions,
    TransferOptions,
    counts,
)
from snapsync.options_of_changes import AdoptOptions, GuardOptions
from snapsync.reports.rounds import PlanReport, ReceiveReport, SendReport, SyncReport
from snapsync.types import AnyPath, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def sync(
    source: AnyPath,
    target: AnyPath,
    *,
    keep: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    **options: Unpack[SyncOptions],
) -> SyncReport:
    """Run one round: snapshot `source`, bring `target` to it, snapshot `target`.

    One of the two may be `[user@]host:PATH`: `rsh` then runs `remote_path` there, with an `-o` for each of
    `ssh_options`, over `channels` connections. `compress` ("none" or "zstd:LEVEL") and `bwlimit` (bytes a
    second) are for what travels between machines. Either gives up when the other is silent for `timeout` s.
    With `part` it is one of `SOURCE@PART/`, with patterns, snapshots and standbys of its own, made on first
    use; without `exclude` it is what `include` names. The first round restores the whole tree into an absent
    or empty `target`; where a standby is known that is not there any more, only with `new_standby`. With
    `adopt` it holds a copy: what differs is brought (`trust_times`: equal sizes and times mean equal files),
    and what that replaces is in the report's `set_aside`.
    `name` names the snapshot; with `snap` none is taken, and that of `source` (or "latest") is brought.
    `keep` says which snapshots stay on both sides afterwards (see `prune`), `keep_last` is its `last`, and so
    on; without them all do. `strict` refuses where the target cannot hold everything, and nested subvolumes;
    `no_space_check` does not look whether there is room; `jobs` is the number of threads (0: all).

    `exclude` leaves out what its patterns name, in gitignore syntax from the root of `source`, after those in
    the files `exclude_from`; `include` brings back some. All stay until others are given, or `everything`.
    A round that deletes more than `guard_deleted` per cent of the entries, writes more than `guard_changed`
    anew, or loses more than `guard_shrink` of the bytes is refused before anything travels, but with
    `accept_changes`. In trees of 10,000 entries or more they are 25, 60 and 50 by default.
    `check` compares all of the standby's tree with its newest snapshot first, and not only what the round
    touches; `discard_drift` keeps what was changed there as a snapshot, and goes back first. `read_only`: the
    tree of a standby on Btrfs is read-only between rounds. `owners` ("names", or a map file): it finds users
    and groups by name. Each round reads a share of the files again that are believed unchanged, on both
    sides: all in `scrub` seconds (None: never), and at most `scrub_limit` bytes. What differs is in the
    report's `scrub`, and the next round brings it again.
    `before_snapshot`, `after_snapshot`, `take` and `release` are commands of this machine, lists of words:
    around the snapshot (`docs/databases.md`), or to make the tree that is read (`docs/other-snapshots.md`).

    Raises UsageError for a pattern that cannot be understood, RefusedError where `target` is not a standby
    of `source`, was changed by hand, or would lose too much, InterruptedRound where the connection is cut:
    what has arrived is kept, and the next round goes on from there.
    """
    checks.keywords("sync", SyncOptions, options)
    part = options.get("part")
    text = _native.sync(
        os.fsdecode(source) if part is None else _native.Location.part_of(os.fsdecode(source), part),
        os.fsdecode(target),
        _round(options),
        keep=_keep(counts(options), keep or {}),
        **checks.commands(options),
        transfer=pick(TransferOptions, options),
        ssh=pick(ChannelOptions, options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    try:
        return SyncReport.from_json(text)
    except (KeyError, TypeError, ValueError, AttributeError):  # another machine may have written it
        message = f"{os.fsdecode(source)} sent a report that makes no sense"
        advice = "the round is done: `snapsync status` tells what came of it"
        raise told(IntegrityError(message), message, advice) from None


def plan(
    source: AnyPath,
    target: AnyPath,
    *,
    keep: Mapping[str, int] | None = None,
    paths: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SyncOptions],
) -> PlanReport:
    """Tell what `sync` with the same options would bring to `target`; nothing is written on either side.

    `source` is a directory of this machine; `target` may be `[user@]host:PATH` or a log. With `paths` each
    change is in the report. What a guard, the standby's space or `strict` would refuse is in its `refused`.

    Raises RefusedError where there would be no round at all: both ends do not belong together, or the
    standby was changed by hand.
    """
    checks.keywords("plan", SyncOptions, options)
    part = options.get("part")
    text = _native.plan(
        os.fsdecode(source) if part is None else _native.Location.part_of(os.fsdecode(source), part),
        os.fsdecode(target),
        _round(options),
        keep=_keep(counts(options), keep or {}),
        **checks.commands(options),
        ssh=pick(ChannelOptions, options),
        paths=paths,
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return PlanReport.from_json(text)


def _round(options: SyncOptions) -> "dict[str, Any]":
    """The options that both machines need, nested in groups as the native half has them."""
    checks.name(options.get("name"))
    checks.name(options.get("snap"))
    subset = pick(SubsetOptions, options)
    files = checks.several("exclude_from", subset.pop("exclude_from"))
    from_files = [pattern for file in files for pattern in _patterns_in(file)]
    excluded = checks.several("exclude", subset["exclude"])
    subset["exclude"] = checks.patterns("exclude", [*from_files, *excluded])
    checks.patterns("include", subset["include"])
    scrub = pick(ScrubOptions, options)
    return {
        **pick(SnapshotOptions, options),
        **pick(TargetOptions, options),
        **subset,
        **pick(RoundOptions, options),
        "care": pick(StandbyOptions, options),
        "scrub": {"period": scrub["scrub"] or 0, "limit": scrub["scrub_limit"]},
        "owners": naming(options.get("owners")),
        "adopt": _adopt(**pick(AdoptOptions, options)),
        "guard": _guard(pick(GuardOptions, options)),
    }


def _adopt(adopt: bool, trust_times: bool) -> str | None:
    """Which files are read of a copy that becomes a standby; None where none does."""
    if trust_times and not adopt:
        message = "trust_times is about a copy that is adopted, and none is"
        raise told(UsageError(message), message, "give adopt (--adopt) too")
    if not adopt:
        return None
    return "nothing" if trust_times else "all"


def _guard(asked: "dict[str, Any]") -> "dict[str, Any] | None":
    """The limits of a round; None where it may do anything."""
    is_accepted = asked.pop("accept_changes")
    limits = {name.removeprefix("guard_"): limit for name, limit in asked.items()}
    for name, limit in limits.items():
        if limit is not None and not 0 <= limit <= 100:
            message = f"guard_{name} cannot be {limit}"
            raise told(UsageError(message), message, "give a share in per cent, from 0 to 100")
    return None if is_accepted else limits


def _keep(one_by_one: Mapping[str, int], keep: Mapping[str, int]) -> dict[str, int]:
    for period in one_by_one.keys() & keep.keys():
        which = "of the newest snapshots" if period == "last" else f"{period} snapshots"
        message = f"both keep_{period} and keep say how many {which} stay"
        raise told(UsageError(message), message, "give one of them")
    return {**keep, **one_by_one}


def _patterns_in(file: str) -> list[str]:
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


def send(
    snapshot: AnyPath,
    base: AnyPath | Sequence[AnyPath] = (),
    output: AnyPath | None = None,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[DeltaOptions],
) -> SendReport:
    """Write a delta: `snapshot` as what changed since `base`, or whole without one.

    `snapshot` and `base` are VOLUME@SNAP, or directories that are snapshots; of several bases the newest is
    taken. The delta goes to the file `output`, which appears when it is whole, or to standard output. `name`
    is what the snapshot is called where it is received, `compress` "none" or "zstd:LEVEL", `bwlimit` the
    bytes a second that are written at most, `jobs` the number of threads.

    Raises UsageError for a directory that is no snapshot, InterruptedRound where the reader goes away.
    """
    checks.keywords("send", DeltaOptions, options)
    bases = [base] if isinstance(base, str | bytes | os.PathLike) else base
    text = _native.send(
        os.fsdecode(snapshot),
        [os.fsdecode(path) for path in bases],
        None if output is None else os.fsdecode(output),
        name=checks.name(name),
        transfer=pick(TransferOptions, options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return SendReport.from_json(text)


def receive(
    volume: AnyPath | None = None,
    delta: AnyPath | None = None,
    *,
    as_snapshot: AnyPath | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[ReceiveOptions],
) -> ReceiveReport:
    """Apply the delta in the file `delta`, or on standard input, all or nothing.

    Either to the standby `volume`, which a full delta makes where there is none; or as a snapshot of its own
    in the directory `as_snapshot`, under `name` or the one it was sent with. `strict`, `no_space_check`,
    `check`, `discard_drift`, `owners` and `jobs` are those of `sync`.

    Raises RefusedError where the delta does not start from what is there, IntegrityError where it is not what
    it should be, InterruptedRound where it ends too early: what has arrived is kept, and the same delta goes
    on from there.
    """
    checks.keywords("receive", ReceiveOptions, options)
    source = None if delta is None else os.fsdecode(delta)
    if (volume is None) == (as_snapshot is None):
        message = "a delta is received either into a standby or as a snapshot"
        raise told(UsageError(message), message, "name a VOLUME, or a directory with --as-snapshot")
    target, jobs = pick(TargetOptions, options), options.get("jobs", 0)
    if as_snapshot is not None:
        into = os.fsdecode(as_snapshot)
        text = _native.receive_as_snapshot(
            into, source, name=checks.name(name), target=target, jobs=jobs, progress=progress
        )
    elif name is not None:
        message = "a standby's snapshot has the name of its primary's"
        raise told(UsageError(message), message, "leave out --name, or use --as-snapshot")
    else:
        assert volume is not None
        text = _native.receive(
            os.fsdecode(volume),
            source,
            target=target,
            drift=pick(DriftOptions, options),
            owners=naming(options.get("owners")),
            jobs=jobs,
            progress=progress,
        )
    return ReceiveReport.from_json(text)
