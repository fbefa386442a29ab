"""Identifies the protocol of a peer from its answer to an AMQP protocol header."""

from __future__ import annotations

import contextlib
import socket

from hbshim.doctor.deadline import Deadline
from hbshim.doctor.failures import Failure
from hbshim.doctor.target import Target

#: AMQP 0-9-1 section 4.2.2, the protocol header.
GREETING = b"AMQP\x00\x00\x09\x01"
ENOUGH = 16

_REMEDY = "see that host and port are an AMQP 0-9-1 broker's"


def listen_to(address: str, port: int, deadline: Deadline) -> bytes:
    """Send the protocol header on a new connection, and return the beginning of the answer.

    The peer has answered, or closed, once before. So it may use all the time that is left.
    """
    heard = b""
    if not (left := deadline.left):  # 0 would make the socket non-blocking
        return heard
    # A reset after the first bytes does not matter: they have been received.
    with contextlib.suppress(OSError), socket.create_connection((address, port), left) as peer:
        peer.sendall(GREETING)
        while len(heard) < ENOUGH and (left := deadline.left) > 0:
            peer.settimeout(left)
            more = peer.recv(ENOUGH - len(heard))
            if not more:
                break
            heard += more
    return heard


def understand(heard: bytes, target: Target) -> Failure | None:
    """Return which protocol the first bytes belong to; None if there were none."""
    if not heard:
        return None
    if heard.startswith(b"\x15\x03"):
        return Failure("it speaks TLS", "write amqps:// in the URL")
    if heard.startswith(b"HTTP/"):
        return Failure("it speaks HTTP", _REMEDY + " (usually 5672; 15672 is its management API)")
    if heard.startswith(b"AMQP"):
        return Failure("it speaks another version of AMQP", _REMEDY)
    if heard.startswith(b"\x01\x00\x00"):
        return Failure(
            "it began an AMQP handshake and then broke it off, or sent what is no frame",
            "check the broker's log, and whether a proxy is in between",
        )
    return Failure(f"it speaks something else, which begins {target.clean(heard)!r}", _REMEDY)
