"""The phases of a migration: a table, whose gates are tried with everything in their way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hbshim.errors import OptionError
from hbshim.messaging.hybrid.phases import (
    CONDITIONS,
    NAMES,
    PHASES,
    Facts,
    Server,
    following,
    gate,
)

PAGE = Path(__file__).parents[3] / "docs" / "hybrid.md"

#: Nothing is in the way.
CLEAR = Facts(
    servers=(Server("host-1:nova-compute", "0.1.0"),),
    consumers={"compute": 2},
    receivers={"compute": 2},
    waiting={"openstack_rpc.compute": 0},
    undelivered={"compute": 0},
)

#: For each condition, facts in its way, and what is named.
IN_THE_WAY = {
    "servers-know-router": (Facts(servers=(Server("host-9", None),)), "host-9"),
    "router-answers": (Facts(router=("r1:31459 does not answer",)), "r1:31459"),
    "servers-at-router": (
        Facts(consumers={"compute": 3}, receivers={"compute": 2}),
        "compute: 2 of 3",
    ),
    "servers-at-rabbitmq": (
        Facts(consumers={}, receivers={"compute": 2}),
        "compute: 0 of 2",
    ),
    "no-publisher-at-rabbitmq": (Facts(publishers=("host-7",)), "host-7"),
    "rabbitmq-drained": (Facts(waiting={"reply.7": 1}), "reply.7"),
    "no-sender-at-router": (Facts(senders=("compute",)), "compute"),
    "router-settled": (Facts(undelivered={"compute": 4}), "compute has 4"),
}


def test_the_phases_are_those_of_the_design_in_their_order() -> None:
    assert NAMES == ("rabbitmq", "dual", "cutover", "draining", "hybrid")


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda each: each.name)
def test_each_condition_holds_when_clear_and_names_what_is_in_its_way(condition: object) -> None:
    from hbshim.messaging.hybrid.phases import Condition

    assert isinstance(condition, Condition)
    assert condition.missing(CLEAR) == []
    facts, named = IN_THE_WAY[condition.name]
    (sentence,) = condition.missing(facts)
    assert named in sentence


def test_every_condition_is_tried() -> None:
    assert {each.name for each in CONDITIONS} == set(IN_THE_WAY)


def test_every_step_has_a_gate_in_both_directions() -> None:
    for name in NAMES[:-1]:
        assert gate(name, "forward")
        assert following(name, "forward") == NAMES[NAMES.index(name) + 1]
    for name in NAMES[1:]:
        assert gate(name, "back")
        assert following(name, "back") == NAMES[NAMES.index(name) - 1]


@pytest.mark.parametrize(
    ("name", "direction"), [("hybrid", "forward"), ("rabbitmq", "back"), ("half", "forward")]
)
def test_a_gate_that_there_is_not_is_an_error(name: str, direction: str) -> None:
    with pytest.raises(OptionError, match=r"no gate|no phase 'half'; use one of rabbitmq, dual"):
        gate(name, direction)  # type: ignore[arg-type]


def phase_table() -> str:
    """What the page shows."""
    lines = [
        "| phase | servers receive from | clients send to | gate to the next phase | gate back |",
        "| --- | --- | --- | --- | --- |",
    ]
    for phase in PHASES:
        forward, back = (
            ", ".join(f"`{each.name}`" for each in gates) or "–"
            for gates in (phase.forward, phase.back)
        )
        lines.append(f"| `{phase.name}` | {phase.servers} | {phase.clients} | {forward} | {back} |")
    return "\n".join(lines)


def condition_table() -> str:
    """What the page shows of the gates."""
    lines = ["| condition | what must be true |", "| --- | --- |"]
    lines += [f"| `{each.name}` | {each.meaning} |" for each in CONDITIONS]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("mark", "table"), [("phases", phase_table), ("conditions", condition_table)]
)
def test_the_page_shows_the_table(mark: str, table: object) -> None:
    assert callable(table)
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark}: [^>]* -->\n(.*?)\n<!-- end of {mark} -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == table()
