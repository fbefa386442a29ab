"""What a directory stores is read back, and anything else is refused by one error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from hbshim.messaging.zmq.directory import HostRecord, Registration, records
from hbshim.messaging.zmq.directory.local import decode_host
from hbshim.messaging.zmq.directory.records import Change, ForeignVersionError, RecordError
from hbshim.messaging.zmq.frames import VERSION, key_of
from tests.messaging.zmq.directories import record

#: No limits of time: the machine may be loaded.
CALM = settings(database=None, max_examples=60)
NAMES = st.text(min_size=1, max_size=60).filter(records.is_name)
KEYS = st.binary(max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
    max_leaves=12,
)


@CALM
@given(NAMES, NAMES, st.none() | st.binary(min_size=32, max_size=32).map(z85.encode))
def test_a_record_is_read_back(host: str, incarnation: str, key: bytes | None) -> None:
    curve_key = None if key is None else key.decode()
    written = HostRecord(host, incarnation, {"call": "tcp://[::1]:9501"}, VERSION, curve_key)
    assert records.decode_record(records.encode_record(written), host) == written


@CALM
@given(NAMES, NAMES)
def test_a_member_is_read_back_whatever_the_names_hold(host: str, instance: str) -> None:
    member = records.encode_member(host, instance)
    assert records.decode_member(member.encode()) == (host, instance)


@CALM
@given(NAMES, NAMES | st.sampled_from(["", None]), st.lists(KEYS))
def test_an_announcement_is_read_back(host: str, gone: str | None, keys: list[bytes]) -> None:
    announced = Change(host, gone, None if gone is not None else tuple(keys))
    assert records.decode_change(records.encode_change(announced).encode()) == announced


def test_an_announcement_of_many_keys_names_none() -> None:
    many = tuple(key_of("e", str(number)) for number in range(records.KEYS_ANNOUNCED + 1))
    read = records.decode_change(records.encode_change(Change("a", None, many)).encode())
    assert read == Change("a", None, None)


@CALM
@given(st.lists(st.builds(Registration, st.lists(KEYS).map(tuple), NAMES)))
def test_listeners_are_read_back(listeners: list[Registration]) -> None:
    by_instance = {each.instance: each for each in listeners}
    text = json.dumps(records.encode_listeners(by_instance.values()))
    assert records.decode_listeners(json.loads(text)) == by_instance


def close_to_a_record(document: dict[str, Any]) -> str:
    return json.dumps({**json.loads(records.encode_record(record("a"))), **document})


@CALM
@given(
    st.binary(max_size=200)
    | JSON.map(lambda each: json.dumps(each).encode())
    | st.dictionaries(
        st.sampled_from(["host", "incarnation", "addresses", "version"]), JSON, min_size=1
    ).map(lambda each: close_to_a_record(each).encode())
)
def test_anything_else_is_refused_by_one_error(text: bytes) -> None:
    for decode in (
        lambda: records.decode_record(text, "a").host,
        lambda: records.decode_change(text).host,
        lambda: all(records.decode_member(text)),
        lambda: decode_host(text, "a.json"),
        lambda: decode_host(b'{"record": ' + text + b', "ends": 1}', "a.json"),
    ):
        with contextlib.suppress(RecordError):
            assert decode()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"host": "b"}, "not the record of this host"),
        ({"incarnation": ""}, "incarnation"),
        ({"incarnation": "\ud800"}, "incarnation"),
        ({"version": True}, "version"),
        ({"addresses": {}}, "addresses are missing"),
        ({"addresses": {"rpc": "tcp://a:1"}}, "unknown pipeline"),
        ({"addresses": {"call": "tcp://a:70000"}}, "not tcp://host:port"),
        ({"addresses": {"call": "tcp://a:0"}}, "not tcp://host:port"),
        ({"addresses": {"call": "tcp://a:1 ; rm"}}, "not tcp://host:port"),
        ({"addresses": {"call": "pgm://a:1"}}, "not tcp://host:port"),
        ({"more": "x" * records.RECORD_LIMIT}, "more than"),
        ({"curve_key": "short"}, "its curve_key is no public key"),
        ({"curve_key": ["x"] * 40}, "its curve_key is no public key"),
    ],
)
def test_an_invalid_record_is_refused(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        records.decode_record(close_to_a_record(document), "a")


def test_a_host_of_another_major_version_is_told_apart() -> None:
    for version in (VERSION - 16, VERSION + 16):
        text = close_to_a_record({"version": version})
        name = f"it speaks version {version >> 4} of the wire format"
        with pytest.raises(ForeignVersionError, match=name):
            records.decode_record(text, "a")
    assert records.decode_record(close_to_a_record({"version": VERSION + 1}), "a").host == "a"
