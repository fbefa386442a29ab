"""A configuration file of oslo.messaging 8.1 says where the directory is, and how it is used."""

from __future__ import annotations

import configparser
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory.address import read_address
from hbshim.messaging.zmq.legacy import (
    ADDRESS,
    ALWAYS,
    NOTHING,
    OPTIONS,
    driver_options,
    legacy_address,
    legacy_options,
    warnings,
)
from hbshim.messaging.zmq.options import ZmqOptions
from tests.messaging.zmq.nodes import Node

FILE = Path(__file__).with_name("oslo_messaging_8.conf")


@pytest.fixture
def sections() -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parser.read(FILE)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_a_file_of_oslo_messaging_8_is_understood(sections: dict[str, dict[str, str]]) -> None:
    url = legacy_address(sections)
    assert url is not None
    address = read_address(url)
    assert address.name == "sentinel://ctl1:26379,ctl2:26379/oslo-messaging-zeromq"
    assert address.password == "secret/1"
    assert legacy_options(sections) == {
        "rpc_zmq_bind_address": "*",
        "rpc_zmq_ipc_dir": "/var/run/openstack",
        "rpc_zmq_host": "compute-17",
        "zmq_target_expire": 300.0,
        "zmq_target_update": 180.0,
        "rpc_use_acks": "true",
        "rpc_ack_timeout_base": "15",
        "rpc_ack_timeout_multiplier": "2",
        "rpc_retry_attempts": "-1",
        "rpc_message_ttl": "300",
        "directory_retry_delay": 2.0,
        "directory_timeout": 10.0,
        "zmq_call_port": 30001,
        "zmq_fanout_port": 30003,
    }
    assert [text.partition(" ")[0] for text in warnings(sections)] == [
        "check_timeout",
        "backend_port",
        "local_publisher",
        "ack_pub_sub",
    ]


def test_what_is_always_on_cannot_be_switched_off() -> None:
    (text,) = warnings({"oslo_messaging_zmq": {"use_pub_sub": "False", "zmq_immediate": "true"}})
    assert text.startswith("use_pub_sub=False of [oslo_messaging_zmq] has no effect with hbzmq://")


def test_each_option_of_these_sections_is_known(sections: dict[str, dict[str, str]]) -> None:
    known = {(each.section, each.name) for each in OPTIONS}
    for section in ("matchmaker_redis", "zmq_proxy_opts"):
        assert {name for at, name in known if at == section} == set(sections[section])
    assert len(known) == len(OPTIONS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"DEFAULT": {"fanout_ds_address": "redis://ds"}}, "redis://ds"),
        ({"oslo_messaging_zmq": {"rpc_zmq_matchmaker": "dummy"}}, "memory://"),
        ({"oslo_messaging_zmq": {"rpc_zmq_matchmaker": "redis"}}, "redis://127.0.0.1:6379/0"),
        ({"matchmaker_redis": {"host": "h", "password": "a@b"}}, "redis://:a%40b@h:6379/0"),
        (
            {"matchmaker_redis": {"sentinel_hosts": "[a:1,b:2]"}},
            "sentinel://a:1,b:2/oslo-messaging-zeromq",
        ),
    ],
)
def test_what_is_set_names_the_directory(
    changes: dict[str, dict[str, str]], expected: str | None
) -> None:
    assert legacy_address(changes) == expected
    assert expected is None or read_address(expected)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("oslo_messaging_zmq", "rpc_zmq_matchmaker", "etcd"),
        ("oslo_messaging_zmq", "zmq_target_expire", "soon"),
        ("matchmaker_redis", "socket_timeout", "nan"),
        ("oslo_messaging_zmq", "rpc_zmq_serialization", "msgpack"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(section: str, name: str, value: str) -> None:
    with pytest.raises(OptionError, match=name):
        legacy_address({section: {name: value}})
        legacy_options({section: {name: value}})


def test_each_option_becomes_one_that_there_is_and_is_documented() -> None:
    fields = {field.name for field in dataclasses.fields(ZmqOptions)}
    kinds = {ADDRESS: "part of the directory's address", ALWAYS: "always on", NOTHING: "no effect"}
    assert {each.target for each in OPTIONS} <= fields | set(kinds)
    rows = [
        {
            "section": each.section,
            "option": f"`{each.name}`",
            "here": kinds.get(each.target, f"`{each.target}`"),
            "": each.doc,
        }
        for each in OPTIONS
    ]
    page = (Path(__file__).parents[3] / "docs" / "zmq.md").read_text(encoding="utf-8")
    marked = page.partition("<!-- former options:")[2].partition("<!-- end of former options")[0]
    assert [line.split(" | ") for line in marked.splitlines()[3:]] == [
        [f"| {row['section']}", row["option"], row["here"], f"{row['']} |"] for row in rows
    ]


def test_never_is_no_lease_here() -> None:
    never = {"zmq_target_expire": "-1", "zmq_linger": "-1", "zmq_cast_port": "1"}
    assert driver_options({"oslo_messaging_zmq": never}) == {"zmq_cast_port": "1"}
    assert driver_options({"oslo_messaging_zmq": {"zmq_linger": "0"}}) == {"zmq_linger": 0.0}


def test_the_proxy_reads_the_file_beneath_variables_and_its_command_line(
    nodes: Callable[[], Node], tmp_path: Path
) -> None:
    file = tmp_path / "service.conf"
    file.write_text(
        "[oslo_messaging_zmq]\nrpc_zmq_host = file\nzmq_linger = -1\nzmq_cast_port = 9604\n"
        "[zmq_proxy_opts]\nfrontend_port = 9601\npublisher_port = 9602\n"
    )
    node = nodes()
    line = node.start(
        *("--config-file", str(file), "--fanout-port", "9702"),
        whole=True,
        environment={"HBSHIM_ZMQ_ZMQ_CAST_PORT": "9704"},
    )
    here = f"tcp://{node.address}"
    assert line.endswith(
        f"host file, calls at {here}:9601, casts at {here}:9704, "
        f"fanout at {here}:9702, notify at {here}:9503\n"
    )
