"""Names are resolved within the caller's time, whatever the resolver does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim.errors import ConnectError
from hbshim.messaging import resolving
from hbshim.messaging.hosts import Host
from hbshim.messaging.resolving import resolve
from hbshim.runtime import unpatched
from tests.messaging.conftest import unique
from tests.waiting import wait_until

LIMIT = 30.0

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5672))]


class Resolver:
    """In place of ``socket.getaddrinfo``.

    Attributes:
        asked: the names, one for each lookup.
        answer: called for each.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.answer: Callable[[], Any] = self.hang

    def __call__(self, name: str, _port: int, **_more: Any) -> Any:
        self.asked.append(name)
        return self.answer()

    def hang(self) -> Any:
        assert self.may_answer.wait(2 * LIMIT)
        return FOUND


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    found = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.may_answer.set()
    wait_until(lambda: not resolving._under_way, LIMIT)


@pytest.fixture
def host() -> Host:
    return Host(unique("name"), 5672)


def soon() -> float:
    return time.monotonic() + 0.1


def test_a_resolver_that_does_not_answer(resolver: Resolver, host: Host) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectError, match="cannot be resolved: no answer") as caught:
        resolve(host, soon())
    assert host.hostname in str(caught.value)
    assert time.monotonic() - began < LIMIT
    # At most one lookup is under way for one name; another one does not wait for it.
    for each in (host, host, Host(unique("name"), 5672)):
        with pytest.raises(ConnectError):
            resolve(each, soon())
    assert len(resolver.asked) == 2
    resolver.may_answer.set()
    assert resolve(host, time.monotonic() + LIMIT) == FOUND


def test_the_last_result_is_used_when_there_is_no_answer(
    resolver: Resolver, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.answer = lambda: FOUND
    assert resolve(host, time.monotonic() + LIMIT) == FOUND
    monkeypatch.setattr(resolving, "LOOKUP_LIMIT", 0.05)
    resolver.answer = resolver.hang
    assert resolve(host, time.monotonic() + LIMIT) == FOUND

    def temporary() -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    resolver.may_answer.set()
    wait_until(lambda: not resolving._under_way, LIMIT)
    resolver.answer = temporary
    monkeypatch.setattr(resolving, "LOOKUP_LIMIT", LIMIT)
    assert resolve(host, time.monotonic() + LIMIT) == FOUND


def test_a_name_that_does_not_exist(resolver: Resolver, host: Host) -> None:
    """Nor does an earlier result hide that it was removed."""
    resolver.answer = lambda: FOUND
    resolve(host, time.monotonic() + LIMIT)

    def unknown() -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolver.answer = unknown
    with pytest.raises(ConnectError, match="not known"):
        resolve(host, time.monotonic() + LIMIT)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up_in_a_thread(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "_lookup", None)
    assert resolve(Host(address, 5672), soon())[0][4][0] == address


def test_without_a_thread_it_is_resolved_as_before(
    resolver: Resolver, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver.answer = lambda: FOUND
    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert resolve(host, soon()) == FOUND


def test_a_blocking_resolver_under_green_threads(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with eventlet without its green DNS: the lookup is in a native thread."""
    started: list[object] = []
    start = unpatched.start_native_thread

    def native(function: Any, on_exit: Any) -> None:
        started.append(function)
        start(function, on_exit)

    monkeypatch.setattr(unpatched, "start_native_thread", native)
    monkeypatch.setattr(unpatched, "threads_are_green", lambda: True)
    monkeypatch.setattr(resolving, "_blocks", lambda _function: True)
    assert resolve(Host("localhost", 5672), time.monotonic() + LIMIT)
    assert started


def test_a_lookup_that_was_interrupted_is_not_waited_for(
    resolver: Resolver, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    resolver.answer = lambda: FOUND
    with monkeypatch.context() as patched:
        patched.setattr(resolving, "_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve(host, soon())
    assert resolve(host, time.monotonic() + LIMIT) == FOUND
