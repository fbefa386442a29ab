"""The benchmark over ZeroMQ measures what really happened; figures are never asserted here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest

from hbshim import messaging
from hbshim.bench import suite
from hbshim.bench.rpc import processes, turns
from hbshim.bench.rpc.comparing import Comparison
from hbshim.bench.rpc.parts import PREFIX
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.zmq import contest, proxies
from hbshim.bench.zmq.contest import (
    ACKNOWLEDGED,
    BARE,
    BARE_C,
    CALL,
    CAST,
    CONTROL,
    CURVE,
    NOTIFY,
    OWN,
    RABBIT,
    WORKS,
)
from hbshim.errors import CallTimeoutError, HbshimError, MissingExtraError
from tests.concurrency import MODEL
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

pytestmark = pytest.mark.skipif(MODEL != "native", reason="benchmarks patch their own processes")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "QUICK_SLICE", 0.05)
    monkeypatch.setattr(turns, "QUICK_SLICES", 1)


def test_there_is_a_row_for_every_comparison_and_for_the_cpu_of_the_proxies(
    tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Green contestants and RabbitMQ: see below, and the benchmark itself.
    compared = [
        each
        for each in contest.COMPARISONS
        if {each.of, each.against} <= {OWN, CONTROL, CURVE, BARE, BARE_C}
    ]
    monkeypatch.setattr(contest, "COMPARISONS", compared)
    assert {each.work for each in compared if each.of is CONTROL} == set(WORKS)
    result = suite.run(["zmq"], None, quick=True, progress=lambda _: None)
    rows = json.loads(json.dumps(result))["zmq"]
    assert {row["work"] for row in rows} == {work.name for work in WORKS}
    of_rates = [row for row in rows if not row["contestant"].startswith("CPU")]
    assert [(row["work"], row["contestant"], row["against"]) for row in of_rates] == [
        (each.work.name, each.of.name, each.against.name)
        for work in WORKS
        for each in compared
        if each.work is work
    ]
    assert [row["must"] for row in rows if row not in of_rates] == ["≤ 4.5", "≤ 4.5"]
    for row in rows:
        assert row["per_second"] > 0
        assert row["ratio"] > 0
        assert row["proxy_us"] > 0
        assert (row["reached"] is None) == (row["must"] is None)
    suite.print_tables(result)
    assert "≥ 0.55" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["eventlet", "gevent"])
def test_green_contestants_call(model: str) -> None:
    with (
        proxies.own_proxy() as proxy,
        Contestant("own", "hbzmq", "green", model, proxy.url, proxy.cpu) as contestant,
    ):
        contestant.await_ready()
        assert contestant.measure(CALL, 0.05)["rate"] > 0


def test_the_proxy_with_curve_takes_no_client_without_it() -> None:
    """Its contestants do not measure what is sent in plain text."""
    with (
        proxies.own_proxy(curve=True) as proxy,
        Contestant("own", "hbzmq", "curve", "native", proxy.url, proxy.cpu) as contestant,
    ):
        contestant.await_ready()
        assert contestant.measure(CALL, 0.05)["rate"] > 0
        url, _, query = proxy.url.partition("?")
        options = {name: value for name, value in parse_qsl(query) if "curve" not in name}
        driver = messaging.connect(f"{url}?{urlencode(options)}")
        target = messaging.Target("curve", exchange=f"{PREFIX}_rpc")
        with pytest.raises(CallTimeoutError):
            messaging.Client(driver, target, timeout=1).call("echo", payload="")
        driver.close()


def test_rabbitmq_is_compared_where_there_is_one(
    broker: Broker, vhost: str, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = (Comparison(CALL, OWN, RABBIT, 1.5), Comparison(NOTIFY, ACKNOWLEDGED, RABBIT, 1.2))
    monkeypatch.setattr(contest, "COMPARISONS", pairs)
    rows = contest.run(broker.amqp_url(vhost=vhost), quick=True)
    assert [(row["work"], row["contestant"], row["against"], row["must"]) for row in rows] == [
        ("call", "hbzmq", "hbkombu", "≥ 1.5"),
        ("notify", "hbzmq, acknowledged", "hbkombu", "≥ 1.2"),
    ]


def test_a_cast_that_does_not_arrive_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ANSWER_LIMIT", 5.0)
    with (
        proxies.c_proxy() as proxy,
        Contestant("bare pyzmq", "c", "lost", "native", proxy.place) as contestant,
    ):
        contestant.await_ready()
        assert contestant.measure(CAST, 0.05)["arrived"] > 0
        contestant._expected["requests"] += 1
        with pytest.raises(HbshimError, match="the server took in"):
            contestant.measure(CAST, 0.05)


def test_a_slice_has_no_more_casts_than_it_may() -> None:
    with (
        proxies.c_proxy() as proxy,
        Contestant("bare pyzmq", "c", "most", "native", proxy.place) as contestant,
    ):
        contestant.await_ready()
        assert len(contestant.measure(CAST._replace(most=3), 60.0)["taken"]) == 3


def test_the_cpu_time_of_a_proxy_is_that_of_all_its_processes() -> None:
    with proxies.own_proxy() as proxy:
        children = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
        assert len(children) == 3
        assert proxy.cpu() > sum(proxies._cpu(int(child)) for child in children) > 0
    wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), 30)


def test_a_proxy_that_cannot_start_is_named_with_what_it_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxies, "_free_ports", lambda count: [1_000_000] * count)
    with pytest.raises(HbshimError, match=r"did not start: .*zmq_call_port"), proxies.own_proxy():
        pass


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contest.LIBRARIES, "no_such_library", "zmq")
    with pytest.raises(MissingExtraError, match="no_such_library"):
        contest.run(None, quick=True)
