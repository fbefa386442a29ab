"""The addresses of a router, which has neither exchanges nor queues.

They are those of oslo.messaging's former driver: ``PREFIX/unicast|multicast|anycast[/VHOST]/
EXCHANGE/TOPIC[/SERVER]``. How a router distributes the messages of a prefix is its configuration.
A ``/`` or ``%`` within a name is percent-encoded, so that different targets never share an address.
"""

from __future__ import annotations

from hbshim.errors import OptionError, UnsupportedError
from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp.topology import Subscription
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default

_REPLIES = "reply"


class Routable:
    """See :class:`hbshim.messaging.amqp.patterns.Names`: routing keys are addresses.

    Parameters:
        options: those of the driver.
        virtual_host: a part of each address; "/": there is none.
    """

    #: Whether notifications may be sent whatever the option `direct_notifications` is.
    notifies = False

    def __init__(self, options: Amqp1Options, virtual_host: str) -> None:
        self._options = options
        named = options.pseudo_vhost and virtual_host != "/"
        self._virtual_host = virtual_host if named else ""

    def rpc_exchange(self, target: Target) -> str:
        return ""

    def rpc_key(self, target: Target) -> str:
        exchange = target.exchange or self._options.default_rpc_exchange
        if target.server is None:
            return self._anycast(self._options.rpc_address_prefix, exchange, target.topic)
        return self._unicast(exchange, target.topic, target.server)

    def fanout_exchange(self, target: Target) -> str:
        return ""

    def fanout_key(self, target: Target) -> str:
        exchange = target.exchange or self._options.default_rpc_exchange
        return self._multicast(exchange, target.topic)

    def rpc(self, target: Target, expires: float | Default = DEFAULT) -> Subscription:
        """Return the address of a topic, or of one server; `expires` has no meaning for it."""
        return _subscription(self.rpc_key(target))

    def fanout(self, target: Target, unique: str) -> Subscription:
        """Return the address of all servers of a topic."""
        return _subscription(self.fanout_key(target))

    def notifications(self, target: Target, priority: str, pool: str | None, /) -> Subscription:
        """Return the address for one priority of a topic.

        Raises:
            UnsupportedError: the option `direct_notifications` is off, or there is a pool.
        """
        if not (self.notifies or self._options.direct_notifications):
            raise UnsupportedError(
                "a router stores no notifications: send them over a broker, with a driver of its "
                "own, or set direct_notifications=true to have each wait for a listener that "
                "handles it"
            )
        if pool is not None:
            raise UnsupportedError(
                f"pool={pool!r}: a router delivers a notification to one listener, not to one of "
                "each pool; leave the pool out, or use a broker"
            )
        exchange = target.exchange or self._options.default_notification_exchange
        topic = f"{target.topic}.{priority}"
        return _subscription(self._anycast(self._options.notify_address_prefix, exchange, topic))

    def replies(self, client: str, number: int = 0) -> Subscription:
        """Return the address for the replies to a client.

        It belongs to no connection: the client receives from it again over another one.
        """
        return _subscription(self._unicast(_REPLIES, client))

    def _unicast(self, *names: str) -> str:
        options = self._options
        return self._address(options.rpc_address_prefix, options.unicast_address, *names)

    def _multicast(self, *names: str) -> str:
        options = self._options
        return self._address(options.rpc_address_prefix, options.multicast_address, *names)

    def _anycast(self, prefix: str, *names: str) -> str:
        return self._address(prefix, self._options.anycast_address, *names)

    def _address(self, prefix: str, way: str, *names: str) -> str:
        if self._virtual_host:
            names = (self._virtual_host, *names)
        return "/".join((prefix, way, *map(_encoded, names)))


def _subscription(address: str) -> Subscription:
    return Subscription(Queue(address), "", address)


def _encoded(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            f"{name[:80]!r} cannot be a part of an address ({error.reason}); use another name"
        ) from None
    return name.replace("%", "%25").replace("/", "%2F")
