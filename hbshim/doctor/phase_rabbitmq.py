"""A migration as RabbitMQ's management API shows it: consumers, senders, waiting messages.

RPC is what goes through an exchange that has one for fanouts beside it. That is so for hbshim's
drivers, whose RPC exchanges have names of their own, and for topics of ``rabbit://``, each of which
has an exchange for fanouts.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from hbshim.doctor.deadline import Deadline
from hbshim.doctor.management import ask
from hbshim.doctor.target import Target
from hbshim.messaging.amqp.names import FANOUT
from hbshim.messaging.hybrid.phases import Server

Rows: TypeAlias = Sequence[Mapping[str, Any]]

#: How the names of queues for late replies begin, after the last dot: hbshim's, and the whole name
#: of those of ``rabbit://``.
_REPLIES, _STOCK_REPLIES = "*", "reply_"

#: Results of stored requests are no reply that a caller waits for.
_RESULTS = "*result"


@dataclass(frozen=True)
class Snapshot:
    """RabbitMQ at one time.

    Attributes:
        servers: the consumers of RPC.
        consumers: by topic.
        waiting: messages by RPC queue, and by reply queue of a client that is connected.
        published: messages so far, by RPC exchange.
        publishers: messages so far, by exchange and name of the connection.
    """

    servers: tuple[Server, ...]
    consumers: Mapping[str, int]
    waiting: Mapping[str, int]
    published: Mapping[str, int]
    publishers: Mapping[tuple[str, str], int]


def take_snapshot(target: Target, tls: ssl.SSLContext | None, deadline: Deadline) -> Snapshot:
    """Return what RabbitMQ shows now.

    Parameters:
        target: the management API; its virtual host is read.
        tls: the TLS context; None for plain HTTP.
        deadline: the time limit.

    Raises:
        BrokerError: the API cannot be reached, refuses access, or sends an invalid answer.
    """
    vhost = quote(target.vhost, safe="")

    def rows(path: str) -> Rows:
        found = ask(target, tls, deadline, path)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    exchanges = {str(each.get("name")) for each in rows(f"exchanges/{vhost}")}
    topics = _topics(exchanges, rows(f"bindings/{vhost}"))
    queues = {str(each.get("name")): each for each in rows(f"queues/{vhost}")}
    rpc = rpc_exchanges(exchanges)
    details = {name: _exchange(target, tls, deadline, vhost, name) for name in sorted(rpc)}
    connections = {str(each.get("name")): each for each in rows(f"vhosts/{vhost}/connections")}
    consuming = {
        _connection_of(each)
        for each in rows(f"consumers/{vhost}")
        if str(each.get("queue", {}).get("name")) in topics
    }
    return Snapshot(
        servers=tuple(
            sorted(
                (_server(target, connections[name]) for name in consuming if name in connections),
                key=lambda each: each.name,
            )
        ),
        consumers=_consumers(topics, queues),
        waiting={
            target.clean(name): int(each.get("messages") or 0)
            for name, each in queues.items()
            # Without a consumer its client is gone, and no caller waits for what is in it.
            if name in topics or (_is_for_replies(name) and each.get("consumers"))
        },
        published={
            name: int((each.get("message_stats") or {}).get("publish_in") or 0)
            for name, each in details.items()
        },
        publishers={
            (name, _named(target, connections, incoming)): int(
                (incoming.get("stats") or {}).get("publish") or 0
            )
            for name, each in details.items()
            for incoming in each.get("incoming") or ()
        },
    )


def publishers_between(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """Return the senders of RPC between two snapshots; the exchange where no name is known."""
    found = []
    for exchange, count in sorted(after.published.items()):
        if count <= before.published.get(exchange, 0):
            continue
        names = [
            name
            for (of, name), sent in after.publishers.items()
            if of == exchange and sent > before.publishers.get((of, name), 0)
        ]
        found += sorted(names) or [f"a client (exchange {exchange})"]
    return tuple(dict.fromkeys(found))


def rpc_exchanges(exchanges: set[str]) -> set[str]:
    """Return the exchanges for calls, casts and fanouts."""
    fanouts = {name for name in exchanges if name.endswith(FANOUT)}
    beside = {name.removesuffix(FANOUT) for name in fanouts} & exchanges
    return beside | fanouts


def _topics(exchanges: set[str], bindings: Rows) -> dict[str, str]:
    """Return the topic of each queue for RPC; "" for those of one server and of fanouts."""
    rpc = rpc_exchanges(exchanges)
    stock = {name.removesuffix(FANOUT) for name in exchanges if name.endswith(FANOUT)} - exchanges
    topics: dict[str, str] = {}
    for each in bindings:
        source, key = str(each.get("source")), str(each.get("routing_key"))
        queue = str(each.get("destination"))
        first, _, server = key.partition(".")
        if source.endswith(FANOUT):
            topics.setdefault(queue, "")
        elif source in rpc:
            topics[queue] = "" if server else unquote(first)
        elif source and first in stock:
            topics[queue] = "" if server else first
    return topics


def _consumers(
    topics: Mapping[str, str], queues: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    found: dict[str, int] = {}
    for queue, topic in topics.items():
        count = int(queues.get(queue, {}).get("consumers") or 0)
        if topic and count:
            found[topic] = found.get(topic, 0) + count
    return found


def _is_for_replies(queue: str) -> bool:
    last = queue.rpartition(".")[2]
    return queue.startswith(_STOCK_REPLIES) or (last.startswith(_REPLIES) and last != _RESULTS)


def _exchange(
    target: Target, tls: ssl.SSLContext | None, deadline: Deadline, vhost: str, name: str
) -> Mapping[str, Any]:
    found = ask(target, tls, deadline, f"exchanges/{vhost}/{quote(name, safe='')}")
    return found if isinstance(found, dict) else {}


def _connection_of(row: Mapping[str, Any]) -> str:
    return str((row.get("channel_details") or {}).get("connection_name"))


def _named(target: Target, connections: Mapping[str, Mapping[str, Any]], row: Any) -> str:
    name = _connection_of(row)
    found = connections.get(name)
    return target.clean(name) if found is None else _name(target, found)


def _server(target: Target, connection: Mapping[str, Any]) -> Server:
    properties = connection.get("client_properties") or {}
    version = properties.get("hbshim_version")
    return Server(_name(target, connection), None if version is None else target.clean(version))


def _name(target: Target, connection: Mapping[str, Any]) -> str:
    properties = connection.get("client_properties") or {}
    host = properties.get("hostname") or properties.get("node") or connection.get("peer_host")
    program = properties.get("connection_name") or properties.get("process") or "a connection"
    return target.clean(f"{host}: {program}")
