"""What the tests need of the machine: file systems on loop devices, and the installed command.

The run has a mount namespace of its own and the loop devices detach themselves with their last
user, so nothing is left behind even when the run is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

KINDS = ("btrfs", "xfs", "ext4")
GIB = 1 << 30
MIB = 1 << 20

PATIENCE = 900
"""Seconds that a command may take."""

REFUSALS = (2, 3)
"""How a command ends that would not do what it was asked."""

libc = ctypes.CDLL(None, use_errno=True)


def missing(what: str) -> NoReturn:
    """Skips the test and names what is missing; where skipping is forbidden, fails it."""
    if os.environ.get("SNAPSYNC_REQUIRE_ALL") == "1":
        pytest.fail(f"missing on this machine: {what}", pytrace=False)
    pytest.skip(f"missing on this machine: {what}")


def need(*tools: str) -> None:
    """Names the first of the tools that is not installed."""
    for tool in tools:
        if not shutil.which(tool):
            missing(tool)


def sh(*command: str | os.PathLike[str]) -> str:
    """Runs a tool that must succeed; its output."""
    ran = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape")
    assert ran.returncode == 0, f"{command}: {ran.stderr}"
    return ran.stdout


# --- file systems -----------------------------------------------------------------------------

BTRFS = ("mkfs.btrfs", "-q", "-f")
XFS = ("mkfs.xfs", "-q", "-f", "-m", "reflink=1")
EXT4 = ("mkfs.ext4", "-q", "-F")

MAKE = {
    "btrfs": BTRFS,
    "xfs": XFS,
    "ext4": (*EXT4, "-I", "256"),
    # What is true of the three above is not true of these.
    "btrfs-forced": BTRFS,
    "btrfs-nocow": BTRFS,
    "xfs-1k": (*XFS, "-b", "size=1024"),
    "xfs-unshared": ("mkfs.xfs", "-q", "-f", "-m", "reflink=0,rmapbt=0"),
    "ext4-1k": (*EXT4, "-I", "256", "-b", "1024"),
    "ext4-seconds": (*EXT4, "-I", "128", "-b", "4096"),
    "ext4-inline": (*EXT4, "-I", "512", "-O", "inline_data"),
    "ext4-mapped": (*EXT4, "-I", "256", "-O", "^extents,^64bit"),
}
"""How a file system of each kind is made. Those after the first three are odd ones."""

# With compression, so that extents of both sorts are met: the worlds write what compresses and what does not.
OPTIONS = {
    "btrfs": "loop,compress=zstd:1",
    "btrfs-forced": "loop,compress-force=zstd:3",
    "btrfs-nocow": "loop,nodatacow",
    "tmpfs": "size=2g",
}


def own_mounts() -> None:
    """Moves this process into a mount namespace that dies with it. Without the right to, no mounts."""
    new_namespace, recursive, private = 0x00020000, 0x4000, 1 << 18
    if os.geteuid() == 0 and libc.unshare(new_namespace) == 0:
        libc.mount(None, b"/", None, recursive | private, None)


def room_for(size: int) -> str | None:
    """Memory where there is plenty of it, else the usual temporary directory."""
    memory = Path("/dev/shm")
    if memory.is_dir() and min(shutil.disk_usage(memory).free, memory_available()) > 2 * size:
        return str(memory)
    return None


def memory_available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


class FileSystems:
    """Loop-mounted file systems: one of each kind for the whole run, and others on request."""

    def __init__(self, expected: int = 4 * GIB) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="snapsync-test-", dir=room_for(expected)))
        self.mounts: list[Path] = []
        self.made = 0
        self.shared: dict[str, Path] = {}

    def at(self, kind: str) -> Path:
        if kind not in self.shared:
            self.shared[kind] = self.mount(kind, 6 * GIB)
        return self.shared[kind]

    def mount(self, kind: str, size: int, *mkfs: str) -> Path:
        """A new file system in a sparse image that is freed with the mount."""
        if os.geteuid() != 0:
            missing("root, to mount file systems")
        self.made += 1
        image, point = self.home / f"{self.made}.img", self.home / f"{self.made}-{kind}"
        point.mkdir()
        if kind == "tmpfs":
            return self.attach(point, "-t", kind, "-o", OPTIONS[kind], "none")
        if kind == "overlay":
            return self.attach(point, "-t", kind, "-o", self.layers(), "none")
        need(MAKE[kind][0], "mount")
        with image.open("wb") as file:
            file.truncate(size)
        sh(*MAKE[kind], *mkfs, image)
        try:
            return self.attach(
                point, "-t", kind.split("-")[0], "-o", OPTIONS.get(kind, "loop,discard"), image
            )
        finally:
            image.unlink()

    def attach(self, point: Path, *how: str | Path) -> Path:
        """Mounts at `point`, as `mount` is told to."""
        try:
            sh("mount", *how, point)
        except AssertionError as error:
            missing(f"a mount like {how} ({error})")
        self.mounts.append(point)
        return point

    def layers(self) -> str:
        """Mount options of an overlay, whose layers are on ext4."""
        base = Path(tempfile.mkdtemp(prefix="layers-", dir=self.at("ext4")))
        for name in ("lower", "upper", "work"):
            (base / name).mkdir()
        return f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"

    def unmount(self, point: Path) -> None:
        if subprocess.run(["umount", point], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", point], capture_output=True)
        self.mounts.remove(point)

    def close(self) -> None:
        for point in reversed(self.mounts.copy()):
            self.unmount(point)
        shutil.rmtree(self.home, ignore_errors=True)


class Place:
    """New directories on the file systems, removed again with the test."""

    def __init__(self, file_systems: FileSystems) -> None:
        self.file_systems = file_systems
        self.made: dict[Path, Path] = {}

    def __call__(self, kind: str) -> Path:
        """A new volume root to be: an empty directory, on Btrfs an empty subvolume.

        The kind `directory` is an ordinary one on Btrfs.
        """
        path = self.absent(kind)
        if kind.startswith("btrfs"):
            subvolume(path)
        else:
            path.mkdir()
        return path

    def absent(self, kind: str) -> Path:
        """A path where nothing is yet."""
        mount = self.file_systems.at("btrfs" if kind == "directory" else kind)
        if mount not in self.made:
            self.made[mount] = Path(tempfile.mkdtemp(prefix="test-", dir=mount))
        home = self.made[mount]
        return Path(tempfile.mktemp(prefix="volume-", dir=home))

    def clear(self) -> None:
        for mount, home in self.made.items():
            remove(mount, home)


def subvolume(path: Path) -> None:
    sh("btrfs", "-q", "subvolume", "create", path)


def remove(mount: Path, home: Path) -> None:
    """Removes a directory whatever is in it: snapshots, immutable files, paths over PATH_MAX."""
    if sh("stat", "-f", "-c", "%T", mount).strip() == "btrfs":
        listed = sh("btrfs", "subvolume", "list", mount).splitlines()
        below = [mount / line.split(" path ", 1)[1] for line in listed]
        below = [path for path in below if home in path.parents]
        for path in sorted(below, key=lambda path: len(path.parts)):
            # What lies in a subvolume that is read-only cannot be deleted.
            sh("btrfs", "property", "set", "-f", path, "ro", "false")
        for path in sorted(below, key=lambda path: len(path.parts), reverse=True):
            sh("btrfs", "-q", "subvolume", "delete", path)
    if subprocess.run(["rm", "-rf", home], capture_output=True).returncode:
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", home], capture_output=True)
        sh("rm", "-rf", home)


# --- the command ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What one run of the command gave."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict), self
        return value


def command() -> list[str]:
    """The installed console script, beside the interpreter that runs the tests."""
    return [str(Path(sys.executable).with_name("snapsync"))]


def environment(extra: Mapping[str, object] | None = None) -> dict[str, str]:
    # Of its own variables only that which keeps the keys of tests from those of the machine.
    own = {"SNAPSYNC_KEYS": os.environ["SNAPSYNC_KEYS"]} if "SNAPSYNC_KEYS" in os.environ else {}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SNAPSYNC_", "AWS_"))}
    clean |= own
    return clean | {key: str(value) for key, value in (extra or {}).items()}


def run(
    *args: object,
    env: Mapping[str, object] | None = None,
    cwd: Path | None = None,
    wrap: tuple[str, ...] = (),
) -> Ran:
    """Runs `snapsync ARGS`, behind `wrap` if another program is to start it."""
    words = tuple(str(arg) for arg in args)
    if not wrap and nursery.takes(words, env or {}):
        return nursery.run(words, environment(env), cwd)
    ran = subprocess.run(
        [*wrap, *command(), *words],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    return Ran(words, ran.returncode, ran.stdout, ran.stderr)


class Nursery:
    """What `nursery.py` does, from the first call on."""

    def __init__(self) -> None:
        self.calls: socket.socket | None = None
        self.lock = threading.Lock()

    def takes(self, words: tuple[str, ...], env: Mapping[str, object]) -> bool:
        """What the interpreter or the loader looks at when it starts takes a start."""
        told = ("PYTHON", "LC_", "LANG", "LD_", "SNAPSYNC_DEBUG")
        is_plain = not any(key.startswith(told) for key in env) and "SNAPSYNC_TESTS_START" not in os.environ
        return is_plain and sum(map(len, words)) < 4096

    def opened(self) -> socket.socket:
        with self.lock:
            if self.calls is None:
                self.calls, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                script = Path(__file__).with_name("nursery.py")
                with other:
                    self.process = subprocess.Popen(
                        [sys.executable, script, str(other.fileno())],
                        pass_fds=[other.fileno()],
                        stdin=subprocess.DEVNULL,
                        # Of the same sort as those of a call: Python asks once whether it can seek in them.
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        env=environment(),
                        cwd="/",
                    )
            return self.calls

    def run(self, words: tuple[str, ...], env: dict[str, str], cwd: Path | None) -> Ran:
        umask = os.umask(0o022)
        os.umask(umask)
        call = {"words": [*command(), *words], "env": env, "cwd": str(cwd or Path.cwd()), "umask": umask}
        pipes = [os.pipe() for _ in range(3)]
        try:
            text = json.dumps(call).encode()
            socket.send_fds(self.opened(), [text], [write for _, write in pipes])
        finally:
            for _, write in pipes:
                os.close(write)
        code, out, err = read_all([read for read, _ in pipes], words)
        return Ran(words, int(code), *(text.decode(errors="surrogateescape") for text in (out, err)))


def read_all(pipes: list[int], words: tuple[str, ...]) -> list[bytes]:
    """What comes through each until its end, as `subprocess` waits for it."""
    found, end = {pipe: bytearray() for pipe in pipes}, time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as ready:
        for pipe in pipes:
            ready.register(pipe, selectors.EVENT_READ)
        while ready.get_map():
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(words, PATIENCE)
            for key, _ in ready.select(timeout=1):
                more = os.read(key.fd, 1 << 16)
                found[key.fd] += more
                if not more:
                    ready.unregister(key.fd)
                    os.close(key.fd)
    return [bytes(found[pipe]) for pipe in pipes]


nursery = Nursery()


def done(*args: object, **how: Any) -> dict[str, Any]:
    """Runs a verb that must succeed; its JSON object."""
    ran = run(*args, "--json", **how)
    assert ran.code == 0, ran
    return ran.json


def start(*args: object, env: Mapping[str, object] | None = None) -> subprocess.Popen[str]:
    """Starts `snapsync ARGS` and does not wait for it."""
    return subprocess.Popen(
        [*command(), *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        env=environment(env),
    )


def assert_told(ran: Ran, *words: str, codes: tuple[int, ...] = REFUSALS) -> None:
    """One sentence, then advice, on stderr; nothing on stdout; no trace of the program's inside."""
    assert ran.code in codes, ran
    assert ran.out == ""
    sentence, *advice = ran.err.splitlines()
    assert sentence.startswith("snapsync: "), ran.err
    assert advice, f"no advice: {ran.err}"
    assert all(line.startswith("  ") for line in advice), ran.err
    for word in words:
        assert word.lower() in ran.err.lower(), f"{word!r} is not in: {ran.err}"
    for inside in ("Traceback", "panicked", "unexpected", "Os {", "Error("):
        assert inside not in ran.err


@contextmanager
def stopped_at(point: str, *args: object, fault: str = "") -> Iterator[subprocess.Popen[str]]:
    """A command that stands still where it first passes a fault point; later on it may have a fault."""
    process = start(*args, env={"SNAPSYNC_FAULT": f"{point}:1=stop,{fault}"})
    try:
        wait_until(lambda: process.poll() is not None or is_stopped(process.pid))
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def is_stopped(pid: int) -> bool:
    """Each thread of a process stops after another."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def passed(trace: Path) -> list[str]:
    """The fault points that a traced command has passed so far."""
    return trace.read_text().splitlines() if trace.exists() else []


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits for something another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what the test waits for never happened"
        time.sleep(0.001)


# --- volumes ----------------------------------------------------------------------------------


@dataclass
class Pair:
    """A primary and the standby to be of it."""

    source: Path
    target: Path
    reports: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def make(cls, place: Place, kinds: tuple[str, str]) -> Pair:
        # An absent target on Btrfs becomes a subvolume.
        return cls(place(kinds[0]), (place if kinds[1] == "directory" else place.absent)(kinds[1]))

    def keep_history(self) -> None:
        """The primary is to keep its history itself, also where blocks cannot be shared."""
        done("init", self.source, "--history", "full")

    def sync(self, *options: object, ignore: Collection[str] = ()) -> dict[str, Any]:
        """One round, proved by the independent comparison, but for fields that it is to `ignore`."""
        # Imported here: oracle needs nothing of this module, this module all of oracle.
        from oracle import assert_same

        report = done("sync", self.source, self.target, *options)
        self.reports.append(report)
        assert_same(self.source, self.target, ignore=ignore)
        return report


def snapshots(volume: Path) -> list[dict[str, Any]]:
    """The volume's snapshots, oldest first. Asked for often, so without a new process."""
    from snapsync import _native

    return list(json.loads(_native.list(str(volume)))["snapshots"])


def status(volume: Path) -> dict[str, Any]:
    from snapsync import _native

    return dict(json.loads(_native.status(str(volume))))


def verified(a: object, b: object) -> None:
    """Both hold the same by the product's own verify."""
    from snapsync import _native

    report = json.loads(_native.verify(str(a), str(b)))
    assert report["equal"], report["differences"][:10]


def store(volume: Path) -> Path:
    return volume / ".snapsync" / "store"


def forget(volume: Path) -> None:
    """Takes from a volume's snapshots the bytes that they had, if it kept any."""
    gone = [path for path in (store(volume) / "pool").rglob("*") if path.is_file()]
    assert gone or status(volume)["volume"]["history"] == "light"
    for path in gone:
        path.unlink()


def capless() -> tuple[str, ...]:
    """Starts a program as root without a single capability: permission bits bind it."""
    need("setpriv")
    if os.geteuid() != 0:
        missing("root, to give up capabilities")
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def as_nobody() -> tuple[str, ...]:
    """Starts a program as a user who owns nothing."""
    need("setpriv")
    if os.geteuid() != 0:
        missing("root, to become another user")
    wrap = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if subprocess.run([*wrap, *command(), "--version"], capture_output=True).returncode:
        missing("an installation that other users can run")
    return wrap
