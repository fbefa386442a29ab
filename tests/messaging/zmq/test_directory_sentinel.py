"""The directory behind Sentinels: one master, two replicas and three Sentinels, all real."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator

import pytest

from hbshim.doctor import examine
from hbshim.heartbeat.service import current
from hbshim.messaging.zmq.directory.address import read_address
from hbshim.messaging.zmq.directory.redis import RedisDirectory
from hbshim.messaging.zmq.directory.settings import DirectorySettings
from tests.messaging.zmq.directories import hosts, listener, record, soon
from tests.messaging.zmq.redis_server import Container
from tests.waiting import wait_until
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images
from wsgi_harness.stack.leftovers import OWNER_LABEL, owner

GROUP = "oslo-messaging-zeromq"
PASSWORD = "only-for-this-test"
SERVERS = (6379, 6380, 6381)
SENTINELS = (26379, 26380, 26381)


class SentinelSet:
    """All six processes, in one container, at its own address: Sentinels name addresses.

    Attributes:
        url: of the directory.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._host = host = container.address()
        hosts = ",".join(f":{PASSWORD}@{host}:{port}" for port in SENTINELS)
        self.url = f"hbzmq+sentinel://{hosts}/{GROUP}"
        for port in SERVERS:
            follow = ("--replicaof", f"{host} {SERVERS[0]}") if port != SERVERS[0] else ()
            common = ("--save", "", "--daemonize", "yes", "--dir", "/tmp")
            login = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
            pid = ("--pidfile", f"/tmp/{port}.pid", "--repl-diskless-sync-delay", "0")
            container.run("redis-server", "--port", str(port), *common, *login, *pid, *follow)
        for port in SENTINELS:
            lines = (
                f"port {port}",
                "daemonize yes",
                "protected-mode no",
                "dir /tmp",
                f"sentinel monitor {GROUP} {host} {SERVERS[0]} 2",
                f"sentinel auth-pass {GROUP} {PASSWORD}",
                f"sentinel down-after-milliseconds {GROUP} 1000",
                f"sentinel failover-timeout {GROUP} 5000",
            )
            path = f"/tmp/sentinel-{port}.conf"
            container.run("sh", "-c", f"printf '%s\\n' \"$@\" > {path}", "sh", *lines)
            container.run("redis-sentinel", path)

    def reachable(self) -> bool:
        """Whether this process can connect to the container's own address."""
        try:
            socket.create_connection((self._host, SERVERS[0]), 5).close()
        except OSError:
            return False
        return True

    def master(self) -> int:
        """The port of the master, as a Sentinel says."""
        return int(self._ask("get-master-addr-by-name").split()[1])

    def complete(self) -> bool:
        """Whether a Sentinel knows both replicas and both other Sentinels, and has a quorum."""
        text = self._ask("master").split("\n")
        found = dict(zip(text[::2], text[1::2], strict=False))
        return (found.get("num-slaves"), found.get("num-other-sentinels")) == ("2", "2")

    def stop_master(self, signal: str) -> int:
        """Send the master a signal; return its port."""
        port = self.master()
        self._container.run("sh", "-c", f"kill -{signal} $(cat /tmp/{port}.pid)")
        return port

    def _ask(self, command: str) -> str:
        return self._container.run("redis-cli", "-p", str(SENTINELS[1]), "sentinel", command, GROUP)


@pytest.fixture(scope="module")
def sentinels(engine: Engine, images: Images) -> Iterator[SentinelSet]:
    name = f"hbshim-sentinel-{secrets.token_hex(4)}"
    engine.run(
        *("run", "--detach", "--rm", "--init", "--name", name),
        *("--label", f"{OWNER_LABEL}={owner()}", "--publish", "127.0.0.1::6379", images.redis),
    )
    try:
        found = SentinelSet(Container(engine, name))
        if not found.reachable():
            pytest.skip("this engine's containers cannot be reached at their own address")
        wait_until(found.complete)
        yield found
    finally:
        engine.run("rm", "--force", name)


def test_a_failover_costs_no_known_route_and_no_registration(sentinels: SentinelSet) -> None:
    current().metrics.take_events()
    settings = DirectorySettings(expire=30.0, update=0.5, socket_timeout=2.0)
    proxy, client = (RedisDirectory(read_address(sentinels.url), settings) for _ in range(2))
    try:
        assert proxy.register(record("a"), listener("1"), soon())
        assert hosts(client) == {"a": ("1",)}
        before = sentinels.stop_master("KILL")
        proxy.register(record("b"), listener("2"), soon())
        while sentinels.master() == before:
            assert "a" in hosts(client)
        wait_until(lambda: hosts(client) == {"a": ("1",), "b": ("2",)})
        wait_until(lambda: client.routes(b"", soon()).reachable)
        assert proxy.withdraw("b", None, soon())
        wait_until(lambda: hosts(client) == {"a": ("1",)})
    finally:
        proxy.close()
        client.close()
    told = " ".join(event.detail for event in current().metrics.recorded())
    assert "directory cannot be reached" in told
    assert PASSWORD not in told


def test_a_group_that_the_sentinels_do_not_know_is_one_event(sentinels: SentinelSet) -> None:
    current().metrics.take_events()
    address = read_address(sentinels.url.replace(GROUP, "another"))
    directory = RedisDirectory(address, DirectorySettings())
    try:
        for _ in range(3):
            assert not directory.routes(b"key", soon()).reachable
    finally:
        directory.close()
    events = [event.detail for event in current().metrics.recorded()]
    (reason,) = [text for text in events if "Sentinels" in text]
    assert reason.startswith("the Sentinels know no group 'another'; correct the path")


def test_the_doctor_examines_a_directory_behind_sentinels(
    sentinels: SentinelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = sentinels.url.removeprefix("hbzmq+")
    monkeypatch.setenv("HBSHIM_ZMQ_FANOUT_DS_ADDRESS", address)
    monkeypatch.setenv("HBSHIM_ZMQ_ZMQ_TARGET_EXPIRE", "1.5")
    settings = DirectorySettings(expire=30.0, update=0.5, socket_timeout=2.0)
    proxy = RedisDirectory(read_address(sentinels.url), settings)
    try:
        assert proxy.register(record("behind"), listener("1"), soon())
        report = examine("hbzmq://")
    finally:
        proxy.close()
    finding = report.finding("zmq-directory")
    assert finding.verdict == "ok", finding
    assert "hosts in it: " in finding.sentence
    assert PASSWORD not in str(report)
    monkeypatch.setenv("HBSHIM_ZMQ_FANOUT_DS_ADDRESS", address.replace(GROUP, "another"))
    refused = examine("hbzmq://").finding("zmq-directory")
    assert refused.verdict == "problem"
    assert "know no group 'another'" in refused.sentence
    assert PASSWORD not in str(refused)
