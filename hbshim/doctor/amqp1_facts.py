"""What the doctor finds out about a peer of AMQP 1.0."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Amqp1Facts:
    """A peer of `hbamqp://`, and the connection to it that the doctor opened and observed.

    Attributes:
        scheme: of the URL.
        peer: host and port.
        error: why there is no connection, and the remedy; None if there was one.
        mechanisms: the SASL mechanisms that the peer offers; None if it did not get that far.
        login_methods: those that the driver may use, the best first.
        withheld: the peer offers no other than those that the driver does not use without TLS.
        encrypted: the connection is over TLS.
        product, version: as the peer names itself.
        profile: the profile that the driver selects by it.
        peer_idle: the idle-time-out that the peer advertises, in seconds; None if it advertises
            none.
        own_idle: the one that the driver advertises, in seconds; 0 for none.
        timeout: T of the driver's connections, in seconds; None if there are no heartbeats.
        asked: the idle-time-out that the doctor advertised instead, in seconds.
        route: how a heartbeat is sent, "plain" or "tls".
        worker: the heartbeat worker.
        watched: how long the connection was observed, in seconds.
        sent_after, received_after: seconds until the first heartbeat was sent, and arrived; None if
            none did.
        error_text: what ended or prevented the observation; "" if nothing did.
    """

    scheme: str
    peer: str
    error: tuple[str, str] | None = None
    mechanisms: tuple[str, ...] | None = None
    login_methods: tuple[str, ...] = ()
    withheld: bool = False
    encrypted: bool = False
    product: str = ""
    version: str = ""
    profile: str = ""
    peer_idle: float | None = None
    own_idle: int = 0
    timeout: float | None = None
    asked: int = 0
    route: str = "plain"
    worker: str = ""
    watched: float = 0.0
    sent_after: float | None = None
    received_after: float | None = None
    error_text: str = ""
