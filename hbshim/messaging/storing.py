"""The interface of a driver that stores messages for processes that do not run yet."""

from __future__ import annotations

from typing import Protocol, cast

from hbshim.errors import OptionError
from hbshim.messaging.base import NEVER, Driver, Payload, Reply
from hbshim.messaging.target import Target
from hbshim.options import DEFAULT, Default


class PendingReply(Protocol):
    """A stored request, and the replies to it.

    Attributes:
        id: for :meth:`StoringDriver.attach`, in any process.
    """

    @property
    def id(self) -> str: ...

    def receive(self, timeout: float) -> Reply:
        """Return the next reply, "progress" or the final one.

        Raises:
            CallTimeoutError: none within `timeout` seconds; it may arrive later.
            ResultGoneError: the replies are not stored, or not any longer.
        """
        ...

    def close(self) -> None:
        """Stop waiting in this process; replies are kept for :meth:`StoringDriver.attach`."""
        ...


class StoringDriver(Driver, Protocol):
    """A driver whose broker stores requests and results; it has the capability `stores`."""

    def submit(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        ignore_result: bool = False,
        result_lifetime: float | Default = DEFAULT,
    ) -> PendingReply | None:
        """Store a request for a server that may not run yet, and that answers it when it does.

        Its queue must exist: see :meth:`declare_queue`.

        Parameters:
            target: the server or servers.
            payload: the request.
            timeout: seconds for storing it.
            ignore_result: no replies are sent, and None is returned. Otherwise they are stored like
                the request, until they are received or their lifetime is over.
            result_lifetime: seconds for which the replies are kept while no caller waits for
                them, or :data:`NEVER`; longer than the method takes; DEFAULT: the option
                `result_expiration`.

        Raises:
            UnroutableError: there is no queue for `target`.
            DeliveryError, ConnectError, ConnectionLostError, BrokerBlockedError,
            PoolTimeoutError: it was not stored.
        """
        ...

    def attach(self, request: str) -> PendingReply:
        """Return the replies to a request that this or another process submitted.

        Parameters:
            request: :attr:`PendingReply.id`.
        """
        ...

    def declare_queue(self, target: Target, expires: float | Default = NEVER) -> None:
        """Declare the queue for `target`, whether or not its server runs.

        Parameters:
            target: the server or servers.
            expires: seconds without a server until it expires; :data:`NEVER`: it stays until
                :meth:`delete_queue`; DEFAULT: the option `rpc_queue_expiration`.

        Raises:
            TopologyError: it exists with another lifetime.
        """
        ...

    def delete_queue(self, target: Target) -> int:
        """Delete the queue of `target`; return how many messages were in it."""
        ...


def require_store(driver: Driver) -> StoringDriver:
    """Return `driver`, typed as one that stores messages.

    Raises:
        OptionError: the driver does not store messages.
    """
    if not driver.capabilities.stores:
        raise OptionError(
            "this driver does not store requests or declare queues; use call() or cast() while the "
            "server runs, or a driver over a broker: hbkombu:// or hbpika://"
        )
    return cast(StoringDriver, driver)
