"""The options of drivers over brokers that keep messages in queues: RabbitMQ's model."""

from __future__ import annotations

import dataclasses

from hbshim.messaging.amqp.names import LONGEST
from hbshim.messaging.base import NEVER
from hbshim.messaging.options import MessagingOptions, driver_option, optional
from hbshim.options import boolean, int_range, non_negative_seconds


def _lifetime(value: object) -> float:
    text = str(value).strip().lower()
    if text in ("never", "inf"):
        return NEVER
    return non_negative_seconds(value) or NEVER


def _name(value: object) -> str:
    text = str(value)
    # AMQP 0-9-1, exchange.declare: a name is a short string of these characters.
    if not 0 < len(text.encode()) <= LONGEST or "\0" in text:
        raise ValueError
    return text


@dataclasses.dataclass(frozen=True)
class QueueOptions(MessagingOptions):
    """The options of drivers over brokers with exchanges and queues.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """

    rejected_message_retry_attempts: int = driver_option(
        "rejected_message_retry_attempts",
        3,
        int_range(1, 2**31 - 1),
        "1 or more",
        "Attempts, the first one included, to store a message that the broker rejects, or a "
        "notification that it cannot route.",
    )
    rejected_message_retry_delay: float = driver_option(
        "rejected_message_retry_delay",
        0.1,
        non_negative_seconds,
        "seconds, 0 or more",
        "Longest first pause between these attempts; it grows in the same way.",
    )
    rpc_queue_expiration: float = driver_option(
        "rpc_queue_expiration",
        60.0,
        _lifetime,
        "seconds | never",
        "Time after which the broker deletes an RPC queue without a consumer; 0 is never.",
    )
    default_rpc_exchange: str = driver_option(
        "default_rpc_exchange",
        "openstack_rpc",
        _name,
        "a name of 1 to 255 bytes",
        "Exchange of RPC messages whose target names none.",
    )
    rpc_reply_exchange: str = driver_option(
        "rpc_reply_exchange",
        "openstack_rpc_reply",
        _name,
        "a name of 1 to 255 bytes",
        "Exchange of replies, for replies that cannot use RabbitMQ's direct reply-to.",
    )
    notification_persistence: bool = driver_option(
        "notification_persistence",
        False,
        boolean,
        "true | false",
        "Publish notifications as persistent messages, which survive a restart of the broker.",
    )
    default_notification_exchange: str = driver_option(
        "default_notification_exchange",
        "openstack_notification",
        _name,
        "a name of 1 to 255 bytes",
        "Exchange of notifications whose target names none.",
    )
    quorum_queues: bool | None = driver_option(
        "quorum_queues",
        None,
        optional(boolean),
        "true | false | none",
        "Make shared queues quorum queues, which RabbitMQ replicates to several nodes. none: if "
        "there is more than one host. An existing queue of the other type is used as it is, with a "
        "warning: delete it to have it replicated.",
    )
    quorum_delivery_limit: int = driver_option(
        "quorum_delivery_limit",
        0,
        int_range(0, 2**31 - 1),
        "0 or more",
        "Redeliveries of a message after which a quorum queue drops it (x-delivery-limit); 0 takes "
        "the broker's own: none before RabbitMQ 4, 20 since.",
    )
    quorum_max_memory_length: int = driver_option(
        "quorum_max_memory_length",
        0,
        int_range(0, 2**31 - 1),
        "0 or more",
        "Messages that a quorum queue keeps in memory (x-max-in-memory-length); 0: no limit.",
    )
    quorum_max_memory_bytes: int = driver_option(
        "quorum_max_memory_bytes",
        0,
        int_range(0, 2**31 - 1),
        "bytes, 0 or more",
        "Size of the messages that a quorum queue keeps in memory (x-max-in-memory-bytes); 0: no "
        "limit.",
    )

    def quorum_arguments(self) -> dict[str, int]:
        """Return the arguments of quorum queues, as RabbitMQ names them, that are set."""
        limits = {
            "x-delivery-limit": self.quorum_delivery_limit,
            "x-max-in-memory-length": self.quorum_max_memory_length,
            "x-max-in-memory-bytes": self.quorum_max_memory_bytes,
        }
        return {name: limit for name, limit in limits.items() if limit}
