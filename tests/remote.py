"""A real sshd with keys of its own, on loopback or behind a pair of network namespaces.

Nothing of the machine's own ssh is read or written. The sessions are in the mount namespace of the
tests, so that both ends see the same file systems.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from machine import command, environment, missing, need, sh, wait_until

HOST = "standby-host"
"""What the clients call the server; their configuration says where it is."""

SERVER_CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
PidFile none
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PrintMotd no
MaxStartups 100
LogLevel VERBOSE
ClientAliveInterval 1
ClientAliveCountMax 3
Subsystem sftp internal-sftp
"""

CLIENT_CONFIG = """\
Host {host}
    HostName {address}
    Port {port}
    User {user}
    IdentityFile {key}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {home}/known_hosts
    GlobalKnownHostsFile none
    HostKeyAlias {host}
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""


@dataclass
class Client:
    """One key that the server lets in, perhaps with a forced command, and how to use it."""

    config: Path
    inside: tuple[str, ...] = ()

    @property
    def rsh(self) -> str:
        return shlex.join([*self.inside, "ssh", "-F", str(self.config)])

    @property
    def options(self) -> tuple[str, ...]:
        """What makes `snapsync sync` reach the server and the same snapsync there."""
        return ("--rsh", self.rsh, "--remote-path", command()[0])

    def at(self, path: object) -> str:
        return f"{HOST}:{path}"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*shlex.split(self.rsh), HOST, *words], capture_output=True, text=True)


@dataclass
class Server:
    """An sshd that runs."""

    home: Path
    address: str
    port: int
    process: subprocess.Popen[bytes]
    inside: tuple[str, ...] = ()
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def client(self, *, forced: str | None = None, rights: str | None = None) -> Client:
        """A new key. With `forced` the server runs that command, whatever is asked of it.

        `rights` is what stands before the key instead.
        """
        number = next(self.numbers)
        key = self.home / f"key-{number}"
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"client {number}", "-f", key)
        quoted = (forced or "").replace("\\", "\\\\").replace('"', '\\"')
        if rights is None:
            rights = "" if forced is None else f'restrict,command="{quoted}"'
        with (self.home / "authorized_keys").open("a") as file:
            file.write(rights + " " * bool(rights) + key.with_suffix(".pub").read_text())
        config = self.home / f"config-{number}"
        user = pwd.getpwuid(os.geteuid()).pw_name
        where = {"host": HOST, "address": self.address, "port": self.port, "user": user}
        config.write_text(CLIENT_CONFIG.format(key=key, home=self.home, **where))
        return Client(config, self.inside)

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def sessions(self) -> list[int]:
        """The processes of sshd itself that serve somebody."""
        return [pid for pid in descendants(self.process.pid) if words_of(pid)[:1] and is_sshd(pid)]

    def serving(self) -> list[int]:
        """The processes of `snapsync serve` that sshd started."""
        return [pid for pid in descendants(self.process.pid) if is_serve(pid)]

    def stop(self) -> None:
        below = descendants(self.process.pid)
        self.process.terminate()
        self.process.wait()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# --- processes --------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """Every process below one, parents first. The kernel lists children by the thread that started them."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            listed = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            children += [int(word) for word in listed.split()]
    return children + [below for child in children for below in descendants(child)]


def words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_sshd(pid: int) -> bool:
    return words_of(pid)[0].startswith(("sshd:", "sshd-session:"))


def is_serve(pid: int) -> bool:
    """The program itself, not the shell that started it."""
    words = words_of(pid)
    return "serve" in words and any(Path(word).name == "snapsync" for word in words[:2])


def is_gone(pid: int) -> bool:
    """It has ended, whether or not anyone has asked how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


# --- starting ---------------------------------------------------------------------------------


@contextmanager
def sshd(
    address: str = "127.0.0.1", inside: tuple[str, ...] = (), clients_inside: tuple[str, ...] = ()
) -> Iterator[Server]:
    """A server at an address. `inside` starts it where it is to be, `clients_inside` its clients."""
    program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        missing("sshd")
    need("ssh", "ssh-keygen")
    if os.geteuid() != 0:
        missing("root, to run sshd")
    # Where sshd parts from its privileges; it is compiled in.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="snapsync-sshd-"))
    try:
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "host_key")
        (home / "known_hosts").write_text(f"{HOST} {(home / 'host_key.pub').read_text()}")
        (home / "authorized_keys").touch()
        server = _started(program, home, address, inside, clients_inside)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _started(
    program: str, home: Path, address: str, inside: tuple[str, ...], clients_inside: tuple[str, ...]
) -> Server:
    for _ in range(5):
        port = _free_port()
        config, log = home / "sshd_config", home / "log"
        config.write_text(SERVER_CONFIG.format(port=port, address=address, home=home))
        log.write_text("")
        words = [*inside, program, "-D", "-f", str(config), "-E", str(log)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment())
        _until_it_listens(process, log)
        if process.poll() is None:
            return Server(home, address, port, process, clients_inside)
    raise AssertionError(f"sshd does not start: {log.read_text()}")


def _until_it_listens(process: subprocess.Popen[bytes], log: Path) -> None:
    wait_until(lambda: process.poll() is not None or "Server listening" in log.read_text())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- a network that can be cut ----------------------------------------------------------------


@dataclass
class Network:
    """Two network namespaces and the cable between them."""

    server_side: str
    client_side: str
    server: Server

    def link(self, up: bool) -> None:
        """Plugs the cable in or pulls it out: packets are lost, and nobody is told."""
        sh("ip", "-n", self.server_side, "link", "set", "dev", "cable", "up" if up else "down")


@contextmanager
def network() -> Iterator[Network]:
    """A server and its clients, each in a network namespace of its own."""
    need("ip", "nsenter")
    if os.geteuid() != 0:
        missing("root, to make network namespaces")
    names = [f"snapsync-{os.getpid()}-{side}" for side in ("server", "client")]
    made: list[str] = []
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                missing("network namespaces")
            made.append(name)
        words = ["ip", "-n", names[0], "link", "add", "cable", "type", "veth"]
        if subprocess.run(
            [*words, "peer", "name", "cable", "netns", names[1]], capture_output=True
        ).returncode:
            missing("veth devices")
        for number, name in enumerate(names, 1):
            sh("ip", "-n", name, "address", "add", f"192.0.2.{number}/24", "dev", "cable")
            sh("ip", "-n", name, "link", "set", "dev", "lo", "up")
            sh("ip", "-n", name, "link", "set", "dev", "cable", "up")
        # Not `ip netns exec`: that also leaves the mount namespace, and mounts made later are not seen.
        enter = [("nsenter", f"--net=/run/netns/{name}") for name in names]
        with sshd("192.0.2.1", *enter) as server:
            yield Network(*names, server)
    finally:
        for name in made:
            sh("ip", "netns", "delete", name)


# --- programs in the place of the remote snapsync ---------------------------------------------


def script(path: Path, *lines: str) -> str:
    """A shell script that the server can run in the place of snapsync."""
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


def wrapped(path: Path, **env: object) -> str:
    """The same snapsync with more in its environment."""
    settings = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in env.items())
    return script(path, f'exec env {settings} {shlex.quote(command()[0])} "$@"')
