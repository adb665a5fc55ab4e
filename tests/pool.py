"""Reads pool snapshots as docs/format.md describes them: with pyarrow, and nothing of snapsync."""

from __future__ import annotations

import hashlib
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from machine import snapshots, store
from oracle import Entry, Picture

Held = tuple[object, ...]
TABLE = ("table.arrow", "patch.arrow")
IN_PACK = 1 << 39
PLACES = 4096
ENTRY = 32
"""Objects with the first in their numbers are in packs of so many, which tell of each in so many bytes."""


def rows(volume: Path, identity: str) -> list[dict[str, Any]]:
    """A whole table with its patch, in which a row without names says that an inode is gone."""
    files = [store(volume) / "snapshots" / identity / name for name in TABLE]
    whole, patch = (pa.ipc.open_file(file).read_all() for file in files)
    assert whole.schema.metadata[b"snapsync.whole"] == patch.schema.metadata[b"snapsync.whole"]
    merged = {row["inode"]: row for row in (*_rows(whole), *_rows(patch))}
    return [row for ino, row in sorted(merged.items()) if row["links"] or ino == 0]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    for name in ("mtime", "ctime"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    found: list[dict[str, Any]] = table.to_pylist()
    numbers = [row["inode"] for row in found]
    assert numbers == sorted(set(numbers)), "not in order"
    return found


def held_by_table(volume: Path, identity: str) -> dict[bytes, Held]:
    """What a snapshot holds, by path: attributes from its table, bytes from the pool."""
    table = {row["inode"]: row for row in rows(volume, identity)}
    held: dict[bytes, Held] = {}
    for row in table.values():
        for path in paths(table, row):
            held[path] = (
                row["kind"].replace("_", " "),
                row["mode"] & 0o7777,
                row["uid"],
                row["gid"],
                row["rdev"],
                row["mtime"],
                row["symlink_target"] or b"",
                tuple(sorted((xattr["name"], xattr["value"]) for xattr in row["xattr"])),
                row["size"] if row["kind"] == "file" else 0,
                digest(volume, row) if row["kind"] == "file" else "",
            )
    return held


def held_by_picture(picture: Picture) -> dict[bytes, Held]:
    """The same of a picture."""

    def held(entry: Entry) -> Held:
        size = entry.size if entry.kind == "file" else 0
        named = entry.kind, entry.mode, entry.uid, entry.gid, entry.device, entry.mtime_ns
        return (*named, entry.target, entry.xattrs, size, entry.content)

    return {path: held(entry) for path, entry in picture.entries.items()}


def paths(table: dict[int, dict[str, Any]], row: dict[str, Any]) -> list[bytes]:
    """Every name of an inode, from the root down; inode 0 is the root."""
    if row["inode"] == 0:
        return [b"."]
    found = []
    for link in row["links"]:
        path, parent = link["name"], link["parent"]
        while parent:
            (above,) = table[parent]["links"]
            path, parent = above["name"] + b"/" + path, above["parent"]
        found.append(path)
    return found


def place_of(number: int) -> tuple[int, int]:
    """The round and the number within it that an object's number is made of."""
    return number >> 40, number & ((1 << 40) - 1)


def digest(volume: Path, row: dict[str, Any]) -> str:
    content = content_of(volume, row) if row["object"] else b""
    return hashlib.sha256(content.ljust(row["size"], b"\0")).hexdigest()


def content_of(volume: Path, row: dict[str, Any]) -> bytes:
    """The bytes of a file: its object, or what the newest table says that the tree has of it."""
    in_round, number = place_of(row["object"])
    found = list((store(volume) / "pool" / str(in_round)).glob(f"*/{number}"))
    if found:
        return found[0].read_bytes()
    images = list((store(volume) / "pool" / str(in_round)).glob(f"*/{number}.before"))
    if images:
        return before_image(volume, row, images[0])
    if number & IN_PACK:
        number ^= IN_PACK
        pack = store(volume) / "pool" / str(in_round) / f"pack-{number // PLACES}"
        return in_pack(pack)[number % PLACES]
    newest, table = newest_table(volume)
    (there,) = (one for one in [table[row["inode"]]] if one["object"] == row["object"])
    path = Path(os.fsdecode(os.path.join(os.fsencode(volume), paths(table, there)[0])))
    status = path.stat()
    assert (status.st_ino, status.st_ctime_ns, status.st_size) == (
        there["inode"],
        there["ctime"],
        there["size"],
    ), f"{path} is not what snapshot {newest} says"
    return path.read_bytes()


def before_image(volume: Path, row: dict[str, Any], path: Path) -> bytes:
    """What an object had where the one after it has other bytes, and all else from that."""
    whole = path.read_bytes()
    magic, number, after, size, count = struct.unpack_from("<16s4Q", whole)
    assert (magic, number, size) == (b"SNAPSYNC-BEFORE\n", row["object"], row["size"])
    content = bytearray(content_of(volume, {**row, "object": after})[:size].ljust(size, b"\0"))
    for offset, length, at in struct.iter_unpack("<3Q", whole[48 : 48 + 24 * count]):
        content[offset : offset + length] = whole[at : at + length] if at else bytes(length)
    return bytes(content)


def newest_table(volume: Path) -> tuple[str, dict[int, dict[str, Any]]]:
    (newest,) = [snap["id"] for snap in snapshots(volume) if not snap.get("aside")][-1:]
    return newest, _by_number(volume, newest, (store(volume) / "snapshots" / newest / TABLE[1]).stat().st_ino)


@lru_cache(maxsize=2)
def _by_number(volume: Path, identity: str, _: int) -> dict[int, dict[str, Any]]:
    return {row["inode"]: row for row in rows(volume, identity)}


def assert_no_object_is_missing_or_left(volume: Path, identities: set[str]) -> None:
    """Each object that is there is named by a table, and one that is not there is in the tree."""
    named, there = objects_named(volume, identities), objects_there(volume)
    stays = {path.with_suffix("") for path in files(volume) if path.suffix == ".left"}
    assert there <= named | {(int(path.parent.parent.name), int(path.name)) for path in stays}
    if missing := named - there:
        newest, table = newest_table(volume)
        of_tree = {place_of(row["object"]): row for row in table.values() if row["object"]}
        assert missing <= set(of_tree), f"neither in the pool nor in {newest}"
        for place in missing:
            content_of(volume, of_tree[place])


def objects_named(volume: Path, identities: set[str]) -> set[tuple[int, int]]:
    """The objects that the tables of these snapshots name. Btrfs snapshots have none."""
    home = store(volume) / "snapshots"
    tables = [identity for identity in identities if (home / identity / "table.arrow").exists()]
    named = {row["object"] for identity in tables for row in rows(volume, identity)}
    return {place_of(number) for number in named if number}


def objects_there(volume: Path) -> set[tuple[int, int]]:
    """The objects in the pool."""
    there = set()
    for path in files(volume):
        if path.name.endswith((".under", ".left")):
            continue  # Further names of before-images.
        if path.name.startswith("pack-"):
            first = IN_PACK | int(path.name.removeprefix("pack-")) * PLACES
            there |= {(int(path.parent.name), first | place) for place in in_pack(path)}
        else:
            there.add((int(path.parent.parent.name), int(path.name.removesuffix(".before"))))
    return there


def remove_object(volume: Path, place: tuple[int, int]) -> None:
    """As somebody would by hand: its file, or its record in a pack."""
    in_round, number = place
    pool = store(volume) / "pool" / str(in_round)
    if number & IN_PACK:
        number ^= IN_PACK
        with (pool / f"pack-{number // PLACES}").open("r+b") as pack:
            pack.seek(ENTRY * (1 + number % PLACES))
            pack.write(bytes(ENTRY))
        return
    (found,) = [*pool.glob(f"*/{number}"), *pool.glob(f"*/{number}.before")]
    found.unlink()


def files(volume: Path) -> list[Path]:
    """The files of the pool: objects that have one of their own, and packs."""
    found = os.walk(store(volume) / "pool")
    return [Path(folder, name) for folder, _, names in found for name in names]


def in_pack(path: Path) -> dict[int, bytes]:
    """What a pack has at its places."""
    whole = path.read_bytes()
    number = int(path.name.removeprefix("pack-"))
    first = int(path.parent.name) << 40 | IN_PACK | number * PLACES
    assert whole[:ENTRY] == struct.pack("<16sQ8x", b"SNAPSYNC-PACK-1\n", first)
    head = whole[ENTRY : ENTRY * (1 + PLACES)]
    found = {}
    for place, (offset, length) in enumerate(
        struct.iter_unpack("<QQ16x", head[: len(head) // ENTRY * ENTRY])
    ):
        if length:
            assert offset >= ENTRY * (1 + PLACES)
            assert offset + length <= len(whole)
            found[place] = whole[offset : offset + length]
    return found
