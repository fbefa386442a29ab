"""The matrix holds what the regression promises, and can be asked for by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from wsgi_harness.engine.bases import RABBITMQ
from wsgi_harness.matrix import scenarios
from wsgi_harness.matrix.scenarios import (
    IN_LOOP,
    LIBRARIES,
    SCENARIOS,
    SCHEMES,
    UnknownScenarioError,
    select,
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "method",
    [
        "none",
        "green",
        "tpool",
        "native",
        "hbshim-auto",
        "hbshim-pthread",
        "hbshim-greenthread",
        "hbshim-tpool",
    ],
)
def test_every_keepalive_strategy_is_tried_in_the_deployment_that_fails(
    method: str, library: str
) -> None:
    scenario = BY_NAME[f"{method}-{library}"]

    assert scenario.deployment.mpm == "prefork"
    assert scenario.deployment.mode == "embedded"
    assert scenario.deployment.patched


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "deployment",
    ["unpatched", "daemon", "event", "gevent", "sub", "tls", "rabbitmq310", "rabbitmq43"],
)
def test_every_other_deployment_has_a_control_and_the_fix(deployment: str, library: str) -> None:
    assert BY_NAME[f"none-{library}-{deployment}"].expected == "closed"
    assert BY_NAME[f"hbshim-auto-{library}-{deployment}"].is_fix


@pytest.mark.parametrize("library", IN_LOOP)
def test_every_library_is_tried_in_an_event_loop_that_is_blocked(library: str) -> None:
    control = BY_NAME[f"{'none' if library == 'celery' else 'own'}-{library}-uvicorn"]

    assert control.expected == "closed"
    assert control.is_green is (library != "celery")
    assert BY_NAME[f"hbshim-auto-{library}-uvicorn"].is_fix


@pytest.mark.parametrize("deployment", ["uvicorn-tls", "uvloop", "django"])
def test_aio_pika_is_tried_in_every_other_event_loop(deployment: str) -> None:
    assert BY_NAME[f"own-aio-pika-{deployment}"].expected == "closed"
    assert BY_NAME[f"hbshim-auto-aio-pika-{deployment}"].is_fix


def test_the_loop_is_blocked_for_longer_than_the_broker_waits_and_not_beyond_the_silence() -> None:
    assert max(scenarios.BROKER_TIMEOUT) < scenarios.BLOCKED < scenarios.SILENCE


@pytest.mark.parametrize("deployment", ["amqp1", "amqp1-unpatched", "amqp1-gevent", "router"])
def test_amqp_1_0_has_a_control_and_the_fix_on_both_peers(deployment: str) -> None:
    assert BY_NAME[f"none-proton-{deployment}"].is_control
    assert BY_NAME[f"none-proton-{deployment}"].expected == "closed"
    assert BY_NAME[f"hbshim-auto-proton-{deployment}"].is_fix


def test_the_removed_driver_of_oslo_messaging_has_a_control_and_the_fix() -> None:
    control, fix = BY_NAME["stock-amqp-oslo14"], BY_NAME["hbshim-auto-amqp-oslo14"]

    assert (control.is_control, control.is_green, control.expected) == (True, True, "closed")
    assert fix.is_fix
    orders = [scenarios.orders(each, 4, ("relay-router", 20001)) for each in (control, fix)]
    assert [each["driver"]["path"] for each in orders] == [["/opt/oslo14"]] * 2
    assert [each["shim"] for each in orders] == [None, {}]


@pytest.mark.parametrize("deployment", ["amqp1", "router", "router-unpatched", "router-gevent"])
def test_hbshims_driver_over_amqp_1_0_is_tried_on_both_peers(deployment: str) -> None:
    assert BY_NAME[f"hbshim-hbamqp-oslo-{deployment}"].is_fix


@pytest.mark.parametrize("deployment", ["oslo", "oslo-unpatched", "oslo17"])
def test_oslo_messaging_holds_every_driver_of_hbshims_beside_its_own(deployment: str) -> None:
    stock, *ours = SCHEMES

    assert BY_NAME[f"stock-{stock}-{deployment}"].is_control
    assert all(BY_NAME[f"hbshim-{scheme}-{deployment}"].is_fix for scheme in ours)


def test_one_process_holds_both_transports_of_a_hybrid_deployment() -> None:
    assert BY_NAME["hbshim-hybrid-hybrid"].is_fix


def test_the_stock_driver_lives_where_its_thread_is_native_alone() -> None:
    outcomes = {each.name: each.expected for each in SCENARIOS if each.library == "rabbit"}

    assert outcomes == {
        "stock-rabbit-oslo": "closed",
        "stock-rabbit-oslo-unpatched": "alive",
        "stock-rabbit-oslo17": "closed",
        "stock-pthread-rabbit-oslo17": "alive",
    }
    assert BY_NAME["stock-rabbit-oslo"].is_green
    assert not BY_NAME["stock-rabbit-oslo-unpatched"].is_green
    assert not BY_NAME["stock-pthread-rabbit-oslo17"].is_green


def test_controls_that_the_issue_names_are_expected_to_be_closed() -> None:
    for name in ("none-kombu", "green-kombu", "tpool-kombu", "native-kombu", "none-pika"):
        assert BY_NAME[name].is_control
        assert BY_NAME[name].expected == "closed"


def test_a_forced_worker_that_cannot_hold_is_no_fix_but_must_be_warned_about() -> None:
    forced = [scenario for scenario in SCENARIOS if scenario.warns]

    assert {scenario.method.key for scenario in forced} == {"hbshim-greenthread", "hbshim-tpool"}
    assert not any(scenario.is_fix or scenario.is_control for scenario in forced)


def test_every_version_of_rabbitmq_is_the_default_or_has_its_cells() -> None:
    tried = {each.deployment.rabbitmq for each in SCENARIOS if each.deployment.rabbitmq}

    assert tried | {"4.0"} == set(RABBITMQ)


def test_every_expectation_has_its_reason() -> None:
    assert all(len(scenario.reason) > 20 for scenario in SCENARIOS)


def test_names_are_unique_and_can_name_containers() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) for name in BY_NAME)


def test_the_silence_outlasts_a_client_that_sends_heartbeats_but_never_reads() -> None:
    client_gives_up = 2

    assert client_gives_up + max(scenarios.BROKER_TIMEOUT) < scenarios.SILENCE


def test_orders_are_plain_data_and_hold_no_secret() -> None:
    orders = scenarios.orders(BY_NAME["hbshim-greenthread-kombu"], 4, ("relay", 10001))

    assert json.loads(json.dumps(orders)) == orders
    assert orders["shim"] == {"worker": "greenthread"}
    assert (orders["host"], orders["port"], orders["heartbeat"]) == ("relay", 10001, 4)
    assert not any("pass" in key or "url" in key for key in orders)


def test_only_the_scheme_distinguishes_hbshims_driver_from_the_stock_one() -> None:
    stock, ours = (
        scenarios.orders(BY_NAME[name], 4, ("relay", 10001))
        for name in ("stock-rabbit-oslo17", "hbshim-hbrabbit-oslo17")
    )

    assert {key for key in stock if stock[key] != ours[key]} == {
        "name",
        "library",
        "queue",
        "reports",
    }
    assert ours["driver"]["path"]


def test_every_keepalive_strategy_exists_in_the_cells() -> None:
    # In a process of its own: the module imports eventlet.
    code = "from wsgi_harness.cell.keepalive import STARTERS; print(*STARTERS)"
    known = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()

    assert {scenario.method.keepalive for scenario in SCENARIOS} == set(known)


def test_select_takes_names_and_globs_in_the_order_of_the_table() -> None:
    found = [scenario.name for scenario in select(["hbshim-auto-*-daemon", "none-kombu"])]

    assert found == ["none-kombu", "hbshim-auto-kombu-daemon", "hbshim-auto-pika-daemon"]


def test_select_without_a_pattern_takes_everything() -> None:
    assert select([]) == SCENARIOS


def test_select_refuses_what_matches_nothing() -> None:
    with pytest.raises(UnknownScenarioError, match=r"'nonsense'.*--list"):
        select(["none-kombu", "nonsense"])
