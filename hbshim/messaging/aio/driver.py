"""A driver for one event loop, over any driver of :mod:`hbshim.messaging`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from hbshim.errors import CallTimeoutError, OptionError, PoolTimeoutError
from hbshim.messaging import base, drivers
from hbshim.messaging.aio.arguments import require_count
from hbshim.messaging.aio.home import Home, refuse_patches
from hbshim.messaging.aio.operation import Operation
from hbshim.messaging.aio.progress import Reports
from hbshim.messaging.base import NEVER, OnReply, Payload, Reply, driver_closed, timeout_of
from hbshim.messaging.calling import CallRequest
from hbshim.messaging.capabilities import Capabilities
from hbshim.messaging.reading import BackgroundReader
from hbshim.messaging.role import ReaderRole
from hbshim.messaging.steps import CallsInSteps, CastsInSteps, Steps, at_once, steps_of
from hbshim.messaging.storing import PendingReply, require_store
from hbshim.messaging.target import Target, described
from hbshim.messaging.threads import Threads
from hbshim.options import DEFAULT, Default

T = TypeVar("T")

#: How many threads send calls. To send one takes long only while the broker accepts nothing.
CALL_THREADS = 4

#: How many threads, by default, send what is confirmed: casts, notifications, submitted requests.
SENDERS = 8

#: Seconds that closing waits for threads.
JOIN_LIMIT = 5.0


def connect(
    url: str, *, config: Mapping[str, object] | None = None, senders: int = SENDERS, **options: Any
) -> Driver:
    """Return a driver for the hosts of `url`; it belongs to the event loop that first uses it.

    Parameters:
        url: see :func:`hbshim.messaging.connect`.
        config: see there.
        senders: how many casts, notifications and submitted requests are sent at the same time,
            each in a thread until it is confirmed.
        options: of the driver.

    Raises:
        EventLoopError: eventlet or gevent has patched the standard library.
        OptionError: `senders` is below 1, or see :func:`hbshim.messaging.connect`.
        DriverLoadError, MissingExtraError: see there.
    """
    refuse_patches()
    require_count("senders", senders)
    return Driver(drivers.connect(url, config=config, **options), senders=senders)


class Driver:
    """Sends and receives messages; an asynchronous context manager that closes it.

    Its methods are those of :class:`hbshim.messaging.base.Driver`, as coroutines: see there for
    parameters and errors. Applications use :class:`Client`, :class:`Server` and the other classes.

    Parameters:
        driver: the driver beneath, which this one closes.
        senders: see :func:`connect`.
    """

    def __init__(self, driver: base.Driver, *, senders: int = SENDERS) -> None:
        self._driver = driver
        self._home: Home | None = None
        self._calling = Threads("hbshim-aio-call", CALL_THREADS)
        self._sending = Threads("hbshim-aio-send", senders)
        self._readers: dict[ReaderRole, BackgroundReader] = {}
        self._closed = False
        self._closing: asyncio.Future[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the driver beneath can do."""
        return self._driver.capabilities

    @property
    def rpc_timeout(self) -> float:
        """Seconds for a call or a cast without a timeout of its own."""
        return self._driver.rpc_timeout

    @property
    def payload_limit(self) -> int:
        """The largest payload, in bytes."""
        return self._driver.payload_limit

    @property
    def wakeups(self) -> int:
        """How often threads have woken up the event loop so far."""
        return 0 if self._home is None else self._home.wakeups

    def _here(self) -> Home:
        """Return the event loop of this driver; its first use decides which that is.

        Raises:
            EventLoopError: another loop runs in this thread, or none.
        """
        if self._home is None:
            self._home = Home.here()
        self._home.check()
        return self._home

    @property
    def beneath(self) -> base.Driver:
        """The driver that this one is made of."""
        return self._driver

    # -- sending ---------------------------------------------------------------

    async def call(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        call_monitor_timeout: float | None = None,
        on_reply: OnReply | None = None,
        mandatory: bool = False,
    ) -> Reply:
        """CALL; `on_reply` is called on the event loop."""
        home, threads = self._here(), self._calling
        if not isinstance(self._driver, CallsInSteps):
            threads = self._sending
        reports = None if on_reply is None else Reports(home, on_reply)
        request = CallRequest(target, payload, timeout, call_monitor_timeout, reports, mandatory)

        def not_begun() -> CallTimeoutError:
            return CallTimeoutError(
                f"no reply from {described(target)} within {request.timeout:g} s (it was not sent: "
                "all threads that send calls wait for the peer)"
            )

        steps = steps_of(self._driver, request)
        return await self._run(threads, steps, request.deadline, not_begun, reports)

    async def cast(
        self, target: Target, payload: Payload, timeout: float, *, mandatory: bool = False
    ) -> None:
        """CAST, or FANOUT if the target is a fanout. If cancelled, it may have been sent."""
        driver = self._driver
        deadline = time.monotonic() + timeout_of(timeout)
        if isinstance(driver, CastsInSteps):
            steps = driver.cast_steps(target, payload, timeout, mandatory=mandatory)
            await self._run(self._sending, steps, deadline, self._not_sent)
            return
        await self._send(
            lambda left: driver.cast(target, payload, left, mandatory=mandatory), timeout
        )

    async def notify(self, target: Target, payload: Payload, priority: str, timeout: float) -> None:
        """NOTIFY. If cancelled, it may have been sent."""
        driver = self._driver
        await self._send(lambda left: driver.notify(target, payload, priority, left), timeout)

    async def submit(
        self,
        target: Target,
        payload: Payload,
        timeout: float,
        *,
        ignore_result: bool = False,
        result_lifetime: float | Default = DEFAULT,
    ) -> PendingReply | None:
        """Store a request; see :class:`hbshim.messaging.StoringDriver`."""
        driver = require_store(self._driver)
        return await self._send(
            lambda left: driver.submit(
                target,
                payload,
                left,
                ignore_result=ignore_result,
                result_lifetime=result_lifetime,
            ),
            timeout,
        )

    def attach(self, request: str) -> PendingReply:
        """Return the replies to a request; see :class:`hbshim.messaging.StoringDriver`."""
        return require_store(self._driver).attach(request)

    async def declare_queue(self, target: Target, expires: float | Default = NEVER) -> None:
        """Declare the queue for `target`; see :class:`hbshim.messaging.StoringDriver`."""
        driver = require_store(self._driver)
        await self._send(lambda _left: driver.declare_queue(target, expires), self.rpc_timeout)

    async def delete_queue(self, target: Target) -> int:
        """Delete the queue of `target`; return how many messages were in it."""
        driver = require_store(self._driver)
        return await self._send(lambda _left: driver.delete_queue(target), self.rpc_timeout)

    async def _send(self, work: Callable[[float], T], timeout: float) -> T:
        """Run what sends, and waits for its confirmation, in one of the sender threads.

        Parameters:
            work: called with the seconds that are left.
            timeout: seconds, also for a thread to become free.

        Raises:
            PoolTimeoutError: no thread became free in time.
        """
        deadline = time.monotonic() + timeout_of(timeout)
        steps = at_once(lambda: work(_left(deadline)))
        return await self._run(self._sending, steps, deadline, self._not_sent)

    async def _receive(self, steps: Steps[Reply], timeout: float) -> Reply:
        """Wait for a reply to a stored request."""

        def not_begun() -> CallTimeoutError:
            return CallTimeoutError("no reply yet; it may come later")

        deadline = time.monotonic() + timeout_of(timeout)
        return await self._run(self._sending, steps, deadline, not_begun)

    async def _run(
        self,
        threads: Threads,
        steps: Steps[T],
        deadline: float,
        not_begun: Callable[[], Any],
        reports: Reports | None = None,
    ) -> T:
        home = self._here()
        if self._closed:
            raise driver_closed()
        operation = Operation(home, threads, self._reader_of, steps, deadline, not_begun)
        if reports is not None:
            reports.call = operation
        return await operation.run()

    @staticmethod
    def _not_sent() -> PoolTimeoutError:
        return PoolTimeoutError(
            "it was not sent: all sender threads wait for confirmations; connect with more of "
            "them (senders=), or send less at the same time"
        )

    def _reader_of(self, role: ReaderRole) -> BackgroundReader:
        reader = self._readers.get(role)
        if reader is None:
            reader = self._readers.setdefault(role, BackgroundReader(role))
            if self._closed:
                reader.close()
        return reader

    # -- the end -----------------------------------------------------------------

    async def close(self) -> None:
        """Close every connection, and end the threads; calls that wait raise an error.

        It goes on in its thread if it is cancelled.
        """
        home = self._here()
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.ensure_future(home.in_thread(self._close, "hbshim-aio-close"))
        await asyncio.shield(self._closing)

    def _close(self) -> None:
        for reader in list(self._readers.values()):
            reader.close()
        try:
            self._driver.close()
        finally:
            self._calling.close()
            self._sending.close()
            until = time.monotonic() + JOIN_LIMIT
            self._calling.join(until)
            self._sending.join(until)
            for reader in list(self._readers.values()):
                if (thread := reader.thread) is not None:
                    thread.join(max(0.0, until - time.monotonic()))

    async def __aenter__(self) -> Driver:
        self._here()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def require_driver(driver: object) -> None:
    """Check that a driver belongs to this package.

    Raises:
        OptionError: it does not.
    """
    if not isinstance(driver, Driver):
        raise OptionError(
            "driver must be one of hbshim.messaging.aio.connect(), got one of "
            f"{type(driver).__module__}.{type(driver).__qualname__}"
        )


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
