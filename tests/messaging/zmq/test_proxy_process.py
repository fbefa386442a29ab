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
from hbshim.messaging.zmq.settings import open_ipc_directory
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import COMMAND, LIMIT, Node
from tests.waiting import wait_until


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
