"""`hbrabbit://`: heartbeats come from hbshim alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.oslo.conftest import MODELS, Pair, T
from tests.stress.oslo.processes import ProgramError, Service
from tests.stress.oslo.schemes import over_0_9_1
from tests.waiting import wait_until

OWN_THREAD = "Rabbit-heartbeat"


def heartbeats(service: Service) -> int:
    return sum(link["heartbeats_sent"] for link in service.do("report")["status"]["links"])


def workers(service: Service) -> set[str]:
    """The workers that hbshim chose."""
    status = service.do("report")["status"]
    if status["counters"].get("event:worker-moved"):
        # A machine that stalled for a moment had the links moved off the hub.
        return {"greenthread"}
    return {link["worker"] for link in status["links"]}


@pytest.mark.parametrize("model", MODELS)
def test_hbshim_sends_heartbeats_and_the_drivers_own_thread_does_not_run(
    pair: Callable[..., Pair], model: str
) -> None:
    both = pair(model, "hbrabbit", "hbrabbit")
    assert both.client.do("call", value=1) == 1
    for each in (both.client, both.server):
        # Sending and listening: the client calls, and waits for replies.
        assert len(each.do("report")["status"]["links"]) >= 2
        wait_until(lambda each=each: heartbeats(each) >= 2, 10 * T)  # type: ignore[misc]
        assert OWN_THREAD not in each.do("report")["threads"]


def test_stock_runs_a_thread_of_its_own(
    service: Callable[..., Service], url: Callable[..., str]
) -> None:
    """The control; native, because a green thread has no name of its own."""
    one = service("native")
    one.answer()
    one.do("open", url=url("rabbit"), topic="unserved")
    one.do("fanout", value=1)
    report = one.do("report")
    assert report["status"]["links"] == []
    assert OWN_THREAD in report["threads"]


@pytest.mark.parametrize("scheme", over_0_9_1())
@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        ("file", "true", {"pthread"}),
        ("file", "auto", {"greenthread"}),
        ("url", "false", {"greenthread"}),
        ("url", "true", {"pthread"}),
    ],
)
def test_the_option_is_back(
    service: Callable[..., Service],
    url: Callable[..., str],
    scheme: str,
    where: str,
    value: str,
    expected: set[str],
) -> None:
    lines = [f"heartbeat_in_pthread = {value}"] if where == "file" else []
    query = {} if where == "file" else {"heartbeat_in_pthread": value}
    one = service("green", *lines)
    one.answer()
    one.do("open", url=url(scheme, **query), topic="unserved")
    one.do("fanout", value=1)
    assert workers(one) == expected
    assert not one.do("report")["replaced"]


def test_the_url_wins_over_the_file(
    service: Callable[..., Service], url: Callable[..., str]
) -> None:
    one = service("green", "heartbeat_in_pthread = false")
    one.answer()
    one.do("open", url=url("hbrabbit", heartbeat_in_pthread="true"), topic="unserved")
    one.do("fanout", value=1)
    assert workers(one) == {"pthread"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"heartbeat_in_pthread": "perhaps"}, "use one of: true | false | auto"),
        ({"hbshim_liveness_timeout": "-1"}, "use one of: seconds, 0 or more"),
        ({"heartbeat_in_pthread": "true", "hbshim_worker": "tpool"}, "contradicts"),
    ],
)
def test_an_option_that_is_not_acceptable_is_named(
    service: Callable[..., Service], url: Callable[..., str], query: dict[str, Any], message: str
) -> None:
    one = service("native")
    one.answer()
    with pytest.raises(ProgramError, match=message) as raised:
        one.do("open", url=url("hbrabbit", **query), topic="t")
    assert raised.value.kind.startswith("oslo_messaging.transport.")
    assert "only-for-tests" not in str(raised.value)
