"""A configuration file of oslo.messaging 8.1 says where the directory is, and how it is used."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory.address import read_address
from hbshim.messaging.zmq.directory.legacy import (
    OPTIONS,
    legacy_address,
    legacy_settings,
    without_effect,
)

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
    settings = legacy_settings(sections)
    assert (settings.expire, settings.update) == (300.0, 180.0)
    assert (settings.socket_timeout, settings.wait_timeout) == (10.0, 2.0)
    assert [each.name for each in without_effect(sections)] == [
        "check_timeout",
        "backend_port",
        "local_publisher",
        "ack_pub_sub",
    ]


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
    ],
)
def test_a_value_that_cannot_be_used_is_named(section: str, name: str, value: str) -> None:
    with pytest.raises(OptionError, match=name):
        legacy_address({section: {name: value}})
        legacy_settings({section: {name: value}})


def test_never_is_no_lease_here() -> None:
    never = {"oslo_messaging_zmq": {"zmq_target_expire": "-1"}}
    assert legacy_settings(never).expire == legacy_settings({}).expire
