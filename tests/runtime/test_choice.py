"""The rule leaves no gap and no doubt, and what the user asks for wins."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, TypeAlias, get_args

import pytest

from hbshim.errors import OptionError
from hbshim.options import WorkerName
from hbshim.runtime.choice import CAUTIONS, RULE, Facts, HubState, choose
from hbshim.runtime.green import GreenFacts, GreenLibrary, Patches
from hbshim.runtime.host import HostFacts
from hbshim.runtime.interpreter import InterpreterFacts

ABSENT = Patches(loaded=False, version=None, extent="none", patched=(), missing=())
PATCHED = Patches(loaded=True, version="1", extent="full", patched=("socket",), missing=())
GREEN = {
    "none": GreenFacts("none", "none", ABSENT, ABSENT, False, 0, ()),
    "eventlet": GreenFacts("eventlet", "full", PATCHED, ABSENT, True, 20, ()),
    "gevent": GreenFacts("gevent", "full", ABSENT, PATCHED, True, 10, ()),
    "both": GreenFacts("both", "full", PATCHED, PATCHED, True, 20, ("socket",)),
}
INTERPRETER = InterpreterFacts("3.11.0", True, True, False, False, True)
HOST = HostFacts(kind="plain", mode=None, hub="program")


def facts(
    patched_by: GreenLibrary = "none",
    hub: HubState | None = None,
    tpool: bool = True,
    host: HostFacts = HOST,
    interpreter: InterpreterFacts = INTERPRETER,
) -> Facts:
    green = GREEN[patched_by]
    if not tpool:
        green = dataclasses.replace(green, tpool_threads=1)
    state: HubState = hub or ("none" if patched_by == "none" else "runs")
    return Facts(green, host, state, interpreter, forked_since_import=False)


Situation: TypeAlias = tuple[GreenLibrary, HubState, bool, bool]
SITUATIONS: list[Situation] = list(
    itertools.product(get_args(GreenLibrary), get_args(HubState), (False, True), (False, True))
)


@pytest.mark.parametrize(("patched_by", "hub", "worker_late", "tpool"), SITUATIONS)
def test_exactly_one_row_is_about_each_situation(
    patched_by: GreenLibrary, hub: HubState, worker_late: bool, tpool: bool
) -> None:
    assert len([row for row in RULE if row.fits(patched_by, hub, worker_late, tpool)]) == 1


def test_every_row_is_about_some_situation() -> None:
    assert all(any(row.fits(*situation) for situation in SITUATIONS) for row in RULE)


def test_each_reason_and_each_caution_is_one_sentence() -> None:
    texts = [row.reason for row in RULE] + [caution.text for caution in CAUTIONS]
    assert [text for text in texts if not text.endswith(".") or ". " in text] == []


@pytest.mark.parametrize(
    ("patched_by", "hub", "worker_late", "tpool", "worker"),
    [
        ("none", "none", False, True, "pthread"),
        ("none", "none", True, True, "pthread"),
        ("eventlet", "parked", False, True, "pthread"),
        ("eventlet", "parked", True, True, "pthread"),
        ("gevent", "parked", False, False, "pthread"),
        ("eventlet", "runs", False, True, "greenthread"),
        ("gevent", "runs", False, False, "greenthread"),
        ("eventlet", "runs", True, True, "tpool"),
        ("eventlet", "runs", True, False, "pthread"),
        ("gevent", "runs", True, True, "tpool"),
        ("gevent", "runs", True, False, "pthread"),
        ("eventlet", "blocked", False, True, "pthread"),
        ("gevent", "blocked", True, False, "pthread"),
        ("eventlet", "unknown", False, True, "pthread"),
        ("both", "unknown", False, True, "pthread"),
        ("both", "unknown", True, True, "pthread"),
    ],
)
def test_the_rule(
    patched_by: GreenLibrary, hub: HubState, worker_late: bool, tpool: bool, worker: str
) -> None:
    choice = choose(facts(patched_by, hub, tpool), worker_late=worker_late)
    assert choice.worker == worker
    assert choice.reason


@pytest.mark.parametrize("worker", get_args(WorkerName))
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_named_worker_wins_everywhere(worker: WorkerName, situation: Situation) -> None:
    patched_by, hub, worker_late, tpool = situation
    choice = choose(facts(patched_by, hub, tpool), worker=worker, worker_late=worker_late)
    assert choice.worker == worker
    assert f"worker={worker}" in choice.reason


@pytest.mark.parametrize("situation", SITUATIONS)
def test_heartbeat_in_pthread_wins_everywhere(situation: Situation) -> None:
    patched_by, hub, worker_late, tpool = situation
    found = facts(patched_by, hub, tpool)
    assert choose(found, True, worker_late=worker_late).worker == "pthread"
    green = choose(found, False, worker_late=worker_late)
    assert green.worker == ("pthread" if patched_by == "none" else "greenthread")


def test_no_green_thread_can_be_had_where_nothing_is_patched() -> None:
    choice = choose(facts("none"), heartbeat_in_pthread=False)
    assert choice.worker == "pthread"
    assert "nothing is patched" in (choice.warning or "")
    assert "leave the option at auto" in (choice.warning or "")


NO_THREADS = dataclasses.replace(HOST, kind="uwsgi", mode="sync", hub="outside", threads_run=False)
OWN_GIL = dataclasses.replace(INTERPRETER, main=False, daemon_threads=False, own_gil=True)


@pytest.mark.parametrize(
    ("found", "worker", "late", "remedy"),
    [
        (facts("eventlet", "parked"), "greenthread", False, "heartbeat_in_pthread to true"),
        (facts("eventlet", "parked"), "tpool", False, "neither a green thread nor a tpool job"),
        (facts("gevent", "parked"), "greenthread", False, "heartbeat_in_pthread to true"),
        (facts("eventlet", "blocked"), "greenthread", False, "patch the sockets too"),
        (facts("eventlet", "unknown"), "greenthread", False, "Nothing guarantees"),
        (facts("eventlet", "runs"), "greenthread", True, "measured late"),
        (facts("none"), "greenthread", False, "call monkey_patch() first"),
        (facts("none"), "tpool", False, "call monkey_patch() first"),
        (facts("none"), "tpool", False, "neither is loaded"),
        (facts("gevent", "parked"), "tpool", False, "neither a green thread nor a tpool job"),
        (facts("eventlet", tpool=False), "tpool", False, "EVENTLET_THREADPOOL_SIZE"),
        (facts("gevent", tpool=False), "tpool", False, "Hub.threadpool_size"),
        (facts("eventlet", "parked", host=NO_THREADS), "pthread", False, "--enable-threads"),
        (facts("eventlet", "parked", host=NO_THREADS), "tpool", False, "--enable-threads"),
        (facts("none", host=NO_THREADS), None, False, "--enable-threads"),
        (facts("none", interpreter=OWN_GIL), None, False, "WSGIPerInterpreterGIL Off"),
        (facts("both", "unknown"), None, False, "patch with one of them only"),
        (facts("both", "unknown"), "greenthread", False, "patch with one of them only"),
    ],
)
def test_a_worker_known_to_fail_comes_with_a_remedy(
    found: Facts, worker: WorkerName | None, late: bool, remedy: str
) -> None:
    assert remedy in (choose(found, worker=worker, worker_late=late).warning or "")


def test_every_caution_is_about_some_process() -> None:
    processes = [
        facts(patched_by, hub, tpool, host, interpreter)
        for patched_by, hub, _, tpool in SITUATIONS
        for host in (HOST, NO_THREADS)
        for interpreter in (INTERPRETER, OWN_GIL)
    ]
    for caution in CAUTIONS:
        verdicts = {caution.applies(found, late) for found in processes for late in (False, True)}
        assert verdicts == {False, True}, caution.text


@pytest.mark.parametrize(
    ("found", "options"),
    [
        (facts("none"), {}),
        (facts("eventlet"), {}),
        (facts("gevent"), {"heartbeat_in_pthread": True}),
        (facts("eventlet", "parked"), {}),
        (facts("eventlet", "parked"), {"worker": "pthread"}),
        (facts("eventlet"), {"worker": "tpool"}),
        (facts("gevent"), {"worker": "tpool"}),
        (facts("eventlet"), {"worker_late": True}),
        (facts("gevent"), {"worker_late": True}),
        (facts("gevent", host=NO_THREADS), {}),
    ],
)
def test_a_sound_choice_comes_without_a_warning(found: Facts, options: dict[str, Any]) -> None:
    assert choose(found, **options).warning is None


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat_in_pthread": True, "worker": "greenthread"},
        {"heartbeat_in_pthread": True, "worker": "tpool"},
        {"heartbeat_in_pthread": False, "worker": "pthread"},
        {"heartbeat_in_pthread": "perhaps"},
        {"worker": "fork"},
        {"worker": ""},
    ],
)
def test_contradictions_and_unknown_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"contradicts|use one of"):
        choose(facts("eventlet"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat_in_pthread": True, "worker": "pthread"},
        {"heartbeat_in_pthread": False, "worker": "greenthread"},
        {"heartbeat_in_pthread": False, "worker": "tpool"},
    ],
)
def test_options_that_agree_are_taken(options: dict[str, Any]) -> None:
    assert choose(facts("eventlet"), **options).worker == options["worker"]
