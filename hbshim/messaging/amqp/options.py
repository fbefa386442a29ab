"""The options of the AMQP 0-9-1 drivers: those of all drivers, of queues, and AMQP's own."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hbshim.errors import OptionError
from hbshim.messaging.amqp.queue_options import QueueOptions
from hbshim.messaging.options import driver_option, optional, positive_seconds
from hbshim.options import int_range, non_negative_seconds, uint16


def _login_method(value: object) -> str:
    text = str(value).strip().upper()
    if text not in ("PLAIN", "AMQPLAIN", "EXTERNAL"):
        raise ValueError
    return text


def _channels(value: object) -> int:
    number = uint16(value)
    # One for consuming, publishing and acknowledging, one for synchronous methods.
    if number == 1:
        raise ValueError
    return number


@dataclasses.dataclass(frozen=True)
class AmqpOptions(QueueOptions):
    """The options of the AMQP 0-9-1 drivers. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """

    channel_max: int = driver_option(
        "channel_max",
        0,
        _channels,
        "0, or 2 to 65535",
        "Channels of one connection at most; 0 takes the broker's own limit. A connection uses "
        "two.",
    )
    frame_max: int = driver_option(
        "frame_max",
        131072,
        # RabbitMQ 4.x closes a connection that asks for less than 8192 in connection.tune-ok.
        int_range(8192, 2**31 - 1),
        "bytes, 8192 or more",
        "Size of a frame at most; RabbitMQ 4 refuses less than 8192.",
    )
    login_method: Literal["PLAIN", "AMQPLAIN", "EXTERNAL"] = driver_option(
        "login_method",
        "PLAIN",
        _login_method,
        "PLAIN | AMQPLAIN | EXTERNAL",
        "SASL mechanism of the login. EXTERNAL takes the user from the client's TLS certificate. "
        "AMQPLAIN sends the same as PLAIN in another form; over pika it is PLAIN.",
    )
    pool_max_size: int = driver_option(
        "pool_max_size",
        10,
        int_range(1, 65535),
        "1 to 65535",
        "Idle connections to keep.",
    )
    pool_max_overflow: int = driver_option(
        "pool_max_overflow",
        10,
        uint16,
        "0 to 65535",
        "Connections to open beyond these while all are in use.",
    )
    pool_timeout: float = driver_option(
        "pool_timeout",
        30.0,
        non_negative_seconds,
        "seconds, 0 or more",
        "Longest wait for a connection of the pool.",
    )
    pool_recycle: float | None = driver_option(
        "pool_recycle",
        None,
        optional(positive_seconds),
        "seconds, more than 0 | none",
        "Lifetime of a connection since it was opened; an older one is closed, not reused.",
    )
    pool_stale: float | None = driver_option(
        "pool_stale",
        None,
        optional(positive_seconds),
        "seconds, more than 0 | none",
        "A connection that was idle for so long is closed, not reused.",
    )

    result_expiration: float = driver_option(
        "result_expiration",
        86400.0,
        positive_seconds,
        "seconds, more than 0",
        "Age at which the broker deletes the result of a submitted request that no caller waits "
        "for, where the caller gives no lifetime; longer than the work takes.",
    )

    def _check(self) -> None:
        super()._check()
        if self.login_method == "EXTERNAL" and "certfile" not in (self.ssl_options or {}):
            raise OptionError(
                "login_method=EXTERNAL needs a client certificate; set ssl=true and give "
                "ssl_options a certfile"
            )
