"""The cells' application, called as mod_wsgi calls it, each time in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from wsgi_harness.matrix import scenarios
from wsgi_harness.matrix.scenarios import SCENARIOS, Scenario, queue_of
from wsgi_harness.stack.broker import Broker

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

CALLS = """
import json, sys
from wsgi_harness.cell.app import application

def call(method, path, query=""):
    told = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    body = b"".join(application(environ, lambda status, headers: told.append(status)))
    return [told[0], body.decode()]

json.dump([call(*request) for request in json.load(sys.stdin)], sys.stdout)
"""


def call(
    scenario: Scenario, address: tuple[str, int], url: str, *requests: tuple[str, ...]
) -> list[tuple[str, Any]]:
    """The statuses and bodies that a cell answers to `requests`."""
    orders = scenarios.orders(scenario, 4, address)
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CALLS],
        input=json.dumps(requests),
        env={**os.environ, "CELL": json.dumps(orders), "AMQP_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [(status, body) for status, body in json.loads(finished.stdout)]


ROUND = (("POST", "/open"), ("POST", "/publish", "count=3"), ("GET", "/report"))


@pytest.mark.parametrize(
    "name",
    ["none-kombu", "native-drained-kombu-unpatched", "hbshim-auto-kombu", "hbshim-auto-pika"],
)
def test_a_cell_opens_publishes_and_reports(broker: Broker, name: str) -> None:
    scenario = BY_NAME[name]

    answers = call(scenario, (broker.host, broker.amqp_port), broker.amqp_url(), *ROUND)

    assert [status for status, _ in answers] == ["200 OK"] * 3
    opened, published, report = (json.loads(body) for _, body in answers)
    assert opened["began"] <= opened["ended"] <= published["began"]
    assert published["accepted"] == 3
    assert set(report["ticks"]) == {"green", "native"}
    assert report["beater"]["error"] is None
    if scenario.is_control:
        assert report["shim"] is None
    else:
        assert report["shim"]["counters"]["links_watched"] == 1
        assert [link["state"] for link in report["shim"]["links"]] == ["alive"]


def test_a_broker_that_cannot_be_reached_is_a_failed_request_without_the_password() -> None:
    url = "amqp://user:pa55word@nowhere/"

    answers = call(BY_NAME["none-pika"], ("127.0.0.1", 9), url, *ROUND[:2])

    assert [status for status, _ in answers] == ["500 Internal Server Error"] * 2
    assert json.loads(answers[0][1])["error"]["type"] == "AMQPConnectionError"
    assert json.loads(answers[1][1])["accepted"] == 0
    assert "pa55word" not in json.dumps(answers)


def test_another_path_is_not_found_and_told_what_there_is() -> None:
    ((status, body),) = call(
        BY_NAME["none-kombu"], ("127.0.0.1", 9), "amqp://u:p@nowhere/", ("GET", "/")
    )

    assert status == "404 Not Found"
    assert "POST /open" in body


def test_queues_are_named_after_their_cells() -> None:
    assert len({queue_of(scenario) for scenario in SCENARIOS}) == len(SCENARIOS)
