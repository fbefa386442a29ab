"""Directories in files: one of an operator, and one that the proxies of a machine write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import OptionError
from hbshim.heartbeat.service import current
from hbshim.messaging.zmq.directory import PIPELINES, Directory
from hbshim.messaging.zmq.directory.local import LocalDirectory
from hbshim.messaging.zmq.directory.static import StaticDirectory
from hbshim.messaging.zmq.frames import key_of
from tests.messaging.zmq.directories import ONE, OTHER, TOPIC, hosts, listener, record, soon
from tests.waiting import wait_until

PORTS = dict(zip(PIPELINES, (9501, 9504, 9502, 9503), strict=True))
LEASE = 30.0


def events(kind: str) -> list[str]:
    return [event.detail for event in current().metrics.recorded() if event.kind == kind]


@pytest.fixture(autouse=True)
def _no_events() -> None:
    current().metrics.take_events()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "directory"


@pytest.fixture
def local(folder: Path) -> Iterator[Callable[..., LocalDirectory]]:
    """Make directories over one folder, as several processes do; they are closed in the end."""
    made: list[LocalDirectory] = []

    def make(lease: float = LEASE) -> LocalDirectory:
        made.append(LocalDirectory(str(folder), lease))
        return made[-1]

    yield make
    for each in made:
        each.close()


# -- one machine --------------------------------------------------------------


def test_what_a_proxy_registers_others_on_the_machine_find(
    local: Callable[..., LocalDirectory], folder: Path
) -> None:
    proxy: Directory = local()
    client = local()
    found = client.routes(TOPIC, soon())
    assert (found.routes, found.reachable) == ((), False)
    assert proxy.register(record("a"), listener("1", TOPIC, ONE), soon())
    assert proxy.register(record("a"), listener("2"), soon())
    assert proxy.register(record("b/c"), listener("3"), soon())
    assert hosts(client) == {"a": ("1", "2"), "b/c": ("3",)}
    assert hosts(client, ONE) == {"a": ("1",)}
    assert client.routes(TOPIC, soon()).routes[0].record == record("a")
    assert proxy.withdraw("a", "1", soon())
    assert proxy.withdraw("b/c", None, soon())
    assert hosts(client) == {"a": ("2",)}
    assert hosts(client, ONE) == {}
    assert client.routes(ONE, soon()).reachable
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_host_that_does_not_serve_a_key_is_not_offered_until_it_changes(
    local: Callable[..., LocalDirectory],
) -> None:
    proxy, client = local(), local()
    proxy.register(record("a"), listener("1", TOPIC, ONE), soon())
    assert hosts(client) == {"a": ("1",)}
    client.forget(TOPIC, "a")
    assert hosts(client) == {}
    assert hosts(client, ONE) == {"a": ("1",)}
    proxy.register(record("a", "restarted"), listener("2"), soon())
    assert hosts(client) == {"a": ("1", "2")}


def test_those_that_watch_hear_of_a_change_by_another_object(
    local: Callable[..., LocalDirectory],
) -> None:
    proxy, client = local(), local()
    heard = threading.Event()
    end = client.watch(heard.set)
    proxy.register(record("a"), listener("1"), soon())
    wait_until(heard.is_set)
    assert hosts(client) == {"a": ("1",)}
    end()


def test_the_lease_is_renewed_without_the_program_and_ends_without_renewal(
    local: Callable[..., LocalDirectory], folder: Path
) -> None:
    proxy, client = local(0.3), local()
    proxy.register(record("a"), listener("1"), soon())
    path = folder / "a.json"
    first = json.loads(path.read_text())["ends"]
    wait_until(lambda: json.loads(path.read_text())["ends"] > first + 0.6)
    # From now on nothing renews it.
    proxy.close()
    wait_until(lambda: hosts(client) == {})
    assert client.routes(TOPIC, soon()).reachable
    assert path.exists()


@pytest.fixture
def full_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Have the folder on a disk of its own; the result fills it."""
    folder.mkdir(mode=0o700)
    options = "size=64k,mode=0700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("this system does not let the test mount a disk")

    def fill() -> None:
        with open(folder / "filling", "wb", buffering=0) as file:
            while os.statvfs(folder).f_bavail:
                file.write(bytes(4096))

    yield fill
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_no_lease_ends_because_a_disk_is_full(
    full_disk: Callable[[], None], local: Callable[..., LocalDirectory], folder: Path
) -> None:
    proxy, client = local(0.6), local()
    proxy.register(record("a"), listener("1"), soon())
    full_disk()
    path = folder / "a.json"
    first = json.loads(path.read_text())["ends"]
    wait_until(lambda: json.loads(path.read_text())["ends"] > first + 1.2, LEASE)
    wait_until(lambda: hosts(client) == {"a": ("1",)}, LEASE)
    assert not proxy.register(record("a"), listener("2"), soon())
    wait_until(lambda: hosts(client) == {"a": ("1",)}, LEASE)
    assert len(events("directory-lost")) == 1
    (folder / "filling").unlink()
    wait_until(lambda: hosts(client) == {"a": ("1", "2")}, LEASE)
    assert len(events("directory-back")) == 1


def test_a_record_of_an_earlier_boot_is_no_host(
    local: Callable[..., LocalDirectory], folder: Path
) -> None:
    proxy = local()
    proxy.register(record("a"), listener("1"), soon())
    proxy.close()
    path = folder / "a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another", "ends": 1e12}))
    assert hosts(local()) == {}


def test_a_second_process_cannot_write_the_same_host_until_the_first_is_killed(
    local: Callable[..., LocalDirectory], folder: Path
) -> None:
    script = f"""
import os, sys, time
sys.path[:0] = {[os.getcwd(), *sys.path]!r}
from hbshim.messaging.zmq.directory.local import LocalDirectory
from tests.messaging.zmq.directories import hosts, listener, record, soon
directory = LocalDirectory({str(folder)!r}, {LEASE})
print(directory.register(record("a"), listener("there"), soon()), flush=True)
if os.fork() == 0:
    # A child renews, withdraws and writes nothing, and holds no lock when it outlives its parent.
    done = directory.renew("a", soon()), directory.withdraw("a", None, soon())
    print(*done, hosts(directory), flush=True)
time.sleep(120)
"""
    argv = [sys.executable, "-c", script]
    group = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert group.stdout is not None
    try:
        assert group.stdout.readline() == "True\n"
        assert group.stdout.readline() == "False True {'a': ('there',)}\n"
        proxy = local()
        assert not proxy.register(record("a", "2"), listener("here"), soon())
        assert hosts(proxy) == {"a": ("there",)}
        (reason,) = events("directory-refused")
        assert "another process writes the host a" in reason
        group.kill()
        group.wait()
        assert proxy.renew("a", soon())
        assert hosts(proxy) == {"a": ("here",)}
    finally:
        os.killpg(group.pid, 9)
        group.stdout.close()
        group.wait()


def test_a_reader_never_sees_half_a_file(local: Callable[..., LocalDirectory]) -> None:
    proxy, client = local(), local()
    keys = [key_of("e", f"topic-{number}") for number in range(200)]
    proxy.register(record("a"), listener("1", TOPIC, *keys), soon())
    for number in range(30):
        proxy.register(record("a", str(number)), listener("1", TOPIC, *keys), soon())
        assert hosts(client) == {"a": ("1",)}
    assert not events("directory-record")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"record": {"host": "a"}}', "\ud800 no UTF-8"])
def test_an_invalid_file_is_skipped_with_one_event(
    local: Callable[..., LocalDirectory], folder: Path, text: str
) -> None:
    proxy, client = local(), local()
    proxy.register(record("a"), listener("1"), soon())
    hand_made = folder / "b.json"
    hand_made.write_bytes(text.encode(errors="surrogatepass"))
    hand_made.chmod(0o600)
    for _ in range(3):
        assert hosts(client) == {"a": ("1",)}
    (reason,) = events("directory-record")
    assert reason.startswith("b.json is skipped: ")


def test_a_file_that_others_may_write_or_a_link_is_skipped(
    local: Callable[..., LocalDirectory], folder: Path, tmp_path: Path
) -> None:
    proxy, client = local(), local()
    proxy.register(record("a"), listener("1"), soon())
    for name in ("open", "linked"):
        document = json.loads((folder / "a.json").read_text())
        document["record"]["host"] = name
        (tmp_path / name).write_text(json.dumps(document))
    (tmp_path / "open").chmod(0o622)
    (tmp_path / "open").rename(folder / "open.json")
    (folder / "linked.json").symlink_to(tmp_path / "linked")
    assert hosts(client) == {"a": ("1",)}
    assert sorted(reason.split()[0] for reason in events("directory-record")) == [
        "linked.json",
        "open.json",
    ]


def make_open(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


def make_link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.with_name("elsewhere"))


def make_file(folder: Path) -> None:
    folder.touch(mode=0o600)


def make_foreign(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


@pytest.mark.parametrize("make", [make_open, make_link, make_file, make_foreign])
def test_a_folder_that_is_not_this_users_alone_is_refused(
    local: Callable[..., LocalDirectory], folder: Path, make: Callable[[Path], None]
) -> None:
    # It came to be when the directory was open already: nothing is written, and each reported once.
    early = local()
    make(folder)
    with pytest.raises(OptionError, match="directory of this machine cannot be used"):
        local()
    for _ in range(2):
        assert not early.register(record("a"), listener("1"), soon())
    assert not early.routes(TOPIC, soon()).reachable
    # Of writing and of reading.
    assert len(events("directory-refused")) == 2
    assert not list(folder.glob("*"))


# -- of an operator ----------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[Any], StaticDirectory]]:
    made: list[StaticDirectory] = []

    def write(document: Any) -> StaticDirectory:
        path = tmp_path / "hosts.json"
        scratch = tmp_path / "scratch"
        scratch.write_text(document if isinstance(document, str) else json.dumps(document))
        scratch.replace(path)
        if not made:
            made.append(StaticDirectory(str(path), PORTS))
        return made[0]

    yield write
    for each in made:
        each.close()


A = {"host": "a", "address": "192.0.2.1", "serves": [{"exchange": "e", "topic": "t"}]}
B = {"host": "b", "addresses": {"call": "tcp://[::1]:1"}}


def test_hosts_of_a_file_are_offered_for_what_they_serve(
    written: Callable[[Any], StaticDirectory],
) -> None:
    directory: Directory = written({"hosts": [A, B]})
    assert hosts(directory) == {"a": (), "b": ()}
    assert hosts(directory, ONE) == {"a": (), "b": ()}
    assert hosts(directory, OTHER) == {"b": ()}
    (a, b) = directory.routes(TOPIC, soon()).routes
    assert a.record.addresses["fanout"] == "tcp://192.0.2.1:9502"
    assert b.record.addresses == {"call": "tcp://[::1]:1"}


def test_a_file_needs_no_writer(written: Callable[[Any], StaticDirectory]) -> None:
    directory = written({"hosts": [A]})
    assert directory.register(record("a"), listener("1"), soon())
    assert directory.renew("a", soon())
    assert not directory.register(record("b"), listener("1"), soon())
    (reason,) = events("directory-refused")
    assert "does not name the host b" in reason


def test_a_new_file_is_read_and_a_broken_one_is_not(
    written: Callable[[Any], StaticDirectory],
) -> None:
    directory = written({"hosts": [A]})
    heard = threading.Event()
    directory.watch(heard.set)
    written({"hosts": [A, B]})
    wait_until(heard.is_set)
    assert hosts(directory) == {"a": (), "b": ()}
    written({"hosts": [{"host": "a"}]})
    wait_until(lambda: not directory.routes(TOPIC, soon()).reachable)
    (reason,) = events("directory-refused")
    assert "host 1: its addresses are missing" in reason
    written({"hosts": [B]})
    wait_until(lambda: hosts(directory) == {"b": ()})
    assert events("directory-back")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "is no JSON"),
        ([], r'is no {"hosts": \[...\]}'),
        ({"hosts": [1]}, "host 1: it is no JSON object"),
        ({"hosts": [A, A]}, "host 2: it is named twice"),
        ({"hosts": [{**A, "port": 1}]}, "an unknown key, 'port'"),
        ({"hosts": [{**A, "host": ""}]}, "its host is no name"),
        ({"hosts": [{**A, "address": "no address"}]}, "is not tcp://host:port"),
        ({"hosts": [{**A, "serves": "t"}]}, "what it serves is no list"),
        ({"hosts": [{**A, "curve_key": "short"}]}, "its curve_key is no public key"),
        ({"hosts": [{**A, "serves": ["t"]}]}, "it serves something that is not"),
        ({"hosts": [{**A, "serves": [{"topic": "x" * 256}]}]}, "a name that is too long"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    written: Callable[[Any], StaticDirectory], document: Any, reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        written(document)
