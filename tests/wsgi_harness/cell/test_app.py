"""The cells' application, called as mod_wsgi calls it, each time in a fresh interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pika
import pytest
import trustme

from wsgi_harness.cell import answers
from wsgi_harness.matrix import scenarios
from wsgi_harness.matrix.scenarios import SCENARIOS, SCHEMES, Scenario, queue_of
from wsgi_harness.stack.broker import Broker

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

CALLS = """
import io, json, sys
from wsgi_harness.cell.app import application

def call(method, path, query="", body=""):
    sent = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body.encode())}
    body = b"".join(application(environ, lambda status, headers: sent.append(status)))
    return [sent[0], body.decode()]

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
    [
        "none-kombu",
        "native-drained-kombu-unpatched",
        "hbshim-auto-kombu",
        "hbshim-auto-pika",
        "hbshim-auto-kombu-gevent",
        "none-pika-tls",
        "hbshim-auto-kombu-tls",
        "hbshim-auto-pika-tls",
    ],
)
def test_a_cell_opens_publishes_and_reports(broker: Broker, name: str) -> None:
    scenario = BY_NAME[name]
    round_, port = list(ROUND), broker.amqp_port
    if scenario.deployment.tls:
        assert broker.tls_port is not None
        assert broker.ca_pem is not None
        round_[0], port = ("POST", "/open", "", broker.ca_pem), broker.tls_port

    answers = call(scenario, (broker.host, port), broker.amqp_url(), *round_)

    assert [status for status, _ in answers] == ["200 OK"] * 3
    opened, published, report = (json.loads(body) for _, body in answers)
    assert opened["began"] <= opened["ended"] <= published["began"]
    assert published["accepted"] == 3
    assert set(report["probes"]) == {"green", "native"}
    assert report["keepalive"]["error"] is None
    if scenario.is_control:
        assert report["shim"] is None
    else:
        assert report["shim"]["counters"]["links_watched"] == 1
        (link,) = report["shim"]["links"]
        assert (link["state"], link["route"]) == (
            "alive",
            "tls" if scenario.deployment.tls else "plain",
        )
        assert scenario.deployment.green in opened["versions"]


@pytest.fixture(scope="module")
def answering(broker: Broker) -> Iterator[None]:
    """The server of the cells with oslo.messaging."""
    argv = [sys.executable, "-W", "ignore", "-m", answers.__name__]
    server = subprocess.Popen(
        [*argv, f"{broker.host}:{broker.amqp_port}", *SCHEMES],
        env={**os.environ, "AMQP_URL": broker.amqp_url()},
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"{answers.SERVING}\n"
        yield
        server.kill()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("answering")
def test_a_cell_with_oslo_messaging_asks_notifies_and_reports(broker: Broker, scheme: str) -> None:
    scenario = BY_NAME[f"{'stock' if scheme == SCHEMES[0] else 'hbshim'}-{scheme}-oslo"]

    sent = call(scenario, (broker.host, broker.amqp_port), broker.amqp_url(), *ROUND)

    assert [status for status, _ in sent] == ["200 OK"] * 3, sent
    opened, published, report = (json.loads(body) for _, body in sent)
    assert opened["versions"]["oslo.messaging"].startswith("18.")
    assert published["accepted"] == 3
    queues = [queue["name"] for queue in broker.management.get("queues")]
    (queue,) = (name for name in queues if name.endswith(f"{queue_of(scenario)}.info"))
    assert told_in(broker, queue) == {f"{scenario.name}/{number}" for number in range(3)}
    if scenario.is_control:
        assert report["shim"] is None
    else:
        # One to send notifications, and one or two for CALLs and their answers.
        assert report["shim"]["counters"]["links_watched"] >= 2
        assert {link["state"] for link in report["shim"]["links"]} == {"alive"}


def told_in(broker: Broker, queue: str) -> set[str]:
    """Which cells' messages a queue holds; it is emptied."""
    found: set[str] = set()
    with pika.BlockingConnection(pika.URLParameters(broker.amqp_url())) as connection:
        channel = connection.channel()
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.update(re.findall(r"[\w-]+/\d+", got[2].decode()))
    return found


def test_a_driver_that_reaches_nobody_is_a_failed_request_without_the_password() -> None:
    url = "amqp://user:pa55word@nowhere/"

    ((status, body),) = call(BY_NAME["hbshim-hbpika-oslo"], ("127.0.0.1", 9), url, ROUND[0])

    assert status == "500 Internal Server Error"
    assert json.loads(body)["error"]["type"] in ("MessageDeliveryFailure", "MessagingTimeout")
    assert "pa55word" not in body


def test_a_broker_that_another_authority_vouches_for_is_refused(broker: Broker) -> None:
    assert broker.tls_port is not None
    foreign = trustme.CA().cert_pem.bytes().decode()

    for library in ("kombu", "pika"):
        ((status, body),) = call(
            BY_NAME[f"none-{library}-tls"],
            (broker.host, broker.tls_port),
            broker.amqp_url(),
            ("POST", "/open", "", foreign),
        )
        assert status == "500 Internal Server Error"
        assert "certificate" in body.lower()


def test_a_broker_that_cannot_be_reached_is_a_failed_request_without_the_password() -> None:
    url = "amqp://user:pa55word@nowhere/"

    answers = call(BY_NAME["none-pika"], ("127.0.0.1", 9), url, *ROUND[:2])

    assert [status for status, _ in answers] == ["500 Internal Server Error"] * 2
    assert json.loads(answers[0][1])["error"]["type"] == "AMQPConnectionError"
    assert json.loads(answers[1][1])["accepted"] == 0
    assert "pa55word" not in json.dumps(answers)


def test_another_path_is_not_found_and_the_answer_lists_the_paths() -> None:
    ((status, body),) = call(
        BY_NAME["none-kombu"], ("127.0.0.1", 9), "amqp://u:p@nowhere/", ("GET", "/")
    )

    assert status == "404 Not Found"
    assert "POST /open" in body


def test_queues_are_named_after_their_cells() -> None:
    assert len({queue_of(scenario) for scenario in SCENARIOS}) == len(SCENARIOS)
