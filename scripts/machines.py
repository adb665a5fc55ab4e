"""Debian machines in containers, each with its own systemd, and a network between them.

They are for the script `first-day`, which plays what an administrator does on a first day; the tests of
packages have their root directories from here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

SUITE = "bookworm"
_KEEPING = ("--numeric-owner", "--xattrs")
_ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "COLUMNS": "110",
}


def sh(*command: str | os.PathLike[str]) -> str:
    """Run a tool that must succeed, and return its output."""
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


def debian(cache: Path, packages: Sequence[str] = ()) -> Path:
    """A Debian with these packages and no others, as an archive that is made once for a kind of machine."""
    which = sha256(" ".join(packages).encode()).hexdigest()[:12]
    archive = cache / f"{SUITE}-{os.uname().machine}-{which}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="debian-", dir=cache))
        root.chmod(0o755)
        asked = [f"--include={','.join(packages)}"] if packages else []
        sh("debootstrap", "--variant=minbase", *asked, SUITE, root, *mirror())
        sh("tar", *_KEEPING, "--create", f"--file={root}.tar", f"--directory={root}", ".")
        os.replace(f"{root}.tar", archive)
        sh("rm", "-rf", "--one-file-system", root)
    return archive


def unpacked(archive: Path, root: Path) -> None:
    """Make the root directory that an archive holds."""
    root.mkdir()
    sh("tar", *_KEEPING, "--extract", f"--file={archive}", f"--directory={root}")


def mirror() -> list[str]:
    """Where this machine's apt has Debian from; nothing where that is for debootstrap to know."""
    words = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
    return [line for line in sh(*words).splitlines() if "security" not in line][:1]


@dataclass
class Disk:
    """A file system of its own, on a loop device, that a machine has at `at`."""

    kind: str
    megabytes: int
    at: str


@dataclass
class Network:
    """A cable between two machines, and the names that they have there."""

    machines: dict[str, str]

    def __enter__(self) -> Network:
        one, two = self.machines
        for name in self.machines:
            subprocess.run(["ip", "netns", "del", f"day-{name}"], capture_output=True)
            sh("ip", "netns", "add", f"day-{name}")
        peer = ["peer", "name", "host0", "netns", f"day-{two}"]
        sh("ip", "link", "add", "host0", "netns", f"day-{one}", "type", "veth", *peer)
        for name, address in self.machines.items():
            sh("ip", "-n", f"day-{name}", "address", "add", f"{address}/24", "dev", "host0")
            for device in ("lo", "host0"):
                sh("ip", "-n", f"day-{name}", "link", "set", device, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.machines:
            subprocess.run(["ip", "netns", "del", f"day-{name}"], capture_output=True)

    def hosts(self) -> str:
        """The text of /etc/hosts."""
        return "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in self.machines.items())


@dataclass
class Machine:
    """A machine with its root directory beneath `home`, unpacked from `archive`."""

    name: str
    home: Path
    disks: Sequence[Disk] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def root(self) -> Path:
        return self.home / self.name

    def unpack(self, archive: Path, hosts: str) -> None:
        unpacked(archive, self.root)
        (self.root / "etc/hosts").write_text(hosts)
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        for disk in self.disks:
            image = self.home / f"{self.name}{disk.at.replace('/', '-')}.img"
            place = self.home / f"mount-{image.stem}"
            place.mkdir()
            with image.open("wb") as file:
                file.truncate(disk.megabytes << 20)
            sh(f"mkfs.{disk.kind}", "-q", image)
            sh("mount", "-o", "loop", image, place)

    def start(self) -> None:
        """Boot it, and wait until its services run."""
        binds = []
        for disk in self.disks:
            (self.root / disk.at.strip("/")).mkdir(parents=True, exist_ok=True)
            binds.append(f"--bind={self.home}/mount-{self.name}{disk.at.replace('/', '-')}:{disk.at}")
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
            *(f"--directory={self.root}", f"--hostname={self.name}", "--capability=all"),
            *(f"--network-namespace-path={self.home}/net-{self.name}", *binds),
        ]
        network = self.home / f"net-{self.name}"
        network.touch()
        # nspawn wants a /run of its own, where this machine was not booted by systemd.
        script = f'mount --bind /run/netns/day-{self.name} {network}; mount -t tmpfs tmpfs /run; exec "$@"'
        with (self.home / f"{self.name}.boot").open("wb") as log:
            command = ["unshare", "--mount", "sh", "-ec", script, "sh", *nspawn]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.wait("systemctl is-system-running | grep -E 'running|degraded'", 180)

    def stop(self) -> None:
        """Cut its power."""
        if self._process is None:
            return
        leader = self._leader()
        with suppress(ProcessLookupError):
            if leader is not None:
                os.kill(leader, signal.SIGKILL)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        while leader is not None and Path(f"/proc/{leader}").exists():
            time.sleep(0.1)
        self._process = None

    def wait(self, command: str, seconds: float = 60) -> None:
        """Wait until a command succeeds."""
        until = time.monotonic() + seconds
        while True:
            code, out = self.run(command)
            if code == 0:
                return
            if time.monotonic() > until:
                raise SystemExit(f"{self.name}: {command} does not succeed: {out}")
            time.sleep(0.5)

    def run(self, command: str) -> tuple[int, str]:
        """Run a command of a shell as root, and return its exit code and what a terminal would show."""
        leader = self._leader()
        if leader is None:
            return 1, "it is not up"
        inside = ["nsenter", f"--target={leader}", "--all", "env", "-i"]
        inside += [f"{key}={value}" for key, value in _ENVIRONMENT.items()]
        inside += ["bash", "-c", f"cd /root\n{command}"]
        ran = subprocess.run(
            inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
        )
        return ran.returncode, ran.stdout.decode(errors="replace")

    def _leader(self) -> int | None:
        """The process that is the first one there."""
        process = self._process
        if process is None or process.poll() is not None:
            return None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0]) if children else None
