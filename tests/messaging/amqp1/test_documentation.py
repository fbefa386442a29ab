"""The page of the driver over AMQP 1.0 shows what the code is."""

from __future__ import annotations

import dataclasses

from hbshim.messaging.amqp.queue_options import QueueOptions
from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.messaging.amqp1.outcomes import TABLE, Outcome, Pattern
from tests.option_table import PAGES, shown, table


def outcomes() -> str:
    """The table of outcomes, as the page is to show it."""
    lines = [
        f"| the peer reports | {' | '.join(pattern.value for pattern in Pattern)} |",
        f"| --- |{' --- |' * len(Pattern)}",
    ]
    for outcome in Outcome:
        actions = " | ".join(TABLE[outcome][pattern].value for pattern in Pattern)
        lines.append(f"| {outcome.value} | {actions} |")
    return "\n".join(lines)


def own_options() -> str:
    """The table of the options that the other drivers do not have, or have with another meaning."""
    others = {field.name: field.default for field in dataclasses.fields(QueueOptions)}
    rows = [
        row
        for row in Amqp1Options.describe()
        if row["option"] not in others or row["option"] == "heartbeat_interval"
    ]
    return table(rows)


def test_the_table_of_outcomes_is_the_code() -> None:
    page = (PAGES / "amqp1.md").read_text(encoding="utf-8")
    begin = "tests/messaging/amqp1/test_documentation.py -->\n"
    assert page.split(begin)[1].split("\n<!-- end of outcomes")[0] == outcomes()


def test_every_outcome_has_an_action_for_every_pattern() -> None:
    assert set(TABLE) == set(Outcome)
    for actions in TABLE.values():
        assert set(actions) == set(Pattern)


def test_the_table_of_options_is_the_code() -> None:
    page = "hbshim/messaging/amqp1/options.py by tests/messaging/amqp1/test_documentation.py"
    assert shown("amqp1.md", page) == own_options()
