"""A real Chromium without a window, driven through a pair of pipes: no driver and no package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from machine import missing

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)


class Browser:
    """A browser with one page. What the page asks for and complains about is written down."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            missing("chromium")
        self.home = tempfile.TemporaryDirectory(prefix="snapsync-browser-", ignore_cleanup_errors=True)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._number, self._session, self._rest = 0, "", b""
        self._loaded = False
        self._start(program)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _start(self, program: str) -> None:
        """Chromium reads commands from its file 3, and answers on its file 4."""
        (theirs, self._out), (self._in, answers) = os.pipe(), os.pipe()
        home = self.home.name

        def hand_over() -> None:
            # Out of the way first: one of the two may be 3 or 4 itself.
            commands, told = os.dup(theirs), os.dup(answers)
            os.dup2(commands, 3)
            os.dup2(told, 4)

        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={home}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
            close_fds=False,
            preexec_fn=hand_over,
        )
        os.close(theirs)
        os.close(answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self.home.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _read(self, patience: float = 60) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], patience)
            assert ready, "the browser does not answer"
            got = os.read(self._in, 1 << 20)
            assert got, "the browser ended"
            self._rest += got
        first, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(first)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def look(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """The size of the window, and whether it is night; of a phone where it is narrow."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path) -> float:
        """Open a file and wait until its charts are drawn; the seconds that took."""
        self.complaints.clear()
        self.requests.clear()
        self._loaded = False
        started = time.monotonic()
        self.call("Page.navigate", url=file.as_uri())
        while not self._loaded:
            self._read()
        self.until("document.documentElement.dataset.charts !== undefined")
        return time.monotonic() - started

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        got = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def until(self, expression: str, patience: float = 60) -> None:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + patience
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}; {self.complaints}"
            time.sleep(0.01)

    def until_done(self, action: Callable[[], None], expression: str, times: int = 200) -> None:
        """Do something again and again until an expression is true in the page."""
        for _ in range(times):
            if self.value(f"Boolean({expression})"):
                return
            action()
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; {self.complaints}")

    def click(self, selector: str, begins: str) -> None:
        """Click with the mouse on the first element whose text begins so."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        of_text = f"{found}.find((one) => one.textContent.startsWith({json.dumps(begins)}))"
        box = self.value(f"{of_text}.getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            how = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **at, **how)

    def picture(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
