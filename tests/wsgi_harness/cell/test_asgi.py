"""The ASGI application of the cells with an event loop, called as uvicorn calls it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pika
import pytest

from wsgi_harness.matrix import scenarios
from wsgi_harness.matrix.scenarios import SCENARIOS, Scenario, queue_of
from wsgi_harness.stack.broker import Broker

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

CALLS = """
import asyncio, json, sys
from wsgi_harness.cell.asgi import application

async def call(method, path, query="", body=""):
    sent = []
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"}
    scope |= {"method": method, "path": path, "query_string": query.encode(), "headers": []}
    asked = asyncio.Queue()
    asked.put_nowait({"type": "http.request", "body": body.encode(), "more_body": False})

    async def send(message):
        sent.append(message)

    await application(scope, asked.get, send)
    return [sent[0]["status"], b"".join(each.get("body", b"") for each in sent).decode()]

async def main():
    return [await call(*request) for request in json.load(sys.stdin)]

json.dump(asyncio.run(main()), sys.stdout)
"""


def call(
    scenario: Scenario, address: tuple[str, int], url: str, *requests: tuple[str, ...]
) -> list[tuple[int, Any]]:
    """The statuses and bodies that a cell answers to `requests`."""
    orders = {**scenarios.orders(scenario, 4, address), "block": 0.1}
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


@pytest.mark.parametrize(
    "name",
    [
        "own-aio-pika-django",
        "hbshim-auto-aio-pika-uvicorn-tls",
        "hbshim-auto-pika-asyncio-uvicorn",
        "hbshim-auto-pika-tornado-uvicorn",
        "hbshim-auto-celery-uvicorn",
    ],
)
def test_a_cell_opens_publishes_and_reports(broker: Broker, name: str) -> None:
    scenario = BY_NAME[name]
    body, port = "", broker.amqp_port
    if scenario.deployment.tls:
        assert broker.tls_port is not None
        assert broker.ca_pem is not None
        body, port = broker.ca_pem, broker.tls_port

    with pika.BlockingConnection(pika.URLParameters(broker.amqp_url())) as connection:
        # With an argument, so that a cell that declares it fails.
        arguments = {"x-expires": 600_000}
        connection.channel().queue_declare(queue_of(scenario), arguments=arguments)
    answers = call(
        scenario,
        (broker.host, port),
        broker.amqp_url(),
        ("GET", "/-/alive"),
        ("POST", "/open", "", body),
        ("POST", "/publish", "count=3"),
        ("GET", "/report"),
        ("GET", "/"),
    )

    assert [status for status, _ in answers] == [204, 200, 200, 200, 404], answers
    opened, published, report = (json.loads(body) for _, body in answers[1:4])
    assert opened["ended"] + 0.1 <= published["began"]
    assert published["accepted"] == 3
    assert arrived(broker, scenario) == {f"{name}/{number}" for number in range(3)}
    assert set(report["probes"]) == {"green", "native"}
    if scenario.is_control:
        assert report["shim"] is None
    else:
        (link,) = report["shim"]["links"]
        route = "tls" if scenario.deployment.tls else "plain"
        assert (link["state"], link["route"]) == ("alive", route)


def arrived(broker: Broker, scenario: Scenario) -> set[str]:
    """The cell's messages in its queue, which is deleted."""
    found: set[str] = set()
    with pika.BlockingConnection(pika.URLParameters(broker.amqp_url())) as connection:
        channel, queue = connection.channel(), queue_of(scenario)
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.update(re.findall(r"[\w-]+/\d+", got[2].decode()))
        channel.queue_delete(queue)
    return found


def test_a_broker_that_cannot_be_reached_is_a_failed_request_without_the_password() -> None:
    url = "amqp://user:pa55word@nowhere/"

    answers = call(
        BY_NAME["own-aio-pika-uvicorn"],
        ("127.0.0.1", 9),
        url,
        ("POST", "/open"),
        ("POST", "/publish", "count=1"),
    )

    assert [status for status, _ in answers] == [500, 500]
    assert "pa55word" not in json.dumps(answers)
