"""A write of proton that an exception interrupts anywhere inside of hbshim."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from hbshim.adapters.proton.frames import SentFrames
from hbshim.adapters.proton.io import guarded_send, link_beneath
from hbshim.amqp1.idle import IdleTimes
from hbshim.heartbeat.link import Link
from tests.concurrency import MODEL
from tests.interrupts import interrupt_everywhere

pytestmark = pytest.mark.skipif(MODEL != "native", reason="traces the lines of one thread")

#: A frame with a Flow, and one with a part of the next.
FLOW = bytes.fromhex("0000000c 02 00 0000 00 53 13 45")


class Stream:
    """One connection, in the state in which proton writes to it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.client = socket.create_connection(server.getsockname())
            self.peer, _ = server.accept()
        self.client.setblocking(False)
        self.peer.settimeout(5)
        self.frames = SentFrames()
        self.frames.synchronize()
        self.link: Link = link_beneath(
            self.client,
            IdleTimes(60.0, None),
            self.frames,
            on_orphaned=lambda: None,
            forked_error=ConnectionError,
        )
        self.send = guarded_send(self.link, self.frames, self.client.send)

    def received(self) -> bytes:
        """What the peer has received, until the end of the stream."""
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := self.peer.recv(65536):
                data += more
        return data

    def close(self) -> None:
        self.link.close()
        self.client.close()
        self.peer.close()


@pytest.fixture
def streams() -> Iterator[list[Stream]]:
    opened = [Stream()]
    yield opened
    for stream in opened:
        stream.close()


@pytest.mark.parametrize("data", [FLOW, FLOW + FLOW[:9]], ids=["whole", "a part"])
def test_a_write_interrupted_anywhere_has_sent_nothing_or_ends_the_stream(
    streams: list[Stream], data: bytes
) -> None:
    """proton has not noted what was sent, and would send it again."""
    ended = 0

    def check() -> None:
        nonlocal ended
        stream = streams[-1]
        if stream.link.guard.torn:
            ended += 1
            # Nothing may follow.
            with pytest.raises(OSError):
                stream.send(FLOW)
            assert stream.received() in (b"", data)
        else:
            assert not stream.link.guard.writers.occupied
            assert not stream.frames.may_not_follow
            assert stream.received() == b""
        streams.append(Stream())

    interrupts = interrupt_everywhere(lambda: streams[-1].send(data), check)
    assert interrupts > 10
    assert 0 < ended < interrupts
