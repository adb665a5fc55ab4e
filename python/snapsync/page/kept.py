"""The manifests that a volume keeps of its rounds."""

import os
from datetime import datetime

from snapsync import _native
from snapsync.manifest import Manifest
from snapsync.record import Record
from snapsync.types import AnyPath


class Round(Record):
    """One kept manifest, open, and the snapshot that it leads to; `base` is empty in the first one."""

    manifest: Manifest
    base: str
    snapshot: str
    name: str
    sequence: int
    time: datetime


def kept(volume: AnyPath, directory: str) -> tuple[list[str], list[str]]:
    """The files of the manifests that `volume` keeps, oldest first, and what cannot be read of them.

    Those that are nowhere in a file of their own are put into `directory`.
    """
    return _native.kept(os.fsdecode(volume), directory)


def read(file: AnyPath) -> Round:
    """Open a kept manifest. Raises what `Manifest` raises, KeyError or ValueError for wrong metadata."""
    manifest = Manifest(file)
    of = manifest.metadata
    time = datetime.fromisoformat(of["snapsync.created"])
    if time.tzinfo is None:
        raise ValueError("its time has no zone")
    return Round(
        manifest=manifest,
        base=of["snapsync.base"],
        snapshot=of["snapsync.target"],
        name=of["snapsync.name"],
        sequence=int(of["snapsync.sequence"]),
        time=time,
    )
