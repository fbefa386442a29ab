"""Whatever listens in place of a broker: one clear line, in time, and never the password."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hbshim.doctor import examine
from hbshim.doctor.findings import Report
from tests.doctor.commands import doctors
from tests.doctor.hostile import HALF_BROKERS, OPEN_OK, STRANGERS, TUNE, peer_that, sends
from tests.doctor.hostile import START as HANDSHAKE

PASSWORD = "only-for-tests"
CLIENTS = ("amqp", "pika")
#: Seconds; of which a stranger that sends nothing takes all.
TIMEOUT = 5.0
#: A peer that sends heartbeats is watched for 2 T, however long it may take.
LONG_TIMEOUT = 60.0
#: What proves that nothing hangs, with all that a busy machine may need on top.
HANGS = 180.0

#: These end by themselves, and are named whatever the machine does meanwhile.
ENDING = {"http", "other-version", "tls", "closing", "truncated"}

SAYS = {
    "silent": "no AMQP handshake was complete within 5 s",
    "stalled": "no AMQP handshake was complete within 5 s",
    "http": "it speaks HTTP",
    "other-version": "it speaks another version of AMQP",
    "tls": "it speaks TLS",
    "closing": "closed the connection with 320 (",
    "truncated": "it began an AMQP handshake and then broke it off",
}


def timeout_for(name: str) -> float:
    return LONG_TIMEOUT if name in ENDING or name in HALF_BROKERS else TIMEOUT


@pytest.fixture(scope="module")
def visits() -> dict[tuple[str, str], tuple[Report, float]]:
    """One doctor at each peer, with each client, side by side: report and seconds.

    Those with little time come last: beside the others, their connection itself may take it all.
    """
    with contextlib.ExitStack() as stack:

        def visit(
            behave: Callable[[socket.socket, threading.Event], None], client: str, timeout: float
        ) -> tuple[Report, float]:
            port = stack.enter_context(peer_that(behave))
            began = time.monotonic()
            report = examine(
                f"amqp://user:{PASSWORD}@127.0.0.1:{port}/",
                client=client,
                heartbeat=4,
                timeout=timeout,
            )
            return report, time.monotonic() - began

        pool = stack.enter_context(ThreadPoolExecutor(64))
        found = {}
        for timeout in (LONG_TIMEOUT, TIMEOUT):
            begun = {
                (name, client): pool.submit(visit, behave, client, timeout)
                for name, behave in {**STRANGERS, **HALF_BROKERS}.items()
                for client in CLIENTS
                if timeout_for(name) == timeout
            }
            found.update({key: each.result() for key, each in begun.items()})
        return found


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_named(
    visits: dict[tuple[str, str], tuple[Report, float]], name: str, client: str
) -> None:
    report, seconds = visits[name, client]
    assert report.exit_status == 2
    found = report.finding("connection")
    assert found.verdict == "problem"
    assert found.sentence.startswith("cannot connect to 127.0.0.1:")
    assert SAYS.get(name, "") in found.sentence
    assert found.sentence.isprintable()
    assert found.remedy
    assert PASSWORD not in str(report)
    assert seconds < HANGS


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", HALF_BROKERS)
def test_half_a_broker_is_seen_through(
    visits: dict[tuple[str, str], tuple[Report, float]], name: str, client: str
) -> None:
    report, seconds = visits[name, client]
    assert report.exit_status == 1  # T = 4 s is a warning
    assert report.finding("connection").verdict == "ok"
    expected = {
        "heartbeats": ("ok", "ok"),
        "no-heartbeats": ("ok", "problem"),
        "leaves": ("problem", "problem"),
        "rambles": ("ok", "problem"),
    }
    seen = tuple(report.finding(check).verdict for check in ("heartbeat-out", "heartbeat-in"))
    assert seen == expected[name], report
    assert seconds < HANGS


@pytest.mark.parametrize("name", ["silent", "garbage", "closing"])
def test_the_command_says_so_in_one_line(name: str) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(peer_that(STRANGERS[name]))
        url = f"amqp://user:{PASSWORD}@127.0.0.1:{port}/"
        calls = {it: ("--url", url, "--client", it, "--timeout", "4") for it in CLIENTS}
        for said in doctors(calls).values():
            assert said.status == 2
            (line,) = said.err.strip().splitlines()
            assert line.startswith(f"hbshim: cannot connect to 127.0.0.1:{port}: ")
            assert PASSWORD not in said.out + said.err
            # The report is there all the same.
            assert "worker" in said.out


@pytest.mark.parametrize("client", ["amqp", pytest.param("pika", marks=pytest.mark.extended)])
def test_a_mutilated_handshake_never_ends_in_a_traceback(client: str) -> None:
    rng = random.Random(4091)
    whole = HANDSHAKE + TUNE + OPEN_OK
    outcomes = []
    for _ in range(40):
        words = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.randrange(1, 6)):
            words[rng.randrange(len(words))] = rng.randrange(256)
        with peer_that(sends(bytes(words))) as port:
            report = examine(
                f"amqp://user:{PASSWORD}@127.0.0.1:{port}/", client=client, heartbeat=1, timeout=3
            )
        assert PASSWORD not in str(report)
        outcomes.append(report.finding("connection").verdict)
    # Mutilations that leave the handshake legal are let through; most do not.
    assert outcomes.count("problem") > 20
