"""The client libraries as a WSGI application uses them; runs inside Apache.

Nothing here depends on hbshim: the cells with it run the same code.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from wsgi_harness.cell.transport import OsloClient

#: Seconds for opening a connection: far more than it takes, less than a request's limit.
_OPEN_LIMIT = 15


class Client(Protocol):
    """One connection of one library."""

    def open(self, ca_pem: str | None) -> None:
        """Connect and open a channel.

        Parameters:
            ca_pem: PEM of the authority to trust over TLS; None for a plain connection.
        """

    def send_heartbeat(self) -> None:
        """Call the library's own function for keeping a connection alive."""

    def drain(self) -> None:
        """Read what the broker has sent."""

    def publish(self, queue: str, body: str) -> None:
        """Send one message to a queue; the clients of AMQP 0-9-1 do not wait for a confirmation."""


class KombuClient:
    """kombu over py-amqp.

    Parameters:
        url: the broker's account and virtual host; host and port are `address`.
        address: host and port to connect to.
        heartbeat: T to ask for, in seconds.
        name: the connection's name for the broker.
    """

    def __init__(self, url: str, address: tuple[str, int], heartbeat: int, name: str) -> None:
        import kombu

        account = urlsplit(url)
        self._host = address[0]
        self._connection: Any = kombu.Connection(
            hostname=self._host,
            port=address[1],
            userid=unquote(account.username or ""),
            password=unquote(account.password or ""),
            virtual_host="/",
            heartbeat=heartbeat,
            connect_timeout=_OPEN_LIMIT,
            transport_options={"client_properties": {"connection_name": name}},
        )
        self._producer: Any = None

    def open(self, ca_pem: str | None) -> None:
        import kombu

        if ca_pem is not None:
            context = {"cadata": ca_pem, "check_hostname": True}
            self._connection.ssl = {"context": context, "server_hostname": self._host}
        self._connection.connect()
        self._producer = kombu.Producer(self._connection.channel())

    def send_heartbeat(self) -> None:
        # kombu's guide: call it regularly, at least `rate` times in T.
        self._connection.heartbeat_check(rate=2)

    def drain(self) -> None:
        try:
            self._connection.drain_events(timeout=0.001)
        except TimeoutError:
            return

    def publish(self, queue: str, body: str) -> None:
        self._producer.publish(body, routing_key=queue, content_type="text/plain")


class PikaClient:
    """pika's BlockingConnection; parameters as for :class:`KombuClient`."""

    def __init__(self, url: str, address: tuple[str, int], heartbeat: int, name: str) -> None:
        import pika

        account = urlsplit(url)
        self._parameters = pika.ConnectionParameters(
            host=address[0],
            port=address[1],
            credentials=pika.PlainCredentials(
                unquote(account.username or ""), unquote(account.password or "")
            ),
            heartbeat=heartbeat,
            socket_timeout=_OPEN_LIMIT,
            client_properties={"connection_name": name},
        )
        self._connection: Any = None
        self._channel: Any = None

    def open(self, ca_pem: str | None) -> None:
        import pika

        if ca_pem is not None:
            context = ssl.create_default_context(cadata=ca_pem)
            self._parameters.ssl_options = pika.SSLOptions(context, self._parameters.host)
        self._connection = pika.BlockingConnection(self._parameters)
        self._channel = self._connection.channel()

    def send_heartbeat(self) -> None:
        # pika has no call for heartbeats alone; its documentation names this one.
        self._connection.process_data_events(time_limit=0)

    def drain(self) -> None:
        """Do nothing: :meth:`send_heartbeat` has read already."""

    def publish(self, queue: str, body: str) -> None:
        self._channel.basic_publish("", queue, body.encode())


class ProtonClient:
    """proton's BlockingConnection, over AMQP 1.0; parameters as for :class:`KombuClient`.

    Parameters:
        queue: where it sends to.
        router: whether the peer is a router, which has no accounts and no queues.
    """

    def __init__(
        self,
        url: str,
        address: tuple[str, int],
        heartbeat: int,
        name: str,
        *,
        queue: str,
        router: bool,
    ) -> None:
        account = urlsplit(url)
        self._address = queue if router else f"/queues/{queue}"
        self._options = {
            "url": f"amqp://{address[0]}:{address[1]}",
            # proton advertises half of it.
            "heartbeat": heartbeat,
            "timeout": _OPEN_LIMIT,
            "properties": {"connection_name": name},
            **(
                {"allowed_mechs": "ANONYMOUS"}
                if router
                else {
                    "allowed_mechs": "PLAIN",
                    "user": unquote(account.username or ""),
                    "password": unquote(account.password or ""),
                    "virtual_host": "vhost:/",
                }
            ),
        }
        self._name = name
        self._connection: Any = None
        self._sender: Any = None

    def open(self, _ca_pem: str | None) -> None:
        from proton.reactor import Container
        from proton.utils import BlockingConnection

        container = Container()
        container.container_id = self._name
        self._connection = BlockingConnection(container=container, **self._options)
        self._sender = self._connection.create_sender(self._address)

    def send_heartbeat(self) -> None:
        # proton has no call for heartbeats: its loop sends them.
        self._connection.container.process()

    def drain(self) -> None:
        """Do nothing: :meth:`send_heartbeat` has read already."""

    def publish(self, _queue: str, body: str) -> None:
        from proton import Message

        self._sender.send(Message(body))


CLIENTS: dict[str, type[KombuClient] | type[PikaClient]] = {
    "kombu": KombuClient,
    "pika": PikaClient,
}


def client_of(cell: Mapping[str, Any], url: str) -> Client:
    """Return the client that a cell's configuration names.

    Parameters:
        cell: see :func:`wsgi_harness.matrix.scenarios.orders`.
        url: the broker's account.
    """
    notifications = cell["notifications"] and (url, tuple(cell["notifications"]))
    if cell["router"]:
        url = ""  # a router has no accounts
    where = (url, (cell["host"], cell["port"]), cell["heartbeat"], cell["name"])
    if cell["driver"] is not None:
        return OsloClient(cell["library"], *where, notifications=notifications, **cell["driver"])
    if cell["library"] == "proton":
        return ProtonClient(*where, queue=cell["queue"], router=cell["router"])
    return CLIENTS[cell["library"]](*where)
