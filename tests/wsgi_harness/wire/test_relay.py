"""The relay between two real TCP sockets, in a thread and as a program of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.wsgi_harness.wire.conftest import LIMIT, connected
from wsgi_harness.wire.frames import HEARTBEAT_FRAME as HEARTBEAT
from wsgi_harness.wire.relay import Relay

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


def body_frame(size: int) -> bytes:
    return struct.pack(">BHI", 3, 1, size) + os.urandom(size) + b"\xce"


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


def test_bytes_pass_unchanged_and_frames_are_counted(relay: Relay, listener: socket.socket) -> None:
    there = PROTOCOL_HEADER + HEARTBEAT + body_frame(300_000)
    back = body_frame(200_000) + HEARTBEAT
    with connected(relay.port, listener) as (client, broker):
        client.sendall(there)
        assert receive(broker, len(there)) == there
        broker.sendall(back)
        assert receive(client, len(back)) == back
    closed = relay.wait_for("closed")[0]
    assert (closed.frames, closed.byte_count) == (4, len(there) + len(back))
    assert [event.side for event in relay.seen("heartbeat")] == ["client", "server"]
    assert relay.errors == []


def test_heartbeats_are_events_with_a_time(relay: Relay, listener: socket.socket) -> None:
    before = time.time()
    with connected(relay.port, listener) as (client, _):
        client.sendall(HEARTBEAT)
        send_heartbeat = relay.wait_for("heartbeat", "client")[0]
    assert before <= send_heartbeat.at <= time.time()
    assert send_heartbeat.connection == 1


def test_a_torn_frame_is_an_error_and_passes_all_the_same(
    relay: Relay, listener: socket.socket
) -> None:
    torn = body_frame(100)[:50] + HEARTBEAT + body_frame(100)[50:]
    with connected(relay.port, listener) as (client, broker):
        client.sendall(torn)
        assert receive(broker, len(torn)) == torn
    relay.wait_for("closed")
    assert [event.kind for event in relay.errors] == ["malformed"]


def test_a_stream_that_ends_inside_a_frame_is_torn(relay: Relay, listener: socket.socket) -> None:
    with connected(relay.port, listener) as (client, broker):
        client.sendall(body_frame(100)[:50])
        assert len(receive(broker, 50)) == 50
    relay.wait_for("closed")
    assert [(event.kind, event.side) for event in relay.errors] == [("torn", "client")]


@pytest.mark.parametrize("first", ["client", "server"])
def test_fin_is_passed_on_behind_the_last_byte(
    relay: Relay, listener: socket.socket, first: str
) -> None:
    with connected(relay.port, listener) as (client, broker):
        one, other = (client, broker) if first == "client" else (broker, client)
        one.sendall(HEARTBEAT)
        one.shutdown(socket.SHUT_WR)
        assert receive(other, 100) == HEARTBEAT
        other.sendall(HEARTBEAT)
        other.close()
        assert receive(one, 100) == HEARTBEAT
    assert relay.wait_for("fin", first)
    assert relay.wait_for("closed")[0].side == first
    assert relay.seen("rst") == []


@pytest.mark.parametrize("first", ["client", "server"])
def test_rst_is_passed_on(relay: Relay, listener: socket.socket, first: str) -> None:
    with connected(relay.port, listener) as (client, broker):
        one, other = (client, broker) if first == "client" else (broker, client)
        assert relay.wait_for("opened")  # a reset before that is a broker out of reach
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
    assert relay.wait_for("rst", first)
    assert relay.wait_for("closed")[0].side == first


def test_rst_is_passed_on_though_the_other_side_reads_nothing(listener: socket.socket) -> None:
    with (
        Relay(*listener.getsockname(), receive_buffer=4096, send_buffer=4096) as relay,
        connected(relay.port, listener) as (client, broker),
    ):
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(8_000_000))  # until every buffer up to the broker is full
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert relay.wait_for("closed")[0].side == "client"
        assert relay.seen("rst", "client")
        with pytest.raises(ConnectionResetError):
            receive(broker, 16_000_000)


def test_deaf_holds_everything_back_until_resumed(relay: Relay, listener: socket.socket) -> None:
    with connected(relay.port, listener) as (client, broker):
        relay.deaf()
        client.sendall(HEARTBEAT)
        broker.settimeout(0.3)
        with pytest.raises(TimeoutError):
            broker.recv(1)
        assert relay.seen("heartbeat") == []
        relay.resume()
        broker.settimeout(LIMIT)
        assert receive(broker, 8) == HEARTBEAT


def test_deaf_closes_the_window(listener: socket.socket) -> None:
    with (
        Relay(*listener.getsockname(), receive_buffer=4096) as relay,
        connected(relay.port, listener) as (client, _),
    ):
        relay.deaf()
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(8_000_000))


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_deaf_sees_an_end_and_keeps_it_to_itself(
    relay: Relay, listener: socket.socket, swallow: bool, how: str
) -> None:
    with connected(relay.port, listener) as (client, broker):
        assert relay.wait_for("opened")
        relay.deaf(swallow=swallow)
        if how == "rst":
            broker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broker.close()
        assert relay.wait_for(how, "server")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        relay.resume()
        client.settimeout(LIMIT)
        with pytest.raises(ConnectionResetError) if how == "rst" else contextlib.nullcontext():
            assert client.recv(1) == b""


def test_swallowing_relay_reads_on_and_resets_when_resumed(
    relay: Relay, listener: socket.socket
) -> None:
    with connected(relay.port, listener) as (client, broker):
        relay.deaf(swallow=True)
        client.sendall(bytes(8_000_000))  # more than all buffers hold
        broker.settimeout(0.3)
        with pytest.raises(TimeoutError):
            broker.recv(1)
        relay.resume()
        broker.settimeout(LIMIT)
        with pytest.raises(ConnectionResetError):
            broker.recv(1)


def test_slow_limits_the_rate(relay: Relay, listener: socket.socket) -> None:
    relay.slow(100_000)
    with connected(relay.port, listener) as (client, broker):
        started = time.monotonic()
        client.sendall(bytes(50_000))
        assert len(receive(broker, 50_000)) == 50_000
    # The first slice leaves at once; what follows takes its time.
    assert time.monotonic() - started >= 0.4


def test_heartbeats_of_the_server_are_repeated_when_ordered(
    relay: Relay, listener: socket.socket
) -> None:
    body = body_frame(50)
    relay.repeat_heartbeats(9)
    with connected(relay.port, listener) as (client, broker):
        broker.sendall(HEARTBEAT + body)
        assert receive(client, 8 + len(body) + 72) == HEARTBEAT + body + HEARTBEAT * 9
        client.sendall(HEARTBEAT + body)
        assert receive(broker, 8 + len(body)) == HEARTBEAT + body
        client.shutdown(socket.SHUT_WR)
        assert receive(broker, 1) == b""
    # What the relay added is no event.
    assert len(relay.seen("heartbeat", "server")) == 1


def test_refuse_and_accept_again(relay: Relay, listener: socket.socket) -> None:
    port = relay.port
    with connected(port, listener) as (client, broker):
        relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), LIMIT)
        client.sendall(HEARTBEAT)
        assert receive(broker, 8) == HEARTBEAT
        relay.accept()
        with connected(port, listener) as (second, second_broker):
            second.sendall(HEARTBEAT)
            assert receive(second_broker, 8) == HEARTBEAT


@pytest.mark.parametrize("pause", [Relay.refuse, Relay.stop])
def test_nobody_gets_the_port_of_a_relay_that_refuses(
    relay: Relay, listener: socket.socket, pause: Callable[[Relay], None]
) -> None:
    pause(relay)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", relay.port))
    relay.accept()
    with connected(relay.port, listener) as (client, broker):
        client.sendall(HEARTBEAT)
        assert receive(broker, 8) == HEARTBEAT


def test_stop_resets_everything(relay: Relay, listener: socket.socket) -> None:
    with connected(relay.port, listener) as (client, broker):
        client.sendall(HEARTBEAT)
        assert receive(broker, 8) == HEARTBEAT
        relay.stop()
        for sock in (client, broker):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    assert relay.wait_for("closed")[0].side == "relay"


def test_an_unreachable_broker_resets_the_client(relay: Relay, listener: socket.socket) -> None:
    listener.close()
    with (
        pytest.raises(ConnectionResetError),  # by the connect already, or by the read
        socket.create_connection(("127.0.0.1", relay.port), LIMIT) as client,
    ):
        client.recv(1)
    assert relay.wait_for("unreachable")[0].detail == "ConnectionRefusedError"


def test_waiting_for_what_does_not_come_ends_and_reports_what_came(
    relay: Relay, listener: socket.socket
) -> None:
    with pytest.raises(TimeoutError, match=r"0 of 2 events 'heartbeat' from client .*: nothing$"):
        relay.wait_for("heartbeat", "client", count=2, limit=0.1)
    with connected(relay.port, listener) as (client, _):
        client.sendall(HEARTBEAT)
        relay.wait_for("heartbeat", "client")
        with pytest.raises(TimeoutError, match=r"1 of 2 .*: 1 opened, 1 heartbeat client$"):
            relay.wait_for("heartbeat", "client", count=2, limit=0.1)


def test_as_a_program_it_prints_the_events_of_each_cell(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    command = [sys.executable, "-m", "wsgi_harness.wire.relay", "--host", "127.0.0.1"]
    command += ["--target", f"{host}:{port}", "--listen", "kombu=0", "--listen", "pika=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ports = {}
        for _ in range(2):
            event = json.loads(process.stdout.readline())
            assert event["kind"] == "listening"
            ports[event["cell"]] = int(event["detail"])
        with connected(ports["pika"], listener) as (client, broker):
            client.sendall(HEARTBEAT)
            assert receive(broker, 8) == HEARTBEAT
            process.send_signal(signal.SIGTERM)
            events = [json.loads(line) for line in process.stdout]
        assert process.wait(LIMIT) == 0
    assert [event["kind"] for event in events] == ["opened", "heartbeat", "closed"]
    assert {event["cell"] for event in events} == {"pika"}
    assert events[1]["side"] == "client"
    assert events[2]["byte_count"] == 8


@pytest.mark.parametrize("wrong", [["--listen", "5672"], ["--target", "broker"]])
def test_as_a_program_it_says_what_an_argument_must_look_like(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "wsgi_harness.wire.relay", *wrong]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 2
    assert "is not NAME=PORT" in result.stderr or "is not HOST:PORT" in result.stderr
