"""Machines with users and groups of their own: what runs on one of them sees its own `/etc/passwd`.

A comparison of trees by name needs only these files, and nothing of snapsync.
"""

from __future__ import annotations

import shlex
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

from machine import command, need
from oracle import Entry, Picture, Tree, freeze

LISTS = (b"system.posix_acl_access", b"system.posix_acl_default")
USER, GROUP = 0x02, 0x08

AS = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"'


@dataclass
class Host:
    """A machine: its folder has the two files."""

    folder: Path
    users: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need("unshare")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.users, self.groups = {"root": 0} | self.users, {"root": 0} | self.groups
        self.write()

    def write(self) -> None:
        """After a change to its accounts."""
        passwd = "".join(f"{name}:x:{number}:0::/:/bin/sh\n" for name, number in self.users.items())
        group = "".join(f"{name}:x:{number}:\n" for name, number in self.groups.items())
        (self.folder / "passwd").write_text(passwd)
        (self.folder / "group").write_text(group)

    def add(self, user: str, number: int) -> None:
        self.users[user] = number
        self.write()

    @property
    def here(self) -> tuple[str, ...]:
        """Runs a program on this machine."""
        return ("unshare", "--mount", "sh", "-c", AS, str(self.folder))

    @property
    def there(self) -> tuple[str, ...]:
        """The options by which another machine reaches it, under any name."""
        words = [*self.here, "sh", "-c", 'shift; exec sh -c "$*"', "sh"]
        return ("--rsh", shlex.join(words), "--remote-path", shlex.quote(command()[0]))

    def picture(self, tree: Tree, home: Host) -> Picture:
        """A tree of this machine as its files belong to the same people on another one."""
        users, groups = crossing(self.users, home.users), crossing(self.groups, home.groups)
        frozen = freeze(tree)
        entries = {path: owned(entry, users, groups) for path, entry in frozen.entries.items()}
        return replace(frozen, entries=entries)


def crossing(here: dict[str, int], there: dict[str, int]) -> dict[int, int]:
    return {number: there[name] for name, number in here.items() if name in there}


def owned(entry: Entry, users: dict[int, int], groups: dict[int, int]) -> Entry:
    xattrs = tuple(
        (name, listed(value, users, groups) if name in LISTS else value) for name, value in entry.xattrs
    )
    uid, gid = users.get(entry.uid, entry.uid), groups.get(entry.gid, entry.gid)
    return replace(entry, uid=uid, gid=gid, xattrs=xattrs)


def listed(value: bytes, users: dict[int, int], groups: dict[int, int]) -> bytes:
    """An access list with other numbers, in the order that the kernel keeps."""
    rows = []
    for tag, rights, number in struct.iter_unpack("<HHI", value[4:]):
        numbers = {USER: users, GROUP: groups}.get(tag, {})
        rows.append(struct.pack("<HHI", tag, rights, numbers.get(number, number)))
    return value[:4] + b"".join(rows)
