"""A proxy between a client and an object store: it counts what is asked, and spoils answers.

A hitch is asked about each request. It is given what was asked and a function that asks the server, and gives
the answer that the client gets; None closes the connection without any.
"""

from __future__ import annotations

import http.client
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = re.compile(r"/(format\.json|commits|packs|manifests|index|tables|readers|probe)\b")
OF_THE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length")


@dataclass
class Asked:
    """A request."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    sent: int = 0
    """Bytes of the answer's body."""

    @property
    def kind(self) -> str:
        """Which objects it is about, by the first folder below the prefix of a log."""
        found = KINDS.search(urllib.parse.unquote(self.path.replace("prefix=", "prefix=/")))
        return found[1] if found else ""

    def is_list(self) -> bool:
        return self.method == "GET" and "list-type=" in self.path

    def is_put_of(self, kind: str) -> bool:
        return self.method == "PUT" and self.kind == kind


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    length: int
    """What it says that its body has."""


Forward = Callable[[], Answer]
Hitch = Callable[[Asked, Forward], Answer | None]


# --- hitches ----------------------------------------------------------------------------------


def none(asked: Asked, forward: Forward) -> Answer | None:
    return forward()


def unheard(asked: Asked, forward: Forward) -> Answer | None:
    """The connection breaks before the server has the request."""
    return None


def unanswered(asked: Asked, forward: Forward) -> Answer | None:
    """The server does it, and the connection breaks before it says so."""
    forward()
    return None


def cut(asked: Asked, forward: Forward) -> Answer | None:
    """The connection breaks in the middle of an object."""
    answer = forward()
    if answer.status >= 300:
        return answer
    return replace(answer, body=answer.body[: len(answer.body) // 2])


def unconditional(asked: Asked, forward: Forward) -> Answer | None:
    """The server knows nothing of conditions."""
    asked.headers.pop("if-none-match", None)
    return forward()


def lagging() -> Hitch:
    """Listings are all like the first one, whatever has come since."""
    first: dict[str, Answer] = {}

    def list_late(asked: Asked, forward: Forward) -> Answer | None:
        return first.setdefault(asked.path, forward()) if asked.is_list() else forward()

    return list_late


def says(status: int, code: str, more: str = "") -> Hitch:
    """The server answers with an error."""
    page = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode()

    def answer(asked: Asked, forward: Forward) -> Answer | None:
        return Answer(status, (("content-type", "application/xml"),), page, len(page))

    return answer


def where(test: Callable[[Asked], bool], hitch: Hitch, times: int = 1 << 30) -> Hitch:
    """A hitch for some requests alone, and so many times at most."""
    lock, left = threading.Lock(), [times]

    def chosen(asked: Asked, forward: Forward) -> Answer | None:
        with lock:
            is_it = left[0] > 0 and test(asked)
            left[0] -= is_it
        return hitch(asked, forward) if is_it else forward()

    return chosen


# --- the proxy --------------------------------------------------------------------------------


@dataclass
class Proxy:
    url: str
    hitch: Hitch = none
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, hitch: Hitch = none) -> None:
        """Counts from zero, with another hitch."""
        self.hitch, self.asked = hitch, []

    def note(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Asked:
        with self.lock:
            asked = Asked(len(self.asked) + 1, method, path, headers, body)
            self.asked.append(asked)
            return asked

    def counted(self) -> Counter[str]:
        """How often each method was asked of each kind of object."""
        return Counter(f"{asked.method} {asked.kind}" for asked in self.asked)

    def brought(self) -> int:
        """Bytes of objects that the client has written."""
        return sum(len(asked.body) for asked in self.asked)

    def fetched(self) -> int:
        """Bytes of objects that it has read."""
        return sum(asked.sent for asked in self.asked)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of a server, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            self.server_side = http.client.HTTPConnection(upstream.removeprefix("http://"), timeout=60)

        def finish(self) -> None:
            self.server_side.close()
            with suppress(OSError):
                super().finish()

        def log_message(self, *args: Any) -> None:
            pass

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = between.note(self.command, self.path, headers, body)
            answer = between.hitch(asked, lambda: self.forward(asked))
            if answer is None:
                self.close_connection = True
                return
            asked.sent = 0 if asked.method == "HEAD" else len(answer.body)
            with suppress(OSError):
                self.answer(answer)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = serve  # noqa: N815

        def forward(self, asked: Asked) -> Answer:
            for is_last in (False, True):
                try:
                    return self.ask(asked)
                except (http.client.HTTPException, OSError):
                    # The server may have closed the connection since the last request.
                    self.server_side.close()
                    if is_last:
                        raise
            raise AssertionError

        def ask(self, asked: Asked) -> Answer:
            server = self.server_side
            server.putrequest(asked.method, asked.path, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                if name not in OF_THE_CONNECTION:
                    server.putheader(name, value)
            server.putheader("content-length", str(len(asked.body)))
            server.endheaders(asked.body)
            with server.getresponse() as answer:
                body = answer.read()
                given = tuple((n, v) for n, v in answer.getheaders() if n.lower() not in OF_THE_CONNECTION)
                length = int(answer.getheader("content-length") or 0) if asked.method == "HEAD" else len(body)
                return Answer(answer.status, given, body, length)

        def answer(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("content-length", str(answer.length))
            self.end_headers()
            self.wfile.write(answer.body)
            self.wfile.flush()
            if self.command != "HEAD" and len(answer.body) < answer.length:
                self.close_connection = True

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed, or a server that ends."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        between = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield between
        finally:
            server.shutdown()
            thread.join()
