"""Headless Chromium, driven by the DevTools protocol over a pair of pipes, so no other package is needed.

Messages are JSON that ends with a NUL (``--remote-debugging-pipe``: Chromium reads descriptor 3 and writes 4).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.waiting import until

BINARIES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60


def binary() -> str | None:
    """Return the first browser of BINARIES that is installed."""
    return next((found for name in BINARIES if (found := shutil.which(name))), None)


class Browser:
    """A running Chromium with one page.

    Attributes:
        complaints: what the page wrote to its console, its exceptions, and what its policy refused.
        requests: addresses that it asked for.
    """

    def __init__(self, program: str, profile: Path, *, width: int = 1280, height: int = 760) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # Copies, so that neither is 3 or 4, which they become in the child.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, to_write)]

        def name_them() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking",
                f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank",
            ],
            pass_fds=[3, 4], preexec_fn=name_them, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank", width=width, height=height)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {_TIMEOUT_S} s"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        method, facts = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(facts["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(facts["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page and wait until it has drawn itself."""
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri() + (f"#{fragment}" if fragment else ""))
        self.wait("document.readyState === 'complete' && document.getElementById('status').textContent !== ''")
        self.settle()

    def run(self, expression: str) -> Any:
        """Evaluate an expression in the page and return its value."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        until(lambda: self.run(f"Boolean(document.body && {expression})"), lambda: expression, limit_s=_TIMEOUT_S)

    def settle(self) -> None:
        """Wait until what was asked for is drawn: movements take 160 ms."""
        self.run("new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 250))")

    def press(self, key: str, text: str | None = None, *, modifiers: int = 0) -> None:
        """Press and release a key; a single character is also typed. Modifiers: 1 Alt, 2 Ctrl, 8 Shift."""
        text = key if text is None and len(key) == 1 else text
        extra = {"text": text} if text else {}
        codes = {"Enter": 13, "Escape": 27, "Tab": 9}
        if key in codes:
            extra["windowsVirtualKeyCode"] = codes[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **extra)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.call("Input.insertText", text=text)
        self.settle()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Dispatch a mouse event: mouseMoved, mousePressed, mouseReleased or mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """Click with the left button."""
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)
        self.settle()

    def text(self, selector: str) -> str:
        """Return the text of an element, or nothing if it is not shown."""
        found = self.run(f"(e => e && !e.hidden ? e.innerText : '')(document.querySelector({json.dumps(selector)}))")
        return str(found)

    def box(self, selector: str) -> dict[str, float]:
        """Return the place of an element: x, y, width, height."""
        found: dict[str, float] = self.run(
            f"(({{x, y, width, height}}) => ({{x, y, width, height}}))(document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect())"
        )
        return found

    def media(self, **features: str) -> None:
        """Set media features, such as prefers_color_scheme="dark"."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)
        self.settle()

    def screenshot(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = None
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


@contextmanager
def browser(program: str, profile: Path, **size: int) -> Iterator[Browser]:
    """Run a browser."""
    made = Browser(program, profile, **size)
    try:
        yield made
    finally:
        made.close()
