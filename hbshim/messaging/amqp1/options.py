"""The options of the driver over AMQP 1.0: those of all drivers, of queues, and its own."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hbshim.amqp1.connection import LARGEST_MAX_FRAME_SIZE, MAX_FRAME_SIZE
from hbshim.amqp1.frames import SMALLEST_MAX_FRAME_SIZE
from hbshim.errors import OptionError
from hbshim.messaging.amqp.queue_options import QueueOptions
from hbshim.messaging.options import driver_option
from hbshim.options import boolean, seconds, whole


def _profile(value: object) -> str:
    text = str(value).strip().lower()
    if text not in ("auto", "rabbitmq", "router"):
        raise ValueError
    return text


def _login_method(value: object) -> str:
    text = str(value).strip().upper()
    if text not in ("PLAIN", "EXTERNAL", "ANONYMOUS"):
        raise ValueError
    return text


@dataclasses.dataclass(frozen=True)
class Amqp1Options(QueueOptions):
    """The options of the driver over AMQP 1.0. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """

    environment_prefix = "HBSHIM_AMQP1_"
    config_section = "hbshim_amqp1"

    heartbeat_interval: int = driver_option(
        "heartbeat_interval",
        60,
        whole(0, 65535),
        "whole seconds, 0 to 65535",
        "Longest time that the peer may let pass without sending anything (idle-time-out). It is "
        "taken for dead after twice as long. 0: a peer whose network is gone is noticed by TCP "
        "alone.",
    )
    max_frame_size: int = driver_option(
        "max_frame_size",
        MAX_FRAME_SIZE,
        whole(SMALLEST_MAX_FRAME_SIZE, LARGEST_MAX_FRAME_SIZE),
        f"bytes, {SMALLEST_MAX_FRAME_SIZE} to {LARGEST_MAX_FRAME_SIZE}",
        "Size of a frame at most, in both directions. A larger one delays all others on its "
        "connection.",
    )
    login_method: Literal["PLAIN", "EXTERNAL", "ANONYMOUS"] = driver_option(
        "login_method",
        "PLAIN",
        _login_method,
        "PLAIN | EXTERNAL | ANONYMOUS",
        "SASL mechanism of the login. EXTERNAL takes the user from the client's TLS certificate.",
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
        whole(1, 65535),
        "1 to 65535",
        "Replies that a client may hold before it has read them.",
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
        seconds,
        "seconds, 0 or more",
        "Longest time for which a server sends a reply again whose client cannot be reached, "
        "within the time that the client waits.",
    )

    addressing_profile: Literal["auto", "rabbitmq", "router"] = driver_option(
        "addressing_profile",
        "auto",
        _profile,
        "auto | rabbitmq | router",
        "What the peer is, which decides on addresses and guarantees. auto: what the peer calls "
        "itself.",
    )
    direct_notifications: bool = driver_option(
        "direct_notifications",
        False,
        boolean,
        "true | false",
        "Notify over a router, which stores nothing: a notification returns when a listener has "
        "handled it, and is an error without a listener.",
    )

    def _check(self) -> None:
        super()._check()
        if self.login_method == "EXTERNAL" and "certfile" not in (self.ssl_options or {}):
            raise OptionError(
                "login_method=EXTERNAL needs a client certificate; use hbamqps://, or ssl=true, "
                "and give ssl_options a certfile"
            )
