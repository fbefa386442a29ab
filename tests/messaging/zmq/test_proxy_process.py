"""The command of the proxy: what it refuses, in one line."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from hbshim.errors import OptionError, UnsupportedVersionError
from hbshim.messaging import Server, Target, connect
from hbshim.messaging.zmq.local_sockets import open_ipc_directory
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import COMMAND, LIMIT, Node
from tests.waiting import wait_until

#: A user and a group that no process of the system has.
OTHER_USER, GROUP = 12345, 54321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a file of another user needs root")


def refused(*arguments: str) -> str:
    """The one line that a proxy ends with."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_port_that_is_taken(node: Node, nodes: Callable[[], Node]) -> None:
    said = refused("--bind", node.address, "--ipc-dir", nodes().ipc)
    assert f"tcp://{node.address}:9501 cannot be bound (Address already in use)" in said


def test_two_proxies_with_one_directory(node: Node, nodes: Callable[[], Node]) -> None:
    said = refused("--bind", nodes().address, "--ipc-dir", node.ipc)
    assert "another proxy uses rpc_zmq_ipc_dir=" in said


def test_a_directory_that_others_may_enter_or_that_is_a_link(tmp_path: Path) -> None:
    opened = tmp_path / "open"
    opened.mkdir()
    opened.chmod(0o755)
    assert "make it 0700" in refused("--ipc-dir", str(opened))
    link = tmp_path / "link"
    link.symlink_to(opened)
    assert "no symbolic link" in refused("--ipc-dir", str(link))


def test_a_path_that_is_too_long_and_an_option_that_is_none() -> None:
    assert "is too long" in refused("--ipc-dir", "/tmp/" + "x" * 110)
    assert "zmq_call_port='many' is not valid" in refused("--call-port", "many")


def test_the_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    made = tmp_path / "deep" / "made"
    os.close(open_ipc_directory(str(made)))
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


@as_root
def test_a_directory_of_another_user(nodes: Callable[[], Node]) -> None:
    """Neither a proxy nor a server uses it: its owner would see all messages."""
    node = nodes()
    os.chown(node.ipc, OTHER_USER, -1)
    assert f"belongs to user {OTHER_USER}" in refused("--ipc-dir", node.ipc)
    with pytest.raises(OptionError, match=f"belongs to user {OTHER_USER}"):
        Server(node.driver(), Target("compute"), [Endpoint()])


def test_a_server_makes_the_directory_before_another_user_can(
    nodes: Callable[[], Node], tmp_path: Path
) -> None:
    made = tmp_path / "made"
    server = Server(nodes().driver(rpc_zmq_ipc_dir=str(made)), Target("compute"), [Endpoint()])
    assert not server.start(0.1)
    server.stop(LIMIT)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


@as_root
def test_a_group_may_share_the_directory(nodes: Callable[[], Node]) -> None:
    node = nodes()
    node.start("--ipc-group", str(GROUP), whole=True)
    found = [Path(node.ipc), *(each for each in Path(node.ipc).iterdir() if each.is_socket())]
    assert {each.name for each in found[1:]} >= {"servers", "fanout", "notify"}
    assert {each.stat().st_gid for each in found} == {GROUP}
    assert [stat.S_IMODE(each.stat().st_mode) for each in found] == [0o770] + 6 * [0o660]
    connect_to = f"import socket; socket.socket(socket.AF_UNIX).connect('{node.ipc}/servers')"
    for group, connects in ((GROUP, True), (GROUP + 1, False)):
        done = subprocess.run(
            ["python3", "-c", connect_to],
            capture_output=True,
            text=True,
            user=OTHER_USER,
            group=group,
            extra_groups=(),
        )
        assert (done.returncode == 0) is connects, done
        assert connects or "PermissionError" in done.stderr

    # Of a server in another process; the directory belongs to this user, and is given again.
    os.close(open_ipc_directory(node.ipc, GROUP))
    with pytest.raises(OptionError, match="not to user 0 alone"):
        open_ipc_directory(node.ipc)
    os.chown(node.ipc, OTHER_USER, GROUP)
    os.close(open_ipc_directory(node.ipc, GROUP))
    os.chown(node.ipc, OTHER_USER, GROUP + 1)
    with pytest.raises(OptionError, match=f"not to zmq_ipc_group, {GROUP}; make it 0770"):
        open_ipc_directory(node.ipc, GROUP)


def test_a_group_that_is_none() -> None:
    assert "zmq_ipc_group='no-such-group' is no group" in refused("--ipc-group", "no-such-group")


def test_a_proxy_says_that_its_directory_cannot_be_reached(
    nodes: Callable[[], Node], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Its events are on standard error: there is no other place for them."""
    node = nodes()
    with (tmp_path / "log").open("w") as log:
        node.start("--directory", "redis://:only-for-tests@127.0.0.1:1/0", log=log)
        serve(node.driver(), Target("compute"), Endpoint())
        wait_until(lambda: "directory-lost" in (tmp_path / "log").read_text(), LIMIT)
    assert "redis://127.0.0.1:1/0" in (tmp_path / "log").read_text()
    assert "only-for-tests" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hbzmq://user:password@host/", "neither logins nor virtual hosts"),
        ("hbzmq://host/vhost", "neither logins nor virtual hosts"),
        ("hbzmq://host/?ssl=true", "ZeroMQ speaks no TLS"),
        ("hbzmq://host/?heartbeat_interval=33", "heartbeat_interval='33' is not valid"),
        ("hbzmq://host/?zmq_call_ports=1", "unknown option zmq_call_ports"),
        ("hbzmq://host/?rpc_zmq_ipc_dir=relative", "rpc_zmq_ipc_dir='relative'"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        connect(url)
    assert "password@" not in str(caught.value)


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 3))
    with pytest.raises(UnsupportedVersionError, match=r"libzmq 4\.3\.3"):
        connect("hbzmq://host/")
