"""The doctor at peers of AMQP 1.0: RabbitMQ 4, and what users name instead."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from hbshim.doctor import checks_heartbeat, examine
from hbshim.doctor.amqp1_facts import Amqp1Facts
from hbshim.doctor.checks_amqp1 import CHECKS
from hbshim.doctor.context import Context
from hbshim.doctor.findings import Report, finding_of
from hbshim.errors import OptionError
from hbshim.heartbeat import service
from hbshim.runtime.detect import detect
from tests.doctor.commands import doctor
from wsgi_harness.stack.broker import Broker

NAMES = tuple(check.name for check in CHECKS)
WRONG = "not-the-password"


def url_of(broker: Broker, *, password: str = "", vhost: str = "", secure: bool = False) -> str:
    scheme, port = ("hbamqps", broker.tls_port) if secure else ("hbamqp", broker.amqp_port)
    login = f"{broker.user}:{password or broker.password}"
    return f"{scheme}://{login}@localhost:{port}/{vhost}"


def verdicts(report: Report) -> dict[str, str]:
    return {name: report.finding(name).verdict for name in NAMES}


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_heartbeat_is_seen_in_each_direction(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, secure: bool
) -> None:
    # Connections of other tests in this process would count as the program's.
    monkeypatch.setattr(service, "existing", lambda: None)
    authority = tmp_path / "ca.pem"
    authority.write_text(broker.ca_pem or "")
    report = examine(
        url_of(broker, secure=secure),
        ca=str(authority) if secure else None,
        heartbeat=2,
        timeout=60,
        idle_limit=30,
    )
    expected = dict.fromkeys(NAMES, "ok") | ({} if secure else {"amqp1-sasl": "warning"})
    assert verdicts(report) == expected
    version = broker.management.overview()["rabbitmq_version"]
    assert f"connected to RabbitMQ {version}" in report.finding("amqp1-connection").sentence
    assert "'rabbitmq'" in report.finding("amqp1-connection").sentence
    assert "PLAIN" in report.finding("amqp1-sasl").sentence
    # Its heartbeat is 4 s, of which it advertises half.
    assert "an idle-time-out of 2 s" in report.finding("amqp1-idle-time").sentence
    assert report.finding("idle-limit").verdict == "ok"
    assert "stays below 30 s" in report.finding("idle-limit").sentence
    assert report.finding("connection").verdict == "not-applicable"
    assert not report.unreachable
    assert broker.password not in str(report.as_dict())


def test_the_command_ends_with_2_and_names_the_remedy(broker: Broker) -> None:
    said = doctor("--url", url_of(broker, password=WRONG), "--timeout", "30")
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert f"the login of user '{broker.user}' failed" in said.err
    assert "orrect user name and password" in said.err
    assert WRONG not in said.out + said.err


def test_a_virtual_host_that_does_not_exist(broker: Broker) -> None:
    report = examine(url_of(broker, vhost="nowhere"), timeout=30)
    finding = report.finding("amqp1-connection")
    assert (finding.verdict, report.exit_status) == ("problem", 2)
    assert "'nowhere'" in finding.sentence + finding.remedy
    # The mechanisms were offered all the same.
    assert report.finding("amqp1-sasl").verdict == "warning"


Answer = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], int]]:
    """Listen, and answer each connection; return the port."""
    servers: list[socket.socket] = []

    def serve(answer: Answer) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        threading.Thread(target=run, daemon=True).start()
        return int(server.getsockname()[1])

    yield serve
    for server in servers:
        server.close()


def sends(*words: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.recv(8)
        for word in words:
            connection.sendall(word)

    return answer


@pytest.mark.parametrize(
    ("answer", "sentence", "remedy"),
    [
        (sends(b"AMQP\x00\x00\x09\x01"), "it speaks AMQP 0-9-1, not 1.0", "use hbkombu"),
        (sends(b"AMQP\x00\x01\x00\x00"), "without SASL", "turn SASL on"),
        (sends(b"AMQP\x01\x01\x00\x0a"), "another version of AMQP", "host and port"),
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it speaks HTTP", "15672"),
        (sends(b"\x15\x03\x03\x00\x02\x02\x28"), "it speaks TLS", "hbamqps://"),
        (sends(b"220 mail ESMTP\r\n"), "it speaks something else, which begins '220 mail", "port"),
        (sends(), "it closed the connection without sending anything", "log"),
        (
            sends(b"AMQP\x03\x01\x00\x00", b"\x00\x00\x00\x10\x02\x01\x00\x00\xff\xff\xff\xff" * 2),
            "what is no frame",
            "proxy",
        ),
    ],
    ids=["0-9-1", "no-sasl", "version", "http", "tls", "mail", "silent", "malformed"],
)
def test_a_peer_that_speaks_something_else(
    serve: Callable[[Answer], int], answer: Answer, sentence: str, remedy: str
) -> None:
    report = examine(f"hbamqp://u:secret-word@127.0.0.1:{serve(answer)}/", timeout=10)
    finding = report.finding("amqp1-connection")
    assert finding.verdict == "problem"
    assert sentence in finding.sentence
    assert remedy in finding.remedy[:1].lower() + finding.remedy[1:]
    assert report.unreachable
    assert "secret-word" not in str(report.as_dict())


def test_a_peer_that_says_nothing_is_left_in_time(serve: Callable[[Answer], int]) -> None:
    leave = threading.Event()

    def keep_silent(_connection: socket.socket) -> None:
        leave.wait(60)

    port = serve(keep_silent)
    try:
        report = examine(f"hbamqp://127.0.0.1:{port}/", timeout=1, heartbeat=1)
    finally:
        leave.set()
    assert "sent nothing within 1 s" in report.finding("amqp1-connection").sentence


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    finding = examine(f"hbamqp://127.0.0.1:{port}/", timeout=10).finding("amqp1-connection")
    assert "nothing listens there" in finding.sentence


@pytest.mark.parametrize("trusted", [True, False], ids=["expired", "unknown"])
def test_a_certificate_that_cannot_be_used(
    serve: Callable[[Answer], int], tmp_path: Path, *, trusted: bool
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    ended = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=2)
    certificate = authority.issue_cert("localhost", not_after=ended if trusted else None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(8)

    path = tmp_path / "ca.pem"
    (authority if trusted else other).cert_pem.write_to_path(path)
    port = serve(answer)
    report = examine(f"hbamqps://u:p@localhost:{port}/", ca=str(path), timeout=20)
    finding = report.finding("amqp1-connection")
    assert ("is not valid today" if trusted else "not trusted here") in finding.sentence
    assert finding.remedy


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(OptionError, match="amqp://"):
        examine("hbamqp://localhost/", management="http://localhost:15672")
    with pytest.raises(OptionError, match="hbamqps://"):
        examine("hbamqp://localhost/", ca="ca.pem")


def context(**facts: Any) -> Context:
    return Context(runtime=detect(), idle_limit=20, amqp1=Amqp1Facts("hbamqp", "h:1", **facts))


@pytest.mark.parametrize(
    ("facts", "verdict", "sentence"),
    [
        ({"peer_idle": 30.0, "own_idle": 60, "timeout": 30.0}, "ok", "sent after 15 s"),
        ({"peer_idle": None, "own_idle": 60, "timeout": 60.0}, "ok", "sent after 30 s all the"),
        ({"peer_idle": None, "own_idle": 0, "timeout": None}, "warning", "no heartbeats"),
        ({"peer_idle": 30.0, "own_idle": 0, "timeout": 30.0}, "warning", "no dead one"),
    ],
)
def test_the_idle_times_are_judged(facts: dict[str, Any], verdict: str, sentence: str) -> None:
    (check,) = [check for check in CHECKS if check.name == "amqp1-idle-time"]
    finding = finding_of(check, context(**facts))
    assert finding.verdict == verdict
    assert sentence in finding.sentence


@pytest.mark.parametrize(
    ("peer_idle", "verdict", "remedy"),
    [(8.0, "ok", ""), (40.0, "problem", "idleTimeoutSeconds"), (None, "problem", "heartbeat=20")],
)
def test_a_firewall_is_compared_with_what_the_peer_advertises(
    peer_idle: float | None, verdict: str, remedy: str
) -> None:
    (check,) = [check for check in checks_heartbeat.CHECKS if check.name == "idle-limit"]
    facts = {"peer_idle": peer_idle, "own_idle": 60, "timeout": peer_idle or 60.0}
    finding = finding_of(check, context(**facts))
    assert finding.verdict == verdict
    assert remedy in finding.remedy


SCRAM = ("SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1")


@pytest.mark.parametrize(
    ("mechanisms", "facts", "verdict", "sentence"),
    [
        (("ANONYMOUS", "EXTERNAL"), {"login_methods": ("PLAIN",)}, "problem", "wants PLAIN"),
        ((), {"login_methods": SCRAM}, "problem", "offers none"),
        (("PLAIN",), {"login_methods": SCRAM, "withheld": True}, "problem", "no password in"),
        (("PLAIN", "SCRAM-SHA-1"), {"login_methods": (*SCRAM, "PLAIN")}, "ok", "uses SCRAM-SHA-1"),
        ((*SCRAM[::-1], "PLAIN"), {"login_methods": (*SCRAM, "PLAIN")}, "ok", f"uses {SCRAM[0]}."),
        (("PLAIN",), {"login_methods": (*SCRAM, "PLAIN")}, "warning", "PLAIN sends the password"),
        (("PLAIN",), {"login_methods": ("PLAIN",), "encrypted": True}, "ok", "uses PLAIN"),
        (None, {"login_methods": SCRAM}, "not-applicable", "did not offer any"),
    ],
)
def test_the_mechanisms_of_the_login(
    mechanisms: tuple[str, ...] | None, facts: dict[str, Any], verdict: str, sentence: str
) -> None:
    (check,) = [check for check in CHECKS if check.name == "amqp1-sasl"]
    finding = finding_of(check, context(mechanisms=mechanisms, **facts))
    assert finding.verdict == verdict
    assert sentence in finding.sentence
    assert bool(finding.remedy) == (verdict in ("problem", "warning"))
