"""Who is to be told of a job is told once when it begins to fail, once when it is well, and no secret is."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from configured import Jobs
from machine import Pair, Place, run, start, wait_until
from worlds import fill

SECRET = "T0ken-in-the-path"


class Site:
    """A server that keeps what it is sent, and answers with what it is told to answer."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.answers: list[int] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                site.got.append((self.path, body))
                self.send_response(site.answers.pop(0) if site.answers else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def address(self, path: str = f"/{SECRET}") -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def taken(self) -> list[tuple[str, str]]:
        got, self.got = self.got, []
        return got


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def pair(place: Place) -> Pair:
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    return pair


def notified(jobs: Jobs, pair: Pair, *keys: str) -> None:
    table = "\n".join(keys)
    jobs.add("one", pair.source, pair.target, f'period = "15m"\n[job.one.notify]\n{table}')


def fails(pair: Pair) -> None:
    """From now on there is no primary."""
    pair.source.rename(f"{pair.source}-away")


def is_mended(pair: Pair) -> None:
    Path(f"{pair.source}-away").rename(pair.source)


def status(jobs: Jobs) -> dict[str, Any]:
    (told,) = run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"]
    return dict(told)


def test_a_failure_is_told_once_and_its_end_once(jobs: Jobs, pair: Pair, site: Site) -> None:
    notified(jobs, pair, f'webhook = "{site.address()}"')
    jobs.outcomes("one")
    assert site.taken() == []
    fails(pair)
    for _ in range(3):
        jobs.outcomes("one", code=3)
    ((path, body),) = site.taken()
    assert path == f"/{SECRET}"
    event = json.loads(body)
    assert (event["event"], event["job"], event["exit_code"], event["failures"]) == ("failure", "one", 3, 1)
    assert (event["source"], event["target"]) == (str(pair.source), str(pair.target))
    assert "none now" in event["error"]
    assert event["advice"]
    is_mended(pair)
    jobs.outcomes("one")
    jobs.outcomes("one")
    ((_, body),) = site.taken()
    assert json.loads(body)["event"] == "recovery"
    assert json.loads(body)["snapshot"]


def test_a_failure_that_lasts_is_told_again_after_a_while(jobs: Jobs, pair: Pair, site: Site) -> None:
    notified(jobs, pair, f'webhook = "{site.address()}"', 'again = "6h"')
    jobs.outcomes("one")
    fails(pair)
    jobs.outcomes("one", code=3)
    assert len(site.taken()) == 1
    kept = jobs.env["SNAPSYNC_STATE_DIR"] / "jobs.json"
    state = json.loads(kept.read_text())
    told = datetime.fromisoformat(state["jobs"]["one"]["told"])
    state["jobs"]["one"]["told"] = (told - timedelta(hours=7)).isoformat()
    kept.write_text(json.dumps(state))
    jobs.outcomes("one", code=3)
    ((_, body),) = site.taken()
    assert json.loads(body)["failures"] == 2


def test_a_warning_is_told_until_it_changes(jobs: Jobs, pair: Pair, site: Site) -> None:
    notified(jobs, pair, f'webhook = "{site.address()}"')
    hook = json.dumps([sys.executable, "-c", "import sys; sys.exit(4)"])
    text = jobs.text
    jobs.write(f"{text}\n[job.one.hooks]\nafter = {hook}\n")
    jobs.outcomes("one")
    jobs.outcomes("one")
    ((_, body),) = site.taken()
    assert json.loads(body)["event"] == "warning"
    assert any("exit code 4" in note for note in json.loads(body)["notes"])
    jobs.write(text)
    jobs.outcomes("one")
    assert site.taken() == []
    jobs.write(f"{text}\n[job.one.hooks]\nafter = {hook}\n")
    jobs.outcomes("one")
    assert len(site.taken()) == 1


def test_only_what_was_asked_for_is_told(jobs: Jobs, pair: Pair, site: Site) -> None:
    notified(jobs, pair, f'webhook = "{site.address()}"', 'about = ["recovery"]')
    jobs.outcomes("one")
    fails(pair)
    jobs.outcomes("one", code=3)
    assert site.taken() == []
    is_mended(pair)
    jobs.outcomes("one")
    assert len(site.taken()) == 1


def test_a_ping_is_sent_for_each_round(jobs: Jobs, pair: Pair, site: Site) -> None:
    notified(jobs, pair, f'ping = "{site.address()}/"')
    jobs.outcomes("one")
    assert [path for path, _ in site.taken()] == [f"/{SECRET}/start", f"/{SECRET}"]
    fails(pair)
    jobs.outcomes("one", code=3)
    (begin, _), (end, body) = site.taken()
    assert (begin, end) == (f"/{SECRET}/start", f"/{SECRET}/fail")
    assert "none now" in body


def test_a_failure_of_which_nobody_could_be_told_is_told_later(jobs: Jobs, pair: Pair, site: Site) -> None:
    notified(jobs, pair, f'webhook = "{site.address()}"')
    jobs.outcomes("one")
    fails(pair)
    site.answers = [404]
    jobs.outcomes("one", code=3)
    jobs.outcomes("one", code=3)
    jobs.outcomes("one", code=3)
    assert len(site.taken()) == 2, "one that was refused, and one that arrived"


@pytest.mark.parametrize(("answers", "tries"), [([503, 429, 200], 3), ([500, 500, 500], 3), ([404], 1)])
def test_what_may_pass_is_tried_again_and_no_secret_is_told(
    jobs: Jobs, pair: Pair, site: Site, answers: list[int], tries: int
) -> None:
    notified(jobs, pair, f'webhook = "{site.address()}"')
    jobs.outcomes("one")
    fails(pair)
    site.answers = list(answers)
    ran = jobs.run("one", "--json")
    assert ran.code == 3
    assert len(site.taken()) == tries
    complained = "cannot reach the webhook at 127.0.0.1" in ran.err
    assert complained == (answers[-1] != 200)
    told = ran.out + ran.err + json.dumps(status(jobs))
    told += (jobs.env["SNAPSYNC_STATE_DIR"] / "jobs.json").read_text()
    assert SECRET not in told


@contextmanager
def odd_server(*pieces: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server that says these bytes to everybody, one after the other, and what is no HTTP."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                with client, suppress(OSError):
                    client.recv(1 << 16)
                    for piece in pieces:
                        client.sendall(piece)
                        time.sleep(pause)

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/{SECRET}"
    listening.close()


ODD = {
    "garbage": (b"GARBAGE\r\n\r\n",),
    "headers": (b"HTTP/1.1 200 OK\r\n", *(b"X-%d: 1\r\n" % number for number in range(300)), b"\r\n"),
    "elsewhere": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",),
    "nothing": (),
}


@pytest.mark.parametrize("pieces", ODD.values(), ids=ODD)
def test_an_answer_that_makes_no_sense_ends_neither_the_job_nor_others(
    jobs: Jobs, pair: Pair, place: Place, pieces: tuple[bytes, ...]
) -> None:
    with odd_server(*pieces) as address:
        notified(jobs, pair, f'ping = "{address}"')
        other = Pair.make(place, ("xfs", "ext4"))
        jobs.add("other", other.source, other.target)
        ran = jobs.run("--now")
    assert ran.code == 0, ran
    assert "one: cannot reach the ping at 127.0.0.1" in ran.err
    assert SECRET not in ran.out + ran.err
    assert {name: run.get("error") for name, run in jobs.state.items()} == {"one": None, "other": None}


def interrupt(process: Popen[str], of: str) -> None:
    """Has one of its threads take the signal. Only what the main one takes wakes the main one."""
    threads = map(int, os.listdir(f"/proc/{process.pid}/task"))
    thread = process.pid if of == "main" else next(each for each in threads if each != process.pid)
    assert CDLL(None).tgkill(process.pid, thread, signal.SIGTERM) == 0


@pytest.mark.parametrize("thread", ["main", "other"])
def test_an_answer_that_never_ends_holds_up_nobody_for_long(jobs: Jobs, pair: Pair, thread: str) -> None:
    with odd_server(b"HTTP/1.1 200 OK\r\n", *[b"x"] * 600, pause=1.0) as address:
        notified(jobs, pair, f'webhook = "{address}"')
        jobs.outcomes("one")
        fails(pair)
        process = start("run", "one", "--config", jobs.file, env=jobs.env)
        wait_until(lambda: (jobs.state.get("one") or {}).get("error"))
        began = time.monotonic()
        interrupt(process, thread)
        process.wait(30)
        assert time.monotonic() - began < 15
        began = time.monotonic()
        ran = jobs.run("one")
    assert time.monotonic() - began < 60
    assert "cannot reach the webhook" in ran.err


def test_an_address_that_is_none_is_not_shown(jobs: Jobs, pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text(f"http://127.0.0.1:1/{SECRET} two\n")
    file.chmod(0o600)
    notified(jobs, pair, f'ping = "@{file}"')
    ran = jobs.run("one", "--json")
    assert ran.code == 0
    assert "no address" in ran.err
    assert SECRET not in ran.out + ran.err


def test_names_of_any_bytes_are_told(jobs: Jobs, place: Place, site: Site, tmp_path: Path) -> None:
    home = place("xfs")
    (home / "w").mkdir()
    os.mkdir(os.fsencode(home) + b"/w/\xff\xfebad")
    kept = tmp_path / "kept"
    code = f"import sys; open({str(kept)!r}, 'wb').write(sys.stdin.buffer.read())"
    jobs.write(
        f'[job.w]\nsource = "{home}/w/*"\ntarget = "{home}/none/at/all/{{name}}"\nperiod = "1h"\n'
        f'[job.w.notify]\nwebhook = "{site.address()}"\nmail = "root@example.org"\n'
        f"command = {json.dumps([sys.executable, '-c', code])}\n"
    )
    ran = jobs.run("--now")
    assert ran.code not in (0, 5), ran
    assert "mistake of snapsync" not in ran.err
    ((_, body),) = site.taken()
    assert json.loads(body)["event"] == json.loads(kept.read_bytes())["event"] == "failure"


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/{}", "http://[::1:80/{}", "https://no.invalid/{}"])
def test_nobody_there_is_no_failure_of_the_job(jobs: Jobs, pair: Pair, address: str) -> None:
    notified(jobs, pair, f'ping = "{address.format(SECRET)}"')
    ran = jobs.run("one")
    assert ran.code == 0, ran
    assert "cannot reach the ping" in ran.err
    assert SECRET not in ran.out + ran.err


def test_an_address_may_stand_in_a_file(jobs: Jobs, pair: Pair, site: Site, tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text(f"{site.address()}\n")
    file.chmod(0o600)
    notified(jobs, pair, f'ping = "@{file}"')
    jobs.outcomes("one")
    assert len(site.taken()) == 2
    file.chmod(0o666)
    ran = jobs.run("one")
    assert ran.code == 0
    assert "cannot read where the ping is" in ran.err
    assert SECRET not in ran.err


def test_a_command_gets_the_event(jobs: Jobs, pair: Pair, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    code = f"import os, sys; open({str(kept)!r}, 'w').write(os.environ['SNAPSYNC_EVENT'] + sys.stdin.read())"
    notified(jobs, pair, f"command = {json.dumps([sys.executable, '-c', code])}")
    jobs.outcomes("one")
    fails(pair)
    jobs.outcomes("one", code=3)
    assert kept.read_text().startswith('failure{"event": "failure"')


def test_mail_goes_through_sendmail(jobs: Jobs, pair: Pair, tmp_path: Path) -> None:
    home, kept = tmp_path / "bin", tmp_path / "mail"
    home.mkdir()
    sendmail = home / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" > {kept}.words\ncat > {kept}\n')
    sendmail.chmod(0o755)
    notified(jobs, pair, 'mail = "root@example.org"')
    jobs.env |= {"PATH": f"{home}:/usr/bin:/bin:/usr/sbin:/sbin"}
    jobs.outcomes("one")
    fails(pair)
    jobs.outcomes("one", code=3)
    text = kept.read_text()
    assert Path(f"{kept}.words").read_text().split() == ["-oi", "-t"]
    assert "To: root@example.org" in text
    assert "Subject: snapsync: one on " in text
    assert "failure" in text
    assert "none now" in text.replace("=\n", "")


@pytest.mark.parametrize(
    "keys",
    [
        *('webhook = "ftp://x"', 'mail = "nobody"', 'about = ["success"]', "command = []", 'webhok = "x"'),
        *('again = "never"', "webhook = 5", 'mail = "a@b,c@d"', 'ping = "http://me:word@x/y"'),
    ],
)
def test_a_mistake_in_the_table_is_told_with_its_place(jobs: Jobs, pair: Pair, keys: str) -> None:
    notified(jobs, pair, keys)
    ran = jobs.run("one")
    assert ran.code == 2
    assert "[job.one] notify" in ran.err
