"""Counters and events of several threads, without a lock."""

from __future__ import annotations

import threading

from hbshim.metrics import EVENTS_KEPT, Metrics


def test_counts_of_several_threads_add_up() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(5000):
            metrics.count("things", 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot() == {"things": 40_000}


def test_events_that_are_dropped_are_counted() -> None:
    metrics = Metrics()
    for number in range(EVENTS_KEPT + 5):
        metrics.record("kind", detail=str(number))
    counters = metrics.snapshot()
    assert (counters["events_dropped"], counters["event:kind"]) == (5, EVENTS_KEPT + 5)
    events = metrics.take_events()
    assert len(events) == EVENTS_KEPT
    assert events[0].detail == "5"
    assert metrics.take_events() == []


def test_an_event_is_recorded_once() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.record_once("kind")
    assert len(metrics.take_events()) == 1
    metrics.record_once("kind")
    assert metrics.take_events() == []
