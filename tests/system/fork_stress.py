"""Forks a busy process with open connections many times; no child may hang, no link be lost.

python -m tests.system.fork_stress --forks 10000 amqp://user:password@host:port [TLS port]

The parent computes while hbshim sends the heartbeats of its connections, so that a fork comes
at any moment. Children fork by Python, in C, by multiprocessing and by billiard;
they use, close, drop or ignore what they inherited.
"""
# ruff: noqa: T201 - the result is printed.

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import gc
import json
import multiprocessing
import os
import signal
import socket
import ssl
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import amqp
import kombu
import kombu.pools
import pika

import hbshim
from tests.native_fork import fork_in_c

#: T of every connection, in seconds: the smallest makes the most heartbeats.
TIMEOUT = 2
#: Connections of each kind, over plain TCP and over TLS.
EACH = {"amqp": 5, "pika": 3, "pool": 2}
#: Seconds after which a child hangs. Its work takes milliseconds.
CHILD_LIMIT = 20.0
#: One fork in so many is made in C: it waits until every other thread is asleep.
EVERY_NTH_IN_C = 20
#: One child in so many connects, or collects all garbage.
EVERY_NTH_IS_COSTLY = 20

Acts = dict[str, Callable[[], None]]


class Parent:
    """The connections, what children do with them, and what became of the children."""

    def __init__(self, url: str, tls_port: int | None) -> None:
        self._at = urlsplit(url)
        self._ports: list[tuple[int, bool]] = [(self._at.port or 5672, False)]
        if tls_port is not None:
            self._ports.append((tls_port, True))
        self.connections: list[Any] = []
        self.pools: list[Any] = []
        for port, tls in self._ports:
            self.connections += [self._open_amqp(port, tls) for _ in range(EACH["amqp"])]
            self.connections += [self._open_pika(port, tls) for _ in range(EACH["pika"])]
            self.pools.append(self._open_pool(port, tls))
        self.outcomes: collections.Counter[str] = collections.Counter()

    def _open_amqp(self, port: int, tls: bool) -> Any:
        connection = amqp.Connection(
            f"{self._at.hostname}:{port}",
            self._at.username,
            self._at.password,
            heartbeat=TIMEOUT,
            ssl={"cert_reqs": ssl.CERT_NONE} if tls else False,
        )
        connection.connect()
        return connection

    def _open_pika(self, port: int, tls: bool) -> Any:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                self._at.hostname,
                port,
                credentials=pika.PlainCredentials(self._at.username, self._at.password),
                heartbeat=TIMEOUT,
                ssl_options=pika.SSLOptions(context) if tls else None,
            )
        )

    def _open_pool(self, port: int, tls: bool) -> Any:
        pool = kombu.Connection(
            hostname=self._at.hostname,
            port=port,
            userid=self._at.username,
            password=self._at.password,
            heartbeat=TIMEOUT,
            ssl={"cert_reqs": ssl.CERT_NONE} if tls else False,
        ).Pool(EACH["pool"])
        held = [pool.acquire() for _ in range(EACH["pool"])]
        for connection in held:
            connection.connect()
            connection.release()
        return pool

    # -- what a child does -----------------------------------------------------

    def ignore(self) -> None:
        """Nothing: hooks of libraries may have run already."""

    def use(self) -> None:
        for connection in self.connections:
            self._refused(connection.channel)

    def close(self) -> None:
        for connection in self.connections:
            self._refused(connection.close)

    def drop(self) -> None:
        for connection in self.connections:
            if isinstance(connection, amqp.Connection):
                connection.collect()
            else:
                connection._impl._transport._close_and_finalize()
        for pool in self.pools:
            pool.force_close_all()

    def collect_garbage(self) -> None:
        self.connections.clear()
        self.pools.clear()
        gc.collect()

    def look(self) -> None:
        assert hbshim.status().links == []
        hbshim.take_events()
        repr(self.connections)
        hbshim.uninstall()

    def borrow(self) -> None:
        for pool, (port, _tls) in zip(self.pools, self._ports, strict=True):
            try:
                connection = pool.acquire()
            except RuntimeError:
                continue  # kombu's own hook has closed the pool
            connection.connect()
            assert connection.connection.sock.getpeername()[1] == port
            connection.release()

    def connect(self) -> None:
        self._open_amqp(*self._ports[-1]).close()

    @staticmethod
    def _refused(call: Callable[[], object]) -> None:
        try:
            call()
        except (amqp.exceptions.AMQPError, pika.exceptions.AMQPError, OSError):
            return

    # -- the parent ------------------------------------------------------------

    def run(self, forks: int) -> None:
        acts = [self.ignore, self.use, self.close, self.drop, self.look]
        costly = [self.borrow, self.connect, self.collect_garbage]
        ways = ["os", "os", "os", "multiprocessing", *(["billiard"] if _has_billiard() else [])]
        for number in range(forks):
            compute_until = time.monotonic() + 0.002
            while time.monotonic() < compute_until:
                sum(range(200))
            act = acts[number % len(acts)]
            if number % EVERY_NTH_IS_COSTLY == EVERY_NTH_IS_COSTLY - 1:
                act = costly[number // EVERY_NTH_IS_COSTLY % len(costly)]
            way = "c" if number % EVERY_NTH_IN_C == 0 else ways[number % len(ways)]
            outcome = self._fork(act, way)
            self.outcomes[outcome] += 1
            if outcome != "ended":
                print(f"child {number}: {way}, {act.__name__}: {outcome}", file=sys.stderr)
            if number % 50 == 0:
                self._read()

    def _fork(self, act: Callable[[], None], way: str) -> str:
        if way in ("multiprocessing", "billiard"):
            module = (
                multiprocessing.get_context("fork") if way == "multiprocessing" else _billiard()
            )
            process = module.Process(target=_child, args=(act,))
            process.start()
            pid = process.pid
        else:
            pid = fork_in_c() if way == "c" else os.fork()
            if pid == 0:
                _child(act)
        assert pid is not None
        return _outcome(pid)

    def _read(self) -> None:
        """Read the broker's heartbeats, as a program does now and then."""
        for connection in self.connections:
            if isinstance(connection, amqp.Connection):
                with contextlib.suppress(TimeoutError, socket.timeout):
                    connection.drain_events(timeout=0.001)
            else:
                connection.process_data_events(time_limit=0)

    def lost(self) -> list[str]:
        """Use every connection; return the errors of those that are lost."""
        errors = []
        for connection in self.connections:
            try:
                connection.channel().close()
            except Exception as error:
                errors.append(f"{type(connection).__module__}: {error!r}")
        for pool in self.pools:
            connections = [pool.acquire() for _ in range(EACH["pool"])]
            for connection in connections:
                if not connection.connected:
                    errors.append("a connection of kombu's pool")
                connection.release()
        return errors


def _has_billiard() -> bool:
    with contextlib.suppress(ImportError):
        _billiard()
        return True
    return False


def _billiard() -> Any:
    import billiard  # type: ignore[import-untyped]

    return billiard


def _child(act: Callable[[], None]) -> None:
    faulthandler.dump_traceback_later(CHILD_LIMIT / 2)
    status = 1
    try:
        act()
        status = 0
    except BaseException as error:
        print(f"{act.__name__}: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _outcome(pid: int) -> str:
    deadline = time.monotonic() + CHILD_LIMIT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return "ended" if status == 0 else f"failed ({status})"
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hung"
        time.sleep(0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("tls_port", type=int, nargs="?")
    parser.add_argument("--forks", type=int, default=10_000)
    options = parser.parse_args()
    # Python 3.12 warns of a fork with threads; that is what is tested here.
    warnings.simplefilter("ignore", DeprecationWarning)
    # As in a program with threads of its own: they change places often.
    sys.setswitchinterval(0.0005)
    hbshim.install()
    started = time.monotonic()
    parent = Parent(options.url, options.tls_port)
    parent.run(options.forks)
    counters = hbshim.status().counters
    result = {
        "forks": options.forks,
        "seconds": round(time.monotonic() - started, 1),
        "children": dict(parent.outcomes),
        "lost": parent.lost(),
        "heartbeats": counters.get("heartbeats_sent", 0),
        "events": {name: count for name, count in counters.items() if name.startswith("event:")},
    }
    print(json.dumps(result), flush=True)
    sound = parent.outcomes["ended"] == options.forks and not result["lost"]
    os._exit(0 if sound else 1)


if __name__ == "__main__":
    main()
