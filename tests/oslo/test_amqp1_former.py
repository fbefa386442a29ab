"""Services with oslo.messaging's former driver ``amqp://``, and with hbshim's, over one router.

The former ones run with the last oslo.messaging that has the driver, and qpid-proton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.messaging.amqp1.routers import HOST, Router, running
from tests.stress.oslo.environments import former_package
from tests.stress.oslo.processes import ProgramError, Service
from tests.waiting import wait_until

LIMIT = 60

#: Which side is which.
FORMER, OURS = "former", "ours"
PAIRS = ((FORMER, FORMER), (FORMER, OURS), (OURS, FORMER))

#: The options of both sides, by mode of addresses.
MODES = {
    "routable": (),
    "legacy": ("addressing_mode = legacy",),
    "own-prefixes": (
        "rpc_address_prefix = cloud/rpc",
        "notify_address_prefix = cloud/news",
        "unicast_address = one",
        "anycast_address = any",
        "multicast_address = all",
        "default_rpc_exchange = exchange",
        "pseudo_vhost = false",
    ),
}


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """A router."""
    yield from running()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Service]]:
    """The service of a side that has a role; it is started once."""
    directory = tmp_path_factory.mktemp("former")
    package = former_package(lambda _text: None)
    found: dict[tuple[str, str], Service] = {}
    # Side by side: importing oslo.messaging takes a second.
    for side in (FORMER, OURS):
        for role in ("server", "client"):
            log = directory / f"{role}-{side}.log"
            found[side, role] = Service("native", log, package=package if side == FORMER else None)
    yield lambda side, role: found[side, role]
    for one in found.values():
        one.end()


def configured(service: Service, mode: str) -> None:
    service.do("close")
    service.do("configure", lines=["[oslo_messaging_amqp]", *MODES[mode]])


def url(router: Router, side: str) -> str:
    scheme = "amqp" if side == FORMER else "hbamqp"
    return f"{scheme}://{HOST}:{router.port}/vhost"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("server", "client"), PAIRS, ids=[f"{server}-serves-{client}" for server, client in PAIRS]
)
def test_every_kind_of_message(
    services: Callable[[str, str], Service], router: Router, server: str, client: str, mode: str
) -> None:
    """The first pair is the control: what the former driver does with itself."""
    topic = f"{mode}-{PAIRS.index((server, client))}"
    serving, calling = services(server, "server"), services(client, "client")
    for one in (serving, calling):
        configured(one, mode)
    serving.do("serve", url=url(router, server), topic=topic)
    calling.do("open", url=url(router, client), topic=topic)
    value = {"value": [1, None, "\u00fc"]}
    assert calling.do("call", value=value) == value
    assert calling.do("call_to_server", value=2) == 2
    if mode == "routable":
        # The former driver's timers have whole seconds.
        assert calling.do("call_monitored", value=3, seconds=2.5, timeout=2) == 3
    sent = [f"{topic} {kind}" for kind in ("cast", "fanout", "notify")]
    for each in sent:
        calling.do(each.rpartition(" ")[2], value=each)
    wait_until(lambda: [each for each in sent if each not in serving.do("heard")] == [], LIMIT)
    with pytest.raises(ProgramError, match="a bad one") as raised:
        calling.do("fail", text="a bad one")
    assert raised.value.kind.endswith(".ValueError")
