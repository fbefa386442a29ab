"""The doctor at a real RabbitMQ: plain and TLS, both clients, and what users get wrong."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbshim.doctor import examine
from hbshim.heartbeat import service
from tests.brokers import virtual_host
from tests.doctor.commands import Said, doctor, doctors, in_turn
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

CLIENTS = ("amqp", "pika")
WRONG = "not-the-password"
SEEN = ("connection", "heartbeat-out", "heartbeat-in")


@pytest.fixture(scope="module")
def ca(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    assert broker.ca_pem
    path.write_text(broker.ca_pem)
    return str(path)


@pytest.fixture(scope="module")
def tls_url(broker: Broker) -> str:
    return f"amqps://{broker.user}:{broker.password}@localhost:{broker.tls_port}/"


@pytest.fixture(scope="module")
def own_vhost(broker: Broker) -> Iterator[str]:
    """Tells these visits from those of tests in other processes."""
    with virtual_host(broker, "doctor") as name:
        yield name


@pytest.fixture(scope="module")
def visits(broker: Broker, ca: str, tls_url: str, own_vhost: str) -> dict[tuple[str, str], Said]:
    """Both clients at both listeners, side by side."""
    calls: dict[tuple[str, str], tuple[str, ...]] = {}
    for client in CLIENTS:
        common = ("--client", client, "--heartbeat", "2", "--timeout", "60", "--json")
        plain = broker.amqp_url(vhost=own_vhost, heartbeat=60)
        calls[client, "plain"] = ("--url", plain, *common)
        tls = f"{tls_url}{own_vhost}?heartbeat=60"
        calls[client, "tls"] = ("--url", tls, "--ca", ca, *common)
    return doctors(calls)


@pytest.mark.parametrize("route", ["plain", "tls"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_heartbeat_is_seen_in_each_direction(
    visits: dict[tuple[str, str], Said], broker: Broker, client: str, route: str
) -> None:
    said = visits[client, route]
    assert not said.err
    report = json.loads(said.out)
    findings = {found["check"]: found for found in report["findings"]}
    assert {check: findings[check]["verdict"] for check in SEEN} == dict.fromkeys(SEEN, "ok")
    sentence = findings["connection"]["sentence"]
    assert f"connected to RabbitMQ {broker.management.overview()['rabbitmq_version']}" in sentence
    assert f"({route})" in sentence
    assert "the doctor asked for 2, the broker suggests 4" in sentence
    # With py-amqp the URL's 60 s and this broker's 4 s make 4, and 4 s is short: a warning, the
    # only one. pika keeps to the URL's 60 s.
    expected = ["heartbeat"] if client == "amqp" else []
    bad = [name for name, found in findings.items() if found["verdict"] in ("warning", "problem")]
    assert bad == expected
    assert (said.status, report["exit_status"]) == (len(expected), len(expected))
    assert broker.password not in said.out


def test_nothing_of_it_stays_at_the_broker(
    visits: dict[tuple[str, str], Said], broker: Broker, own_vhost: str
) -> None:
    def left() -> list[str]:
        connections = broker.management.connections()
        return [found["name"] for found in connections if found["vhost"] == own_vhost]

    # The broker's figures come late.
    wait_until(lambda: not left())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_of_it_stays_in_the_process(broker: Broker, client: str) -> None:
    def visit(url: str) -> str:
        report = examine(url, client=client, heartbeat=1, timeout=60)
        return report.finding("connection").verdict

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    wrong = f"amqp://{broker.user}:{WRONG}@{broker.host}:{broker.amqp_port}/"
    assert visit(broker.amqp_url()) == "ok"  # the heartbeat's thread stays, once
    before, links = held(), service.current().links()
    for _ in range(2):
        assert visit(broker.amqp_url()) == "ok"
        assert visit(wrong) == "problem"
    # The thread that would have cut off ends in its own time.
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
    # Tests that ran in this process before may have left links.
    assert set(service.current().links()) <= set(links)


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port that refuses connections, and that no other process gets: bound, not listening."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


def mistakes(
    broker: Broker, ca: str, tls_url: str, nowhere: int, tmp_path: Path
) -> dict[str, tuple[str, ...]]:
    host, port = broker.host, broker.amqp_port
    login = f"{broker.user}:{broker.password}"
    good = broker.amqp_url()
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("no certificate")
    management = broker.management_url
    return {
        "nothing listens there": ("--url", f"amqp://{login}@127.0.0.1:{nowhere}/"),
        "cannot be resolved": ("--url", f"amqp://{login}@broker.invalid/"),
        "refuses the login": ("--url", f"amqp://{broker.user}:{WRONG}@{host}:{port}/"),
        "refuses virtual host 'nope'": ("--url", f"amqp://{login}@{host}:{port}/nope"),
        "authority not trusted here": ("--url", tls_url),
        "cannot be used": ("--url", tls_url, "--ca", str(tmp_path / "none.pem")),
        "holds no PEM certificate": ("--url", tls_url, "--ca", str(no_pem)),
        "it speaks TLS": ("--url", tls_url.replace("amqps:", "amqp:")),
        "does not speak TLS": ("--url", good.replace("amqp:", "amqps:"), "--ca", ca),
        "is malformed": ("--url", f"amqp://user:{WRONG}/x@host/"),
        "several brokers": ("--url", f"{good};{good}"),
        "takes no arguments": (good,),
        "belong to a broker": ("--management", management),
        "longer than the timeout": ("--url", good, "--heartbeat", "60"),
        "heartbeat=... in the URL": ("--url", f"{good}?heartbeat=soon"),
        "worker='fiber' is not valid": ("--url", f"{good}?hbshim_worker=fiber"),
        "Connection refused": ("--url", good, "--management", f"http://127.0.0.1:{nowhere}"),
        "it refuses user 'nobody'": (
            "--url",
            good,
            "--management",
            management.replace("://", f"://nobody:{WRONG}@"),
        ),
    }


def test_each_mistake_gets_one_clear_line(
    broker: Broker, ca: str, tls_url: str, nowhere: int, tmp_path: Path
) -> None:
    calls = {
        (client, text): ("--client", client, "--timeout", "30", *argv)
        for text, argv in mistakes(broker, ca, tls_url, nowhere, tmp_path).items()
        for client in CLIENTS
    }
    for (client, text), said in in_turn(calls).items():
        assert said.status == 2, (client, text, said)
        assert len(said.err.strip().splitlines()) == 1, said.err
        assert said.err.startswith("hbshim: ")
        assert text in said.err
        for secret in (broker.password, WRONG):
            assert secret not in said.out + said.err


def test_the_url_may_come_from_the_environment(broker: Broker) -> None:
    url = broker.amqp_url(vhost="nope")
    said = doctor(HBSHIM_BROKER_URL=url)
    assert said.status == 2
    assert "refuses virtual host 'nope'" in said.err


def test_queues_that_rabbitmq_refuses_are_named(broker: Broker, vhost: str) -> None:
    import amqp

    address = f"{broker.host}:{broker.amqp_port}"
    login = (broker.user, broker.password)
    with amqp.Connection(address, *login, virtual_host=vhost) as connection:
        channel = connection.channel()
        channel.queue_declare("doctor-transient", durable=False, exclusive=False, auto_delete=False)
        channel.queue_declare("doctor-exclusive", durable=False, exclusive=True)
        try:
            common = ("--url", broker.amqp_url(vhost=vhost), "--timeout", "60", "--json")
            said = doctor(*common, "--management", broker.management_url)
        finally:
            channel.queue_delete("doctor-transient")
    (found,) = (it for it in json.loads(said.out)["findings"] if it["check"] == "queue-kinds")
    assert found["verdict"] == "warning"
    assert "doctor-transient" in found["sentence"]
    assert "doctor-exclusive" not in found["sentence"]
    assert "x-expires" in found["remedy"]


def test_the_table_fits_eighty_columns(broker: Broker) -> None:
    said = doctor("--url", broker.amqp_url(heartbeat=60), "--all", "--heartbeat", "1")
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "-> " in said.out
    assert "checks: " in lines[-1]
