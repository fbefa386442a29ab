"""Does to an oslo.messaging transport what a service should not; prints what came of it.

    python bad_input.py SCHEME URL SECRET

`URL` is the broker's, of `SCHEME`; `SECRET` is a wrong password. Run in an interpreter of its own:
importing oslo.messaging imports eventlet.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import oslo_messaging
from oslo_config import cfg

from hbshim.messaging import connect

SCHEME, URL, SECRET = sys.argv[1:4]
TOPIC = f"bad-{uuid.uuid4().hex}"


def configured() -> cfg.ConfigOpts:
    conf = cfg.CONF
    conf([])
    return conf


def client(url: str, timeout: int = 10, **options: Any) -> Any:
    transport = oslo_messaging.get_rpc_transport(configured(), url)
    target = oslo_messaging.Target(topic=TOPIC, exchange=options.pop("exchange", None))
    return oslo_messaging.get_rpc_client(
        transport, target, timeout=timeout, retry=options.pop("retry", 0), **options
    )


def listen(url: str) -> None:
    transport = oslo_messaging.get_notification_transport(configured(), url)
    target = oslo_messaging.Target(topic=TOPIC)
    listener = oslo_messaging.get_notification_listener(
        transport, [target], [Endpoint()], executor="threading"
    )
    listener.start()


@contextlib.contextmanager
def two_ports_without_a_listener() -> Iterator[list[int]]:
    """Bound, not listening: no other process gets them meanwhile."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in (one, two)]


class Endpoint:
    def info(self, *_arguments: object) -> NoReturn:
        raise AssertionError("nothing is notified here")

    def fail(self, _context: object) -> NoReturn:
        raise KeyError("missing")

    def fail_of_another_module(self, _context: object) -> NoReturn:
        raise subprocess_error()

    def not_serialisable(self, _context: object) -> object:
        return object.__new__(type("Opaque", (), {"__slots__": ()}))


def subprocess_error() -> Exception:
    import subprocess

    return subprocess.SubprocessError("of a module that no one allowed")


Cases: TypeAlias = Iterator[tuple[str, Callable[[], object]]]


def unreachable(ports: list[int]) -> Cases:
    nowhere = f"{SCHEME}://u:{SECRET}@127.0.0.1:{ports[0]},u:{SECRET}@127.0.0.1:{ports[1]}/"
    yield "all hosts unreachable, call", lambda: client(nowhere, timeout=2).call({}, "x")
    yield "all hosts unreachable, cast", lambda: client(nowhere).cast({}, "x")
    transport = oslo_messaging.get_rpc_transport(configured(), nowhere)
    target = oslo_messaging.Target(topic=TOPIC)
    yield (
        "all hosts unreachable, cast with a timeout",
        lambda: transport._driver.send(target, {}, {"method": "x"}, timeout=1, retry=-1),
    )


def refused() -> Cases:
    user = URL.partition("://")[2].partition(":")[0]
    rest = URL.rpartition("@")[2]
    wrong = f"{SCHEME}://{user}:{SECRET}@{rest}"
    yield "refused credentials", lambda: client(wrong).cast({}, "x")
    missing = URL.rpartition("/")[0] + "/no-such-virtual-host"
    yield "missing virtual host", lambda: client(missing).cast({}, "x")
    yield "refused credentials, listener", lambda: listen(wrong)


def no_server() -> Cases:
    yield "no server", lambda: client(URL, timeout=1).call({}, "x")
    at_least_once = oslo_messaging.TransportOptions(at_least_once=True)
    yield (
        "no server, at least once",
        lambda: client(URL, transport_options=at_least_once).call({}, "x"),
    )
    yield (
        "no server, cast at least once",
        lambda: client(URL, transport_options=at_least_once).cast({}, "x"),
    )
    yield (
        "no server, fanout at least once",
        lambda: client(URL, transport_options=at_least_once).prepare(fanout=True).cast({}, "x"),
    )


def invalid() -> Cases:
    """Return cases of targets, payloads and options that cannot be used."""
    driver: Any = connect(URL.replace(SCHEME, "hbkombu", 1))
    with driver._sender.pool.lease() as checked_out:
        checked_out.connection.declare_exchange(f"{TOPIC}_rpc", "topic")
    driver.close()
    yield "exchange of another type", lambda: client(URL, exchange=TOPIC).cast({}, "x")
    yield (
        "target that no queue can be named after",
        lambda: client(URL, exchange="\ud800").cast({}, "x"),
    )
    # A cast of hbamqp:// waits until it is accepted.
    brief = f"{URL}?rpc_timeout=2"
    yield "server of a long name", lambda: client(brief).prepare(server="s" * 300).cast({}, "x")
    endless: list[Any] = []
    endless.append(endless)
    yield "payload that cannot be serialised", lambda: client(URL).cast({}, "x", value=endless)
    large = "x" * 2000
    limited = f"{URL}?payload_limit=1000"
    yield "payload that is too large", lambda: client(limited).cast({}, "x", value=large)
    yield "unknown option", lambda: client(f"{URL}?no_such_option=1")
    yield "wrong type", lambda: client(f"{URL}?pool_max_size=many")


def errors_of_a_server() -> Cases:
    server = oslo_messaging.get_rpc_server(
        oslo_messaging.get_rpc_transport(configured(), URL),
        oslo_messaging.Target(topic=TOPIC, server="one"),
        [Endpoint()],
        executor="threading",
    )
    server.start()
    yield "endpoint raises", lambda: client(URL).call({}, "fail")
    yield "endpoint raises another's", lambda: client(URL).call({}, "fail_of_another_module")
    yield "result not serialisable", lambda: client(URL).call({}, "not_serialisable")
    yield "no such method", lambda: client(URL).call({}, "missing")
    server.stop()
    server.wait()


def main() -> None:
    with two_ports_without_a_listener() as ports:
        tell(unreachable(ports))
    for cases in (refused, no_server, invalid, errors_of_a_server):
        tell(cases())


def tell(cases: Cases) -> None:
    for name, case in cases:
        began = time.monotonic()
        try:
            case()
        except Exception as error:
            kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__]
            text = str(error)
        else:
            kinds, text = ["no error"], ""
        seconds = time.monotonic() - began
        line = {"case": name, "kinds": kinds, "text": text, "seconds": seconds}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
