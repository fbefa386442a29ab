"""Payloads: what can be sent, in which form, and the one error for what cannot."""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import ipaddress
import itertools
import json
import uuid
import xmlrpc.client
from collections.abc import Iterator
from typing import Any, NoReturn, cast

import hypothesis.strategies as st
import netaddr  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from oslo_serialization import jsonutils

from hbshim.errors import PayloadError
from hbshim.messaging import encoding
from hbshim.messaging.encoding import Encoding, JsonSerializer

NOON = datetime.datetime(2026, 11, 20, 12, 30, 0, 42)


class Items:
    """Something like a mapping, and none."""

    def items(self) -> list[tuple[str, datetime.datetime | int]]:
        return [("a", 1), ("when", NOON)]


class Plain:
    """Nothing that JSON can represent."""


@pytest.fixture
def payloads() -> Encoding:
    return Encoding()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "ä€😀",
        -1.5,
        [1, (2, [3, {"4": None}])],
        NOON,
        NOON.replace(microsecond=0),
        NOON.replace(tzinfo=datetime.timezone.utc),
        NOON.date(),
        xmlrpc.client.DateTime(NOON),
        uuid.UUID(int=42),
        decimal.Decimal("1.10"),
        b"bytes",
        bytearray(b"12"),
        {3},
        frozenset("x"),
        collections.deque([1, NOON]),
        {"a": 1}.keys(),
        {"a": 1}.items(),
        map(str, [1, 2]),
        range(3),
        collections.OrderedDict(a=NOON),
        collections.ChainMap({"a": 1}),
        Items(),
        [Items(), {"deep": Items()}],
        ipaddress.ip_address("10.0.0.1"),
        ipaddress.ip_address("::1"),
        netaddr.IPAddress("10.0.0.1"),
        netaddr.IPNetwork("10.0.0.0/8"),
        netaddr.IPRange("10.0.0.1", "10.0.0.9"),
        ValueError("what went wrong"),
        json,
        Plain,
        len,
        "text".upper,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_has_the_form_that_oslo_gives_it(payloads: Encoding, value: Any) -> None:
    if isinstance(value, map):  # it can be read once
        assert payloads.decode(payloads.encode(value)) == ["1", "2"]
    elif isinstance(value, bytearray):  # there, a list of numbers
        assert payloads.decode(payloads.encode(value)) == "12"
    else:
        theirs = jsonutils.loads(jsonutils.dumps(value))
        assert payloads.decode(payloads.encode(value)) == theirs


def test_a_generator_is_written_out(payloads: Encoding) -> None:
    assert payloads.encode({"squares": (n * n for n in range(3))}) == b'{"squares":[0,1,4]}'


def test_a_network_is_not_a_list_of_its_addresses(payloads: Encoding) -> None:
    assert payloads.encode(ipaddress.ip_network("10.0.0.0/8")) == b'"10.0.0.0/8"'


def cycle() -> dict[str, list[Any]]:
    value: dict[str, list[Any]] = {"a": []}
    value["a"].append(value)
    return value


def cycle_through_an_object() -> Any:
    class Own:
        def items(self) -> list[tuple[str, Any]]:
            return [("again", self)]

    return Own()


def growing_forever() -> Any:
    class Matryoshka:
        def items(self) -> list[tuple[str, Any]]:
            return [("inside", Matryoshka())]

    return Matryoshka()


def nested(depth: int) -> list[list[list[list[Any]]]]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Iterator[int]:
    while True:
        yield 0


def raising() -> Iterator[int]:
    yield 1
    raise RuntimeError("no more")


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (Plain, "Plain cannot be converted to JSON"),
        (lambda: {"a": [{"b": Plain()}]}, "Plain cannot be converted to JSON"),
        (lambda: {Plain(): 1}, "keys must be"),
        (lambda: b"\xff\xfe", "UnicodeDecodeError"),
        (lambda: io.BytesIO(b"1"), "BytesIO cannot be converted"),
        (lambda: 1j, "complex cannot be converted"),
        (cycle, "without cycles"),
        (cycle_through_an_object, "without cycles"),
        (growing_forever, "RecursionError"),
        (lambda: nested(100_000), "RecursionError"),
        (itertools.count, "count has no end"),
        (lambda: itertools.repeat(1), "repeat has no end"),
        (raising, "RuntimeError: no more"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_one_way(
    payloads: Encoding, make: Any, wanted: str
) -> None:
    with pytest.raises(PayloadError, match=rf"cannot be encoded as application/json .*{wanted}"):
        payloads.encode(make())


def test_what_does_not_end_is_refused(payloads: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_ITEMS", 1000)
    with pytest.raises(PayloadError, match="more than 1000 items, or no end"):
        payloads.encode(endless())


def test_a_payload_may_have_as_many_bytes_as_the_limit_says() -> None:
    payloads = Encoding(limit=10)
    assert payloads.encode("12345678") == b'"12345678"'
    with pytest.raises(
        PayloadError, match=r"has 11 bytes, encoded, and payload_limit is 10; .*max_message_size"
    ):
        payloads.encode("123456789")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\xfd", b"[" * 200_000, b"1 2"])
def test_what_is_no_json_is_refused_in_one_way(payloads: Encoding, data: bytes) -> None:
    with pytest.raises(PayloadError, match=f"a message of {len(data)} bytes is not valid .*sender"):
        payloads.decode(data)


class Reversed:
    content_type = "text/reversed"

    def encode(self, value: str) -> bytes:
        return str(value)[::-1].encode()

    def decode(self, data: bytes) -> str:
        return data.decode()[::-1]


def test_a_message_is_decoded_as_what_it_is_not_as_what_we_send() -> None:
    payloads = Encoding(Reversed())
    assert payloads.content_type == "text/reversed"
    assert payloads.encode("abc") == b"cba"
    assert payloads.decode(b"cba", "text/reversed") == "abc"
    assert payloads.decode(b'"cba"', "application/json") == "cba"
    assert payloads.decode(b"cba") == "abc"
    assert Encoding(others=[Reversed()]).decode(b"cba", "text/reversed") == "abc"


def test_a_content_type_may_have_parameters_and_capitals(payloads: Encoding) -> None:
    assert payloads.decode(b"1", "Application/JSON; charset=utf-8") == 1


def test_an_unknown_content_type_lists_the_known_ones(payloads: Encoding) -> None:
    with pytest.raises(PayloadError, match=r"'text/reversed' cannot .* knows application/json;"):
        payloads.decode(b"cba", "text/reversed")


@pytest.mark.parametrize("use", ["encode", "decode"])
def test_whatever_a_serializer_raises_is_a_payload_error(use: str) -> None:
    class Failing(Reversed):
        def encode(self, value: object) -> NoReturn:
            raise KeyError("own")

        decode = encode  # type: ignore[assignment]

    with pytest.raises(PayloadError, match="KeyError") as caught:
        getattr(Encoding(Failing()), use)(b"")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_further_type_can_be_taught(payloads: Encoding) -> None:
    class Taught(Plain):
        pass

    encoding.primitive.register(Taught, lambda value: "taught")
    assert payloads.encode([Taught()]) == b'["taught"]'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(database=None)
@given(json_values)
def test_plain_values_arrive_as_they_were(value: Any) -> None:
    serializer = JsonSerializer()
    assert serializer.decode(serializer.encode(value)) == value


@settings(database=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_payload_error(data: bytes) -> None:
    payloads = Encoding()
    try:
        value = payloads.decode(data)
    except PayloadError:
        return
    assert json.dumps(value) == json.dumps(json.loads(data))


class UnspeakableError(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError


class Odd:
    """A serializer that returns `encoded`, and decodes nothing."""

    content_type = "application/x-odd"

    def __init__(self, encoded: Any = b"") -> None:
        self.encoded = encoded

    def encode(self, _value: object) -> bytearray | int | str:
        if isinstance(self.encoded, Exception):
            raise self.encoded
        return self.encoded

    def decode(self, _data: object) -> NoReturn:
        raise UnspeakableError


@pytest.mark.parametrize("encoded", [None, "text", 5, UnspeakableError()])
def test_what_a_serializer_does_wrong_is_one_error(
    encoded: int | str | UnspeakableError | None,
) -> None:
    with pytest.raises(PayloadError, match="cannot be encoded"):
        Encoding(cast(Any, Odd(encoded))).encode(1)


def test_a_serializer_may_return_other_bytes() -> None:
    assert Encoding(cast(Any, Odd(bytearray(b"a")))).encode(1) == b"a"


def test_an_error_without_text_is_one_error_when_decoding() -> None:
    with pytest.raises(PayloadError, match="UnspeakableError"):
        Encoding(cast(Any, Odd())).decode(b"a")
