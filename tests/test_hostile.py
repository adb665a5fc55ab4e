"""A delta is hostile input: each lie is refused in one sentence, and nothing is touched, inside or outside.

A lie is told consistently: every digest and total is right for what is written. After it the honest delta
is received, to show that the lie left nothing behind.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arrowbits
import pytest
from delta import MIB, MOST, Delta, Frame, compressed, data_extents, parse, rewritten, row_in
from machine import GIB, FileSystems, Place, assert_told, sh, snapshots, store
from oracle import assert_same, freeze, touch_marks
from told import Row
from transfer import deliver, delivered, measured, send, stages, take
from worlds import fill

NOWHERE = 987_654_321
"""An inode that no row has."""
BOMB = 4 * GIB
MEMORY = GIB
"""What no refusal may take, however much is claimed."""


# --- the honest delta -------------------------------------------------------------------------


@dataclass
class Honest:
    """A first delta, the next one, and what they make."""

    full: Delta
    increment: Delta
    base: Path
    target: Path


@pytest.fixture(scope="module")
def honest(file_systems: FileSystems) -> Iterator[Honest]:
    place = Place(file_systems)
    try:
        source, base = place("xfs"), place("xfs")
        lay_out(source)
        sh("cp", "-a", "--reflink=auto", f"{source}/.", base)
        first = take(source, "first")
        full = send(first).delta
        advance(source)
        increment = send(take(source, "second"), "--base", first).delta
        yield Honest(full, increment, base, source)
    finally:
        place.clear()


def lay_out(root: Path) -> None:
    for name in ("dir/inner", "dir/sub/deep", "gone", "kept", "folder/file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        fill(root / name, 0, 5_000, len(name))
    fill(root / "file", 0, 60_000, 1)
    fill(root / "big", 0, 512 * 1024, 3)
    (root / "link").symlink_to("dir")


def advance(root: Path) -> None:
    fill(root / "new", 0, 100_000, 5)
    fill(root / "text", 0, 100_000, 6)
    (root / "made").mkdir()
    fill(root / "made/file", 0, 9_000, 7)
    fill(root / "file", 4096, 4096, 9)
    (root / "dir/sub").rename(root / "raised")
    (root / "gone").unlink()
    (root / "folder/file").unlink()
    (root / "folder").rmdir()
    (root / "new-link").symlink_to("somewhere")
    sh("cp", "--reflink=auto", root / "big", root / "copy")


@dataclass
class Attacked:
    """A standby at the first snapshot, with something precious beside it."""

    parent: Path
    honest: Honest

    @property
    def standby(self) -> Path:
        return self.parent / "standby"

    @property
    def outside(self) -> Path:
        return self.parent / "outside"

    @classmethod
    def at(cls, parent: Path, honest: Honest) -> Attacked:
        attacked = cls(parent, honest)
        (attacked.outside / "dir").mkdir(parents=True)
        (attacked.outside / "precious").write_text("mine")
        delivered(honest.full.bytes(), attacked.standby)
        return attacked

    def marks(self) -> tuple[object, ...]:
        """All that no refusal may change."""
        listed = sorted(path.name for path in self.parent.iterdir())
        return touch_marks(self.standby), touch_marks(self.outside), listed, snapshots(self.standby)

    def refuses(self, content: bytes, codes: tuple[int, ...]) -> None:
        tree, marks = freeze(self.standby), self.marks()
        cost = measured(content, self.standby, "--quiet")
        assert_told(cost.ran, codes=codes)
        assert_same(tree, self.standby)
        assert self.marks() == marks
        assert cost.peak < MEMORY, cost
        if 5 not in codes:
            assert not stages(self.standby)

    def goes_on(self) -> None:
        marks = touch_marks(self.outside)
        delivered(self.honest.increment.bytes(), self.standby)
        assert_same(self.honest.target, self.standby)
        assert touch_marks(self.outside) == marks
        assert not stages(self.standby)


@pytest.fixture
def attacked(place: Place, honest: Honest) -> Attacked:
    return Attacked.at(place("xfs"), honest)


def test_the_honest_delta_is_told_of_in_full(honest: Honest) -> None:
    """What the lies are about is there to lie about."""
    delta = honest.increment
    assert {frame.codec for frame in delta.frames} == {0, 1}
    for path in ("new", "text", "made", "file", "raised", "gone", "folder", "new-link", "copy"):
        assert any(delta.row(path)["change"].values())
    assert any(
        extent["op"] == "clone" and extent["source"] == "base" for extent in delta.row("copy")["extents"]
    )
    parse(delta.bytes())


def test_a_rewritten_manifest_is_no_lie(attacked: Attacked) -> None:
    """The tool that tells the lies tells the truth when it changes nothing."""
    delta = attacked.honest.increment.change(lambda rows: None)
    delivered(delta.bytes(), attacked.standby)
    assert_same(attacked.honest.target, attacked.standby)


# --- the lies ---------------------------------------------------------------------------------

Lie = Callable[[Delta], "Delta | bytes"]
LIES: dict[str, tuple[Lie, tuple[int, ...]]] = {}


def lie(name: str, told: Lie, *codes: int) -> None:
    assert name not in LIES, name
    LIES[name] = told, codes or (3, 4)


def of_row(path: str, change: Callable[[Row], object]) -> Lie:
    return lambda delta: delta.change_row(path, change)


def of_rows(change: Callable[[list[Row]], object]) -> Lie:
    return lambda delta: delta.change(change)


def of_extents(path: str, change: Callable[[list[dict[str, Any]]], object]) -> Lie:
    """The sums are made right again, and the frames stay as they are."""

    def changed(row: Row) -> None:
        change(row["extents"])
        row["data_bytes"] = sum(extent["length"] for extent in data_extents(row))

    return lambda delta: delta.change_row(path, changed)


def of_header(change: Callable[[dict[str, Any]], object]) -> Lie:
    def told(delta: Delta) -> Delta:
        made = delta.copy()
        change(made.header)
        return made

    return told


def of_frames(change: Callable[[Delta, list[Frame]], object]) -> Lie:
    def told(delta: Delta) -> Delta:
        made = delta.copy()
        change(made, made.frames)
        return made

    return told


PLAIN = {"version", "required", "optional", "manifest"}
"""What of a delta is written as it is."""


def with_lies(**lies: Any) -> Lie:
    def told(delta: Delta) -> Delta:
        made = delta.copy()
        for name in PLAIN & lies.keys():
            setattr(made, name, lies[name])
        made.lies = {key: value for key, value in lies.items() if key not in PLAIN}
        return made

    return told


def renamed(row: Row, name: bytes, parent: int | None = None) -> None:
    (link,) = row["links_added"]
    link["name"] = name
    if parent is not None:
        link["parent"] = parent
    text = name.decode("latin-1")
    above, _, _ = (row["path"] or "").rpartition("/")
    row["path"], row["path_raw"] = (f"{above}/{text}" if above else text), None


# Names.

NAMES = {
    "a slash": b"a/b",
    "a way up": b"../outside/stolen",
    "an absolute path": b"/outside",
    "..": b"..",
    ".": b".",
    "nothing": b"",
    "a zero byte": b"a\0b",
    "the store": b".snapsync",
    "256 bytes": b"n" * 256,
}
for what, bad in NAMES.items():
    lie(f"a name that is {what}", of_row("new", lambda row, bad=bad: renamed(row, bad)))
    lie(f"a directory's name that is {what}", of_row("made", lambda row, bad=bad: renamed(row, bad)))
    lie(
        f"a link's name that is {what} and a path that is honest",
        of_row("new", lambda row, bad=bad: row["links_added"][0].update(name=bad)),
    )
    lie(
        f"a name to remove that is {what}",
        of_row("gone", lambda row, bad=bad: row["links_removed"][0].update(name=bad)),
    )
for path in (
    "../outside/precious",
    "/etc/passwd",
    "a/../../b",
    "./new",
    "new/",
    "a//b",
    "",
    ".snapsync/store",
):
    if path:  # a created row's path is for people, and the root's is a path
        lie(f"a path that is {path!r}", of_row("new", lambda row, path=path: row.update(path=path)))
    lie(f"an old path that is {path!r}", of_row("file", lambda row, path=path: row.update(old_path=path)))
lie("a raw path with a way up", of_row("new", lambda row: row.update(path_raw=b"../outside/x")))


# Parents and links.


def parent_of(path: str, parent: str | int) -> Lie:
    def change(rows: list[Row]) -> None:
        number = parent if isinstance(parent, int) else row_in(rows, parent)["inode"]
        row_in(rows, path)["links_added"][0]["parent"] = number

    return of_rows(change)


lie("a parent that is a file", parent_of("new", "file"))
lie("a parent that is a new file", parent_of("new", "text"))
lie("a parent that is a symlink", parent_of("new", "new-link"))
lie("a parent that is missing", parent_of("new", NOWHERE))
lie("a parent that is deleted", parent_of("new", "folder"))
lie("a directory inside itself", parent_of("raised", "raised"))
lie("a new directory inside itself", parent_of("made", "made"))


def make_cycle(rows: list[Row]) -> None:
    made, raised = row_in(rows, "made"), row_in(rows, "raised")
    made["links_added"][0]["parent"] = raised["inode"]
    raised["links_added"][0]["parent"] = made["inode"]


lie("two directories inside each other", of_rows(make_cycle))
lie("two rows for one name", of_row("text", lambda row: renamed(row, b"new")))
lie("a name that is taken", of_row("new", lambda row: renamed(row, b"kept")))
lie("a directory's name that is taken", of_row("made", lambda row: renamed(row, b"link")))
lie("the same name twice", of_row("new", lambda row: row["links_added"].append(dict(row["links_added"][0]))))
lie(
    "a name that was never there is removed",
    of_row("gone", lambda row: row["links_removed"][0].update(name=b"x")),
)
lie("another's name is removed", of_row("gone", lambda row: row["links_removed"][0].update(name=b"kept")))
lie(
    "a name below a missing directory is removed",
    of_row("gone", lambda row: row["links_removed"][0].update(parent=NOWHERE)),
)
lie("a new file without a name", of_row("new", lambda row: row.update(links_added=[])))
lie("a deleted file keeps its name", of_row("gone", lambda row: row.update(links_removed=[])))
lie(
    "a directory with two names",
    of_row("made", lambda row: row["links_added"].append({"parent": 0, "name": b"x"})),
)
lie("a full directory is deleted", of_rows(lambda rows: deleted(rows, "dir")))


def deleted(rows: list[Row], path: str) -> None:
    """The row of what survives says that it is gone; what is below it is not mentioned."""
    row, gone = row_in(rows, path), row_in(rows, "folder")
    kept = ("inode", "generation", "old_path", "old_path_raw", "kind")
    same = {key: value for key, value in row.items() if key in kept or key.endswith("_old")}
    row.update({key: gone[key] for key in row} | same)
    row["links_removed"] = [{"parent": 0, "name": path.encode()}]


lie("the root is deleted", of_rows(lambda rows: deleted(rows, ".")))
lie("the root has a name", of_row(".", lambda row: row["links_added"].append({"parent": 0, "name": b"x"})))
lie("the root is a file", of_row(".", lambda row: row.update(kind="file")))


# Rows.

lie("an inode comes twice", of_rows(lambda rows: rows.append(dict(row_in(rows, "new")))))
lie("a row is created and deleted", of_row("new", lambda row: row["change"].update(deleted=True)))
lie("a created row has an old path", of_row("new", lambda row: row.update(old_path="kept")))
lie("a deleted row has a path", of_row("gone", lambda row: row.update(path="kept")))
lie("a surviving row has no old path", of_row("file", lambda row: row.update(old_path=None)))
lie("a created row has no path", of_row("new", lambda row: row.update(path=None)))
lie("a kind that does not exist", of_row("new", lambda row: row.update(kind="door")))
lie("a file that is a directory now", of_row("file", lambda row: row.update(kind="directory")))
lie("a directory that is a file now", of_row("raised", lambda row: row.update(kind="file")))
lie(
    "a directory with data",
    of_row(
        "made",
        lambda row: row.update(extents=extents_of((0, 100))),
    ),
)
lie("a symlink without a target", of_row("new-link", lambda row: row.update(symlink_target=None)))
lie("a symlink with a zero byte", of_row("new-link", lambda row: row.update(symlink_target=b"a\0b")))
lie("a symlink to nothing at all", of_row("new-link", lambda row: row.update(symlink_target=b"")))
lie("a symlink of 5,000 bytes", of_row("new-link", lambda row: row.update(symlink_target=b"x" * 5_000)))
lie("an old path of another inode", of_row("file", lambda row: row.update(old_path="kept")))
lie(
    "an attribute with a zero byte in its name",
    of_row("new", lambda row: row.update(xattr=[{"name": b"user.\0", "value": b""}])),
)


def extents_of(*ranges: tuple[int, int], op: str = "data", **source: Any) -> list[dict[str, Any]]:
    nothing = {"source": None, "source_inode": None, "source_offset": None, "checksum": None}
    return [{"offset": start, "length": length, "op": op, **nothing, **source} for start, length in ranges]


# Extents and sizes.

TOP = (1 << 64) - 1
lie("an extent beyond the size", of_extents("new", lambda e: e[-1].update(length=e[-1]["length"] + 4096)))
lie("an extent wholly beyond the size", of_extents("new", lambda e: e.extend(extents_of((1 << 30, 4096)))))
lie("extents that overlap", of_extents("new", lambda e: e.extend(extents_of((0, 4096)))))
lie("extents out of order", of_extents("file", lambda e: e.insert(0, extents_of((20_480, 4096))[0])))
lie("an extent of nothing", of_extents("new", lambda e: e.append(extents_of((100_000, 0))[0])))
lie(
    "an extent that ends beyond all numbers",
    of_extents("new", lambda e: e[-1].update(offset=TOP - 100, length=4096)),
)
lie("an extent of an unknown kind", of_extents("new", lambda e: e[-1].update(op="magic")))
lie(
    "a hole that ends beyond all numbers",
    of_extents("file", lambda e: e.extend(extents_of((TOP - 5, 5), op="hole"))),
)
lie(
    "exabytes are reserved",
    of_extents("new", lambda e: e.extend(extents_of((1 << 20, 1 << 60), op="unwritten"))),
    1,
    3,
    4,
)


def huge(size: int) -> Lie:
    """All of it is data that is said to follow."""

    def change(row: Row) -> None:
        row.update(size=size, extents=extents_of((0, size)), data_bytes=size)

    return of_row("new", change)


lie("a file of an exabyte", huge(1 << 60))
lie("a file of the most there can be", huge((1 << 63) - 1))
lie("a size beyond all files", of_row("new", lambda row: row.update(size=TOP)))
lie("a size of less than its extents", of_row("new", lambda row: row.update(size=10)))
lie(
    "data_bytes of a row that lies",
    lambda delta: delta.change_row("new", lambda row: row.update(data_bytes=5)),
)
lie("totals of the manifest that lie", lambda delta: lying_totals(delta, manifest=True))
lie("totals of the header that lie", lambda delta: lying_totals(delta, manifest=False))


def lying_totals(delta: Delta, *, manifest: bool) -> Delta:
    made = delta.copy()
    if manifest:
        # The rows change, and neither the schema nor the header follows.
        made.manifest = rewritten(
            delta.manifest, lambda rows: rows.remove(row_in(rows, "new-link")), totals=False
        )
    else:
        made.header["totals"]["data_bytes"] += 1
    return made


# Clones.


def of_clone(**source: Any) -> Lie:
    return of_extents("copy", lambda extents: extents[-1].update(source))


def clone_of(path: str, end: str, offset: int = 0) -> Lie:
    def change(rows: list[Row]) -> None:
        row = row_in(rows, "copy")
        of = row_in(rows, path)["inode"]
        row["extents"] = extents_of((0, 4096), op="clone", source=end, source_inode=of, source_offset=offset)
        row["size"] = 4096

    return of_rows(change)


lie("a clone of what is missing", of_clone(source_inode=NOWHERE))
lie("a clone from beyond the size", of_clone(source_offset=1 << 30))
lie("a clone from beyond all numbers", of_clone(source_offset=TOP - 10))
lie("a clone that says no source", of_clone(source=None, source_inode=None, source_offset=None))
lie("a clone from elsewhere", of_clone(source="elsewhere"))
lie("a clone of what is gone", clone_of("gone", "target"))
lie("a clone of what is not there yet", clone_of("new", "base"))
lie("a clone of a directory", clone_of("made", "target"))
lie("a clone of a symlink", clone_of("new-link", "target"))
lie("a clone of itself", clone_of("copy", "target"))
lie("a clone of what is not data", clone_of("file", "target", 8192))


# Frames.


def with_frame(frame: Frame) -> Lie:
    return of_frames(lambda delta, frames: frames.append(frame))


def first_of(delta: Delta, path: str) -> Frame:
    number = delta.row(path)["inode"]
    return next(frame for frame in delta.frames if frame.inode == number)


def of_frame(path: str, **lies: Any) -> Lie:
    return of_frames(lambda delta, frames: first_of(delta, path).lies.update(lies))


def moved(path: str, to: str | None = None, by: int = 0) -> Lie:
    def change(delta: Delta, frames: list[Frame]) -> None:
        frame = first_of(delta, path)
        frame.offset += by
        if to is not None:
            frame.inode = delta.row(to)["inode"]

    return of_frames(change)


lie("a frame of an unknown inode", with_frame(Frame.of(NOWHERE, 0, b"x" * 100)))
lie("a frame of what is gone", moved("new", "gone"))
lie("a frame of a directory", moved("new", "made"))
lie("a frame of the root", of_frames(lambda delta, frames: frames.append(Frame.of(0, 0, b"x"))))
lie("a frame of a clone", moved("new", "copy"))
lie("a frame of another file", moved("new", "text"))
lie("a frame outside the extents", moved("file", by=-4096))
lie("a frame half outside the extents", moved("new", by=1))
lie("a frame beyond all numbers", moved("new", by=TOP - 10))
lie("a frame twice", of_frames(lambda delta, frames: frames.append(first_of(delta, "new"))))
lie("a frame that another one covers in part", of_frames(lambda delta, frames: frames.append(part(delta))))
lie("a frame that is missing", of_frames(lambda delta, frames: frames.remove(first_of(delta, "new"))))
lie("no frames at all", of_frames(lambda delta, frames: frames.clear()))
lie(
    "half a frame",
    of_frames(lambda delta, frames: frames.__setitem__(frames.index(first_of(delta, "new")), part(delta))),
)


def part(delta: Delta) -> Frame:
    whole = first_of(delta, "new")
    return Frame.of(whole.inode, whole.offset, whole.raw[: len(whole.raw) // 2])


lie("a raw length of nothing", of_frame("new", raw_length=0))
lie("a stored length of nothing", of_frame("new", stored=b"", raw_length=0))
lie("a stored length of nothing for something", of_frame("new", stored=b""))
lie("a raw length over 4 MiB", of_frame("text", raw_length=MOST + 1))
lie("a raw length of 4 GiB", of_frame("text", raw_length=(1 << 32) - 1))
lie("a stored length over 4 MiB", of_frame("new", stored=bytes(MOST + 1), raw_length=MOST + 1))
lie("a stored length of 4 GiB", of_frame("new", stored_length=(1 << 32) - 1), 4)
lie("a raw length that lies", of_frame("text", raw_length=99_999))
lie("lengths that differ without compression", of_frame("new", raw_length=99_999))
lie("an unknown codec", of_frame("new", codec=2))
lie("compression that made nothing shorter", of_frames(lambda delta, frames: longer(delta)))
lie("bytes that are not those of the digest", of_frame("new", stored=bytes(100_000)))
lie("reserved bytes of a frame", of_frame("new", reserved=b"\0\1"))
lie("other reserved bytes of a frame", of_frame("new", reserved_too=b"\1\0\0\0"))
lie("an unknown kind of record", of_frame("new", kind=b"X"))
lie("a second manifest", of_frame("new", kind=b"M"))
lie("Zstandard that is none", of_frame("text", stored=b"x" * 500))
lie(
    "Zstandard that ends early", of_frames(lambda delta, frames: stored(delta, lambda content: content[:-10]))
)
lie(
    "something after the Zstandard frame",
    of_frames(lambda delta, frames: stored(delta, lambda content: content + b"x")),
)
lie(
    "two Zstandard frames",
    of_frames(lambda delta, frames: stored(delta, lambda content: content + compressed(b"x"))),
)
lie("Zstandard of more than it says", of_frame("text", stored=compressed(bytes(200_000))))
lie("Zstandard of less than it says", of_frame("text", stored=compressed(bytes(50_000))))
lie("a bomb in a frame", of_frame("text", stored=arrowbits.zeros_compressed(BOMB), raw_length=MOST))
lie("a window of 2 GiB", of_frame("text", stored=arrowbits.zeros_compressed(100_000, window_log=31)))


def longer(delta: Delta) -> None:
    frame = first_of(delta, "new")
    frame.codec, frame.stored = 1, compressed(frame.raw)
    assert len(frame.stored) >= len(frame.raw)


def stored(delta: Delta, change: Callable[[bytes], bytes]) -> None:
    frame = first_of(delta, "text")
    assert frame.codec == 1
    frame.stored = change(frame.stored)


# The head, the manifest's record and the end.

STRANGER = "00000000-1111-4222-8333-444444444444"
lie("another base", of_header(lambda header: header["base"].update(id=STRANGER)), 3)
lie("no base", of_header(lambda header: header.update(base=None)))
lie("another lineage", of_header(lambda header: header.update(lineage=STRANGER)), 3)
lie("an epoch below zero", of_header(lambda header: header.update(epoch=-1)))
lie("an epoch that is text", of_header(lambda header: header.update(epoch="0")))
lie("a snapshot without an id", of_header(lambda header: header["snapshot"].pop("id")))
lie("the base's own id", of_header(lambda header: header["snapshot"].update(id=header["base"]["id"])))
for bad_id in ("../../outside/dir", "..", "", "/outside", "a/b", "a\0b", "x" * 300, "." * 2 + "/volume.json"):
    lie(
        f"a snapshot with the id {bad_id[:20]!r}",
        of_header(lambda header, bad_id=bad_id: header["snapshot"].update(id=bad_id)),
    )
for bad_name in ("../outside/dir", "..", "", "a/b", "a\0b", "x" * 300, "latest", "7", "two\nlines"):
    lie(
        f"a snapshot of the name {bad_name[:20]!r}",
        of_header(lambda header, bad_name=bad_name: header["snapshot"].update(name=bad_name)),
    )
lie("a sequence below zero", of_header(lambda header: header["snapshot"].update(sequence=-5)))
lie("a sequence of the past", of_header(lambda header: header["snapshot"].update(sequence=0)))
lie("a snapshot that is a list", of_header(lambda header: header.update(snapshot=[])))
lie("no totals", of_header(lambda header: header.pop("totals")))
lie("a required feature", with_lies(required=1), 3)
lie("the last required feature", with_lies(required=1 << 63), 3)
lie("the next version", with_lies(version=3), 3)
lie("version 0", with_lies(version=0))
lie("a header that is no JSON", with_lies(header=b"{not json"), 4)
lie("a header that is a list", with_lies(header=b"[]"), 4)
lie("a header that is nothing", with_lies(header=b""), 4)
lie("a header that is no text", with_lies(header=b'{"snapshot": "\xff\xfe"}'), 4)
lie("a header without end", with_lies(header=b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), 4)
lie("a header of more than 1 MiB", with_lies(header=b'{"x":"' + b"x" * MIB + b'"}'), 4)
lie("a header of 1 GiB that is only claimed", with_lies(header_length=GIB), 4)
lie("a header of 4 GiB that is only claimed", with_lies(header_length=(1 << 32) - 1), 4)
lie("another magic", with_lies(magic=b"\x89SNSD\n\x1a\n"), 4)
lie("a digest of the head that lies", with_lies(head_digest=bytes(32)), 4)
lie("a manifest of nothing", with_lies(manifest=b""), 4)
lie("a manifest that is none", with_lies(manifest=b"ARROW1\0\0" * 100), 4)
lie("a manifest of an exabyte that is only claimed", with_lies(manifest_length=1 << 60))
lie("a manifest of the most there can be", with_lies(manifest_length=TOP))
lie("a digest of the manifest that lies", with_lies(manifest_digest=bytes(32)), 4)
lie("reserved bytes of the manifest", with_lies(manifest_reserved=b"\1" + bytes(6)), 4)
lie("no manifest", with_lies(manifest_kind=b"F"), 4)
lie("an end that counts more frames", lambda delta: with_lies(frames=len(delta.frames) + 1)(delta), 4)
lie("an end that counts other bytes", with_lies(raw_bytes=5), 4)
lie("a digest of the end that lies", with_lies(end_digest=bytes(32)), 4)
lie("reserved bytes of the end", with_lies(end_reserved=bytes(6) + b"\1"), 4)
lie("something after the end", with_lies(tail=b"\0"), 4)


def without_column(delta: Delta) -> Delta:
    import pyarrow as pa

    made = delta.copy()
    table = pa.ipc.open_file(delta.manifest).read_all()
    sink = pa.BufferOutputStream()
    table = table.drop_columns(["extents"])
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    made.manifest = bytes(sink.getvalue())
    return made


lie("a manifest without a column", without_column)


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_and_leaves_no_trace(attacked: Attacked, name: str) -> None:
    told, codes = LIES[name]
    false = told(attacked.honest.increment)
    attacked.refuses(false if isinstance(false, bytes) else false.bytes(), codes)
    attacked.goes_on()


OF_VOLUMES = {
    "another lineage",
    "a sequence of the past",
    "a snapshot of the name 'latest'",
    "a snapshot of the name '7'",
    "a snapshot of the name 'two\\nlines'",
}
"""No lies where a delta makes a directory: it belongs to no lineage, and may have any name."""


def test_no_lie_makes_a_snapshot(place: Place, honest: Honest, subtests: pytest.Subtests) -> None:
    """The same where a delta makes a directory beside its base."""
    parent = place("btrfs")
    folder, outside = parent / "received", parent / "outside"
    folder.mkdir()
    (outside / "dir").mkdir(parents=True)
    (outside / "precious").write_text("mine")
    delivered(honest.full.bytes(), "--as-snapshot", folder)
    before, marks, kept = touch_marks(folder / "first"), touch_marks(outside), freeze(folder / "first")
    for name, (told, codes) in LIES.items():
        if name in OF_VOLUMES:
            continue
        with subtests.test(lie=name):
            false = told(honest.increment)
            content = false if isinstance(false, bytes) else false.bytes()
            ran = deliver(content, "--as-snapshot", folder, "--quiet")
            # A name that no directory can have is told as if it had been asked for.
            assert_told(ran, codes=(2, *codes) if "of the name" in name else codes)
            assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {"first"}
            assert touch_marks(folder / "first") == before
            assert touch_marks(outside) == marks
            assert {path.name for path in parent.iterdir()} == {"received", "outside"}
    assert_same(kept, folder / "first")
    delivered(honest.increment.bytes(), "--as-snapshot", folder)
    assert_same(honest.target, folder / "second")


def test_no_lie_makes_a_volume(place: Place, honest: Honest, subtests: pytest.Subtests) -> None:
    """A first delta creates everything; the lies are about a file of it."""
    for number, (what, bad) in enumerate(NAMES.items()):
        with subtests.test(name=what):
            parent = place(("xfs", "btrfs", "ext4")[number % 3])
            (parent / "outside").mkdir()
            marks = touch_marks(parent / "outside")
            false = honest.full.change_row("kept", lambda row, bad=bad: renamed(row, bad))
            assert_told(deliver(false.bytes(), parent / "standby", "--quiet"), codes=(3, 4))
            assert touch_marks(parent / "outside") == marks
            assert {path.name for path in parent.iterdir()} <= {"outside", "standby"}
            target = parent / "standby"
            assert not target.exists() or len(freeze(target).entries) == 1
            delivered(honest.full.bytes(), target)
            assert_same(honest.base, target)


# --- Arrow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zstd", None], ids=["compressed", "plain"])
def test_wild_numbers_inside_the_manifest(
    place: Place, honest: Honest, subtests: pytest.Subtests, compression: str | None
) -> None:
    """Lengths, counts and offsets that lead anywhere: refused, or without any effect."""
    plain = rewritten(honest.increment.manifest, compression=compression)
    chance = random.Random(17)
    found = list(arrowbits.places(plain))
    attacked = Attacked.at(place("xfs"), honest)
    for spot in chance.sample(found, 120):
        value = chance.choice(arrowbits.wild(spot))
        with subtests.test(place=spot.name, value=value):
            false = honest.increment.copy()
            false.manifest = arrowbits.patched(plain, spot, value)
            marks = attacked.marks()
            cost = measured(false.bytes(), attacked.standby, "--quiet")
            assert cost.peak < MEMORY, cost
            if cost.ran.code == 0:
                assert_same(honest.target, attacked.standby)
                attacked = Attacked.at(place("xfs"), honest)
                continue
            assert_told(cost.ran, codes=(3, 4))
            assert attacked.marks() == marks
            assert not stages(attacked.standby)
    attacked.goes_on()


@pytest.mark.parametrize("claim", [BOMB, 24, -1, 1 << 62], ids=["honest", "small", "negative", "huge"])
def test_a_bomb_inside_the_manifest(attacked: Attacked, subtests: pytest.Subtests, claim: int) -> None:
    plain = rewritten(attacked.honest.increment.manifest)
    bomb = claim.to_bytes(8, "little", signed=True) + arrowbits.zeros_compressed(BOMB)
    (batch,) = arrowbits.batches(plain)
    lengths = [length for _, _, length in batch.buffers()]
    numbers = [index for index, length in enumerate(lengths) if length]
    for index in random.Random(19).sample(numbers, 8):
        with subtests.test(buffer=index):
            false = attacked.honest.increment.copy()
            false.manifest = arrowbits.with_buffer(plain, index, bomb)
            attacked.refuses(false.bytes(), (3, 4))


# --- what is no lie ---------------------------------------------------------------------------


def test_what_a_reader_does_not_know_is_passed_over(attacked: Attacked) -> None:
    """Optional features and keys of a later version."""
    delta = attacked.honest.increment.copy()
    delta.optional = 1 << 40 | 1
    delta.header |= {"later": {"x": [1, 2]}}
    delta.header["snapshot"]["later"] = True
    delivered(delta.bytes(), attacked.standby)
    assert_same(attacked.honest.target, attacked.standby)


def test_a_delta_is_applied_once(attacked: Attacked) -> None:
    attacked.goes_on()
    tree, marks = freeze(attacked.standby), attacked.marks()
    for replayed in (attacked.honest.increment, attacked.honest.full):
        assert_told(deliver(replayed.bytes(), attacked.standby, "--quiet"), codes=(3,))
        assert attacked.marks() == marks
    assert_same(tree, attacked.standby)
    assert not stages(attacked.standby)


def test_an_older_epoch_is_refused(attacked: Attacked) -> None:
    """A primary from before a promotion may not feed the standby any more."""
    description = store(attacked.standby) / "volume.json"
    promoted = json.loads(description.read_text())
    description.write_text(json.dumps(promoted | {"epoch": 3}))
    marks = attacked.marks()
    for epoch in (0, 2):
        old = attacked.honest.increment.copy()
        old.header["epoch"] = epoch
        assert_told(deliver(old.bytes(), attacked.standby, "--quiet"), codes=(3,))
        assert attacked.marks() == marks
    now = attacked.honest.increment.copy()
    now.header["epoch"] = 3
    delivered(now.bytes(), attacked.standby)
    assert_same(attacked.honest.target, attacked.standby)


# --- things planted on the standby ------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "dir", "new", "made", "raised", "copy", "gone"])
@pytest.mark.parametrize("to", ["../outside", "../outside/precious", "/nowhere"])
def test_a_planted_symlink_is_not_followed(attacked: Attacked, where: str, to: str) -> None:
    planted = attacked.standby / where
    if planted.exists():
        planted.rename(attacked.parent / "taken away")
    planted.symlink_to(to)
    marks = attacked.marks()
    ran = deliver(attacked.honest.increment.bytes(), attacked.standby, "--quiet")
    assert_told(ran, codes=(3,))
    assert attacked.marks() == marks


@pytest.mark.parametrize(
    "where", [".snapsync/incoming", ".snapsync/incoming/{id}", ".snapsync/incoming/{id}/new"]
)
def test_a_symlink_in_the_stage_is_not_followed(attacked: Attacked, where: str) -> None:
    identity = attacked.honest.increment.header["snapshot"]["id"]
    planted = attacked.standby / where.format(id=identity)
    planted.parent.mkdir(parents=True, exist_ok=True)
    if planted.is_dir():
        planted.rmdir()
    planted.symlink_to(attacked.outside / "dir")
    tree, outside = freeze(attacked.standby), touch_marks(attacked.outside)
    ran = deliver(attacked.honest.increment.bytes(), attacked.standby, "--quiet")
    assert touch_marks(attacked.outside) == outside
    assert "Traceback" not in ran.err
    if ran.code == 0:
        assert_same(attacked.honest.target, attacked.standby)
    else:
        assert ran.code in (1, 3, 4), ran
        assert ran.err.startswith("snapsync: ")
        assert_same(tree, attacked.standby)


def test_the_snapshot_of_a_lie_cannot_be_a_base(attacked: Attacked) -> None:
    """A refused delta's snapshot is not known afterwards."""
    false = attacked.honest.increment.change_row("new", lambda row: renamed(row, b"kept"))
    attacked.refuses(false.bytes(), (3, 4))
    follower = attacked.honest.increment.copy()
    follower.header["base"] = {"id": follower.header["snapshot"]["id"], "origin": None}
    follower.header["snapshot"] |= {"id": STRANGER, "name": "third"}
    attacked.refuses(follower.bytes(), (3,))
    attacked.goes_on()
