"""A contestant: hbshim's own API."""

from __future__ import annotations

from urllib.parse import urlsplit

from hbshim import messaging
from hbshim.bench.rpc.parts import PAYLOAD, PREFETCH, PREFIX, TIMEOUT, Counter, together

#: As the plug-in names them.
_RPC, _NOTES = f"{PREFIX}_rpc", f"{PREFIX}_notification"


def _driver(scheme: str, url: str) -> messaging.Driver:
    return messaging.connect(urlsplit(url)._replace(scheme=scheme).geturl())


class OwnClient:
    """See :class:`hbshim.bench.rpc.parts.Client`."""

    def __init__(self, scheme: str, url: str, topic: str) -> None:
        driver = _driver(scheme, url)
        target = messaging.Target(topic, exchange=_RPC)
        self._client = messaging.Client(driver, target, timeout=TIMEOUT)
        self._all = self._client.prepare(fanout=True)
        self._notifier = messaging.Notifier(
            driver, f"{topic}-notes", PREFIX, timeout=TIMEOUT, exchange=_NOTES
        )

    def calls(self, callers: int, seconds: float) -> list[float]:
        return together(self._call, callers, seconds)

    def _call(self) -> None:
        self._client.call("echo", payload=PAYLOAD)

    def cast(self) -> None:
        self._client.cast("take", payload=PAYLOAD)

    def fanout(self) -> None:
        self._all.cast("take", payload=PAYLOAD)

    def notify(self) -> None:
        self._notifier.info("bench", PAYLOAD)


class _Endpoint:
    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def echo(self, _request: messaging.Request, payload: str) -> str:
        self._counter.request()
        return payload

    def take(self, _request: messaging.Request, payload: str) -> None:
        self._counter.request()

    def info(self, _notification: messaging.Notification) -> None:
        self._counter.notification()


class OwnServer:
    """See :class:`hbshim.bench.rpc.parts.Server`."""

    def __init__(self, scheme: str, url: str, topic: str) -> None:
        driver = _driver(scheme, url)
        counter = Counter()
        self.counts = counter.counts
        endpoint = _Endpoint(counter)
        self._servers = (
            messaging.Server(
                driver, messaging.Target(topic, "server", _RPC), [endpoint], prefetch=PREFETCH
            ),
            messaging.NotificationServer(driver, [f"{topic}-notes"], [endpoint], exchange=_NOTES),
        )
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        for server in self._servers:
            server.stop(TIMEOUT)
