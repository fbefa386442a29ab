"""Every ZeroMQ socket of hbshim: its type, each of its options, and the reason for it.

docs/zmq.md has the measurements behind the rules.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import zmq

from hbshim.errors import OptionError, UnsupportedVersionError
from hbshim.messaging.zmq.frames import PART_LIMIT
from hbshim.messaging.zmq.settings import SocketSettings

#: Older ones have faults that a peer can use (CVE-2021-20234 to 20237).
OLDEST_LIBZMQ = (4, 3, 4)

#: Seconds, the longest heartbeat interval on a local socket. A process that died while a forked
#: child of it holds its connections is noticed by this.
LOCAL_HEARTBEAT = 3

#: Seconds, the longest pause before a local socket connects again: an attempt costs little there,
#: and a proxy that was restarted has to know its servers soon.
LOCAL_RECONNECT = 0.25

#: The same of other sockets.
RECONNECT = 1.0

#: Milliseconds that a handshake may take; and in which a peer answers the first packet.
HANDSHAKE_WITHIN, CONNECT_WITHIN = 5000, 2000

Role: TypeAlias = Literal[
    "client-call",
    "proxy-call",
    "proxy-servers",
    "server-call",
    "client-cast",
    "proxy-cast",
    "client-publish",
    "proxy-publishers",
    "proxy-subscribers",
    "server-subscribe",
    "proxy-control",
    "control",
]

#: The type of each socket, and whether it binds.
ROLES: dict[Role, tuple[int, bool]] = {
    "client-call": (zmq.ROUTER, False),
    "proxy-call": (zmq.ROUTER, True),
    "proxy-servers": (zmq.ROUTER, True),
    "server-call": (zmq.DEALER, False),
    # One for each host: a PUSH with several connections distributes messages itself.
    "client-cast": (zmq.PUSH, False),
    "proxy-cast": (zmq.PULL, True),
    # XPUB at both ends of a publication: what is subscribed arrives as a message.
    "client-publish": (zmq.XPUB, False),
    "proxy-publishers": (zmq.XSUB, True),
    "proxy-subscribers": (zmq.XPUB, True),
    "server-subscribe": (zmq.SUB, False),
    # A question has two frames, of a REQ. No connection is replaced: the names of its peers are
    # given by the router.
    # No REP: its next answer is lost after a message that it cannot read, of a peer that is gone.
    "proxy-control": (zmq.ROUTER, True),
    "control": (zmq.REQ, False),
}

#: Of the proxy's question whether a client's key is allowed. Not empty: it has to be answered.
ZAP_DOMAIN = b"hbshim"

#: Sockets within a host.
LOCAL: frozenset[Role] = frozenset(
    (
        "proxy-servers",
        "server-call",
        "proxy-subscribers",
        "server-subscribe",
        "proxy-control",
        "control",
    )
)


def options_of(role: Role, settings: SocketSettings) -> dict[int, int]:
    """Return the options of a socket: the table of docs/zmq.md."""
    kind, binds = ROLES[role]
    options: dict[int, int] = {
        # Heartbeats and a full receive queue abort the process (libzmq issue 3937). What bounds
        # memory instead: credit, and the limit of the outbox.
        zmq.RCVHWM: 0,
        # Finite: without a limit nothing would ever report that a peer does not keep up.
        zmq.SNDHWM: 1000,
        # Else a message to a host that is down waits in a queue, and its sender learns nothing.
        zmq.IMMEDIATE: 1,
        # A closed socket must not wait for ever for a peer that is gone.
        zmq.LINGER: int(settings.linger * 1000),
        # Of each frame; a subscription and a header are shorter than the allowance.
        zmq.MAXMSGSIZE: PART_LIMIT + 4096,
        zmq.IPV6: 1,
        # The pauses before a new connection to a peer that was restarted grow.
        zmq.RECONNECT_IVL: 50,
        zmq.RECONNECT_IVL_MAX: int(1000 * (LOCAL_RECONNECT if role in LOCAL else RECONNECT)),
    }
    interval = settings.heartbeat_interval
    if role in LOCAL:
        interval = min(interval, LOCAL_HEARTBEAT)
    if interval:
        # The TTL overflows above 65 s, so T is 32 s at most.
        options[zmq.HEARTBEAT_IVL] = interval * 500
        options[zmq.HEARTBEAT_TIMEOUT] = interval * 1000
        options[zmq.HEARTBEAT_TTL] = interval * 2000
    if kind == zmq.ROUTER:
        # A message to a peer that is not connected is an error, and not dropped silently.
        options[zmq.ROUTER_MANDATORY] = 1
        # A peer that reconnects replaces its old connection, which may not be noticed yet.
        options[zmq.ROUTER_HANDOVER] = 1
    if kind == zmq.XPUB:
        # Of messages that wait for one subscriber.
        options[zmq.SNDHWM] = settings.fanout_hwm
    if kind in (zmq.SUB, zmq.XSUB):
        # Of subscriptions: those beyond it are dropped without a word (libzmq issue 2258).
        options[zmq.SNDHWM] = 0
    if role == "client-publish":
        # A subscriber that does not keep up is an error at the sender, once, and not silence.
        options[zmq.XPUB_NODROP] = 1
    if role in ("client-call", "proxy-servers"):
        # The peer notices each new connection, and identifies itself.
        options[zmq.PROBE_ROUTER] = 1
    # A connection whose peer sends nothing is given up, and made again: heartbeats begin with the
    # end of the handshake. By itself a client would wait for 30 s, and the pauses in which the
    # kernel repeats its first packet double.
    options[zmq.HANDSHAKE_IVL] = HANDSHAKE_WITHIN
    if not binds:
        options[zmq.CONNECT_TIMEOUT] = CONNECT_WITHIN
    if role not in LOCAL:
        on, idle, count, between = settings.keepalive
        options[zmq.TCP_KEEPALIVE] = on
        if on:
            options[zmq.TCP_KEEPALIVE_IDLE] = idle
            options[zmq.TCP_KEEPALIVE_CNT] = count
            options[zmq.TCP_KEEPALIVE_INTVL] = between
    return options


def make(
    context: zmq.Context[zmq.Socket[bytes]],
    role: Role,
    settings: SocketSettings,
    routing_id: bytes | None = None,
) -> zmq.Socket[bytes]:
    """Return a socket with its options; it is neither bound nor connected."""
    made = context.socket(ROLES[role][0])
    for option, value in options_of(role, settings).items():
        made.set(option, value)
    if routing_id is not None:
        made.set(zmq.ROUTING_ID, routing_id)
    if settings.secret_key is not None and role not in LOCAL:
        made.set(zmq.CURVE_SECRETKEY, settings.secret_key)
        if ROLES[role][1]:
            made.set(zmq.CURVE_SERVER, 1)
            made.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
            # Without an answer a client is refused, and not accepted.
            made.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        else:
            # The key of the proxy is set before each connection.
            made.set(zmq.CURVE_PUBLICKEY, public_key(settings.secret_key))
    return made


def public_key(secret_key: bytes) -> bytes:
    """Return the public key that belongs to a secret one."""
    return zmq.curve_public(secret_key)


def check_library(*, curve: bool) -> None:
    """Refuse a ZeroMQ library that is too old, or has no CURVE where that is on.

    Raises:
        UnsupportedVersionError: it is too old.
        OptionError: it has no CURVE.
    """
    found = zmq.zmq_version_info()
    if found < OLDEST_LIBZMQ:
        raise UnsupportedVersionError(
            "libzmq", ".".join(map(str, found)), "it has known security faults", ">=4.3.4"
        )
    if curve and not zmq.has("curve"):
        raise OptionError(
            "zmq_curve_secret_key_file turns CURVE on, and this libzmq has none; install pyzmq's "
            "wheel, or a libzmq that was built with libsodium"
        )
