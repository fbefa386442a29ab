"""Talking to a cell: real HTTP, answers of every kind, and no secret in any of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from wsgi_harness.observe.cells import Cell, probe

SECRET = "pa55word"
ANSWERS = {
    "/open": (200, json.dumps({"pid": 7, "began": 10.0, "ended": 10.5})),
    "/publish?count=3": (
        500,
        json.dumps(
            {"accepted": 1, "error": {"type": "OSError", "message": f"amqp://u:{SECRET}@h"}}
        ),
    ),
    "/report": (500, "<html>Internal Server Error</html>"),
}


class Application(BaseHTTPRequestHandler):
    bodies: ClassVar[list[str]] = []

    def answer(self) -> None:
        status, body = ANSWERS[self.path]
        self.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def cell() -> Iterator[Cell]:
    server = HTTPServer(("127.0.0.1", 0), Application)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Cell(f"http://127.0.0.1:{server.server_port}", SECRET)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_timed_by_the_application(cell: Cell) -> None:
    request, answer = cell.open()

    assert not request.failed
    assert (request.began, request.ended) == (10.0, 10.5)
    assert answer["pid"] == 7


def test_the_authority_goes_with_the_first_request_alone(cell: Cell) -> None:
    encrypted = Cell(cell.url, SECRET, ca_pem="-----BEGIN CERTIFICATE-----")
    Application.bodies.clear()

    encrypted.open()
    encrypted.publish(3)
    cell.open()

    assert Application.bodies == ["-----BEGIN CERTIFICATE-----", "", ""]


def test_a_failed_request_keeps_its_error_without_the_secret(cell: Cell) -> None:
    request, answer = cell.publish(3)

    assert request.failed
    assert request.status == 500
    assert request.error == "OSError: amqp://u:***@h"
    assert answer["accepted"] == 1


def test_a_report_that_is_no_json_is_empty(cell: Cell) -> None:
    assert cell.report() == {}


def test_a_cell_that_does_not_answer_is_a_failed_request() -> None:
    request, _ = Cell("http://127.0.0.1:9", SECRET).open()

    assert request.status == 0
    assert request.failed
    assert request.error is not None
    assert "no answer from the cell" in request.error


def test_probes_are_taken_out_of_a_report() -> None:
    report = {"probes": {"green": {"taken": [[101.0, 101.25]], "awaited": 102.0, "at": 110.0}}}

    found = probe(report, "green", (100.0, 110.0))

    assert found is not None
    assert found.taken == ((101.0, 101.25),)
    assert found.worst == 8.0
    assert probe(report, "native", (100.0, 110.0)) is None
