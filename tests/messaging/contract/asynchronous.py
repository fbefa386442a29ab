"""Any laboratory with `hbshim.messaging.aio` between its drivers and the tests.

The tests of the contract are written for threads. The classes here have the names and the methods
of those of :mod:`hbshim.messaging`, and run the ones of :mod:`hbshim.messaging.aio` on one event
loop in a thread. :func:`asynchronous_laboratory` gives them to the module of the test.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import pkgutil
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from hbshim import messaging
from hbshim.messaging import aio
from hbshim.messaging.base import Reply
from tests.concurrency import MODEL
from tests.messaging.contract import laboratory

T = TypeVar("T")

#: Methods of endpoints that block, or report progress: these stay as they are.
PLAIN = ("hold", "last", "count", "report")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Driver:
    """See :class:`hbshim.messaging.Driver`.

    Attributes:
        classes: those of this module, by the names that they take the place of.
    """

    def __init__(self, loop: LoopThread, driver: aio.Driver) -> None:
        self.classes = CLASSES
        self.loop = loop
        self.asynchronous = driver
        self.capabilities = driver.capabilities
        self.rpc_timeout = driver.rpc_timeout
        self.payload_limit = driver.payload_limit

    def call(self, *arguments: Any, **how: Any) -> Reply:
        return self.loop.run(self.asynchronous.call(*arguments, **how))

    def notify(self, *arguments: Any, **how: Any) -> None:
        self.loop.run(self.asynchronous.notify(*arguments, **how))

    def declare_queue(self, *arguments: Any) -> None:
        self.loop.run(self.asynchronous.declare_queue(*arguments))

    def delete_queue(self, target: messaging.Target) -> int:
        return self.loop.run(self.asynchronous.delete_queue(target))

    def close(self) -> None:
        self.loop.run(self.asynchronous.close())


class Client:
    def __init__(self, driver: Driver, target: messaging.Target, **how: Any) -> None:
        self.driver = driver
        self.target = target
        self._client = aio.Client(driver.asynchronous, target, **how)

    def prepare(self, **changes: Any) -> Client:
        prepared = Client(self.driver, self.target)
        prepared._client = self._client.prepare(**changes)
        prepared.target = prepared._client.target
        return prepared

    def call(self, method: str, **arguments: Any) -> Any:
        return self.driver.loop.run(self._client.call(method, **arguments))

    def cast(self, method: str, **arguments: Any) -> None:
        self.driver.loop.run(self._client.cast(method, **arguments))

    def submit(self, method: str, **arguments: Any) -> Task:
        return Task(
            self.driver.loop, self.driver.loop.run(self._client.submit(method, **arguments))
        )

    def attach(self, task_id: str) -> Task:
        return Task(self.driver.loop, self._client.attach(task_id))


class Task:
    def __init__(self, loop: LoopThread, task: aio.Task) -> None:
        self._loop = loop
        self._task = task

    @property
    def id(self) -> str:
        return self._task.id

    def progress(self, timeout: float) -> Iterator[Any]:
        reports = self._task.progress(timeout)

        async def take() -> Any:
            return await anext(reports)

        while True:
            try:
                yield self._loop.run(take())
            except StopAsyncIteration:
                return

    def result(self, timeout: float) -> Any:
        return self._loop.run(self._task.result(timeout))

    def close(self) -> None:
        self._loop.run(self._task.close())


class Serving:
    def __init__(self, loop: LoopThread, server: Any) -> None:
        self._loop = loop
        self._server = server

    def start(self, timeout: float = 10.0) -> bool:
        return self._loop.run(self._server.start(timeout))

    def pause(self) -> None:
        self._loop.run(self._server.pause())

    def resume(self) -> None:
        self._loop.run(self._server.resume())

    def stop(self, timeout: float | None = None) -> bool:
        return self._loop.run(self._server.stop(timeout))

    def __enter__(self) -> Serving:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


class Server(Serving):
    def __init__(
        self, driver: Driver, target: messaging.Target, endpoints: Sequence[object], **how: Any
    ) -> None:
        how = {"workers": 8, **how}
        halves = [half_asynchronous(each) for each in endpoints]
        super().__init__(driver.loop, aio.Server(driver.asynchronous, target, halves, **how))


class NotificationServer(Serving):
    def __init__(
        self, driver: Driver, topics: Sequence[str], endpoints: Sequence[object], **how: Any
    ) -> None:
        server = aio.NotificationServer(
            driver.asynchronous, topics, [half_asynchronous(each) for each in endpoints], **how
        )
        super().__init__(driver.loop, server)


class Notifier:
    def __init__(self, driver: Driver, *arguments: Any, **how: Any) -> None:
        self._loop = driver.loop
        self._notifier = aio.Notifier(driver.asynchronous, *arguments, **how)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._notifier, name)
        return lambda *arguments: self._loop.run(method(*arguments))


def half_asynchronous(endpoint: object) -> object:
    """Return an endpoint with the same state, most of whose methods are ``async def``."""
    kind = type(endpoint)
    methods = {
        name: _asynchronous(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in PLAIN
    }
    half: object = object.__new__(type(kind.__name__, (kind,), methods))
    half.__dict__ = endpoint.__dict__
    return half


def _asynchronous(method: Any) -> Any:
    @functools.wraps(method)
    async def call(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(0)
        return method(*arguments, **named)

    return call


#: What takes the place of the names of :mod:`hbshim.messaging`.
CLASSES = {
    "Client": Client,
    "NotificationServer": NotificationServer,
    "Notifier": Notifier,
    "Server": Server,
}


class AsynchronousLaboratory:
    """See :class:`tests.messaging.contract.laboratory.Laboratory`.

    Parameters:
        beneath: whose connections are cut.
        loop: of all drivers.
    """

    def __init__(self, beneath: laboratory.Laboratory) -> None:
        self._beneath = beneath
        self._loop = LoopThread()
        self._drivers: list[Driver] = []
        self.url = beneath.url
        self.cut, self.count = beneath.cut, beneath.count
        self.disconnect, self.reconnect = beneath.disconnect, beneath.reconnect
        self.restart = beneath.restart

    def start(self, **options: Any) -> Any:
        return self._around(self._beneath.start(**options))

    def start_uncut(self, **options: Any) -> Any:
        return self._around(self._beneath.start_uncut(**options))

    def _around(self, driver: messaging.Driver) -> Driver:
        self._drivers.append(Driver(self._loop, aio.Driver(driver)))
        return self._drivers[-1]

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()
        self._loop.close()
        self._beneath.close()


def asynchronous_laboratory(
    scheme: str, request: pytest.FixtureRequest, *, restarts: bool
) -> AsynchronousLaboratory:
    """Return a laboratory of the driver that `scheme` begins with."""
    if MODEL != "native":
        pytest.skip("hbshim.messaging.aio needs native threads")
    if request.module.__name__.rpartition(".")[2] not in laboratory.ASYNCHRONOUS_MODULES:
        pytest.skip(f"{scheme}: the driver beneath is under this contract itself")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, kind in CLASSES.items():
        if hasattr(request.module, name):
            patch.setattr(request.module, name, kind)
    beneath = scheme.removesuffix("_aio")
    maker: laboratory.Maker = pkgutil.resolve_name(laboratory.LABORATORIES[beneath].maker)
    return AsynchronousLaboratory(maker(beneath, request, restarts=restarts))
