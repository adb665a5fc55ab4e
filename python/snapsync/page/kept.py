"""The manifests that a volume keeps of its rounds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from snapsync.api import comparisons, snapshots
from snapsync.manifest import Manifest
from snapsync.record import Record
from snapsync.reports.values import Snapshot
from snapsync.types import AnyPath


class Round(Record):
    """One kept manifest, open, and the snapshot that it leads to; `base` is empty in the first one."""

    manifest: Manifest
    base: str
    snapshot: str
    name: str
    sequence: int | None
    time: datetime


@contextmanager
def kept(volume: AnyPath) -> Iterator[list[str]]:
    """The files of the manifests that `volume` keeps, oldest first, for as long as the context lasts."""
    with TemporaryDirectory(prefix="snapsync-") as directory:
        line = [snap for snap in snapshots.list_(volume).snapshots if not snap.aside]
        empty = Path(directory, "empty")
        empty.mkdir()
        sides = [str(empty), *(f"{os.fsdecode(volume)}@{snap.id}" for snap in line)]
        files = [f"{directory}/{snap.id}.arrow" for snap in line]
        for (base, target), file in zip(pairwise(sides), files, strict=True):
            comparisons.write_manifest(base, target, file)
        yield files


def read(file: AnyPath, known: dict[str, Snapshot]) -> Round:
    """Open a kept manifest. Raises what `Manifest` raises, and ValueError where its metadata are damaged."""
    manifest = Manifest(file)
    of = manifest.metadata
    target = of.get("snapsync.target") or Path(manifest.path).stem
    snap = known.get(target)
    time = of.get("snapsync.time") or (snap.created.isoformat() if snap else of["snapsync.created"])
    sequence = of.get("snapsync.sequence") or (str(snap.sequence) if snap else "")
    return Round(
        manifest=manifest,
        base=of.get("snapsync.base", ""),
        snapshot=target,
        name=of.get("snapsync.name") or (snap.name if snap else target),
        sequence=int(sequence) if sequence else None,
        time=datetime.fromisoformat(time),
    )
