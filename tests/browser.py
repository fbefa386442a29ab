"""A headless Chromium in a container without a network, controlled over a pipe."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from wsgi_harness.engine.engine import Engine

ORIGIN = "http://127.0.0.1:8000"
LIMIT = 60.0
"""Seconds for one command, and for one condition, on a busy machine."""


class BrowserError(AssertionError):
    """A command of the browser failed, or what was waited for did not come."""


class Browser:
    """One page of a browser, with a directory of files served at :data:`ORIGIN`.

    Messages of the DevTools protocol travel through a pipe, so nothing listens on a port.
    """

    def __init__(self, engine: Engine, image: str, name: str, site: Path) -> None:
        # Gone when the browser ends, which it does when its input ends: also after it was killed.
        options = ["--rm", "--interactive", "--network=none", f"--name={name}"]
        engine.run("create", *options, image)
        engine.run("cp", f"{site}/.", f"{name}:/site")
        self._process = subprocess.Popen(
            [*engine.client, "start", "--attach", "--interactive", name],
            env={**os.environ, **engine.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._received = bytearray()
        self._numbers = itertools.count(1)
        self._session: str | None = None
        #: Requests that failed or were answered with an error, and exceptions of scripts.
        self.problems: list[str] = []

    def __enter__(self) -> Browser:
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.command(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(LIMIT)
        finally:
            self._process.kill()
            self._process.stdout.close()

    def command(self, method: str, **parameters: Any) -> Any:
        """Run a command of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        # A command without an answer must fail: the read ends with the process.
        timer = threading.Timer(LIMIT, self._process.kill)
        timer.start()
        try:
            while True:
                answer = self._receive(method)
                if answer.get("id") == number:
                    break
                self._note(answer)
        finally:
            timer.cancel()
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        done = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in done:
            raise BrowserError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Return the first value of an expression that is true."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.1)
        raise BrowserError(f"not within {LIMIT:g} s: {expression}; problems: {self.problems}")

    def open(self, page: str) -> None:
        """Load a page of the site."""
        self.command("Page.navigate", url=f"{ORIGIN}/{page}")
        self.wait_for(
            f"location.href.startsWith({f'{ORIGIN}/{page}'!r}) && document.readyState == 'complete'"
        )

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector matches, once it no longer moves."""
        center = (
            f"(() => {{ const it = document.querySelector({selector!r}); if (!it) return null;"
            " it.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const box = it.getBoundingClientRect();"
            " return box.width && [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        box = None
        while box is None or box != self.evaluate(center):
            box = self.wait_for(center)
            # Two frames: what is animated is somewhere else then.
            self.command(
                "Runtime.evaluate",
                expression="new Promise(done => requestAnimationFrame("
                "() => requestAnimationFrame(done)))",
                awaitPromise=True,
            )
        for event in ("mousePressed", "mouseReleased"):
            self.command(
                "Input.dispatchMouseEvent",
                type=event,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )

    def type(self, text: str) -> None:
        """Press the keys of a text; they go to the element that has the focus."""
        for key in text:
            self.command("Input.dispatchKeyEvent", type="keyDown", text=key, key=key)
            self.command("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, width: int, height: int) -> bytes:
        """Return what is on a screen of this size, as PNG."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return base64.b64decode(self.command("Page.captureScreenshot")["data"])

    def _receive(self, method: str) -> dict[str, Any]:
        assert isinstance(self._process.stdout, io.BufferedReader)
        while b"\0" not in self._received:
            read = self._process.stdout.read1()
            if not read:
                raise BrowserError(f"the browser ended before it answered {method}")
            self._received += read
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        if event.get("method") == "Network.loadingFailed" and not parameters.get("canceled"):
            self.problems.append(f"{parameters['type']}: {parameters['errorText']}")
        if event.get("method") == "Network.responseReceived":
            response = parameters["response"]
            if response["status"] >= 400:
                self.problems.append(f"{response['url']}: {response['status']}")
