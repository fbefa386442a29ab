"""Connections to RabbitMQ, and its queues."""

from __future__ import annotations

from typing import Any

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import Attached, CreditChanged, Ended, Received
from hbshim.amqp1.mechanisms import Mechanism, Plain
from hbshim.amqp1.messages import Message, Single, decode_message, encode_message
from hbshim.amqp1.performatives import SETTLED, Properties, Source, Target
from hbshim.amqp1.sasl import SaslClient
from tests.amqp1.driver import Driver
from wsgi_harness.stack.broker import Broker


def connection(
    broker: Broker, vhost: str, mechanism: Mechanism | None = None, **options: Any
) -> Connection:
    """A connection to a virtual host; the options are those of `Connection`."""
    login = SaslClient([mechanism or Plain(broker.user, broker.password)], None)
    options = {"hostname": f"vhost:{vhost}", **options}
    return Connection("hbshim-test", sasl=login, **options)


def declare(driver: Driver, name: str) -> str:
    """Declare a queue over the link pair `/management`; return its address."""
    session = driver.begin()
    node, properties = "/management", {"paired": True}
    link = session.attach_sender(
        "pair", Target(node), source=Source(node), snd_settle_mode=SETTLED, properties=properties
    )
    answers = session.attach_receiver(
        "pair", Source(node), target=Target(node), snd_settle_mode=SETTLED, properties=properties
    )
    answers.grant(1)
    # RabbitMQ refuses a request whose answer has no credit.
    driver.wait_for(Attached, where=lambda event: event.link is answers)
    driver.wait_for(CreditChanged, where=lambda event: event.link is link)
    request = Message(
        Single({"durable": True, "exclusive": False, "auto_delete": False}),
        properties=Properties("1", to=f"/queues/{name}", subject="PUT", reply_to="$me"),
    )
    link.send(encode_message(request))
    answer = decode_message(driver.wait_for(Received).delivery.payload)
    assert answer.properties is not None
    assert (answer.properties.subject, answer.properties.correlation_id) == ("201", "1")
    session.end()
    driver.wait_for(Ended)
    return f"/queues/{name}"
