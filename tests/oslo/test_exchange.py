"""What a service does with oslo.messaging, over hbshim's drivers and oslo.messaging's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oslo.conftest import MODELS
from tests.stress.oslo.processes import ProgramError, Service
from tests.stress.oslo.schemes import STOCK, ours
from tests.waiting import wait_until


def exchange(server: Service, client: Service, name: str) -> None:
    """Send every kind of message from `client` to `server`."""
    value = {name: [1, None, "ü"]}
    assert client.do("call", value=value) == value
    sent = [f"{name} {kind}" for kind in ("cast", "fanout", "notify")]
    for each in sent:
        client.do(each.rpartition(" ")[2], value=each)
    wait_until(lambda: [each for each in sent if each not in server.do("heard")] == [], 20)
    with pytest.raises(ProgramError, match="a bad one") as raised:
        client.do("fail", text="a bad one")
    assert raised.value.kind.endswith(".ValueError")


@pytest.fixture
def two(service: Callable[..., Service]) -> Callable[[str], tuple[Service, Service]]:
    """Two services, not connected yet."""

    def start(model: str) -> tuple[Service, Service]:
        found = service(model), service(model)
        for each in found:
            each.answer()
        return found

    return start


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_message(
    two: Callable[[str], tuple[Service, Service]],
    url: Callable[..., str],
    request: pytest.FixtureRequest,
    model: str,
) -> None:
    """Over every scheme, a topic each."""
    server, client = two(model)
    for scheme in ours():
        topic = f"{request.node.name}-{scheme}"
        server.do("serve", url=url(scheme), topic=topic)
        client.do("open", url=url(scheme), topic=topic)
        exchange(server, client, scheme)


@pytest.mark.parametrize("model", MODELS)
def test_a_rolling_change_of_the_scheme(
    two: Callable[[str], tuple[Service, Service]],
    url: Callable[..., str],
    request: pytest.FixtureRequest,
    model: str,
) -> None:
    """From rabbit:// to hbrabbit:// and back, clients first and servers first, on one topic."""
    there = request.node.name
    first, second = two(model)
    first.do("serve", url=url(STOCK), topic=there)
    second.do("open", url=url(STOCK), topic=there)
    exchange(first, second, "old-old")
    second.do("open", url=url("hbrabbit"), topic=there)
    exchange(first, second, "old server, new client")
    first.do("close")
    first.do("serve", url=url("hbrabbit"), topic=there)
    exchange(first, second, "new-new")
    second.do("open", url=url(STOCK), topic=there)
    exchange(first, second, "new server, old client")
    first.do("close")
    first.do("serve", url=url(STOCK), topic=there)
    exchange(first, second, "back")


@pytest.mark.parametrize("model", MODELS)
def test_two_schemes_in_one_service(
    two: Callable[[str], tuple[Service, Service]],
    url: Callable[..., str],
    request: pytest.FixtureRequest,
    model: str,
) -> None:
    """RPC over one and notifications over another: every pair of drivers."""
    server, client = two(model)
    schemes = (STOCK, *ours())
    for number, rpc in enumerate(schemes):
        news = schemes[(number + 1) % len(schemes)]
        topic = f"{request.node.name}-{rpc}"
        server.do("serve", url=url(rpc), news=url(news), topic=topic)
        client.do("open", url=url(rpc), news=url(news), topic=topic)
        exchange(server, client, f"{rpc} and {news}")
