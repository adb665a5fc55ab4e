"""Reports of verbs that compare, or inspect a file of changes."""

from snapsync.reports.base import Report
from snapsync.reports.values import Changes, Counters, Difference, Mended, Snapshot


class Delta(Report):
    """What a delta file says of itself, and what its frames come to.

    `base`, `origin`, `volume` and `lineage` are ids, or None; `origin` is that of a Btrfs subvolume. Its
    frames hold `raw_bytes` in `stored_bytes`. Not `complete`: it ends before its end record.
    """

    verb = "inspect"
    version: int
    snapshot: Snapshot
    base: str | None
    origin: str | None
    volume: str | None
    lineage: str | None
    epoch: int
    software: str
    frames: int
    raw_bytes: int
    stored_bytes: int
    complete: bool


class DiffReport(Report):
    """A set of changes that was written to the Arrow file `output` (None: not kept)."""

    verb = "diff"
    base: str
    target: str
    output: str | None
    changes: Changes
    data_bytes: int
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class VerifyReport(Report):
    """What comparing two trees by content and metadata found.

    `differences` holds the first 1,000 of `difference_count`. `mode` is full, quick or sample, `seed` that of
    the sample. Of the files that look the same `read_entries` were read on both sides, and `bytes` found
    equal. The content of `unproven` files, of `unproven_bytes`, was neither read nor proven by where it lies.
    With `repair` all this is what is so after it, and `mended` what was before.
    """

    verb = "verify"
    a: str
    b: str
    equal: bool
    entries: int
    bytes: int
    mode: str
    seed: int | None
    read_entries: int
    unproven: int
    unproven_bytes: int
    difference_count: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    seconds: float
    mended: Mended | None = None
