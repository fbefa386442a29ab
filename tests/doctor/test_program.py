"""The doctor assesses the connection that the program makes: T as each client negotiates it."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import sys
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import celery
import kombu
import kombu.pools
import pika
import pytest

import hbshim
from hbshim import messaging
from hbshim.adapters.celery.apps import apps_in_use
from hbshim.doctor import examine
from hbshim.doctor.other_clients import LIBRABBITMQ, transport_of_kombu
from hbshim.doctor.proposals import Proposal, clients_in_use, proposals
from hbshim.doctor.target import broker_target
from hbshim.errors import AttachError
from hbshim.heartbeat.service import current
from hbshim.options import Options
from tests.brokers import HEARTBEAT
from wsgi_harness.stack.broker import Broker

BROKER = "amqp://user:password@host/"


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    hbshim.uninstall()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor sees a process in which hbshim has not done anything yet, nor other tests."""
    nothing = types.SimpleNamespace(existing=lambda: None)
    monkeypatch.setattr("hbshim.doctor.examination.service", nothing)
    monkeypatch.setattr("hbshim.doctor.examination.apps_in_use", list)
    monkeypatch.setattr("hbshim.doctor.examination.loaded_unknown_clients", tuple)


def negotiated_by(client: str, url: str) -> float:
    """T that a connection of the program has, by the library's own account."""
    if client == "amqp":
        with kombu.Connection(url) as connection:
            connection.connect()
            return connection.connection.heartbeat or 0
    connection = pika.BlockingConnection(pika.URLParameters(url))
    with connection:
        return connection._impl.params.heartbeat


@pytest.mark.parametrize("library", ["amqp", "pika", "aiormq", "proton"])
def test_each_library_that_hbshim_keeps_alive_is_known(library: str) -> None:
    script = (
        f"import json, {library}, hbshim; from hbshim.doctor import examine; before = examine(); "
        "hbshim.install(); print(json.dumps([before.as_dict(), examine().as_dict()]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    without, installed = (
        {each["check"]: each for each in report["findings"]} for report in json.loads(done.stdout)
    )
    assert without["installed"]["verdict"] == "warning"
    assert library in without["installed"]["sentence"]
    assert installed["installed"]["verdict"] == "ok"
    assert installed["clients"]["verdict"] == "ok"
    assert library in installed["clients"]["sentence"]


@pytest.mark.parametrize("option", [0, 3])
@pytest.mark.parametrize("query", ["", "?heartbeat=0", "?heartbeat=2", "?heartbeat=20"])
@pytest.mark.parametrize("client", ["amqp", "pika"])
def test_t_is_what_the_client_negotiates(
    broker: Broker, client: str, query: str, option: int
) -> None:
    hbshim.install(heartbeat=option)
    url = broker.amqp_url() + query
    (proposal,) = proposals(broker_target(url), Options(heartbeat=option), (client,))
    assert proposal.negotiated(HEARTBEAT) == negotiated_by(client, url)


@pytest.mark.parametrize("option", [0, 3])
@pytest.mark.parametrize("query", ["", "?heartbeat_interval=2"])
@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_t_is_what_a_messaging_driver_negotiates(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, scheme: str, query: str, option: int
) -> None:
    monkeypatch.setenv("HBSHIM_HEARTBEAT", str(option))
    url = f"{scheme}://{broker.user}:{broker.password}@{broker.host}:{broker.amqp_port}/{query}"
    (proposal,) = proposals(broker_target(url), Options.load(), ("amqp", "pika"))
    before = {link.name for link in current().links()}
    driver = messaging.connect(url)
    try:
        client = messaging.Client(driver, messaging.Target("doctor-program"), timeout=30)
        client.cast("nothing")
        links = [link for link in current().links() if link.name not in before]
        assert {link.timeout for link in links} == {proposal.negotiated(HEARTBEAT)}
    finally:
        driver.close()


@pytest.mark.parametrize("option", [0, 3])
@pytest.mark.parametrize("given", [False, True], ids=["without the app", "install(app)"])
@pytest.mark.parametrize("heartbeat", [0, 2])
def test_t_is_what_a_celery_apps_producers_negotiate(
    broker: Broker, fresh: None, heartbeat: int, given: bool, option: int
) -> None:
    app = celery.Celery("service", broker=broker.amqp_url(), set_as_current=False)
    app.conf.broker_heartbeat = heartbeat
    hbshim.install(*([app] if given else []), heartbeat=option)
    report = examine(app=app)
    with app.producer_pool.acquire(block=True) as producer:
        timeout = producer.connection.connection.heartbeat or 0
    told = report.finding("heartbeat")
    assert f"Celery app 'service': {f'T = {timeout}' if timeout else ''}" in told.sentence
    assert ("T = 0" in told.sentence) == (timeout == 0)
    assert (told.verdict == "problem") == (timeout == 0 and not given)
    kombu.pools.reset()
    app.close()


def test_a_process_is_told_of_the_connections_it_opened_without(broker: Broker) -> None:
    hbshim.install()
    current().metrics.take_events()
    with kombu.Connection(broker.amqp_url()) as connection:
        connection.connect()
        report = examine(broker.amqp_url(heartbeat=60), idle_limit=90, heartbeat=1, timeout=60)
    assert "not-negotiated" in report.finding("events").sentence
    for check in ("events", "heartbeat", "idle-limit"):
        assert report.finding(check).verdict == "problem"
    assert report.finding("installed").verdict == "ok"


def not_kept() -> dict[str, int]:
    """How many open connections of this process hbshim does not keep alive, by the finding."""
    told = examine().finding("open-connections")
    counted = re.findall(r"(\d+) of ([\w-]+, T = \d+ s)", told.sentence)
    assert (told.verdict == "problem") == bool(counted)
    return {what: int(number) for number, what in counted}


@pytest.mark.parametrize("client", ["amqp", "pika"])
def test_a_connection_opened_before_install_is_found(broker: Broker, client: str) -> None:
    url = broker.amqp_url(heartbeat=30)

    def connect() -> kombu.Connection | pika.BlockingConnection:
        if client == "amqp":
            connection = kombu.Connection(url)
            opened.callback(connection.close)
            connection.connect()
        else:
            connection = pika.BlockingConnection(pika.URLParameters(url))
            opened.callback(connection.close)
        return connection

    # What tests before this one left open in the process stays, or goes now.
    gc.collect()
    others = not_kept()
    with contextlib.ExitStack() as opened:
        early = connect()
        hbshim.install()
        connect()
        what = {"amqp": f"py-amqp, T = {HEARTBEAT} s", "pika": "pika, T = 30 s"}[client]
        assert not_kept() == {**others, what: others.get(what, 0) + 1}
        hbshim.keep_alive(early)
        assert not_kept() == others


def test_the_options_of_the_process_count(fresh: None) -> None:
    hbshim.install(heartbeat=40, worker="pthread")
    report = examine()
    assert "T = 40 s (the option heartbeat)" in report.finding("heartbeat").sentence
    assert "pthread" in report.finding("worker").sentence
    assert "greenthread" in examine(worker="greenthread").finding("worker").sentence


@pytest.mark.parametrize("heartbeat", [None, 30])
def test_an_app_is_judged_before_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, heartbeat: int | None
) -> None:
    monkeypatch.setattr("celery._state._apps", weakref.WeakSet())
    app = celery.Celery("fresh", broker=BROKER, set_as_current=False)
    if heartbeat is not None:
        app.conf.broker_heartbeat = heartbeat
    assert apps_in_use() == []
    hbshim.install(app)
    (facts,) = apps_in_use()
    assert not app.configured, "the examination configured it"
    assert facts.options == {"heartbeat": int(app.conf.broker_heartbeat)}
    app_options = Options(**cast(dict[str, Any], facts.options))
    (proposal,) = proposals(None, Options(), ("amqp",), [(facts, app_options)])
    assert proposal.seconds == (heartbeat or 120)
    app.close()


def of(url: str, *clients: str, option: int = 0) -> tuple[Proposal, ...]:
    return proposals(broker_target(url), Options(heartbeat=option), clients or ("amqp", "pika"))


def test_without_a_url_only_the_option_is_known() -> None:
    assert proposals(None, Options(), ("amqp", "pika")) == ()
    (only,) = proposals(None, Options(heartbeat=9), ("amqp", "pika"))
    assert only.seconds == 9


def test_a_scheme_of_kombus_is_no_matter_of_pikas() -> None:
    assert [each.client for each in of(BROKER)] == ["py-amqp", "pika"]
    assert [each.client for each in of(BROKER.replace("amqp", "pyamqp"))] == ["py-amqp"]


def test_oslo_messagings_own_driver_asks_by_itself() -> None:
    (stock,) = of("rabbit://user:password@a:1,user:password@b:2//")
    assert stock == Proposal(
        "rabbit://",
        60,
        "oslo.messaging's default, unless heartbeat_timeout_threshold is set",
    )


def test_the_clients_in_use_are_those_named_or_loaded() -> None:
    assert clients_in_use("pika") == ("pika",)
    assert clients_in_use(None) == ("amqp", "pika")


@pytest.fixture
def librabbitmq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "librabbitmq"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("scheme", "patched", "expected"),
    [
        ("amqp", False, LIBRABBITMQ),
        ("amqp", True, ""),
        ("amqps", False, ""),
        ("pyamqp", False, ""),
        ("hbshim", False, ""),
        ("hbkombu", False, ""),
        ("hbrabbit", False, ""),
        ("rabbit", False, LIBRABBITMQ),
    ],
)
def test_kombus_choice_of_librabbitmq_is_foreseen(
    librabbitmq: None, scheme: str, patched: bool, expected: str
) -> None:
    target = broker_target(f"{scheme}://host/")
    assert transport_of_kombu(target, (), patched=patched) == expected


def test_without_librabbitmq_kombu_takes_py_amqp(monkeypatch: pytest.MonkeyPatch) -> None:
    assert transport_of_kombu(None, (), patched=False) == ""
    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "amqp", "mine.transport:Transport")
    assert transport_of_kombu(None, (), patched=False) == "mine.transport:Transport"


def test_an_app_without_amqp_has_no_heartbeats_to_miss(fresh: None) -> None:
    with pytest.raises(AttachError, match=r"not builtins\.int"):
        examine(app=5)
    app = celery.Celery("other", broker="memory://", set_as_current=False)
    report = examine(app=app)
    assert report.finding("clients").verdict == "ok"
    assert report.finding("heartbeat").verdict == "not-applicable"
    app.close()
