"""The options of the driver over AMQP 1.0: those of all drivers, of queues, and its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from hbshim.amqp1.connection import LARGEST_MAX_FRAME_SIZE, MAX_FRAME_SIZE
from hbshim.amqp1.frames import SMALLEST_MAX_FRAME_SIZE
from hbshim.amqp1.scram import HASHES
from hbshim.errors import OptionError
from hbshim.messaging.amqp.queue_options import QueueOptions
from hbshim.messaging.options import driver_option
from hbshim.options import boolean, int_range, non_negative_seconds, uint16


def _profile(value: object) -> str:
    text = str(value).strip().lower()
    if text not in ("auto", "rabbitmq", "router", "legacy"):
        raise ValueError
    return text


def _address_part(value: object) -> str:
    text = str(value).strip()
    if not text:
        raise ValueError
    return text


def _part(name: str, default: str, use: str) -> str:
    """Return the option of a part of addresses, as oslo.messaging's former driver had it."""
    doc = f"Part of the addresses {use}."
    return driver_option(name, default, _address_part, "text", doc)  # type: ignore[no-any-return]


#: Mechanisms of the login, the best first.
LOGIN_METHODS = ("EXTERNAL", *HASHES, "PLAIN", "ANONYMOUS")


def _login_method(value: object) -> str:
    names = str(value).upper().replace(",", " ").split()
    if not names or not set(names) <= set(LOGIN_METHODS):
        raise ValueError
    return " ".join(name for name in LOGIN_METHODS if name in names)


@dataclasses.dataclass(frozen=True)
class Amqp1Options(QueueOptions):
    """The options of the driver over AMQP 1.0. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """

    environment_prefix = "HBSHIM_AMQP1_"
    config_section = "hbshim_amqp1"
    #: Targets have one exchange for all uses; see :mod:`hbshim.messaging.amqp1.profiles`.
    one_exchange: ClassVar[bool] = False

    heartbeat_interval: int = driver_option(
        "heartbeat_interval",
        60,
        uint16,
        "whole seconds, 0 to 65535",
        "Longest time that the peer may let pass without sending anything (idle-time-out). It is "
        "taken for dead after twice as long. 0: a peer whose network is gone is noticed by TCP "
        "alone.",
    )
    max_frame_size: int = driver_option(
        "max_frame_size",
        MAX_FRAME_SIZE,
        int_range(SMALLEST_MAX_FRAME_SIZE, LARGEST_MAX_FRAME_SIZE),
        f"bytes, {SMALLEST_MAX_FRAME_SIZE} to {LARGEST_MAX_FRAME_SIZE}",
        "Size of a frame at most, in both directions. A larger one delays all others on its "
        "connection.",
    )
    login_method: str = driver_option(
        "login_method",
        f"{' '.join(HASHES)} PLAIN",
        _login_method,
        f"one or more of {', '.join(LOGIN_METHODS)}",
        "SASL mechanisms of the login; the first of this order that the peer offers is used. "
        "EXTERNAL takes the user from the client's TLS certificate; SCRAM proves the password "
        "without sending it.",
    )
    container_name: str = driver_option(
        "container_name",
        "hbshim",
        str,
        "text",
        "Name of the process at the peer (container-id); each connection has a suffix of its own.",
    )
    reply_prefetch_count: int = driver_option(
        "reply_prefetch_count",
        100,
        int_range(1, 65535),
        "1 to 65535",
        "Replies that a client may hold before it has read them.",
    )
    plain_without_tls: bool = driver_option(
        "plain_without_tls",
        False,
        boolean,
        "true | false",
        "Send the password (SASL PLAIN) also over a connection without TLS. To an address of "
        "this machine, it is sent in any case.",
    )
    cast_confirm: bool = driver_option(
        "cast_confirm",
        True,
        boolean,
        "true | false",
        "A cast returns when the peer has accepted it; otherwise as soon as it is written, and "
        "what becomes of it is not reported.",
    )
    reply_retry: float = driver_option(
        "reply_retry",
        3.0,
        non_negative_seconds,
        "seconds, 0 or more",
        "Longest time for which a server sends a reply again whose client cannot be reached, "
        "within the time that the client waits.",
    )

    addressing_profile: Literal["auto", "rabbitmq", "router", "legacy"] = driver_option(
        "addressing_profile",
        "auto",
        _profile,
        "auto | rabbitmq | router | legacy",
        "What the peer is, which decides on addresses and guarantees. auto: what the peer calls "
        "itself. legacy: a broker that takes addresses with dots, as oslo.messaging's former "
        "driver had them.",
    )
    pseudo_vhost: bool = driver_option(
        "pseudo_vhost",
        True,
        boolean,
        "true | false",
        "The virtual host is a part of each address; not over RabbitMQ.",
    )
    rpc_address_prefix: str = _part(
        "rpc_address_prefix",
        "openstack.org/om/rpc",
        "of calls, casts and fanouts, at their beginning",
    )
    notify_address_prefix: str = _part(
        "notify_address_prefix", "openstack.org/om/notify", "of notifications, at their beginning"
    )
    unicast_address: str = _part("unicast_address", "unicast", "to one server, after the prefix")
    multicast_address: str = _part(
        "multicast_address", "multicast", "to all servers of a topic, after the prefix"
    )
    anycast_address: str = _part(
        "anycast_address", "anycast", "to any server of a topic, after the prefix"
    )
    server_request_prefix: str = _part(
        "server_request_prefix", "exclusive", "to one server; legacy"
    )
    broadcast_prefix: str = _part(
        "broadcast_prefix", "broadcast", "to all servers of a topic; legacy"
    )
    group_request_prefix: str = _part(
        "group_request_prefix", "unicast", "to any server of a topic; legacy"
    )
    direct_notifications: bool = driver_option(
        "direct_notifications",
        False,
        boolean,
        "true | false",
        "Notify over a router, which stores nothing: a notification returns when a listener has "
        "handled it, and is an error without a listener.",
    )

    @property
    def login_methods(self) -> tuple[str, ...]:
        """The mechanisms of `login_method`, the best first."""
        return tuple(self.login_method.split())

    def _check(self) -> None:
        super()._check()
        if self.login_method == "EXTERNAL" and "certfile" not in (self.ssl_options or {}):
            raise OptionError(
                "login_method=EXTERNAL needs a client certificate; use hbamqps://, or ssl=true, "
                "and give ssl_options a certfile"
            )
