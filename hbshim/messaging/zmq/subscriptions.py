"""What listeners subscribe to, and what publishers conclude from it. No I/O.

A subscription is a key and a slash, so that no key is the beginning of another one. The
subscriptions of one listener arrive in the order of their bytes, and its end marker comes after
all others: a publisher that has seen the marker of a listener loses nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hbshim.messaging.zmq.frames import INSTANCE_SIZE, NOTIFICATION, FrameError

_MARKER = b"\xff\xff"
_SUBSCRIBED = 1
_SLASH = ord("/")


def end_marker(instance: bytes) -> bytes:
    """Return the subscription that arrives after all others of a listener.

    Parameters:
        instance: its id, 16 bytes.
    """
    return _MARKER + instance


def fanout_subscription(key: bytes) -> bytes:
    """Return the subscription of every listener of a topic."""
    return key + b"/"


def pool_subscription(key: bytes, pool: str, instance: bytes) -> bytes:
    """Return the subscription of one listener to the notifications of a topic and priority.

    Parameters:
        key: see :func:`hbshim.messaging.zmq.frames.notification_key`.
    """
    encoded = pool.encode()
    return key + b"/" + bytes((len(encoded),)) + encoded + instance


def end_of_subscription(frame: bytes) -> int:
    """Return where the subscription ends that a publication begins with.

    Raises:
        FrameError: it begins with none.
    """
    try:
        at = 0
        for _ in range(3):
            at += 1 + frame[at]
        notified = frame[at : at + 1] == NOTIFICATION
        at += notified
        if frame[at] != _SLASH:
            raise FrameError("not a publication")
        at += 1
        return at + 1 + frame[at] + INSTANCE_SIZE if notified else at
    except IndexError:
        raise FrameError("not a publication") from None


def _split_pool(subscription: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return key, pool and instance of a subscription to notifications; None for another one."""
    at = 0
    for _ in range(3):
        if at >= len(subscription):
            return None
        at += 1 + subscription[at]
    key, rest = subscription[: at + 1], subscription[at + 1 :]
    if key[at:] != NOTIFICATION or rest[:1] != b"/" or len(rest) < 2:
        return None
    pool, instance = rest[2 : 2 + rest[1]], rest[2 + rest[1] :]
    return (key, pool, instance) if len(instance) == INSTANCE_SIZE else None


class Subscribers:
    """The listeners that a publisher is connected to, as their subscriptions show them."""

    def __init__(self) -> None:
        self._complete: set[bytes] = set()
        self._pools: dict[bytes, dict[bytes, dict[bytes, bytes]]] = {}

    def take(self, message: bytes) -> bytes | None:
        """Take a message of a socket of type XPUB: a subscription, or the end of one.

        Returns:
            The id of the listener of which this was the end marker; None for any other message.
        """
        if len(message) < 2:
            return None
        subscribed, subscription = message[0] == _SUBSCRIBED, message[1:]
        if subscription.startswith(_MARKER):
            instance = subscription[len(_MARKER) :]
            if subscribed:
                self._complete.add(instance)
                return instance
            self._complete.discard(instance)
        elif (found := _split_pool(subscription)) is not None:
            self._take_pool(subscribed, subscription, *found)
        return None

    def _take_pool(
        self, subscribed: bool, subscription: bytes, key: bytes, pool: bytes, instance: bytes
    ) -> None:
        if subscribed:
            self._pools.setdefault(key, {}).setdefault(pool, {})[instance] = subscription
            return
        pools = self._pools.get(key, {})
        pools.get(pool, {}).pop(instance, None)
        if not pools.get(pool, True):
            del pools[pool]
        if not pools:
            self._pools.pop(key, None)

    def missing(self, instances: Iterable[bytes]) -> set[bytes]:
        """Return those of the listeners whose subscriptions have not all arrived."""
        return set(instances) - self._complete

    def pools(self, key: bytes) -> Mapping[bytes, Mapping[bytes, bytes]]:
        """Return the subscription of each listener, by pool and instance."""
        return self._pools.get(key, {})
