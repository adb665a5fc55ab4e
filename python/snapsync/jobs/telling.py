"""Telling people and programs what becomes of a job: by a command, a webhook, mail, or a ping.

A failure is told when it begins, again after some hours, and when it is over. Addresses may hold secrets, as
those of webhooks do: nothing but their host is ever shown.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep

from snapsync import render
from snapsync.errors import SnapsyncError, describe
from snapsync.jobs import hooks, own
from snapsync.record import Record
from snapsync.reports.values import Loss

EVENTS = ("failure", "recovery", "warning")
# How often something is tried, how long is waited in between, and how long one try may take, in seconds.
_DELAYS = (1.0, 5.0)
_PATIENCE = 10.0
_LOOK = 0.2
_COMMAND_PATIENCE = 60.0
_SENDMAIL = ("sendmail", "-oi", "-t")


Held = Callable[[hooks.Command], AbstractContextManager[object]]
"""Keeps a command where an interrupt finds and ends it."""


class Notify(Record):
    """Who is told. An address that begins with @ names the file that it stands in.

    `again` are the seconds after which a failure that lasts is told once more, `about` the events.
    """

    command: tuple[str, ...] = ()
    webhook: str | None = None
    mail: str | None = None
    ping: str | None = None
    again: int = 86_400
    about: tuple[str, ...] = EVENTS


class Event(Record):
    """What has become of a job. `failures` is how many rounds have failed, one after the other."""

    event: str
    job: str
    source: str
    target: str
    host: str
    at: datetime
    snapshot: str | None = None
    exit_code: int = 0
    error: str | None = None
    advice: str = ""
    failures: int = 0
    notes: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()

    def sentence(self) -> str:
        """All of it in one line."""
        job = f"job {self.job} on {self.host}"
        if self.event == "failure":
            times = f" for the {self.failures}th time" if self.failures > 3 else ""
            return f"{job} has failed{times}: {self.error}"
        said = f"has something to say: {'; '.join(self.lines())}"
        if self.event == "recovery":
            more = f", and {said}" if self.lines() else ""
            return f"{job} is well again, at snapshot {self.snapshot}{more}"
        return f"{job} {said}"

    def lines(self) -> list[str]:
        """What there is beyond that."""
        lost = [line.strip() for line in render.losses(self.losses)]
        return [*self.notes, *lost, *self.advice.splitlines()]

    def as_json(self) -> str:
        """The event as one object of JSON."""
        return json.dumps({**asdict(self), "at": self.at.isoformat()})

    def environment(self) -> dict[str, str]:
        """The event as variables of a command's environment."""
        told = {
            "SNAPSYNC_EVENT": self.event,
            "SNAPSYNC_JOB": self.job,
            "SNAPSYNC_SOURCE": self.source,
            "SNAPSYNC_TARGET": self.target,
            "SNAPSYNC_SNAPSHOT": self.snapshot or "",
            "SNAPSYNC_EXIT_CODE": str(self.exit_code),
            "SNAPSYNC_ERROR": self.error or "",
        }
        return {name: text.replace("\0", "") for name, text in told.items()}


def host() -> str:
    """What this machine is called."""
    return socket.gethostname()


def means(notify: Notify) -> int:
    """By how many means somebody is told."""
    return sum(map(bool, (notify.command, notify.webhook, notify.mail)))


def tell(notify: Notify, event: Event, held: Held, is_over: Callable[[], bool]) -> Iterator[str]:
    """Tell of an event by all means that were asked for. Yields a sentence for each that did not work.

    A command is `held` where an interrupt ends it, and nobody waits once it `is_over`.
    """
    body = event.as_json().encode()
    if notify.command:
        yield from _command("the command", notify.command, event, body, held)
    if notify.webhook:
        yield from _tried("the webhook", notify.webhook, lambda url: _post(url, body), is_over)
    if notify.mail:
        yield from _command("sendmail", _SENDMAIL, event, _mail(notify.mail, event), held)


def ping(notify: Notify, what: str, words: str, is_over: Callable[[], bool]) -> Iterator[str]:
    """Tell a service that waits for pings as healthchecks does: `what` is /start, /fail or nothing."""
    if notify.ping:
        body = words.encode("utf-8", "backslashreplace")
        yield from _tried("the ping", notify.ping, lambda url: _post(url.rstrip("/") + what, body), is_over)


def _command(what: str, words: tuple[str, ...], event: Event, given: bytes, held: Held) -> Iterator[str]:
    started = hooks.start(words, event.environment(), given)
    if isinstance(started, str):
        yield f"{what} that is to tell cannot be started: {started}"
        return
    with held(started):
        error, said = started.wait(_COMMAND_PATIENCE)
    if error is not None:
        yield f"{what} that is to tell has failed: {error}{f': {said[-1]}' if said else ''}"


def _tried(
    what: str, address: str, send: Callable[[str], None], is_over: Callable[[], bool]
) -> Iterator[str]:
    """Try some times to reach an address."""
    try:
        url = address if address[:1] != "@" else _secret(Path(address[1:]))
    except (SnapsyncError, OSError) as error:
        yield f"cannot read where {what} is: {describe(error).message}"
        return
    for delay in (*_DELAYS, None):
        why, may_pass = _try(send, url, is_over)
        if why is None:
            return
        if delay is None or not may_pass or is_over():
            yield f"cannot reach {what} at {_shown(url)}: {why}"
            return
        sleep(delay)


def _try(send: Callable[[str], None], url: str, is_over: Callable[[], bool]) -> tuple[str | None, bool]:
    """Why an address cannot be reached, and whether that may pass; None if it was reached.

    An answer may come byte by byte for ever, and so is waited for from outside.
    """
    ended: SimpleQueue[Exception | None] = SimpleQueue()

    def work() -> None:
        try:
            send(url)
            ended.put(None)
        except Exception as error:
            ended.put(error)

    Thread(target=work, daemon=True).start()
    until = monotonic() + _PATIENCE
    while not is_over() and monotonic() < until:
        try:
            error = ended.get(timeout=_LOOK)
        except Empty:
            continue
        return (None, False) if error is None else _reason(error)
    return f"it has not answered within {_PATIENCE:.0f} s", True


def _secret(path: Path) -> str:
    return own.read("the address", path).decode("utf-8", "replace").strip()


def _post(url: str, body: bytes) -> None:
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        """An answer from somewhere else, such as a page to log in at, is no answer."""

        def redirect_request(self, *_: object) -> None:
            return None

    if not url.startswith(("http://", "https://")):
        raise ValueError(url)
    headers = {"Content-Type": "application/json" if body.startswith(b"{") else "text/plain"}
    headers["User-Agent"] = "snapsync"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.build_opener(Stay).open(request, timeout=_PATIENCE):
        pass


def _reason(error: Exception) -> tuple[str, bool]:
    """Why it did not work, and whether that may pass. Words of the error may hold the address."""
    import http.client
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code}", error.code >= 500 or error.code in (408, 429)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, OSError):
        return reason.strerror or "it does not answer", True
    if isinstance(error, (http.client.InvalidURL, ValueError)):
        return "it is no address that begins with http:// or https://", False
    return "its answer makes no sense", False


def _shown(url: str) -> str:
    """The host of an address, and nothing else of it."""
    import urllib.parse

    try:
        return urllib.parse.urlsplit(url).hostname or "an address without a host"
    except ValueError:
        return "an address that is none"


def _mail(to: str, event: Event) -> bytes:
    from email.message import EmailMessage

    message = EmailMessage()
    message["To"] = to
    message["Subject"] = f"snapsync: {render.name(event.job)} on {render.name(event.host)}: {event.event}"
    places = f"{render.name(event.source)} -> {render.name(event.target)}"
    lines = [event.sentence(), "", places, *(["", *event.lines()] if event.error else [])]
    message.set_content("\n".join(map(render.name, lines)))
    return bytes(message)


def differs(notes: tuple[str, ...], losses: tuple[Loss, ...], advice: str) -> str | None:
    """A text that is another one where there is something else to warn of; None without anything."""
    words = sorted({*notes, *(loss.what for loss in losses), *filter(None, [advice])})
    return json.dumps(words) if words else None
