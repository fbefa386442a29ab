"""Who may connect to a proxy: the answers to ZeroMQ's questions for each handshake with CURVE.

A question (ZAP, ZeroMQ RFC 27) has the public key of a client, which the client has proved to be
its own. Everything here runs in the thread of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import zmq
from zmq.utils import z85

from hbshim.errors import OptionError
from hbshim.messaging.zmq.keys import PublicKeys
from hbshim.messaging.zmq.loop import Loop, try_send

if TYPE_CHECKING:
    from hbshim.metrics import Metrics

#: The option that names who may connect, and its value for every client with a key pair.
OPTION, ANY = "zmq_curve_allowed_keys", "*"

#: Seconds between two checks for changed keys.
_REFRESH_EVERY = 1.0

#: Seconds between two events about clients that were refused.
_REPORT_EVERY = 5.0

#: Where ZeroMQ asks, and the version of its protocol.
_ADDRESS, _VERSION = "inproc://zeromq.zap.01", b"1.0"

#: Frames of a question about CURVE: version, request, domain, address, routing id, mechanism, key.
_FRAMES = 7


class Access:
    """See the module. It must be there before the proxy binds its ports.

    Parameters:
        allowed: names the keys of the clients: a file or a folder, or ``*``: any key.
        host: of the proxy, for events.
        on_revoked: called when a key is not allowed any more.

    Raises:
        OptionError: the keys cannot be read.
    """

    def __init__(
        self,
        loop: Loop,
        allowed: str,
        host: str,
        metrics: Metrics,
        on_revoked: Callable[[], None],
    ) -> None:
        self._keys = None if allowed == ANY else PublicKeys(OPTION, allowed)
        self._host = host
        self._metrics = metrics
        self._on_revoked = on_revoked
        self._names = self._by_key()
        self._latest = ""
        self._not_allowed = self._failed = 0
        self._socket = loop.context.socket(zmq.REP)
        self._socket.bind(_ADDRESS)
        self._loop = loop
        loop.read(self._socket, self._on_question)
        loop.every(_REFRESH_EVERY, self.refresh)
        loop.every(_REPORT_EVERY, self._report)

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Count the handshakes of a socket that fail before any question; call it before it binds.

        A client without a key pair ends like this, or one that expects the key of another proxy.
        """
        events = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._loop.monitor(socket, events, self._on_failure)

    def statistics(self) -> Mapping[str, float]:
        """Return its figures, by name."""
        counted = self._metrics.snapshot()
        figures = {
            name: float(counted.get(f"zmq_{name}", 0))
            for name in ("handshakes_not_allowed", "handshakes_failed")
        }
        return figures if self._keys is None else {**figures, "keys_allowed": len(self._names)}

    def _on_question(self, message: list[bytes]) -> None:
        request = message[1] if len(message) > 1 else b""
        name = self._name_of(message)
        if name is None:
            self._metrics.count("zmq_handshakes_not_allowed")
            self._not_allowed += 1
            answer = [b"400", b"this key is not allowed", b""]
        else:
            answer = [b"200", b"OK", name.encode()]
        # A socket of this type answers each question, or takes no other one.
        try_send(self._socket, [_VERSION, request, *answer, b""])

    def _name_of(self, message: list[bytes]) -> str | None:
        """Return the name of the client that a question is about; None: it may not connect."""
        if len(message) != _FRAMES or message[0] != _VERSION or message[5] != b"CURVE":
            return None
        key = z85.encode(message[6])
        name = "" if self._keys is None else self._names.get(key)
        if name is None:
            self._latest = f" (the latest: {key.decode()} from {_shown(message[3])})"
        return name

    def _on_failure(self, event: int, value: int, address: str) -> None:
        self._metrics.count("zmq_handshakes_failed")
        # A connection that was closed early may be that of a health check.
        self._failed += event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

    def _by_key(self) -> dict[bytes, str]:
        by_name = {} if self._keys is None else self._keys.by_name
        return {key: name for name, keys in by_name.items() for key in keys}

    def refresh(self) -> None:
        """Read the keys again if they have changed."""
        try:
            if self._keys is None or not self._keys.refresh():
                return
        except OptionError as error:
            detail = f"{error}; the keys that were read before stay allowed"
            self._metrics.record("zmq-key-file", self._host, detail)
            return
        before, self._names = self._names, self._by_key()
        if before.keys() - self._names.keys():
            self._on_revoked()

    def _report(self) -> None:
        """Record what was refused since the last time: anyone can have it happen often."""
        if self._not_allowed or self._failed:
            self._metrics.record(
                "zmq-clients-refused",
                self._host,
                f"{self._not_allowed} connections had a key that {OPTION} does not name"
                f"{self._latest}, and {self._failed} had no key pair or expected another key of "
                "this proxy",
            )
        self._latest = ""
        self._not_allowed = self._failed = 0


def _shown(address: bytes) -> str:
    """Return the IP address of a client; IPv4 as such, and not within IPv6."""
    return address.decode("ascii", "replace").removeprefix("::ffff:")
