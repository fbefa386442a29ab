"""A contestant: oslo.messaging with the driver that a URL scheme names."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import oslo_messaging
from oslo_config import cfg

from hbshim.bench.rpc.parts import PAYLOAD, PREFIX, TIMEOUT, Counter, together

_HOST = "server"


def _configured(scheme: str, url: str) -> tuple[Any, str]:
    oslo_messaging.set_transport_defaults(control_exchange=PREFIX)
    cfg.CONF([], project=PREFIX, default_config_files=[])
    return cfg.CONF, urlsplit(url)._replace(scheme=scheme).geturl()


class PluginClient:
    """See :class:`hbshim.bench.rpc.parts.Client`."""

    def __init__(self, scheme: str, url: str, topic: str) -> None:
        conf, url = _configured(scheme, url)
        self._client = oslo_messaging.get_rpc_client(
            oslo_messaging.get_rpc_transport(conf, url=url),
            oslo_messaging.Target(topic=topic),
            timeout=TIMEOUT,
        )
        self._notifier = oslo_messaging.Notifier(
            oslo_messaging.get_notification_transport(conf, url=url),
            publisher_id=PREFIX,
            driver="messagingv2",
            topics=[f"{topic}-notes"],
        )

    def calls(self, callers: int, seconds: float) -> list[float]:
        return together(self._call, callers, seconds)

    def _call(self) -> None:
        self._client.call({}, "echo", payload=PAYLOAD)

    def cast(self) -> None:
        self._client.cast({}, "take", payload=PAYLOAD)

    def notify(self) -> None:
        self._notifier.info({}, "bench", PAYLOAD)


class _Endpoint:
    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def echo(self, _context: Any, payload: str) -> str:
        self._counter.request()
        return payload

    def take(self, _context: Any, payload: str) -> None:
        self._counter.request()


class _NotificationEndpoint:
    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def info(self, *_notification: Any) -> None:
        self._counter.notification()


class PluginServer:
    """See :class:`hbshim.bench.rpc.parts.Server`."""

    def __init__(self, scheme: str, url: str, topic: str) -> None:
        conf, url = _configured(scheme, url)
        counter = Counter()
        self.counts = counter.counts
        self._servers = [
            oslo_messaging.get_rpc_server(
                oslo_messaging.get_rpc_transport(conf, url=url),
                oslo_messaging.Target(topic=topic, server=_HOST),
                [_Endpoint(counter)],
            ),
            oslo_messaging.get_notification_listener(
                oslo_messaging.get_notification_transport(conf, url=url),
                [oslo_messaging.Target(topic=f"{topic}-notes")],
                [_NotificationEndpoint(counter)],
            ),
        ]
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        for server in self._servers:
            server.stop()
            server.wait()
