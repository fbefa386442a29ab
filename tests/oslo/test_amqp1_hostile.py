"""Messages that are not oslo.messaging's, at services with hbamqp:// over a router."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import CreditChanged, Received
from hbshim.amqp1.mechanisms import Anonymous
from hbshim.amqp1.messages import Data, Message, Sequence, Single, decode_message, encode_message
from hbshim.amqp1.performatives import Accepted, Properties, Source, Target
from hbshim.amqp1.sasl import SaslClient
from tests.amqp1.driver import Driver
from tests.messaging.amqp1.routers import HOST, Router, running
from tests.stress.oslo.processes import ProgramError, Service
from tests.waiting import wait_until

LIMIT = 60

#: Requests that no service can handle.
REQUESTS: dict[str, Any] = {
    "no body": Data(()),
    "null": Single(None),
    "a number": Single(5),
    "a list": Sequence(([1, 2],)),
    "not JSON": Single("{"),
    "not UTF-8": Data((b"\xff\xfe",)),
    "JSON, but no object": Single("[1]"),
    "an object without a request": Single('{"context": {}}'),
    "an envelope of tomorrow": Single(
        '{"request": {"oslo.version": "9.0", "oslo.message": "{}"}, "context": {}}'
    ),
    "an envelope of nothing": Single(
        '{"request": {"oslo.version": "2.0", "oslo.message": 5}, "context": {}}'
    ),
    "a timeout that is none": Single(
        '{"request": {"method": "echo"}, "context": {}, "call_monitor_timeout": "soon"}'
    ),
}

#: Replies without a meaning, and the exception that the caller gets.
REPLIES: dict[str, tuple[Any, str]] = {
    "a number": (Single("5"), "PayloadFailure"),
    "not JSON": (Single("{"), "PayloadFailure"),
    "not UTF-8": (Data((b"\xff",)), "PayloadFailure"),
    "a failure that is none": (Single('{"failure": "?"}'), "MessageDeliveryFailure"),
    "a failure of a list": (Single('{"failure": [1]}'), "MessageDeliveryFailure"),
    "a failure without a class": (Single('{"failure": "{}"}'), "RemoteError"),
}


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """A router."""
    yield from running()


@pytest.fixture(scope="module")
def service(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that serves the topic `served` and calls the topic `called`."""
    with Service("native", tmp_path_factory.mktemp("hostile") / "log") as one:
        one.do("configure", lines=["[oslo_messaging_amqp]", "rpc_timeout = 5"])
        one.do("serve", url=f"hbamqp://{HOST}:{router.port}/", topic="served")
        yield one


@pytest.fixture
def peer(router: Router) -> Iterator[Driver]:
    """A connection to the router."""
    engine = Connection(uuid.uuid4().hex, hostname=HOST, sasl=SaslClient([Anonymous()], HOST))
    with Driver.connect((HOST, router.port), engine) as driver:
        driver.open()
        yield driver


def address(topic: str) -> str:
    return f"openstack.org/om/rpc/anycast/openstack/{topic}"


def test_a_service_outlives_what_is_no_request(
    router: Router, service: Service, peer: Driver
) -> None:
    session = peer.begin()
    sender = peer.sender(session, Target(address("served")))
    for number, body in enumerate(REQUESTS.values()):
        properties = Properties(f"hostile-{number}", reply_to="nowhere")
        peer.outcome(sender.send(encode_message(Message(body, properties=properties))))
    service.do("open", url=f"hbamqp://{HOST}:{router.port}/", topic="served")
    assert service.do("call", value=1) == 1
    # Each is named, but for those that the driver rejects before oslo.messaging sees them.
    wait_until(lambda: service.log().count("is not oslo.messaging's") >= 6, LIMIT)


@pytest.mark.parametrize("case", REPLIES)
def test_a_caller_learns_of_what_is_no_reply(
    router: Router, service: Service, peer: Driver, case: str
) -> None:
    body, expected = REPLIES[case]
    topic = f"called-{list(REPLIES).index(case)}"
    session = peer.begin()
    receiver = peer.receiver(session, Source(address(topic)), 10)
    answers = session.attach_sender("answers", Target())
    peer.wait_for(CreditChanged, where=lambda event: event.link is answers)
    service.do("open", url=f"hbamqp://{HOST}:{router.port}/", topic=topic)
    service.send("call", value=1)
    request = peer.wait_for(Received, where=lambda event: event.link is receiver).delivery
    receiver.settle(request, Accepted())
    asked = decode_message(request.payload)
    assert isinstance(asked.body, Single)
    assert json.loads(str(asked.body.value))["request"]["method"] == "echo"
    properties = Properties(
        to=asked.properties.reply_to, correlation_id=asked.properties.message_id
    )
    peer.outcome(answers.send(encode_message(Message(body, properties=properties))))
    with pytest.raises(ProgramError) as raised:
        service.answer(LIMIT)
    assert raised.value.kind.endswith(f".{expected}")
