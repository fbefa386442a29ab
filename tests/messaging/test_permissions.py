"""A user who may not read a queue gets one clear error, and nothing continues silently."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

import hbshim
from hbshim.errors import CallTimeoutError, TopologyError
from hbshim.messaging import Client, NotificationServer, Notifier, Server, Target
from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.hosts import Host
from tests.messaging.conftest import LIMIT, delete_exchange, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

Serve = Callable[..., Server]
#: Grants a new user what it may configure, write and read; regular expressions.
Grant = Callable[[str, str, str], Host]


def put(broker: Broker, path: str, body: dict[str, str | None]) -> None:
    api, account = broker.management_url, (broker.user, broker.password)
    requests.put(f"{api}/api/{path}", json=body, auth=account, timeout=LIMIT).raise_for_status()


def permit(broker: Broker, user: str | None, configure: str, write: str, read: str) -> None:
    body: dict[str, str | None] = {"configure": configure, "write": write, "read": read}
    put(broker, f"permissions/%2F/{user}", body)


@pytest.fixture
def user_with(broker: Broker, host: Host) -> Grant:
    def make(configure: str, write: str, read: str) -> Host:
        name = unique("restricted")
        put(broker, f"users/{name}", {"password": host.password, "tags": ""})
        permit(broker, name, configure, write, read)
        return dataclasses.replace(host, username=name)

    return make


def all_but(word: str) -> str:
    return f"^(?!.*{word})"


def test_a_server_that_may_not_read_its_queue(
    drivers: Callable[..., AmqpDriver], user_with: Grant, target: Target
) -> None:
    driver = drivers(user_with(".*", ".*", all_but(target.topic)))
    server = Server(driver, target.to(server="one"), [Endpoint()])
    with pytest.raises(TopologyError, match=rf"queue '.*{target.topic}.*permission") as refused:
        server.start(LIMIT)
    assert refused.value.code == 403
    assert "grant the user this permission" in str(refused.value)
    server.stop(LIMIT)


def test_a_notification_server_that_may_not_read_its_queue(
    drivers: Callable[..., AmqpDriver], user_with: Grant, target: Target
) -> None:
    class Listening:
        def info(self, _notification: object) -> None:
            """Take it."""

    driver = drivers(user_with(".*", ".*", all_but(target.topic)))
    server = NotificationServer(driver, [target.topic], [Listening()])
    with pytest.raises(TopologyError, match="permission") as refused:
        server.start(LIMIT)
    assert refused.value.code == 403
    server.stop(LIMIT)


def test_calls_of_a_user_who_may_not_read_queues_are_answered(
    drivers: Callable[..., AmqpDriver], user_with: Grant, serve: Serve, target: Target
) -> None:
    """Direct replies need no queue; the queue for late ones is refused, and that is logged."""
    serve(drivers(), target.to(server="one"), Endpoint())
    client = Client(drivers(user_with(".*", ".*", "^$")), target, timeout=LIMIT)
    for number in range(3):
        assert client.call("echo", value=number) == number


def test_a_call_of_a_user_who_may_not_declare_its_exchange(
    drivers: Callable[..., AmqpDriver], user_with: Grant, target: Target
) -> None:
    client = Client(drivers(user_with("^$", ".*", ".*")), target, timeout=LIMIT)
    with pytest.raises(TopologyError, match=r"declare exchange .*grant the user") as refused:
        client.call("echo", value=1)
    assert refused.value.code == 403


def test_a_result_that_may_not_be_read(
    drivers: Callable[..., AmqpDriver], user_with: Grant, serve: Serve, target: Target
) -> None:
    serve(drivers(), target.to(server="one"), Endpoint())
    client = Client(drivers(user_with(".*", ".*", "^$")), target, timeout=LIMIT)
    submitted = client.submit("echo", value=1)
    for _ in range(2):
        with pytest.raises(TopologyError, match="permission") as refused:
            submitted.result(LIMIT)
        assert refused.value.code == 403
    # Those that share the connection go on.
    assert client.call("echo", value=2) == 2


def test_a_server_that_loses_its_permission_reports_it(
    broker: Broker, drivers: Callable[..., AmqpDriver], user_with: Grant, target: Target
) -> None:
    restricted = user_with(".*", ".*", ".*")
    errors: list[BaseException] = []
    server = Server(
        drivers(restricted), target.to(server="one"), [Endpoint()], on_error=errors.append
    )
    assert server.start(LIMIT)
    permit(broker, restricted.username, ".*", ".*", all_but(target.topic))
    # The listener's connection is the only one.
    connection: Any = server._listener._connection  # type: ignore[attr-defined]
    connection._stream._sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: any(getattr(error, "code", 0) == 403 for error in errors), LIMIT)
    permit(broker, restricted.username, ".*", ".*", ".*")
    client = Client(drivers(), target, timeout=LIMIT)
    assert client.call("echo", value="back") == "back"
    assert len(errors) < 10
    server.stop(LIMIT)


@pytest.mark.parametrize("operation", ["call", "cast", "fanout", "submit", "notify"])
def test_a_user_who_may_not_write(
    drivers: Callable[..., AmqpDriver],
    user_with: Grant,
    serve: Serve,
    target: Target,
    operation: str,
) -> None:
    """Each operation, the first too, fails at once with the broker's reason."""
    serve(drivers(), target.to(server="one"), Endpoint())
    driver = drivers(user_with(".*", "^$", ".*"))
    client = Client(driver, target, timeout=LIMIT)
    perform: dict[str, Callable[[], object]] = {
        "call": lambda: client.call("echo", value=1),
        "cast": lambda: client.cast("echo", value=1),
        "fanout": lambda: Client(driver, target.to(fanout=True), timeout=LIMIT).cast(
            "echo", value=1
        ),
        "submit": lambda: client.submit("echo", value=1),
        "notify": lambda: Notifier(driver, target.topic, publisher_id="p").info("event", {}),
    }
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(TopologyError, match=r"permission") as refused:
            perform[operation]()
        assert refused.value.code == 403
        assert time.monotonic() - began < LIMIT / 2


def test_a_client_that_may_not_bind_says_so_and_waits_for_its_server(
    drivers: Callable[..., AmqpDriver], user_with: Grant, serve: Serve, broker: Broker
) -> None:
    target = Target(unique("topic"), server="one", exchange=unique("exchange"))
    driver = drivers(user_with(".*", all_but(target.topic), ".*"))
    client = Client(driver, target, timeout=LIMIT)
    server = serve(drivers(), target, Endpoint())
    assert client.call("echo", value=1) == 1
    assert target.exchange is not None
    delete_exchange(broker, target.exchange)
    hbshim.take_events()
    # The broker's answer to this one shows that the exchange is gone.
    with pytest.raises(CallTimeoutError):
        client.prepare(timeout=1.0).call("echo", value=2)
    assert "not-bound-again" in [event.kind for event in hbshim.take_events()]
    server.stop(LIMIT)
    serve(drivers(), target, Endpoint())
    assert client.call("echo", value=3) == 3
