"""oslo.messaging as a WSGI application uses it, with any driver; runs inside Apache.

Nothing here depends on hbshim: the cells differ only in the scheme of the URL.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

#: Seconds for a CALL, and retries of a notification: less than a request's limit.
_CALL_LIMIT = 15
_TRIES = 3
#: The scheme of the driver over AMQP 1.0, which oslo.messaging had up to 14.
_AMQP1 = "amqp"
#: hbshim's, which asks for T in the URL.
_OURS = "hbamqp"
#: In place of a scheme: those of RPC and of notifications.
_PAIRS = {"hybrid": (_OURS, "hbrabbit")}


def topic_of(scheme: str) -> str:
    """Return the topic at which :mod:`.answers` serves the callers with a driver."""
    return f"answers-{scheme}"


def url_of(scheme: str, amqp_url: str, address: tuple[str, int]) -> str:
    """Return a transport URL for the account of `amqp_url` at `address`.

    With two schemes it is that of RPC. A router has no accounts: `amqp_url` is empty.
    """
    scheme = _PAIRS.get(scheme, (scheme,))[0]
    account, at, _ = urlsplit(amqp_url).netloc.rpartition("@")
    query = ""
    if scheme == _OURS:
        # The network of the containers is trusted. Where the kind of peer is not known, the first
        # connection may be closed and opened again.
        router = "direct_notifications=true&addressing_profile=router"
        query = f"?{'plain_without_tls=true' if account else router}"
    return f"{scheme}://{account}{at}{address[0]}:{address[1]}/{query}"


def configured(options: Mapping[str, object], group: str = "oslo_messaging_rabbit") -> Any:
    """Return oslo.config's one configuration, read from a file with these options of a driver."""
    from oslo_config import cfg

    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        lines = [f"{name} = {value}" for name, value in options.items()]
        file.write("\n".join([f"[{group}]", *lines, ""]))
        file.flush()
        cfg.CONF([], project="cell", default_config_files=[file.name])
    return cfg.CONF


class OsloClient:
    """An RPC client and a notifier, each with a transport of its own, as services have them.

    Parameters:
        scheme: names the driver.
        url: the broker's account.
        address: host and port to connect to.
        heartbeat: T to ask for, in seconds.
        name: begins the connections' names for the broker.
        path: directories that are searched for oslo.messaging first.
        options: further ones of the driver.
        notifications: account and address of another broker for them.
    """

    def __init__(
        self,
        scheme: str,
        url: str,
        address: tuple[str, int],
        heartbeat: int,
        name: str,
        *,
        path: Sequence[str] = (),
        options: Mapping[str, object] | None = None,
        notifications: tuple[str, tuple[str, int]] | None = None,
    ) -> None:
        sys.path[:0] = path
        # The drivers call a connection after the program, which here is mod_wsgi in every cell.
        sys.argv[:1] = [name]
        import oslo_messaging

        self._oslo = oslo_messaging
        self._name = name
        self._topic = topic_of(scheme)
        uses = ("rpc", scheme), ("notifications", _PAIRS.get(scheme, (scheme,))[-1])
        peers = (url, address), notifications or (url, address)
        urls = [url_of(each, *peer) for (_, each), peer in zip(uses, peers, strict=True)]
        # The container has the name of the cell, as connections over AMQP 0-9-1 have.
        self._url, self._notifications_url = (
            f"{each}&container_name={name}%3A{use}&heartbeat_interval={heartbeat}"
            if each.startswith(f"{_OURS}:")
            else each
            for each, (use, _) in zip(urls, uses, strict=True)
        )
        self._group = "oslo_messaging_rabbit"
        self._options = {"heartbeat_timeout_threshold": heartbeat, **(options or {})}
        if scheme == _AMQP1:
            self._group = "oslo_messaging_amqp"
            # What it asks of its peer is left as it is, 0; the peer's own limit is what counts.
            self._options = {"container_name": name, **(options or {})}
        self._rpc: Any = None
        self._notifications: Any = None
        self._notifiers: dict[str, Any] = {}

    def open(self, _ca_pem: str | None) -> None:
        """Make both transports, and connect them: by one CALL and one notification.

        Raises:
            oslo_messaging.MessagingException: no server answers the CALL.
        """
        conf = configured(self._options, self._group)
        transport = self._oslo.get_rpc_transport(conf, self._url)
        self._rpc = self._oslo.get_rpc_client(
            transport,
            self._oslo.Target(topic=self._topic),
            timeout=_CALL_LIMIT,
        )
        self._notifications = self._oslo.get_notification_transport(conf, self._notifications_url)
        self.publish(f"{self._name}.opened", "opened")

    def send_heartbeat(self) -> None:
        """Do nothing: a driver has no such function."""

    def drain(self) -> None:
        """Do nothing."""

    def publish(self, queue: str, body: str) -> None:
        """Have the server reply with `body`, and notify `queue` of the reply.

        Raises:
            oslo_messaging.MessagingException: no server answers the CALL. The driver only logs a
                notification that cannot be sent.
        """
        answer = self._rpc.call({}, "echo", value=body)
        self._notifier(queue).info({}, "cell.published", answer)

    def _notifier(self, topic: str) -> Any:
        if topic not in self._notifiers:
            self._notifiers[topic] = self._oslo.Notifier(
                self._notifications,
                self._name,
                driver="messagingv2",
                topics=[topic],
                retry=_TRIES,
            )
        return self._notifiers[topic]
