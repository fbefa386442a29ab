"""What a router knows of a migration, by its address ``$management``: addresses and links."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from hbshim.amqp1.messages import Message as Amqp1Message
from hbshim.amqp1.messages import Single, decode_message, encode_message
from hbshim.amqp1.performatives import Properties, Source, Target
from hbshim.doctor.deadline import Deadline
from hbshim.errors import ConnectError, HbshimError
from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.registry import factory

if TYPE_CHECKING:
    from hbshim.amqp1.session import Session
    from hbshim.messaging.amqp1.connection import Connection
    from hbshim.messaging.hosts import Host

_MANAGEMENT = "$management"

#: How a link is known: its router, and its identity there.
LinkKey: TypeAlias = tuple[str, str]

#: How the names of entities begin: in skupper-router, and in qdrouterd.
_PREFIXES = ("io.skupper.router.", "org.apache.qpid.dispatch.")

#: Seconds that the answer to one request may take.
_ANSWER_WITHIN = 5.0


@dataclass(frozen=True)
class RouterSnapshot:
    """All routers of a URL at one time.

    Attributes:
        problems: routers that did not answer, and why.
        receivers: servers by topic.
        undelivered: messages that wait or are not settled, by topic.
        delivered: topic, and messages so far, of each link to a server. The sum of a topic would
            say nothing: it falls when a link ends.
    """

    problems: tuple[str, ...] = ()
    receivers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    undelivered: Mapping[str, int] = dataclasses.field(default_factory=dict)
    delivered: Mapping[LinkKey, tuple[str, int]] = dataclasses.field(default_factory=dict)


def senders_between(before: RouterSnapshot, after: RouterSnapshot) -> tuple[str, ...]:
    """Return the topics that RPC was sent to between two snapshots."""
    found = set()
    for key, (topic, count) in after.delivered.items():
        # Less than before: the router has started again, and its links have the same identities.
        if count and count != before.delivered.get(key, ("", 0))[1]:
            found.add(topic)
    return tuple(sorted(found))


def take_router_snapshot(url: str, virtual_host: str, deadline: Deadline) -> RouterSnapshot:
    """Return what the routers of a URL show now; each is asked.

    Parameters:
        url: ``hbamqp://`` or ``hbamqps://``; appears in no message.
        virtual_host: whose addresses count. The URL may name another one, for a user who may only
            ask a router for its state.
        deadline: the time limit, for all.

    Raises:
        OptionError: the URL or an option in it is not valid.
    """
    scheme = url.partition("://")[0]
    drivers = factory(scheme)
    options: Any = drivers.options_class.load(url=url)
    if scheme == "hbamqps":
        options = dataclasses.replace(options, ssl=True)
    problems: list[str] = []
    receivers: dict[str, int] = {}
    undelivered: dict[str, int] = {}
    delivered: dict[LinkKey, tuple[str, int]] = {}
    hosts = read_hosts(url, drivers.default_port(options))
    for host in hosts:
        try:
            addresses, links = _ask_one(host, options, deadline)
        except HbshimError as error:
            problems.append(str(error))
            continue
        for each in addresses:
            topic = topic_of(str(each.get("name")), options, virtual_host, any_server=True)
            if topic is not None:
                count = int(each.get("subscriberCount") or 0)
                receivers[topic] = receivers.get(topic, 0) + count
        for each in links:
            topic = topic_of(str(each.get("owningAddr")), options, virtual_host)
            if topic is None or each.get("linkDir") != "out":
                continue
            waiting = int(each.get("undeliveredCount") or 0) + int(each.get("unsettledCount") or 0)
            undelivered[topic] = undelivered.get(topic, 0) + waiting
            key = host.name, str(each.get("identity"))
            delivered[key] = topic, int(each.get("deliveryCount") or 0)
    return RouterSnapshot(
        tuple(problems),
        {topic: count for topic, count in receivers.items() if count},
        undelivered,
        delivered,
    )


def topic_of(name: str, options: Any, virtual_host: str, *, any_server: bool = False) -> str | None:
    """Return the topic of an address of RPC in a virtual host; None if it is another address.

    Parameters:
        name: such as ``Mopenstack.org/om/rpc/anycast/nova/openstack_rpc/compute``, with the class
            of the address, and in older routers its phase, in front.
        options: of the driver, which name the parts of addresses.
        virtual_host: whose addresses count; "/": those without one.
        any_server: only the address of any server of the topic counts.
    """
    prefix = f"{options.rpc_address_prefix}/"
    start = name.find(prefix)
    if start not in (0, 1, 2):
        return None
    way, *names = (unquote(part) for part in name[start + len(prefix) :].split("/"))
    if options.pseudo_vhost and virtual_host != "/":
        if names[:1] != [virtual_host]:
            return None
        del names[0]
    # Exchange and topic, and a server's name; an address for replies has no topic.
    lengths = {options.anycast_address: 2}
    if not any_server:
        lengths |= {options.multicast_address: 2, options.unicast_address: 3}
    return names[1] if len(names) == lengths.get(way) else None


def _ask_one(
    host: Host, options: Any, deadline: Deadline
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from hbshim.messaging.amqp1.opening import open_connection

    until = time.monotonic() + deadline.left
    connection = open_connection(host, options, until)
    try:
        asking = _Asking(connection, min(until, time.monotonic() + _ANSWER_WITHIN))
        return asking.query("router.address"), asking.query("router.link")
    finally:
        connection.close()


class _Asking:
    """Requests to the node of a router, and its answers."""

    def __init__(self, connection: Connection, until: float) -> None:
        from hbshim.messaging.amqp1.links import IncomingLink, OutgoingLink

        self._connection = connection
        self._until = until
        self._answers: dict[str, Amqp1Message] = {}

        def answers(session: Session, name: str) -> IncomingLink:
            link = session.attach_receiver(name, Source(dynamic=True))
            found = IncomingLink(link, session, 10, self._receive, lambda _: None)
            found.replenish()
            return found

        def requests(session: Session, name: str) -> OutgoingLink:
            return OutgoingLink(session.attach_sender(name, Target(_MANAGEMENT)), session)

        attaching = connection.attaching
        self._receiving = attaching.attach("doctor", answers, "answer requests", until)
        self._sending = attaching.attach("doctor", requests, "accept requests", until)

    def _receive(self, data: bytes, tag: int) -> None:
        message = decode_message(data)
        if message.properties is not None:
            self._answers[str(message.properties.correlation_id)] = message
        self._connection.acknowledge(tag)

    def query(self, entity: str) -> list[dict[str, Any]]:
        """Return all entities of a type, each with its attributes.

        Raises:
            ConnectError: it is refused, or not answered in time.
        """
        for prefix in _PREFIXES:
            body = self._query(f"{prefix}{entity}")
            if isinstance(body, Mapping) and "results" in body:
                names = [str(each) for each in body["attributeNames"]]
                return [dict(zip(names, row, strict=False)) for row in body["results"]]
        raise ConnectError(f"{self._connection.name}: the router refuses to list {entity}")

    def _query(self, entity: str) -> Any:
        connection, attached = self._connection, self._receiving.link.remote
        source = None if attached is None else attached.source
        request = encode_message(
            Amqp1Message(
                Single({"attributeNames": []}),
                properties=Properties(
                    to=_MANAGEMENT,
                    correlation_id=entity,
                    reply_to=None if source is None else source.address,
                ),
                application_properties={
                    "operation": "QUERY",
                    "type": "org.amqp.management",
                    "name": "self",
                    "entityType": entity,
                },
            )
        )
        connection.wait_for(lambda: self._sending.ready or self._sending.ended, self._until)
        if self._sending.ready:
            connection.work(lambda _: self._sending.send(request, lambda *_: None))
        while entity not in self._answers and time.monotonic() < self._until:
            connection.drain(0.2)
        answer = self._answers.pop(entity, None)
        if answer is None:
            raise ConnectError(
                f"{connection.name}: the router does not answer at {_MANAGEMENT}; does its policy "
                "allow that address, and dynamic sources?"
            )
        return answer.body.value if isinstance(answer.body, Single) else None
