"""Deadlines come back in order, in slots, and a discarded item leaves no trace."""

from __future__ import annotations

import random

from hbshim.heartbeat.schedule import SLOT, Schedule


def test_nothing_is_due_in_an_empty_schedule() -> None:
    schedule: Schedule[str] = Schedule()
    assert schedule.next_deadline() is None
    assert list(schedule.pop_due(1e9)) == []


def test_an_item_is_due_within_the_slot_before_its_deadline() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.put("a", 10.001)
    assert list(schedule.pop_due(10.001 - SLOT)) == []
    assert list(schedule.pop_due(10.001)) == [("a", 10.001)]
    assert len(schedule) == 0


def test_putting_again_replaces_the_deadline() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.put("a", 5.0)
    schedule.put("a", 50.0)
    assert list(schedule.pop_due(20.0)) == []
    assert [item for item, _ in schedule.pop_due(51.0)] == ["a"]


def test_a_discarded_item_leaves_no_deadline_behind() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.put("a", 5.0)
    schedule.discard("a")
    schedule.discard("a")
    assert schedule.next_deadline() is None
    assert not schedule._heap
    assert not schedule._buckets


def test_many_items_come_out_in_the_order_of_their_slots() -> None:
    schedule: Schedule[str] = Schedule()
    rng = random.Random(7)
    deadlines = {f"link {n}": rng.uniform(0, 60) for n in range(2000)}
    for item, deadline in deadlines.items():
        schedule.put(item, deadline)
    for item in list(deadlines)[::3]:
        schedule.discard(item)
        del deadlines[item]
    seen = []
    while (now := schedule.next_deadline()) is not None:
        due = list(schedule.pop_due(now))
        assert due
        assert all(0 <= deadline - now <= SLOT for _, deadline in due)
        seen += [item for item, _ in due]
    assert sorted(seen) == sorted(deadlines)


def test_what_was_not_taken_out_is_still_due() -> None:
    schedule: Schedule[str] = Schedule()
    for item in "abc":
        schedule.put(item, 5.0)
    first, _ = next(schedule.pop_due(6.0))
    assert schedule.next_deadline() is not None
    rest = [item for item, _ in schedule.pop_due(6.0)]
    assert sorted([first, *rest]) == ["a", "b", "c"]
    assert schedule.next_deadline() is None
