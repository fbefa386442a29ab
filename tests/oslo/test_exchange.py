"""What a service does with oslo.messaging, over hbshim's drivers and oslo.messaging's own."""

import pytest

from tests.oslo.conftest import WORLDS
from tests.waiting import wait_until
from wsgi_harness.oslo.processes import ProgramError

SCHEMES = ["hbrabbit"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("change", ["none", "client first", "server first"])
def test_every_kind_of_message(pair, world, scheme, change):
    """Also while a deployment's scheme is being changed: one side is the old one's then."""
    server, client = {
        "none": (scheme, scheme),
        "client first": ("rabbit", scheme),
        "server first": (scheme, "rabbit"),
    }[change]
    both = pair(world, server, client)
    assert both.client.do("call", value={"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}
    both.client.do("cast", value="cast")
    both.client.do("fanout", value="fanout")
    both.client.do("notify", value="notified")
    wait_until(lambda: sorted(both.server.do("heard")) == ["cast", "fanout", "notified"], 20)
    with pytest.raises(ProgramError, match="a bad one") as raised:
        both.client.do("fail", text="a bad one")
    assert raised.value.kind.endswith(".ValueError")
