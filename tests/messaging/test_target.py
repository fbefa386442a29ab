"""Addresses, and which server serves which client."""

from __future__ import annotations

import pytest

from hbshim.errors import OptionError
from hbshim.messaging import Target
from hbshim.messaging.target import serves


@pytest.mark.parametrize(
    ("offered", "wanted", "served"),
    [
        ("1.3", "1.0", True),
        ("1.3", "1.3", True),
        ("1.3", "1.4", False),
        ("2.0", "1.0", False),
        ("1.10", "1.9", True),
        (None, None, True),
        (None, "1.1", False),
    ],
)
def test_a_server_serves_clients_of_its_major_and_an_older_minor(
    offered: str | None, wanted: str | None, served: bool
) -> None:
    assert serves(offered, wanted) is served


@pytest.mark.parametrize("version", ["1", "one.two", "1.", ".1", "1.0.1", "-1.0", "１.0"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(OptionError, match=r"major\.minor"):
        Target("topic", version=version)


def test_names_that_make_no_queue_are_refused() -> None:
    with pytest.raises(OptionError, match="needs a topic"):
        Target("")
    with pytest.raises(OptionError, match="remove one"):
        Target("topic", server="one", fanout=True)


def test_a_copy_differs_in_what_it_is_given() -> None:
    assert Target("topic").to(server="one") == Target("topic", server="one")
