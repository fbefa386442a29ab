"""The doctor's checks of hosts, of the directory, and of what this process has for both."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from hbshim.doctor import Finding, Report, examine
from hbshim.doctor.zmq_probe import HostAnswer, _note
from hbshim.errors import OptionError
from hbshim.messaging import Server, Target
from hbshim.messaging.zmq import frames
from hbshim.messaging.zmq.directory import HostRecord
from tests.doctor.commands import doctor
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.curve import Keys
from tests.messaging.zmq.nodes import Node, own_address
from tests.messaging.zmq.redis_server import RedisServer
from tests.waiting import wait_until

SECRET = "s3cr3t"

TARGET = Target("compute")

Serve = Callable[..., Server]


@pytest.fixture
def node(nodes: Callable[[], Node]) -> Node:
    return started(nodes, "one")


def started(nodes: Callable[[], Node], name: str, *arguments: str, whole: bool = True) -> Node:
    node = nodes()
    node.start("--host", name, *arguments, whole=whole)
    return node


def url_of(node: Node, *others: str) -> str:
    return f"hbzmq://{','.join((node.address, *others))}/?rpc_zmq_ipc_dir={node.ipc}"


def found(report: Report, check: str) -> Finding:
    return report.finding(f"zmq-{check}")


def verdicts(report: Report) -> dict[str, str]:
    return {
        each.check.removeprefix("zmq-"): each.verdict
        for each in report.findings
        if each.check.startswith("zmq-")
    }


@contextmanager
def silent_listener(address: str, port: int = 0) -> Iterator[int]:
    """Something that accepts connections, and says nothing; gives its port."""
    with socket.create_server((address, port)) as listener:
        yield listener.getsockname()[1]


def test_a_host_that_answers_on_every_port(node: Node, serve: Serve, endpoint: Endpoint) -> None:
    serve(node.driver(), TARGET, endpoint)
    done = doctor("--url", url_of(node), "--json")
    assert done.status == 0, done
    findings = {each["check"]: each for each in json.loads(done.out)["findings"]}
    assert {name: each["verdict"] for name, each in findings.items() if "zmq" in name} == {
        "zmq-versions": "ok",
        "zmq-keys": "ok",
        "zmq-descriptors": "ok",
        "zmq-ipc-directory": "ok",
        "zmq-local-proxy": "ok",
        "zmq-directory": "not-applicable",
        "zmq-proxies": "ok",
        "zmq-stale-hosts": "not-applicable",
        "zmq-two-proxies": "ok",
    }
    assert findings["connection"]["verdict"] == "not-applicable"
    assert "has 1 servers" in findings["zmq-local-proxy"]["sentence"]
    assert "On all ports of 1 host a proxy answers: one." in findings["zmq-proxies"]["sentence"]
    assert f"libzmq {zmq.zmq_version()}" in findings["zmq-versions"]["sentence"]


def test_a_host_without_a_proxy_is_named_with_the_reason(node: Node) -> None:
    dead = own_address()
    report = examine(url_of(node, dead))
    assert report.exit_status == 1
    assert found(report, "proxies").verdict == "problem"
    assert (
        f"1 host of 2 cannot be used: {dead}:9501: port 9501: Connection refused"
        in found(report, "proxies").sentence
    )
    done = doctor("--url", f"hbzmq://{dead}/")
    assert done.status == 2
    assert "Connection refused" in done.err
    assert "Start hbshim zmq-proxy on that host" in done.err


def test_ports_of_processes_that_do_not_run_are_named(nodes: Callable[[], Node]) -> None:
    report = examine(url_of(started(nodes, "one", whole=False)))
    assert "port 9502: Connection refused" in found(report, "proxies").sentence
    assert "9503" in found(report, "proxies").sentence
    assert "9501" not in found(report, "proxies").sentence.partition("port")[2]
    assert report.exit_status == 1
    assert (
        found(report, "local-proxy").sentence
        == "Processes of this host's proxy do not answer: fanout, notify."
    )


def test_what_listens_and_is_no_proxy_is_said_to_be_none() -> None:
    address = own_address()
    begun = time.monotonic()
    with silent_listener(address, 9501):
        report = examine(f"hbzmq://{address}/", timeout=6)
    assert time.monotonic() - begun < 10
    assert "something listens there, and is no proxy" in found(report, "proxies").sentence
    assert report.exit_status == 2


def test_two_proxies_with_one_name(nodes: Callable[[], Node]) -> None:
    one, other = started(nodes, "same"), started(nodes, "same")
    finding = found(examine(url_of(one, other.address)), "two-proxies")
    assert finding.verdict == "problem"
    assert "Two proxies have the name same" in finding.sentence
    assert all(each.address in finding.sentence for each in (one, other))
    # The control: one proxy, named twice, is one.
    url = f"hbzmq://{one.address},{one.address}:9501/"
    assert found(examine(url), "two-proxies").verdict == "ok"


def test_hosts_of_a_folder_and_one_of_which_nothing_is_left(
    nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint, tmp_path: Path
) -> None:
    directory = f"file://{tmp_path}/hosts"
    alive, dead = (started(nodes, name, "--directory", directory) for name in ("alive", "dead"))
    for node in (alive, dead):
        serve(node.driver(), TARGET, endpoint)
    url = f"hbzmq+{directory}"
    report = examine(url)
    assert verdicts(report)["directory"] == "ok"
    assert verdicts(report)["stale-hosts"] == "ok"
    assert "hosts in it: 2" in found(report, "directory").sentence
    assert found(report, "proxies").sentence.endswith("a proxy answers: alive, dead.")
    dead.end(signal.SIGKILL)
    report = examine(url)
    assert report.exit_status == 1
    assert found(report, "stale-hosts").verdict == "warning"
    assert "1 host of 2 in the directory does not answer: dead (port" in (
        found(report, "stale-hosts").sentence
    )
    assert verdicts(report)["proxies"] == "ok"


def test_a_file_of_hosts(nodes: Callable[[], Node], tmp_path: Path) -> None:
    node, path = started(nodes, "real-name"), tmp_path / "hosts.json"
    path.write_text(json.dumps({"hosts": [{"host": "other-name", "address": node.address}]}))
    report = examine(f"hbzmq+file://{path}")
    assert found(report, "two-proxies").verdict == "problem"
    assert "has host other-name, and at its address host real-name answers" in (
        found(report, "two-proxies").sentence
    )
    path.write_text(json.dumps({"hosts": [{"host": "gone", "address": own_address()}]}))
    report = examine(f"hbzmq+file://{path}")
    assert (report.exit_status, found(report, "stale-hosts").verdict) == (2, "problem")
    for text, sentence in (("{", "is no JSON"), ('{"hosts": [1]}', "host 1: it is no JSON object")):
        path.write_text(text)
        report = examine(f"hbzmq+file://{path}")
        assert (report.exit_status, found(report, "directory").verdict) == (2, "problem")
        assert sentence in found(report, "directory").sentence
    path.unlink()
    assert "does not exist" in found(examine(f"hbzmq+file://{path}"), "directory").sentence


def test_redis_with_a_password_that_no_report_has(
    redis_server: RedisServer, nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint
) -> None:
    redis_server.command("ACL", "SETUSER", "doctor", "on", f">{SECRET}", "~*", "&*", "+@all")
    try:
        address = f"redis://doctor:{SECRET}@{redis_server.host}:{redis_server.port}/0"
        environment = {
            "HBSHIM_ZMQ_FANOUT_DS_ADDRESS": address,
            "HBSHIM_ZMQ_ZMQ_TARGET_EXPIRE": "3",
            "HBSHIM_ZMQ_DIRECTORY_NAMESPACE": "doctor",
        }
        empty = doctor("--url", "hbzmq://", "--json", **environment)
        node = nodes()
        node.start("--host", "one", whole=True, environment=environment)
        serve(node.driver(), TARGET, endpoint)
        done = doctor("--url", "hbzmq://", "--json", **environment)
        wrong = {**environment, "HBSHIM_ZMQ_FANOUT_DS_ADDRESS": address.replace(SECRET, "wr0ng")}
        refused = doctor("--url", "hbzmq://", "--json", **wrong)
    finally:
        redis_server.command("ACL", "DELUSER", "doctor")
    assert (empty.status, done.status, refused.status) == (1, 0, 2), (empty, done, refused)
    assert "answers, and has no host" in empty.out
    assert "hosts in it: 1" in done.out
    assert "No record was written by two proxies in 1.5 s." in done.out
    assert "refuses the login" in refused.out
    for each in (empty, done, refused):
        assert SECRET not in each.out + each.err
        assert "wr0ng" not in each.out + each.err


def test_two_proxies_that_write_one_record_in_redis(
    redis_server: RedisServer, nodes: Callable[[], Node], serve: Serve, endpoint: Endpoint
) -> None:
    environment = {
        "HBSHIM_ZMQ_FANOUT_DS_ADDRESS": f"{redis_server.url}/0",
        "HBSHIM_ZMQ_ZMQ_TARGET_EXPIRE": "3",
    }
    for _ in range(2):
        node = nodes()
        node.start("--host", "same", whole=True, environment=environment)
        serve(node.driver(), TARGET, endpoint)
    url = f"hbzmq://?fanout_ds_address={redis_server.url}/0&zmq_target_expire=3"
    finding: list[Finding] = []

    def seen() -> bool:
        finding.append(found(examine(url), "two-proxies"))
        return finding[-1].verdict == "problem"

    # Each renews once a second; both may do so between two readings.
    wait_until(seen, 60)
    assert "both write the record of host same" in finding[-1].sentence


def test_a_directory_that_gives_no_answer_takes_no_longer_than_it_may() -> None:
    begun = time.monotonic()
    with silent_listener("127.0.0.1") as port:
        report = examine(f"hbzmq+redis://:{SECRET}@127.0.0.1:{port}/0", timeout=5)
    assert time.monotonic() - begun < 8
    assert report.exit_status == 2
    assert found(report, "directory").verdict == "problem"
    assert SECRET not in json.dumps(report.as_dict())


def test_keys_that_fit_and_keys_that_cannot_be_used(
    nodes: Callable[[], Node], tmp_path: Path
) -> None:
    node, keys = nodes(), Keys(tmp_path)
    keys.allow("client")
    keys.pin((node.address, "proxy"))
    keys.start(node, whole=True)

    def url(pair: str, servers: Path | None) -> str:
        pinned = "" if servers is None else f"&zmq_curve_server_keys={servers}"
        return f"{node.url}?zmq_curve_secret_key_file={keys.pair(pair).path}{pinned}"

    report = examine(url("client", keys.servers))
    assert (verdicts(report)["keys"], verdicts(report)["proxies"]) == ("ok", "ok")
    report = examine(url("stranger", keys.servers))
    assert "does not allow the key of this client" in found(report, "proxies").sentence
    report = examine(url("client", None))
    assert (verdicts(report)["keys"], verdicts(report)["proxies"]) == ("problem", "unknown")
    keys.pair("client").path.chmod(0o644)
    report = examine(url("client", keys.servers))
    assert "0644" in found(report, "keys").sentence
    assert report.exit_status == 1


def test_the_directory_of_local_sockets(node: Node, tmp_path: Path) -> None:
    def finding(path: object) -> Finding:
        return found(examine(f"{node.url}?rpc_zmq_ipc_dir={path}"), "ipc-directory")

    assert finding(node.ipc).verdict == "ok"
    missing = tmp_path / "missing"
    assert finding(missing).verdict == "not-applicable"
    assert not missing.exists()
    missing.mkdir(mode=0o755)
    assert finding(missing).verdict == "problem"
    assert "mode 0755" in finding(missing).sentence
    (tmp_path / "link").symlink_to(node.ipc)
    assert finding(tmp_path / "link").verdict == "problem"


def test_a_limit_of_descriptors_that_is_too_low(node: Node) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 90, hard))
    try:
        finding = found(examine(url_of(node)), "descriptors")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert finding.verdict == "warning"
    assert f"may open {used + 90} descriptors (hard limit {hard})" in finding.sentence


def test_a_library_that_is_too_old(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 3))
    finding = found(examine(url_of(node)), "versions")
    assert (finding.verdict, finding.sentence) == (
        "problem",
        "libzmq 4.3.3 has known security faults, and is refused.",
    )


def test_without_a_url_nothing_of_zeromq_is_imported_or_examined() -> None:
    code = """
import sys
from hbshim.doctor import examine
report = examine()
print("zmq" in sys.modules, "redis" in sys.modules)
print({each.verdict for each in report.findings if each.check.startswith("zmq-")})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False False\n{'not-applicable'}\n"


@pytest.mark.parametrize("model", ["eventlet", "gevent"])
def test_in_a_patched_program_its_hub_goes_on(node: Node, model: str) -> None:
    patch = {
        "eventlet": "import eventlet; eventlet.monkey_patch()",
        "gevent": "from gevent import monkey; monkey.patch_all()",
    }
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
{patch[model]}
import threading, time
ticks = []
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
from hbshim.doctor import examine
report = examine({url_of(node, own_address())!r})
print(report.finding("zmq-proxies").verdict, len(ticks) > 20)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "problem True\n", done.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"hbzmq://user:{SECRET}@host/",
        f"hbzmq://host/{SECRET}",
        f"hbzmq://host:x{SECRET}/",
        f"hbzmq+redis://:{SECRET}/12@host/0",
        f"hbzmq+http://:{SECRET}@host/",
        f"hbzmq://host/?zmq_call_ports={SECRET}",
    ],
)
def test_what_cannot_be_used_is_not_repeated(url: str) -> None:
    with pytest.raises(OptionError) as raised:
        examine(url)
    assert SECRET not in str(raised.value)


def test_what_belongs_to_a_broker_is_refused() -> None:
    with pytest.raises(OptionError, match="hbzmq:// has none"):
        examine("hbzmq://host/", management="http://host:15672")


def test_a_name_from_the_network_is_printable() -> None:
    answer = HostAnswer(HostRecord("", "", {"call": "tcp://host:9501"}, frames.VERSION))
    hello = frames.Header(frames.Kind.HELLO, bytes(16), server="a\x1b[2J")
    for message in ([b"id", b""], [b"id"], [b"id", b"junk"], [b"id", frames.encode(hello)]):
        _note(answer, message)
    assert (answer.host, answer.incarnation) == ("a?[2J", "00" * 16)
