"""Opening a socket: every address of a name, within a time, of the program's own kind."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import ConnectError, OptionError
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.dialing import dial
from hbshim.messaging.hosts import Host

LIMIT = 20.0
OPTIONS = AmqpOptions(socket_timeout=LIMIT)


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        server = socket.create_server((request.param, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    with server:
        yield server


def test_an_address(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    with dial(Host(address, port), OPTIONS, time.monotonic() + LIMIT) as sock:
        assert sock.family == listener.family
        assert isinstance(sock, socket.socket)
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_every_address_of_a_name_is_tried(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, port = listener.getsockname()[:2]
    kinds = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
    # In this order: no process listens at the other one.
    addresses = sorted(kinds, key=lambda each: each == address)
    found = [(kinds[each], socket.SOCK_STREAM, 0, "", (each, port)) for each in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
    with dial(Host("a-name", port), OPTIONS, time.monotonic() + LIMIT) as sock:
        assert sock.getpeername()[0] == address


def test_no_listener(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    listener.close()
    host = Host(address, port)
    with pytest.raises(ConnectError, match="refused") as caught:
        dial(host, OPTIONS, time.monotonic() + LIMIT)
    assert str(caught.value).startswith(host.name)


def test_time_is_up(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    with pytest.raises(ConnectError, match="in time"):
        dial(Host(address, port), OPTIONS, time.monotonic())


def test_an_address_that_does_not_answer(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    listener.listen(0)
    options = AmqpOptions(socket_timeout=0.1)
    began = time.monotonic()
    # A full queue of connections that nothing accepts answers no further one.
    waiting: list[Any] = []
    try:
        with pytest.raises(ConnectError, match="in time"):
            while len(waiting) < 10:
                waiting.append(dial(Host(address, port), options, time.monotonic() + LIMIT))
    finally:
        for sock in waiting:
            sock.close()
    assert time.monotonic() - began < LIMIT


def test_the_error_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(_sock: socket.socket, _address: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", too_slow)
    with pytest.raises(ConnectError, match="socket_timeout is 20 s, handshake_timeout 10 s"):
        dial(Host("127.0.0.1", 1), OPTIONS, time.monotonic() + LIMIT)


def test_a_dead_address_leaves_time_for_the_next(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, port = listener.getsockname()[:2]
    found = [(listener.family, socket.SOCK_STREAM, 0, "", (address, each)) for each in (1, port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
    limits: list[float] = []
    connect = socket.socket.connect

    def dead_or_not(sock: socket.socket, to: tuple[str, int]) -> None:
        if to[1] == 1:
            limits.append(sock.gettimeout() or 0.0)
            raise TimeoutError("timed out")
        connect(sock, to)

    monkeypatch.setattr(socket.socket, "connect", dead_or_not)
    with dial(Host("a-name", port), OPTIONS, time.monotonic() + 10) as sock:
        assert sock.getpeername()[1] == port
    assert 0 < limits[0] <= 5


def test_certificates_that_are_replaced_meanwhile(
    listener: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was read before is used; where nothing was, the option is wrong."""
    cafile = tmp_path / "ca.pem"
    bundle = ssl.get_default_verify_paths().cafile
    options = AmqpOptions(ssl=True, ssl_options={"cafile": str(cafile)}, socket_timeout=LIMIT)
    address, port = listener.getsockname()[:2]
    host = Host(address, port)
    with pytest.raises(OptionError, match="cafile"):
        dial(host, options, time.monotonic() + LIMIT)
    if bundle is None:
        pytest.skip("no CA file here")
    cafile.write_bytes(Path(bundle).read_bytes())
    for _ in range(2):
        with pytest.raises(ConnectError):
            dial(host, options, time.monotonic() + 0.2)
        cafile.unlink(missing_ok=True)
    assert "the certificates read before are used" in caplog.text
