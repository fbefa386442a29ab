"""Every option has an effect wherever it can be given, in every order; or it is an error."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import amqp
import kombu
import pika
import pytest

import hbshim
from hbshim import messaging, observe
from hbshim.adapters.pika import heartbeat as pika_adapter
from hbshim.adapters.pika.heartbeat import BlockingConnection
from hbshim.errors import AttachError, OptionError, WorkerError
from hbshim.heartbeat import service
from hbshim.heartbeat.link import Link
from hbshim.messaging.base import Driver
from hbshim.observe.client import ask
from hbshim.observe.listening import offer
from hbshim.runtime import captured
from wsgi_harness.stack.broker import Broker

LIVENESS = 77.0


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Close these connections in the end."""
    with contextlib.ExitStack() as stack:

        def keep(connection: Any) -> Any:
            stack.callback(connection.close)
            return connection

        yield keep


def by_amqp(broker: Broker) -> amqp.Connection:
    connection = amqp.Connection(
        f"{broker.host}:{broker.amqp_port}", broker.user, broker.password, heartbeat=1
    )
    connection.connect()
    return connection


def by_kombu(broker: Broker, scheme: str = "amqp", **query: Any) -> kombu.Connection:
    url = broker.amqp_url(**query).replace("amqp://", f"{scheme}://", 1)
    connection = kombu.Connection(url, heartbeat=1)
    connection.connect()
    return connection


def by_transport(broker: Broker, **query: Any) -> kombu.Connection:
    hbshim.kombu.register()
    return by_kombu(broker, "hbshim", **query)


def by_pika(broker: Broker, **query: Any) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(broker.amqp_url(heartbeat=1, **query)))


def by_stand_in(broker: Broker, **options: Any) -> BlockingConnection:
    return pika_adapter.BlockingConnection(broker.amqp_url(heartbeat=1), **options)


def link_of(connection: Any) -> Link:
    if isinstance(connection, kombu.Connection):
        connection = connection.connection
    if isinstance(connection, amqp.Connection):
        return connection._transport.hbshim_link
    return connection._impl._heartbeat_checker._link


def worker_of(connection: Any) -> str:
    link = link_of(connection)
    (engine,) = (engine for one, engine in service.current().placements() if one is link)
    return engine.worker.name


WAYS = pytest.mark.parametrize(
    "connect", [by_amqp, by_kombu, by_pika, by_stand_in], ids=lambda way: way.__name__
)


@WAYS
@pytest.mark.parametrize("installed", [False, True])
def test_keep_alive_applies_its_options_to_what_is_kept_alive_already(
    broker: Broker, opened: Callable[[Any], Any], connect: Any, installed: bool
) -> None:
    if installed:
        hbshim.install(liveness_timeout=5)
    connection = opened(connect(broker))
    hbshim.keep_alive(connection, liveness_timeout=LIVENESS)
    assert link_of(connection).liveness_timeout == LIVENESS
    hbshim.keep_alive(connection)
    assert link_of(connection).liveness_timeout == LIVENESS, "an option not given was reset"


@WAYS
def test_keep_alive_moves_a_connection_to_the_worker_that_it_names(
    broker: Broker, opened: Callable[[Any], Any], connect: Any
) -> None:
    hbshim.install()
    connection = opened(connect(broker))
    hbshim.keep_alive(connection)
    with contextlib.suppress(WorkerError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hbshim.keep_alive(connection, worker="greenthread")
        assert worker_of(connection) == "greenthread"
    hbshim.keep_alive(connection, worker="pthread")
    assert worker_of(connection) == "pthread"


@WAYS
@pytest.mark.parametrize("option", [{"heartbeat": 30}, {"strip_polling": False}])
def test_what_comes_too_late_is_refused(
    broker: Broker, opened: Callable[[Any], Any], connect: Any, option: dict[str, Any]
) -> None:
    connection = opened(connect(broker))
    with pytest.raises(OptionError, match="open already"):
        hbshim.keep_alive(connection, **option)


@pytest.mark.parametrize("installed", [False, True])
def test_the_stand_in_applies_its_options(
    broker: Broker, opened: Callable[[Any], Any], installed: bool
) -> None:
    if installed:
        hbshim.install(liveness_timeout=5)
    connection = opened(by_stand_in(broker, liveness_timeout=LIVENESS))
    assert link_of(connection).liveness_timeout == LIVENESS
    with pytest.raises(OptionError, match="whole process"):
        by_stand_in(broker, strip_polling=True)


@pytest.mark.parametrize("installed", ["before", "between", "never"])
def test_a_kept_kombu_connection_keeps_its_options_when_it_reconnects(
    broker: Broker, opened: Callable[[Any], Any], installed: str
) -> None:
    if installed == "before":
        hbshim.install(liveness_timeout=5)
    connection = opened(by_kombu(broker))
    hbshim.keep_alive(connection, liveness_timeout=LIVENESS)
    hbshim.keep_alive(connection, worker="pthread")
    if installed == "between":
        hbshim.install(liveness_timeout=5)
    connection.collect()
    connection.ensure_connection(max_retries=3)
    assert link_of(connection).liveness_timeout == LIVENESS


def test_a_keyword_of_install_wins_over_the_url_of_the_transport(
    broker: Broker, opened: Callable[[Any], Any]
) -> None:
    hbshim.install(liveness_timeout=5)
    connection = opened(by_transport(broker, hbshim_liveness_timeout=LIVENESS))
    assert link_of(connection).liveness_timeout == 5
    hbshim.uninstall()
    connection = opened(by_transport(broker, hbshim_liveness_timeout=LIVENESS))
    assert link_of(connection).liveness_timeout == LIVENESS


@pytest.mark.parametrize("heartbeat", [0, None, 2])
@pytest.mark.parametrize("way", ["install", "stand-in"])
def test_the_option_heartbeat_is_for_pika_too(
    broker: Broker, opened: Callable[[Any], Any], way: str, heartbeat: int | None
) -> None:
    parameters = pika.URLParameters(broker.amqp_url())
    parameters.heartbeat = heartbeat
    if way == "install":
        hbshim.install(heartbeat=3)
        connection = opened(pika.BlockingConnection(parameters))
    else:
        connection = opened(pika_adapter.BlockingConnection(parameters, heartbeat=3))
    # pika takes None for the broker's choice.
    assert connection._impl.params.heartbeat == {0: 3, None: 4, 2: 2}[heartbeat]
    assert link_of(connection).timeout == connection._impl.params.heartbeat
    assert parameters.heartbeat == heartbeat


@pytest.mark.parametrize("key", ["hbshim_strip_polling", "hbshim_worker"])
def test_a_url_of_pika_is_checked_as_it_is_read(key: str) -> None:
    hbshim.install()
    with pytest.raises(OptionError):
        pika.URLParameters(f"amqp://host/?{key}=no")


def test_a_url_of_kombu_is_refused_that_would_have_no_effect() -> None:
    hbshim.install()
    with pytest.raises(OptionError, match="HBSHIM_"):
        kombu.Connection("amqp://host//?hbshim_strip_polling=false")


# -- the watch socket ---------------------------------------------------------


@pytest.fixture
def watch_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "watch.sock"
    monkeypatch.setenv("HBSHIM_WATCH_SOCKET", str(path))
    observe.stop_listening()
    yield path
    observe.stop_listening()


def by_driver(scheme: str) -> Callable[[Broker], Driver]:
    def connect(broker: Broker) -> Driver:
        driver = messaging.connect(broker.amqp_url().replace("amqp://", f"{scheme}://", 1))
        messaging.Client(driver, messaging.Target("options-apply"), timeout=10).cast("nothing")
        return driver

    return connect


def installed_then(
    connect: Callable[[Broker], amqp.Connection] | Callable[..., pika.BlockingConnection],
) -> Callable[[Broker], amqp.Connection | pika.BlockingConnection]:
    def install_and_connect(broker: Broker) -> amqp.Connection | pika.BlockingConnection:
        hbshim.install()
        return connect(broker)

    return install_and_connect


SOCKET_WAYS = {
    "install, py-amqp": installed_then(by_amqp),
    "install, pika": installed_then(by_pika),
    "keep_alive": lambda broker: hbshim.keep_alive(by_kombu(broker)),
    "hbshim": by_transport,
    "stand-in": by_stand_in,
    "hbkombu": by_driver("hbkombu"),
    "hbpika": by_driver("hbpika"),
}


@pytest.mark.parametrize("way", SOCKET_WAYS)
def test_every_way_to_keep_a_connection_alive_opens_the_watch_socket(
    broker: Broker, opened: Callable[[Any], Any], watch_socket: Path, way: str
) -> None:
    opened(SOCKET_WAYS[way](broker))
    assert ask(str(watch_socket)).links


def test_keep_alive_opens_the_socket_for_what_is_kept_alive_already(
    broker: Broker, opened: Callable[[Any], Any], tmp_path: Path
) -> None:
    hbshim.install()
    connection = opened(by_amqp(broker))
    hbshim.keep_alive(connection, watch_socket=str(tmp_path / "s"))
    assert ask(str(tmp_path / "s")).links
    observe.stop_listening()


def test_first_connections_of_several_threads_open_one_socket(watch_socket: Path) -> None:
    def open_at(barrier: threading.Barrier) -> None:
        barrier.wait()
        offer(str(watch_socket))

    for _ in range(20):
        observe.stop_listening()
        barrier = threading.Barrier(8)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            threads = [threading.Thread(target=open_at, args=(barrier,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
        assert not seen
        assert os.path.exists(watch_socket)


def test_a_refused_socket_raises_nothing_where_warnings_are_errors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offer(str(tmp_path / "none" / "s"))


# -- select stripping -----------------------------------------------------------

STRIPPING = """
import select
import eventlet
import hbshim
if {late}:
    hbshim.install()
eventlet.monkey_patch(select=False, os=False)
if not {late}:
    hbshim.install()
assert not hasattr(select, "epoll")
{then}
print(hasattr(select, "epoll"))
"""


def test_an_install_completes_what_another_one_has_begun() -> None:
    """It was interrupted, or is in another thread, between eventlet's two names of a function."""
    code = """
import select
import eventlet
import hbshim
stock = eventlet.monkey_patch
hbshim.install()
eventlet.monkey_patch = stock
hbshim.install()
eventlet.monkey_patch(select=False, os=False)
print(hasattr(select, "epoll"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("then", "back"),
    [
        ("hbshim.uninstall()", True),
        ("hbshim.install(strip_polling=False)", True),
        ("hbshim.install(liveness_timeout=5)", False),
        (
            "from hbshim.runtime.polling import strip_polling; strip_polling(); hbshim.uninstall()",
            False,
        ),
    ],
)
def test_what_install_has_stripped_comes_back(then: str, back: bool, late: bool) -> None:
    code = STRIPPING.format(late=late, then=then)
    environment = {name: value for name, value in os.environ.items() if "HBSHIM" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "PYTHONPATH": str(Path(hbshim.__file__).parents[1])},
    )
    assert done.stdout.strip() == str(back), done.stderr


def test_a_class_that_does_not_say_where_it_is_from_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    namespace = {"__builtins__": __builtins__}
    exec("Odd = type('Odd', (), {})", namespace)
    odd: Any = namespace["Odd"]
    with pytest.raises(AttributeError):
        type.__getattribute__(odd, "__module__")
    monkeypatch.setattr(sys.modules[__name__], "odd_class", odd, raising=False)
    monkeypatch.setitem(cast(Any, sys.modules), 7, sys)
    captured.scan({"select": ("epoll",)})
    with pytest.raises(AttachError, match="does not know connections"):
        hbshim.keep_alive(odd())
    with pytest.raises(AttachError, match="Celery app"):
        hbshim.install(odd())
