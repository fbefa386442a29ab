"""Connects to the ports of proxies, as a client does, and asks each for its identity.

It runs in a native thread, whatever is patched: sockets and waits are native.
"""

from __future__ import annotations

import time
import uuid
from _socket import getaddrinfo
from _socket import socket as NativeSocket  # noqa: N812
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from socket import SOCK_STREAM

from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.connector import Connector
from hbshim.messaging.zmq.curve import Curve
from hbshim.messaging.zmq.directory import PIPELINES, HostRecord, Pipeline
from hbshim.messaging.zmq.frames import Kind
from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.outcomes import Outcome
from hbshim.messaging.zmq.settings import SocketSettings
from hbshim.messaging.zmq.sockets import Role, make
from hbshim.metrics import Metrics

#: Seconds that the proxies of one batch of hosts may take.
ANSWER_WITHIN = 2.0

#: Hosts that are connected to at the same time, with four sockets for each.
AT_ONCE = 50

#: Hosts whose first port without an answer is tried once more, by TCP alone, to find out why; and
#: seconds for each.
_EXPLAINED, _TCP_WITHIN = 3, 0.5

_ROLES: dict[Pipeline, Role] = {
    "call": "client-call",
    "cast": "client-cast",
    "fanout": "client-publish",
    "notify": "client-publish",
}


@dataclass
class HostAnswer:
    """What came of the connections to one host.

    Attributes:
        record: of the host.
        answered: pipelines whose port answered.
        failures: why a port did not, by its address.
        host: the name that the proxy reports; "" if it reported none.
        incarnation: of the proxy; "" if it reported none.
    """

    record: HostRecord
    answered: set[Pipeline] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    host: str = ""
    incarnation: str = ""

    @property
    def complete(self) -> bool:
        """Whether every port has answered or failed, and the proxy has sent its identity."""
        known = len(self.answered) + len(self.failures) >= len(self.record.addresses)
        return known and (bool(self.host) or "call" not in self.answered)


def ask_hosts(
    records: Sequence[HostRecord], settings: SocketSettings, curve: Curve | None, until: float
) -> list[HostAnswer]:
    """Connect to every port of some hosts.

    Parameters:
        until: of ``time.monotonic()``; hosts that were not begun by then are left out.
    """
    secret_key = None if curve is None else curve.secret_key
    settings = replace(settings, linger=0.0, secret_key=secret_key)
    answers: list[HostAnswer] = []
    for first in range(0, len(records), AT_ONCE):
        if time.monotonic() >= until:
            break
        batch = [HostAnswer(record) for record in records[first : first + AT_ONCE]]
        _ask(batch, settings, curve, min(until, time.monotonic() + ANSWER_WITHIN))
        answers += batch
    _explain(answers, until)
    return answers


def _ask(
    batch: Sequence[HostAnswer], settings: SocketSettings, curve: Curve | None, until: float
) -> None:
    loop = Loop()
    try:
        for answer in batch:
            for pipeline in PIPELINES:
                if pipeline in answer.record.addresses:
                    _connect(loop, answer, pipeline, settings, curve)
        while not all(answer.complete for answer in batch):
            left = until - time.monotonic()
            if left <= 0:
                break
            loop.run_once(min(left, 0.1))
    finally:
        loop.end()


def _connect(
    loop: Loop,
    answer: HostAnswer,
    pipeline: Pipeline,
    settings: SocketSettings,
    curve: Curve | None,
) -> None:
    address = answer.record.addresses[pipeline]
    socket = make(loop.context, _ROLES[pipeline], settings, b"d" + uuid.uuid4().bytes)

    def refused(_address: str, outcome: Outcome) -> None:
        answer.failures[address] = outcome.value

    def connected() -> None:
        answer.answered.add(pipeline)
        answer.failures.pop(address, None)

    def read(message: list[bytes]) -> None:
        if pipeline == "call":
            _note(answer, message)

    loop.read(socket, read)
    keys = None if curve is None else curve.server_keys
    connector = Connector(loop, socket, pipeline, keys, Metrics(), refused, connected)
    if not connector.connect(answer.record):
        answer.failures[address] = "the address cannot be used"


def _note(answer: HostAnswer, message: list[bytes]) -> None:
    try:
        header = frames.decode(message[1])
    except (frames.FrameError, IndexError):
        return  # a probe, which has no header
    if header.kind in (Kind.HELLO, Kind.BYE):
        shown = "".join(each if each.isprintable() else "?" for each in header.server)
        answer.host, answer.incarnation = shown or "?", header.id.hex()


def _explain(answers: Iterable[HostAnswer], until: float) -> None:
    """Return why ports have not answered."""
    explained = 0
    for answer in answers:
        silent = [
            address
            for pipeline, address in answer.record.addresses.items()
            if pipeline not in answer.answered and address not in answer.failures
        ]
        answer.failures.update(dict.fromkeys(silent, "no answer"))
        if silent and explained < _EXPLAINED and time.monotonic() < until:
            explained += 1
            reason = _tcp_reason(silent[0])
            answer.failures[silent[0]] = reason or "something listens there, and is no proxy"


def _tcp_reason(address: str) -> str:
    """Return why a TCP connection cannot be made; "" if it can."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        found = getaddrinfo(host.strip("[]"), int(port), 0, SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
    except (OSError, ValueError, UnicodeError):
        return "the name of the host has no address"
    connection = NativeSocket(family, kind, protocol)
    try:
        connection.settimeout(_TCP_WITHIN)
        connection.connect(where)
    except OSError as error:
        return error.strerror or "no answer"
    finally:
        connection.close()
    return ""
