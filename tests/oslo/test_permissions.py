"""A user who may not write: oslo.messaging's own error, at once, with the broker's reason."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.messaging.conftest import unique
from tests.messaging.test_permissions import permit, put
from tests.stress.oslo.processes import ProgramError, Service
from wsgi_harness.stack.broker import Broker

#: Seconds after which `call()` gives up, and in which an error is no timeout.
TIMEOUT, LIMIT = 60.0, 30.0

#: Not hbrabbit, in which oslo.messaging's own driver sends.
OTHERS = ("hbamqp", "hbkombu")

#: What a driver of hbshim says, and what a broker of AMQP 1.0 says.
REASON = "permission|refused for user"


@pytest.mark.parametrize(
    "scheme",
    ["hbpika", *(pytest.param(scheme, marks=pytest.mark.extended) for scheme in OTHERS)],
)
def test_a_user_who_may_not_write(
    service: Callable[..., Service],
    url: Callable[..., str],
    broker: Broker,
    request: pytest.FixtureRequest,
    scheme: str,
) -> None:
    user = unique("restricted")
    put(broker, f"users/{user}", {"password": broker.password, "tags": ""})
    permit(broker, user, ".*", "^$", ".*")
    server, client = service("native"), service("native")
    topic = request.node.name
    server.send("serve", url=url(scheme), topic=topic)
    restricted = re.sub("//[^:]*:", f"//{user}:", url(scheme), count=1)
    client.send("open", url=restricted, topic=topic, timeout=TIMEOUT, news_retry=-1)
    for each in (server, client):
        each.answer()
        each.answer()
    for command in ("call", "cast", "fanout", "call"):
        began = time.monotonic()
        with pytest.raises(ProgramError, match=REASON) as raised:
            client.do(command, value=1)
        assert raised.value.kind == "oslo_messaging.exceptions.MessageDeliveryFailure"
        assert time.monotonic() - began < LIMIT, command
    # The notifier logs what cannot be sent, and goes on: another attempt would be refused, too.
    client.do("notify", value=1, limit=LIMIT)
    assert re.search(REASON, client.log())
    assert server.do("heard") == []
