"""What a peer answers to the protocol header of AMQP 1.0, before anybody logs in."""

from __future__ import annotations

import contextlib
import select
from typing import Any

from hbshim.amqp1.composites import decode_composite
from hbshim.amqp1.errors import ProtocolError
from hbshim.amqp1.frames import (
    AMQP_HEADER,
    PROTOCOL_HEADER,
    SASL_HEADER,
    SMALLEST_MAX_FRAME_SIZE,
    FrameSplitter,
)
from hbshim.amqp1.performatives import SaslMechanisms
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.failures import Failure
from hbshim.doctor.target import Target

_REMEDY = "see that host and port are those of RabbitMQ 4 or of a router (usually 5672, TLS 5671)"
_CHUNK = 4096


def mechanisms_of(sock: Any, target: Target, deadline: Deadline) -> tuple[str, ...] | Failure:
    """Return the SASL mechanisms that a peer offers; or why it cannot be talked to.

    Parameters:
        sock: connected, non-blocking; nothing was sent yet. It is not closed.
    """
    heard = b""
    try:
        sock.send(SASL_HEADER)
        splitter = FrameSplitter(SMALLEST_MAX_FRAME_SIZE, expects_header=True)
        while data := _receive(sock, deadline):
            heard += data
            for frame in splitter.split(data):
                if frame.type == PROTOCOL_HEADER and bytes(frame.body) != SASL_HEADER:
                    return _refused(heard, target)
                if frame.type != PROTOCOL_HEADER:
                    return _offered(frame.body)
    except (OSError, ProtocolError):
        pass
    if not heard and not deadline.left:
        return Failure(
            f"it accepts connections, but sent nothing within {deadline.seconds:.3g} s",
            "see that it is not overloaded, and that it is the right port; or give more --timeout",
        )
    return _refused(heard, target)


def _receive(sock: Any, deadline: Deadline) -> bytes:
    # Green where the program is patched.
    while deadline.left and select.select([sock], [], [], deadline.left)[0]:
        with contextlib.suppress(BlockingIOError):
            try:
                data: bytes = sock.recv(_CHUNK)
            except OSError as error:
                # Over TLS a record may be incomplete.
                if type(error).__name__ != "SSLWantReadError":
                    raise
                continue
            return data
    return b""


def _offered(body: bytes) -> tuple[str, ...] | Failure:
    performative, _ = decode_composite(bytes(body))
    if isinstance(performative, SaslMechanisms):
        return tuple(map(str, performative.sasl_server_mechanisms))
    return Failure("it offers no SASL mechanisms, and sends something else instead", _REMEDY)


def _refused(heard: bytes, target: Target) -> Failure:
    if heard.startswith(SASL_HEADER):
        return Failure(
            "it began a handshake of AMQP 1.0 and then broke it off, or sent what is no frame",
            "check its log, and whether a proxy is in between",
        )
    if heard.startswith(AMQP_HEADER):
        return Failure(
            "it speaks AMQP 1.0 without SASL, so no client can log in",
            "turn SASL on for its listener (a router: saslMechanisms; for a login without "
            "credentials login_method=ANONYMOUS)",
        )
    if heard.startswith(b"AMQP\x00\x00\x09"):
        return Failure(
            "it speaks AMQP 0-9-1, not 1.0",
            "use hbkombu:// or hbpika://; or RabbitMQ 4, or in RabbitMQ 3 the plugin "
            "rabbitmq_amqp1_0",
        )
    if heard.startswith(b"AMQP"):
        return Failure("it speaks another version of AMQP", _REMEDY)
    if heard.startswith(b"\x15\x03"):
        return Failure("it speaks TLS", "write hbamqps:// in the URL")
    if heard.startswith(b"HTTP/"):
        return Failure("it speaks HTTP", _REMEDY + "; 15672 is RabbitMQ's management API")
    if not heard:
        return Failure(
            "it closed the connection without sending anything", _REMEDY + ", and check its log"
        )
    return Failure(f"it speaks something else, which begins {target.clean(heard)!r}", _REMEDY)
