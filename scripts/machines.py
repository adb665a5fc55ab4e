"""Debian machines in containers, each with its own systemd, and a network between them.

They are for the script `first-day`, which plays what an administrator does on a first day.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

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


def debian(cache: Path, packages: Sequence[str]) -> Path:
    """A Debian with these packages and no others, as an archive that is made once."""
    archive = cache / f"debian-{sha256(' '.join(packages).encode()).hexdigest()[:12]}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        root = cache / "debian"
        shutil.rmtree(root, ignore_errors=True)
        asked = f"--include={','.join(packages)}"
        sh("debootstrap", "--variant=minbase", asked, "bookworm", root, *_mirror())
        sh("tar", "-C", root, "-cf", f"{archive}.part", ".")
        os.replace(f"{archive}.part", archive)
        shutil.rmtree(root)
    return archive


def _mirror() -> list[str]:
    """The mirror that this machine's own packages come from."""
    sources = [*sorted(Path("/etc/apt").glob("sources.list.d/*")), Path("/etc/apt/sources.list")]
    lines = [line for file in sources if file.is_file() for line in file.read_text().splitlines()]
    found = [line.split()[1] for line in lines if line.startswith(("URIs: ", "deb http"))]
    return found[:1]


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
        self.root.mkdir()
        sh("tar", "-C", self.root, "-xf", archive)
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
        self.wait("systemctl is-system-running | grep -E 'running|degraded'")

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
