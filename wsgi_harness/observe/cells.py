"""Requests to the application in one cell, over HTTP; never during the silence."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Literal

import requests

from wsgi_harness.observe.observation import Probe, Request, worst_lateness

#: Seconds for one request; an application that hangs is a failed request, not a hung harness.
_LIMIT = 30.0

Answer = Mapping[str, Any]


class Cell:
    """One cell's application.

    Parameters:
        url: its root, without a slash at the end.
        secret: removed from everything that the cell answers.
        ca_pem: PEM of the broker's authority, for a cell that connects over TLS.
    """

    def __init__(self, url: str, secret: str, ca_pem: str = "") -> None:
        self.url = url
        self._secret = secret
        self._ca_pem = ca_pem

    def open(self) -> tuple[Request, Answer]:
        """Have it open its connection."""
        return self._timed("open", "/open", self._ca_pem)

    def publish(self, count: int) -> tuple[Request, Answer]:
        """Have it publish `count` messages."""
        return self._timed("publish", f"/publish?count={count}")

    def report(self) -> Answer:
        """Return its measurements; empty if it does not answer."""
        status, answer = self._ask("GET", "/report")
        return answer if status == 200 else {}

    def _timed(
        self, kind: Literal["open", "publish"], path: str, body: str = ""
    ) -> tuple[Request, Answer]:
        began = time.time()
        status, answer = self._ask("POST", path, body)
        error = answer.get("error")
        request = Request(
            kind,
            # The application's own times: its clock is the broker's and the relay's.
            began=answer.get("began", began),
            ended=answer.get("ended", time.time()),
            status=status,
            error=f"{error['type']}: {error['message']}" if error else None,
        )
        return request, answer

    def _ask(self, method: str, path: str, body: str = "") -> tuple[int, dict[str, Any]]:
        try:
            response = requests.request(method, self.url + path, data=body, timeout=_LIMIT)
        except requests.RequestException as error:
            return 0, _failure(f"no answer from the cell ({type(error).__name__})")
        try:
            answer: dict[str, Any] = json.loads(response.text.replace(self._secret, "***"))
        except ValueError:
            # Apache's own page: the WSGI script could not be loaded.
            return response.status_code, _failure(
                f"status {response.status_code}, not from the app"
            )
        return response.status_code, answer


def _failure(message: str) -> dict[str, Any]:
    return {"error": {"type": "HTTP", "message": message}}


def probe(report: Answer, thread: str, silence: tuple[float, float]) -> Probe | None:
    """Return the latency probe of one thread from a cell's report; None if there is none."""
    found = report.get("probes", {}).get(thread)
    if found is None:
        return None
    taken = tuple((due, came) for due, came in found["taken"])
    return Probe(taken, found["awaited"], worst_lateness(taken, found["awaited"], silence))
