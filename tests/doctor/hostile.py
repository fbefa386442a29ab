"""Peers that a doctor may meet in place of a broker: silent, broken, hostile, or half a broker."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

TEXT_WITH_PASSWORD = b"no \x1b[31mentry for only-for-tests"


def frame(kind: int, payload: bytes, channel: int = 0) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(class_id: int, method_id: int, arguments: bytes) -> bytes:
    return frame(1, struct.pack(">HH", class_id, method_id) + arguments)


def longstr(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def shortstr(text: bytes) -> bytes:
    return struct.pack(">B", len(text)) + text


#: AMQP 0-9-1: connection.start, connection.tune (T = 4 s), connection.open-ok.
START = method(10, 10, b"\x00\x09" + longstr(b"") + longstr(b"PLAIN") + longstr(b"en_US"))
TUNE = method(10, 30, struct.pack(">HIH", 10, 131072, 4))
OPEN = struct.pack(">HH", 10, 40)
OPEN_OK = method(10, 41, shortstr(b""))
CLOSE = method(10, 50, struct.pack(">H", 320) + shortstr(TEXT_WITH_PASSWORD) + b"\x00\x00\x00\x00")
HEARTBEAT = frame(8, b"")


def nothing(peer: socket.socket, over: threading.Event) -> None:
    over.wait()


def hangs_up(peer: socket.socket, over: threading.Event) -> None:
    return


#: What a peer does with a connection, until the event is set.
Behaviour: TypeAlias = Callable[[socket.socket, threading.Event], None]


def sends(words: bytes) -> Behaviour:
    def behave(peer: socket.socket, over: threading.Event) -> None:
        peer.sendall(words)

    return behave


def stalls_after(words: bytes) -> Behaviour:
    def behave(peer: socket.socket, over: threading.Event) -> None:
        peer.sendall(words)
        over.wait()

    return behave


def drips(peer: socket.socket, over: threading.Event) -> None:
    while not over.is_set():
        peer.sendall(b"\x01")
        time.sleep(0.05)


def floods(peer: socket.socket, over: threading.Event) -> None:
    peer.settimeout(2)  # a client that has gone leaves a closed window behind
    while not over.is_set():
        peer.sendall(HEARTBEAT * 1000)


def resets(peer: socket.socket, over: threading.Event) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


greets = stalls_after(b"SSH-2.0-OpenSSH_9.2p1\r\n")

#: They speak first.
FORWARD = {greets}

#: Each never lets a client in.
STRANGERS = {
    "silent": nothing,
    "hangs-up": hangs_up,
    "resets": resets,
    "truncated": sends(START[:20]),
    "stalled": stalls_after(START[:20]),
    "dripping": drips,
    "flooding": floods,
    "garbage": sends(os.urandom(200)),
    "huge-frame": stalls_after(b"\x01\x00\x00\x7f\xff\xff\xff"),
    "ssh": greets,
    "http": sends(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"),
    "other-version": sends(b"AMQP\x00\x01\x00\x00"),
    "tls": sends(b"\x15\x03\x01\x00\x02\x02\x46"),
    "closing": stalls_after(START + CLOSE),
    "silent-after-start": stalls_after(START),
}


def opens(
    then: Behaviour,
) -> Behaviour:
    """A broker until the connection is open; `then` is what it does from there."""

    def behave(peer: socket.socket, over: threading.Event) -> None:
        peer.sendall(START + TUNE)
        heard = b""
        while OPEN not in heard:
            heard += peer.recv(4096) or OPEN
        peer.sendall(OPEN_OK)
        then(peer, over)

    return behave


def heartbeats(peer: socket.socket, over: threading.Event) -> None:
    while not over.wait(0.2):
        peer.sendall(HEARTBEAT)


def leaves(peer: socket.socket, over: threading.Event) -> None:
    over.wait(0.2)


#: Each lets a client in; but for the first, it spoils what follows. None sends Connection.Close.
HALF_BROKERS = {
    "heartbeats": opens(heartbeats),
    "no-heartbeats": opens(nothing),
    "leaves": opens(leaves),
    "rambles": opens(stalls_after(b"\x01\x00\x00\x00\x00\x00\x04junk\xce" * 50)),
}


@contextlib.contextmanager
def peer_that(behave: Behaviour) -> Iterator[int]:
    """A listening peer; yields its port."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            # A broker lets the client speak first. On loopback, py-amqp cannot even set
            # its socket up when bytes are there earlier: it reads TCP_MAXSEG and sets
            # what it read, which Linux has raised above what may be set by then.
            if behave not in FORWARD:
                peer.recv(8)
            behave(peer, over)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        over.set()
        # `close` alone leaves the thread in `accept`.
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
