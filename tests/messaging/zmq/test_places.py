"""Which address an event is about that has it in numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hbshim.messaging.zmq.loop import Loop
from hbshim.messaging.zmq.places import Places, place_of
from tests.messaging.zmq.nodes import LIMIT
from tests.waiting import wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.end()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://127.0.0.1:9501", "tcp://[::ffff:127.0.0.1]:9501"),
        ("tcp://[::1]:9501", "tcp://[0:0:0:0:0:0:0:1]:9501"),
        ("tcp://[fe80::1%lo]:9501", "tcp://[fe80::1]:9501"),
    ],
)
def test_two_forms_of_one_place(one: str, other: str) -> None:
    assert place_of(one) == place_of(other) is not None


@pytest.mark.parametrize(
    "address", ["tcp://host:9501", "ipc:///tmp/socket", "tcp://1.2.3:9501", ""]
)
def test_what_is_not_in_numbers(address: str) -> None:
    assert place_of(address) is None


def test_names_are_resolved_where_no_number_fits(loop: Loop) -> None:
    addresses = [
        "tcp://localhost:9501",
        "tcp://localhost:9502",
        "tcp://name.invalid:9501",
        "tcp://127.0.0.2:9501",
    ]
    places, found = Places(loop), list[str]()
    for numbers in ("tcp://[::ffff:127.0.0.2]:9501", "tcp://[::ffff:127.0.0.1]:9501"):
        places.find(numbers, addresses, found.append)
    # A name of a peer that is not among them, and what is no place.
    places.find("tcp://[::ffff:192.0.2.1]:9501", addresses, found.append)
    places.find("tcp://localhost:9501", addresses, found.append)
    assert found == ["tcp://127.0.0.2:9501"]
    wait_until(lambda: loop.run_once(0.01) or len(found) == 2, LIMIT)
    assert found == ["tcp://127.0.0.2:9501", "tcp://localhost:9501"]
