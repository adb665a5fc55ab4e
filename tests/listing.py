"""A picture of a tree as text, to be kept beside the delta that makes it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from oracle import Entry, Picture


def write(picture: Picture, path: Path) -> None:
    """An entry a line, sorted by path; bytes as Latin-1."""
    head = {"file_system": picture.file_system, "groups": sorted(map(sorted, picture.groups))}
    lines = [head]
    for name, entry in sorted(picture.entries.items()):
        shown = {field.name: getattr(entry, field.name) for field in fields(Entry)}
        lines.append(
            {"path": name, **{key: value for key, value in shown.items() if value not in ((), 0, "", b"")}}
        )
    path.write_text("".join(json.dumps(plain(line), ensure_ascii=True) + "\n" for line in lines))


def read(path: Path) -> Picture:
    head, *lines = map(json.loads, path.read_text().splitlines())
    entries = {}
    for line in lines:
        name = raw(line.pop("path"))
        line["xattrs"] = tuple((raw(key), raw(value)) for key, value in line.get("xattrs", []))
        line["target"] = raw(line.get("target", ""))
        for runs in ("layout", "past_end"):
            line[runs] = tuple((first, end, what) for first, end, what in line.get(runs, []))
        entries[name] = Entry(**{"mode": 0, "uid": 0, "gid": 0, "mtime_ns": 0} | line)
    groups = frozenset(frozenset(map(raw, group)) for group in head["groups"])
    return Picture(head["file_system"], entries, groups)


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def raw(text: str) -> bytes:
    return text.encode("latin-1")
