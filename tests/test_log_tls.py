"""A log behind TLS, as in production: a server is believed if somebody vouches for it, and no other."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine import Place, assert_told, need, run, sh
from object_store import BucketLog
from oracle import assert_same
from worlds import World

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass
class Certified:
    """An address with TLS, and who vouches for it."""

    url: str
    authority: Path

    def asked(self, log: BucketLog) -> BucketLog:
        known = log.behind(self.url)
        known.env |= {"SSL_CERT_FILE": str(self.authority)}
        return known


@pytest.fixture
def certified(bucket: BucketLog, tmp_path: Path) -> Iterator[Certified]:
    """TLS that ends before the server of the log, with a certificate for this machine's own address."""
    need("openssl")
    authority, key, own = tmp_path / "authority.pem", tmp_path / "authority.key", tmp_path / "own.pem"
    asked, own_key, names = tmp_path / "own.csr", tmp_path / "own.key", tmp_path / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    sh("openssl", "req", "-x509", *CURVE, "-keyout", key, "-out", authority, "-subj", "/CN=authority")
    sh("openssl", "req", *CURVE, "-keyout", own_key, "-out", asked, "-subj", "/CN=store")
    sign = ("openssl", "x509", "-req", "-in", asked, "-CA", authority, "-CAkey", key, "-CAcreateserial")
    sh(*sign, "-extfile", names, "-out", own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, own_key)
    host, port = bucket.server.url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = (context, (host, int(port)))
        threading.Thread(target=serve, args=(listening, *where), daemon=True).start()
        yield Certified(f"https://127.0.0.1:{listening.getsockname()[1]}", authority)


def serve(listening: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        while True:
            plain, _ = listening.accept()
            threading.Thread(target=connected, args=(plain, context, server), daemon=True).start()


def connected(plain: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    """Passes on what comes, both ways, until either side ends."""
    with (
        contextlib.suppress(OSError),
        plain,
        context.wrap_socket(plain, server_side=True) as near,
        socket.create_connection(server) as far,
    ):
        back = threading.Thread(target=passed_on, args=(far, near), daemon=True)
        back.start()
        passed_on(near, far)
        back.join()


def passed_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while more := source.recv(1 << 16):
            target.sendall(more)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def test_a_log_behind_tls_is_written_and_followed(
    place: Place, bucket: BucketLog, certified: Certified
) -> None:
    known, primary, standby = certified.asked(bucket), place("btrfs"), place.absent("xfs")
    world = World(primary, 3)
    world.grow(60)
    for _ in range(3):
        known.sync(primary, known.address)
        known.sync(known.address, standby)
        assert_same(primary, standby)
        world.churn(30)
    # The same log, asked without TLS.
    assert bucket.sync(bucket.address, place.absent("ext4"))["changes"]["created"] > 0


def test_a_server_for_which_nobody_vouches_gets_nothing(
    place: Place, bucket: BucketLog, certified: Certified
) -> None:
    unknown, primary = bucket.behind(certified.url), place("xfs")
    (primary / "file").write_bytes(b"secret")
    began = time.monotonic()
    ran = run("sync", primary, unknown.address, "--quiet", env=unknown.env)
    assert_told(ran, "certificate", codes=(1,))
    assert time.monotonic() - began < 60
    assert bucket.names() == []
