"""The node `$management`, with which tests count, and cut connections.

A part of AMQP Management as the routers speak it: QUERY of connections, links and addresses, and
UPDATE of a connection with `adminStatus` `deleted`, which ends it without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proton import Message

from wsgi_harness.router.connection import Connection
from wsgi_harness.router.core import Router
from wsgi_harness.router.endpoints import SenderEndpoint
from wsgi_harness.router.states import ACCEPTED, MODIFIED, REJECTED, RELEASED, TAKEN, State

ADDRESS = "$management"
_OK, _BAD_REQUEST, _NOT_FOUND, _NOT_IMPLEMENTED = 200, 400, 404, 501

Rows = list[dict[str, Any]]


class Management:
    """Answers requests.

    Parameters:
        prefix: how the names of entities begin.
        connections: those of the router, by their numbers.
        schedule: calls something after some seconds.
    """

    def __init__(
        self,
        router: Router,
        prefix: str,
        connections: Mapping[int, Connection],
        schedule: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._router = router
        self._connections = connections
        self._schedule = schedule
        self._kinds: Mapping[str, Callable[[], Rows]] = {
            f"{prefix}connection": self._query_connections,
            f"{prefix}router.link": self._query_links,
            f"{prefix}router.address": self._query_addresses,
        }
        router.serve(ADDRESS, self._receive)

    def _receive(self, payload: bytes) -> State:
        request = Message()
        request.decode(payload)
        properties: Mapping[str, Any] = request.properties or {}
        if properties.get("operation") == "QUERY":
            status, body = self._query(properties, request.body or {})
        elif properties.get("operation") == "UPDATE":
            status, body = self._update(properties, request.body or {})
        else:
            status, body = _NOT_IMPLEMENTED, {}
        answer = Message(body=body, correlation_id=request.correlation_id)
        answer.address = request.reply_to
        answer.properties = {"statusCode": status, "statusDescription": "OK"}
        self._router.send(str(request.reply_to), answer.encode())
        return TAKEN

    def _query(self, properties: Mapping[str, Any], body: Any) -> tuple[int, dict[str, Any]]:
        kind = self._kinds.get(str(properties.get("entityType")))
        if kind is None:
            return _BAD_REQUEST, {}
        rows = kind()
        names = list(body.get("attributeNames") or (rows[0] if rows else ()))
        results = [[row.get(name) for name in names] for row in rows]
        return _OK, {"attributeNames": names, "results": results}

    def _update(self, properties: Mapping[str, Any], body: Any) -> tuple[int, dict[str, Any]]:
        number = int(properties.get("identity") or 0)
        connection = self._connections.get(number)
        if connection is None:
            return _NOT_FOUND, {}
        if body.get("adminStatus") != "deleted":
            return _BAD_REQUEST, {}
        # Not now: it may be the connection that this request has come from.
        self._schedule(0.0, connection.end)
        return _OK, {"adminStatus": "deleted"}

    def _query_connections(self) -> Rows:
        return [self._connection(each) for each in self._connections.values()]

    def _connection(self, connection: Connection) -> dict[str, Any]:
        return {
            "identity": str(connection.number),
            "container": connection.proton.remote_container,
            "host": connection.peer,
            "role": connection.settings.role,
            "user": connection.user or "anonymous",
            "isEncrypted": connection.stream.encrypted,
            "adminStatus": "enabled",
        }

    def _query_links(self) -> Rows:
        return [
            self._link(connection, name, endpoint)
            for connection in self._connections.values()
            for endpoint, name in connection.attachments.endpoints.items()
        ]

    def _link(self, connection: Connection, name: str, endpoint: Any) -> dict[str, Any]:
        link = endpoint.link
        sends = isinstance(endpoint, SenderEndpoint)
        counts = link.counts
        return {
            "identity": f"{connection.number}:{name}",
            "linkName": name,
            "connectionId": str(connection.number),
            "linkDir": "in" if sends else "out",
            "owningAddr": None if link.address is None else f"M{link.address}",
            "capacity": link.capacity,
            "deliveryCount": counts["messages"],
            "undeliveredCount": 0 if sends else len(link.waiting),
            "unsettledCount": len(link.unsettled),
            "acceptedCount": counts[str(ACCEPTED)],
            "rejectedCount": counts[str(REJECTED)],
            "releasedCount": counts[str(RELEASED)],
            "modifiedCount": counts[str(MODIFIED)],
            "droppedPresettledCount": counts["dropped"] if sends else link.dropped,
        }

    def _query_addresses(self) -> Rows:
        return [
            {
                "identity": f"M{address.name}",
                "name": f"M{address.name}",
                "distribution": address.distribution.value,
                "subscriberCount": len(address.receivers),
                "remoteCount": len(address.remotes),
                "inProcess": int(address.handler is not None),
            }
            for address in self._router.addresses.values()
        ]
