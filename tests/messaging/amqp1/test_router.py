"""The driver over a router: what the contract of all drivers does not cover."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from hbshim import messaging
from hbshim.errors import (
    ConnectError,
    MessagingError,
    OptionError,
    RejectedError,
    TopologyError,
    UnroutableError,
    UnsupportedError,
)
from hbshim.messaging.amqp import patterns
from hbshim.messaging.amqp1 import logins
from hbshim.messaging.amqp1.driver import Amqp1Driver
from hbshim.messaging.amqp1.outcomes import Outcome
from hbshim.messaging.amqp1.routable import Routable
from hbshim.messaging.amqp1.stream import EngineStream
from tests.concurrency import MODEL
from tests.messaging.amqp1.routers import HOST, Router
from tests.messaging.conftest import LIMIT
from tests.messaging.endpoints import Endpoint
from tests.proton import require_proton
from tests.waiting import wait_until
from wsgi_harness.router.plan import DIRECTORY, Plan, free_port
from wsgi_harness.router.process import RouterProcess

CHECKOUT = Path(__file__).parents[3]

Drivers = Callable[..., messaging.Driver]
Serve = Callable[..., messaging.Server]


# -- what the peer is --------------------------------------------------------------------


def test_the_peer_says_that_it_is_a_router(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    driver = router_drivers()
    assert isinstance(driver, Amqp1Driver)
    assert driver.capabilities.pools
    serve(driver, target, Endpoint())
    assert messaging.Client(driver, target, timeout=LIMIT).call("echo", value=1) == 1
    assert driver.capabilities == messaging.Capabilities(mandatory=True)


def test_a_request_is_settled_with_its_reply_when_its_client_can_be_reached(
    router_drivers: Drivers,
    target: messaging.Target,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(router_drivers(), target, Endpoint())
    client = messaging.Client(router_drivers(), target, timeout=LIMIT)
    connection = getattr(server, "_listener")._connection  # noqa: B009
    writes: list[bytes] = []
    send = EngineStream.send

    def count(stream: EngineStream, data: bytes) -> None:
        if stream is connection._stream:
            writes.append(data)
        send(stream, data)

    monkeypatch.setattr(EngineStream, "send", count)
    written = []
    for value in range(3):
        writes.clear()
        assert client.call("echo", value=value) == value
        wait_until(lambda: not connection._held, LIMIT)
        written.append(len(writes))
    # The first reply has to arrive before its request is settled.
    assert written[0] > 2
    # The acceptance; the reply with the settlement.
    assert written[1:] == [2, 2]


def test_the_smallest_frames(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    """Of 512 bytes in both directions; a message ends at, before and behind the end of one."""
    driver = router_drivers(max_frame_size=512)
    serve(driver, target, Endpoint())
    client = messaging.Client(driver, target, timeout=LIMIT)
    for size in (0, *range(100, 600, 7), 100_000):
        assert client.call("echo", value="x" * size) == "x" * size


def test_virtual_hosts_are_different_addresses(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    one, two = router_drivers("one"), router_drivers("two")
    serve(one, target, Endpoint())
    assert messaging.Client(one, target, timeout=LIMIT).call("echo", value=1) == 1
    with pytest.raises(UnroutableError, match="no server"):
        messaging.Client(two, target, timeout=LIMIT, mandatory=True).call("echo", value=1)


# -- casts, copies, and what a router cannot do --------------------------------------------


def test_a_cast_without_a_server_on_a_router(
    router_drivers: Drivers, target: messaging.Target
) -> None:
    client = messaging.Client(router_drivers(), target, timeout=0.5)
    with pytest.raises(UnroutableError, match=target.topic):
        client.cast("echo", value=1)
    # A fanout is lost, and no error.
    client.prepare(fanout=True).cast("echo", value=1)


def test_a_cast_returns_when_a_server_has_begun_it_on_a_router(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    endpoint = Endpoint()
    serve(router_drivers(), target, endpoint, workers=1)
    client = messaging.Client(router_drivers(), target, timeout=LIMIT)
    client.cast("hold", value="begun")
    with pytest.raises(MessagingError):
        client.prepare(timeout=0.5).cast("echo", value="not begun")
    written = messaging.Client(router_drivers(cast_confirm=False), target, timeout=LIMIT)
    written.cast("echo", value="written")
    endpoint.release.set()
    wait_until(lambda: endpoint.asked == ["begun", "written"], LIMIT)


@pytest.mark.parametrize("acknowledge", ["before", "after"])
def test_a_marked_copy_is_run_only_where_requests_are_acknowledged_after(
    acknowledge: Literal["before", "after"],
    router_drivers: Drivers,
    target: messaging.Target,
    serve: Serve,
) -> None:
    """Its mark means that another server has received it and may have begun it."""
    endpoint = Endpoint()
    serve(router_drivers(), target, endpoint, acknowledge=acknowledge)
    driver = router_drivers()
    assert isinstance(driver, Amqp1Driver)
    deadline = time.monotonic() + LIMIT
    prepared = driver._callers.get().connected(deadline, None)
    connection = prepared.connection
    request = messaging.Payload(b'{"method": "echo", "args": {"value": "copy"}}')
    message = patterns.cast(connection.profile.names, target, request, deadline)
    outcomes: list[Outcome] = []
    connection.publish(
        message, deadline, lambda outcome, _reason: outcomes.append(outcome), resent=1, awaited=True
    )
    assert connection.wait_for(lambda: outcomes, deadline)
    if acknowledge == "before":
        assert (outcomes, endpoint.asked) == ([Outcome.SERVER_LOST], [])
    else:
        assert (outcomes, endpoint.asked) == ([Outcome.ACCEPTED], ["copy"])


def test_what_needs_a_store_is_refused_on_a_router(
    router_drivers: Drivers, target: messaging.Target
) -> None:
    client = messaging.Client(router_drivers(), target)
    with pytest.raises(OptionError, match="hbpika"):
        client.submit("echo", value=1)


class Events:
    """Notes what arrives."""

    def __init__(self) -> None:
        self.got: list[object] = []

    def info(self, notification: messaging.Notification) -> None:
        self.got.append(notification.payload)


# -- forks ---------------------------------------------------------------------------------


@pytest.mark.skipif(MODEL != "native", reason="the processes patch themselves")
@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_fork_over_a_router(
    model: str,
    router: Router,
    router_drivers: Drivers,
    target: messaging.Target,
    serve: Serve,
) -> None:
    """Both processes go on with a driver that was used before."""
    endpoint, events = Endpoint(), Events()
    driver = router_drivers(direct_notifications=True)
    serve(driver, target, endpoint)
    auditor = messaging.NotificationServer(driver, [target.topic], [events])
    assert auditor.start(LIMIT)
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tests/messaging/forking.py", model, target.topic],
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "URL": f"hbamqp://{HOST}:{router.port}/?direct_notifications=true",
        },
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["child", "parent"]
    said = [f"{who}-{number}" for who in ("child", "parent") for number in range(5)]
    # A call and a cast of each.
    assert Counter(endpoint.asked) == Counter(["before", *said, *said])
    assert set(events.got) == {"before", *said}
    assert auditor.stop(LIMIT)


# -- logins --------------------------------------------------------------------------------


def test_without_a_user_it_is_anonymous(router: Router, target: messaging.Target) -> None:
    driver = messaging.connect(f"hbamqp://{HOST}:{router.port}/")
    try:
        server = messaging.Server(driver, target, [Endpoint()])
        assert server.start(LIMIT)
        assert messaging.Client(driver, target, timeout=LIMIT).call("echo", value=1) == 1
        assert server.stop(LIMIT)
    finally:
        driver.close()


def test_a_password_is_not_sent_to_other_machines_without_tls(
    router: Router, target: messaging.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the router stands for one of another machine."""
    monkeypatch.setattr(logins, "_is_here", lambda _sock: False)
    url = f"hbamqp://nova:the-secret@{HOST}:{router.port}/?login_method=PLAIN"
    driver = messaging.connect(url)
    with pytest.raises(ConnectError, match="plain_without_tls=true") as caught:
        driver.call(target, messaging.Payload(b"{}"), LIMIT)
    assert "the-secret" not in str(caught.value)
    driver.close()
    # The router has no account of this name: it was sent.
    driver = messaging.connect(url, plain_without_tls=True)
    with pytest.raises(ConnectError, match="SASL"):
        driver.call(target, messaging.Payload(b"{}"), LIMIT)
    driver.close()


# -- notifications -------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["auto", "router"])
def test_notifications_need_the_opt_in(
    profile: str, router_drivers: Drivers, target: messaging.Target
) -> None:
    driver = router_drivers(addressing_profile=profile)
    with pytest.raises(UnsupportedError, match="direct_notifications=true"):
        messaging.Notifier(driver, target.topic, "here", timeout=LIMIT).info("event", 1)

    with pytest.raises(UnsupportedError, match="direct_notifications=true"):
        messaging.NotificationServer(driver, [target.topic], [Events()]).start(LIMIT)


def test_pools_need_a_broker(router_drivers: Drivers, target: messaging.Target) -> None:
    driver = router_drivers(addressing_profile="router", direct_notifications=True)
    with pytest.raises(UnsupportedError, match="pool='one'"):
        driver.listen_for_notifications([(target, "info")], pool="one")


def test_a_notification_without_a_listener(
    router_drivers: Drivers, target: messaging.Target
) -> None:
    driver = router_drivers(direct_notifications=True)
    with pytest.raises(UnroutableError, match=target.topic):
        messaging.Notifier(driver, target.topic, "here", timeout=0.5).info("event", 1)


# -- virtual hosts with policies -------------------------------------------------------------


def vhost(name: str, user: str) -> tuple[str, dict[str, object]]:
    """A virtual host of one user, as an operator configures it."""
    ways = ("anycast", "unicast", "multicast")
    allowed = ",".join(f"openstack.org/om/rpc/{way}/{name}/*" for way in ways)
    group = {
        "users": user,
        "remoteHosts": "*",
        "sources": allowed,
        "targets": allowed,
        "allowAnonymousSender": True,
    }
    return "vhost", {"hostname": name, "groups": {"services": group}}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Router]:
    """A router with a virtual host for each of two users."""
    python, port = require_proton(), free_port()
    names = {"alpha": "nova@hbshim", "beta": "eve@hbshim"}
    plan = Plan(
        [
            ("router", {"id": "guarded", "saslConfigDir": DIRECTORY}),
            (
                "listener",
                {
                    "host": HOST,
                    "port": port,
                    "authenticatePeer": True,
                    "saslMechanisms": "PLAIN SCRAM-SHA-1 SCRAM-SHA-256",
                },
            ),
            ("policy", {"enableVhostPolicy": True}),
            *(vhost(name, user) for name, user in names.items()),
        ],
        users={user: f"secret of {user}" for user in names.values()},
    )
    process = RouterProcess(plan, python=python)
    yield Router(process, port)
    process.stop()


def guarded_url(guarded: Router, user: str, virtual_host: str) -> str:
    login = f"{user}%40hbshim:secret%20of%20{user}%40hbshim"
    return f"hbamqp://{login}@{HOST}:{guarded.port}/{virtual_host}"


@pytest.mark.parametrize("profile", ["auto", "router"])
def test_a_virtual_host_with_a_policy(
    profile: str, guarded: Router, target: messaging.Target, serve: Serve
) -> None:
    url = guarded_url(guarded, "nova", "alpha")
    driver = messaging.connect(url, addressing_profile=profile)
    endpoint = Endpoint()
    server = serve(driver, target.to(server="one"), endpoint)
    client = messaging.Client(driver, target, timeout=LIMIT)
    assert client.call("echo", value=1) == 1
    assert client.prepare(server="one").call("echo", value=2) == 2
    client.prepare(fanout=True).cast("echo", value=3)
    wait_until(lambda: endpoint.asked == [1, 2, 3], LIMIT)
    assert server.stop(LIMIT)
    driver.close()


@pytest.mark.parametrize("profile", ["auto", "router"])
def test_a_virtual_host_of_another_user(
    profile: str, guarded: Router, target: messaging.Target
) -> None:
    url = guarded_url(guarded, "eve", "alpha")
    driver = messaging.connect(url, addressing_profile=profile)
    with pytest.raises(ConnectError, match=r"virtual host 'alpha'.*policy") as caught:
        driver.call(target, messaging.Payload(b"{}"), LIMIT, attempts=1)
    assert "secret" not in str(caught.value)
    driver.close()


@pytest.mark.parametrize("method", ["", "?login_method=SCRAM-SHA-1", "?login_method=PLAIN"])
def test_logins_with_a_password(
    method: str, guarded: Router, target: messaging.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCRAM is chosen where it is offered, and needs no TLS."""
    if "PLAIN" not in method:
        monkeypatch.setattr(logins, "_is_here", lambda _sock: False)
    used = "PLAIN" if "PLAIN" in method else method.partition("=")[2] or "SCRAM-SHA-256"
    right = guarded_url(guarded, "nova", "alpha") + method
    for url, error in ((right, "no server accepts"), (right.replace("secret", "wrong"), used)):
        driver = messaging.connect(url, addressing_profile="router")
        with pytest.raises((ConnectError, UnroutableError)) as caught:
            driver.cast(target, messaging.Payload(b"{}"), 0.5, mandatory=True)
        assert "secret" not in str(caught.value)
        if error == used:
            assert "the login of user 'nova@hbshim' failed" in str(caught.value)
            assert f"(SASL {used})" in str(caught.value)
            assert isinstance(caught.value, ConnectError)
            assert caught.value.final
        else:
            assert isinstance(caught.value, UnroutableError)
        driver.close()


def test_addresses_of_another_virtual_host(guarded: Router, target: messaging.Target) -> None:
    """Neither receiving from them nor sending to them is possible; the errors give the reason."""
    driver = messaging.connect(guarded_url(guarded, "eve", "beta"), addressing_profile="router")
    assert isinstance(driver, Amqp1Driver)
    names = driver._profiles.current.names
    assert isinstance(names, Routable)
    names._virtual_host = "alpha"
    with pytest.raises(TopologyError, match="policy"):
        messaging.Server(driver, target, [Endpoint()]).start(LIMIT)
    with pytest.raises(RejectedError):
        driver.cast(target, messaging.Payload(b"{}"), LIMIT)
    driver.close()
