"""A running RabbitMQ: its ports, its management API, its log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from wsgi_harness.errors import NotReadyError

_REQUEST_LIMIT = 10.0


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ node that accepts connections.

    Attributes:
        host: address of all its ports.
        tls_port: None where the broker has no TLS listener.
        read_log: returns the broker's log so far.
        read_ca: returns the PEM of the authority behind the TLS listener's certificate.
    """

    host: str
    amqp_port: int
    management_url: str
    user: str
    password: str = field(repr=False)
    tls_port: int | None = None
    read_log: Callable[[], str] = field(default=lambda: "", repr=False)
    read_ca: Callable[[], str] | None = field(default=None, repr=False)

    def amqp_url(self, *, vhost: str = "/", **query: object) -> str:
        """Return a URL for kombu and pika; it holds the password, so never print it."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        url = f"amqp://{login}@{self.host}:{self.amqp_port}/{quote(vhost, safe='')}"
        return f"{url}?{urlencode(query)}" if query else url

    @property
    def management(self) -> Management:
        """The management API."""
        return Management(self.management_url, self.user, self.password)

    @property
    def ca_pem(self) -> str | None:
        """PEM of the authority behind the TLS listener's certificate; None without a listener."""
        return self.read_ca() if self.read_ca else None

    def log(self) -> str:
        """Return the broker's log so far."""
        return self.read_log()

    def check_ready(self) -> None:
        """Return when the node listens for AMQP; raises `NotReadyError` when it does not.

        It is asked, not tried: a userland proxy accepts for a broker that does not listen yet,
        and a handshake given up halfway is a warning in the log that others read.
        """
        try:
            listeners = self.management.overview()["listeners"]
        except requests.RequestException as error:
            raise NotReadyError("RabbitMQ's management API does not answer") from error
        if "amqp" not in [listener["protocol"] for listener in listeners]:
            raise NotReadyError("RabbitMQ does not listen for AMQP")


@dataclass(frozen=True)
class Management:
    """RabbitMQ's management API, as far as it is needed here.

    Figures about connections are at most a second old, see rabbitmq.conf.
    """

    url: str
    user: str
    password: str = field(repr=False)

    def get(self, path: str) -> Any:
        """Return what `GET /api/<path>` gives; raises requests' errors."""
        return self._request("GET", path).json()

    def overview(self) -> Mapping[str, Any]:
        """Return versions, listeners and totals."""
        overview: Mapping[str, Any] = self.get("overview")
        return overview

    def connections(self) -> list[dict[str, Any]]:
        """Return every open connection; one that opened this second may be missing."""
        connections: list[dict[str, Any]] = self.get("connections")
        return connections

    def connection(self, client_name: str) -> dict[str, Any] | None:
        """Return the connection whose client property `connection_name` is this, or None."""
        for found in self.connections():
            if found.get("client_properties", {}).get("connection_name") == client_name:
                return found
        return None

    def close_connection(self, name: str, reason: str = "closed by the test") -> None:
        """Make the broker close a connection.

        Parameters:
            name: the broker's own name for it, the field `name`.
        """
        self._request("DELETE", f"connections/{quote(name, safe='')}", {"X-Reason": reason})

    def add_vhost(self, name: str) -> None:
        """Add a virtual host that this user may use."""
        vhost = quote(name, safe="")
        self._request("PUT", f"vhosts/{vhost}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._request("PUT", f"permissions/{vhost}/{quote(self.user, safe='')}", body=everything)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its connections are closed."""
        self._request("DELETE", f"vhosts/{quote(name, safe='')}")

    def set_queue_policy(self, name: str, pattern: str, definition: Mapping[str, object]) -> None:
        """Apply arguments to the queues, in the virtual host `/`, whose names match a pattern."""
        policy = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        self._request("PUT", f"policies/%2F/{quote(name, safe='')}", body=policy)

    def delete_policy(self, name: str) -> None:
        """Delete a policy of the virtual host `/`."""
        self._request("DELETE", f"policies/%2F/{quote(name, safe='')}")

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> requests.Response:
        response = requests.request(
            method,
            f"{self.url}/api/{path}",
            auth=(self.user, self.password),
            headers=dict(headers or {}),
            json=body,
            timeout=_REQUEST_LIMIT,
        )
        response.raise_for_status()
        return response


def wait_until(check: Callable[[], None], limit: float) -> None:
    """Call a check five times a second until it raises no `NotReadyError`.

    Parameters:
        limit: seconds after which the last error is raised on.
    """
    retry = Retrying(
        stop=stop_after_delay(limit),
        wait=wait_fixed(0.2),
        retry=retry_if_exception_type(NotReadyError),
        reraise=True,
    )
    retry(check)
