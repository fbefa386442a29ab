"""What a driver offers that keeps messages for processes that do not run yet."""

from __future__ import annotations

from typing import Protocol, cast

from hbshim.errors import OptionError
from hbshim.messaging.base import NEVER, Driver, Payload, Reply
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default


class PendingReply(Protocol):
    """A request that is stored, and the replies to it.

    Attributes:
        id: for :meth:`StoringDriver.attach`, in any process.
    """

    @property
    def id(self) -> str: ...

    def receive(self, timeout: float) -> Reply:
        """The next reply, "progress" or the final one.

        Raises:
            CallTimeoutError: none within `timeout` seconds; it may come later.
            ResultGoneError: the replies are not kept (any more).
        """
        ...

    def close(self) -> None:
        """Wait for no more replies here; they are kept for :meth:`StoringDriver.attach`."""
        ...


class StoringDriver(Driver, Protocol):
    """A driver whose broker stores requests and results; `stores` is one of its capabilities."""

    def submit(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        ignore_result: bool = False,
        result_lifetime: float | Default = DEFAULT,
    ) -> PendingReply | None:
        """Store a request for a server that may not run yet; it is answered when it does.

        Its queue must be there: see :meth:`declare_queue`.

        Parameters:
            timeout: seconds until it is stored.
            ignore_result: no replies are sent, and None is returned. Else they are stored as
                the request is, until they are received or their lifetime is over.
            result_lifetime: seconds for which the replies are kept when no caller waits for
                them, from now or from the last wait on, or :data:`NEVER`; DEFAULT: the option
                `result_expiration`. Longer than the work takes.

        Raises:
            UnroutableError: there is no queue for `target`.
            DeliveryError, ConnectError, ConnectionLostError, BrokerBlockedError,
            PoolTimeoutError: it was not stored.
        """
        ...

    def attach(self, request: str) -> PendingReply:
        """The replies to a request that this or another process submitted.

        Parameters:
            request: :attr:`PendingReply.id`.
        """
        ...

    def declare_queue(self, target: Target, expires: float | Default = NEVER) -> None:
        """Have a queue for `target` from now on, whether or not its server runs.

        Parameters:
            expires: seconds without a server until it expires; :data:`NEVER`: it stays until
                :meth:`delete_queue`; DEFAULT: the option `rpc_queue_expiration`.

        Raises:
            TopologyError: it is there, and its lifetime is another.
        """
        ...

    def delete_queue(self, target: Target) -> int:
        """Delete the queue of `target`; return how many messages were in it."""
        ...


def require_store(driver: Driver) -> StoringDriver:
    """Return `driver` itself, for its methods that need a store.

    Raises:
        OptionError: it has none.
    """
    if not driver.capabilities.stores:
        raise OptionError(
            "this driver stores no requests and declares no queues; use call() or cast() while the "
            "server runs, or a driver over a broker, such as hbpika://"
        )
    return cast(StoringDriver, driver)
