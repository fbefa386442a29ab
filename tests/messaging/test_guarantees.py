"""Each guarantee in the page's table is shown by tests, which are named here."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "messaging.md"

#: For each row: the tests over brokers, over AMQP 1.0 on RabbitMQ and on a router, over ZeroMQ, and
#: with acknowledgements. What runs in the contract of all drivers is named once.
SHOWN = {
    "CALL returns when": (
        "test_result",
        "",
        "test_result",
        "test_progress_comes_before_the_result",
        "",
    ),
    "CALL arrives": (
        "test_calls_and_casts_go_on_after_a_cut",
        "",
        "test_the_death_of_a_server_is_known_at_once",
        "test_the_death_of_a_server_is_known_within_two_seconds",
        "",
    ),
    "CALL runs twice": (
        "test_no_call_is_run_twice",
        "",
        "test_what_is_in_doubt_is_not_sent_again "
        "test_a_marked_copy_is_run_only_where_requests_are_acknowledged_after",
        "test_a_request_that_did_not_arrive_is_sent_again_and_run_once",
        "",
    ),
    "CALL without a server": (
        "test_a_call_without_a_server_times_out test_mandatory",
        "",
        "test_a_call_without_a_server_times_out test_mandatory",
        "test_without_a_server_it_times_out_or_fails_at_once",
        "",
    ),
    "CAST returns when": (
        "test_cast",
        "test_a_cast_waits_for_a_servers_queue",
        "test_a_cast_returns_when_a_server_has_begun_it_on_a_router",
        "test_a_cast_is_run_once_and_reaches_a_server_that_starts_later",
        "test_a_cast_returns_when_a_server_has_begun_it",
    ),
    "CAST arrives": (
        "test_pausing_and_stopping_under_load",
        "",
        "test_a_request_whose_time_is_over_is_not_run",
        "test_a_proxy_is_killed_and_its_queue_with_it",
        "test_a_server_is_killed_before_it_began_and_another_one_runs_it",
    ),
    "CAST runs twice": (
        "test_what_runs_is_not_begun_again_when_its_connection_is_lost",
        "",
        "test_what_is_in_doubt_is_not_sent_again",
        "test_casts_of_a_known_route_arrive_in_order_over_one_way",
        "test_an_acknowledgement_that_is_lost_has_nothing_run_twice",
    ),
    "CAST without a server": (
        "test_a_cast_without_a_server_is_lost_and_no_error",
        "test_a_cast_waits_for_a_servers_queue",
        "test_a_cast_without_a_server_on_a_router",
        "test_a_cast_that_no_host_takes_is_an_error",
        "test_it_fails_when_no_server_acknowledges",
    ),
    "FANOUT returns when": (
        "test_fanout",
        "",
        "test_fanout",
        "test_the_first_fanout_of_a_publisher_reaches_every_listener",
        "",
    ),
    "FANOUT arrives": (
        "test_fanout",
        "",
        "test_fanout",
        "test_a_pause_holds_publications_and_the_limit_drops_the_newest",
        "",
    ),
    "FANOUT runs twice": (
        "test_one_fanout_is_run_by_each_server_of_a_process",
        "",
        "test_fanout",
        "test_what_its_sender_has_given_up_is_not_published_later",
        "",
    ),
    "FANOUT without a server": (
        "test_a_cast_without_a_server_is_lost_and_no_error",
        "",
        "test_a_cast_without_a_server_on_a_router",
        "test_a_fanout_without_a_listener_is_no_error",
        "",
    ),
    "NOTIFY returns when": (
        "test_stored_until_a_server_starts",
        "",
        "test_notifications_need_the_opt_in test_requeued",
        "test_each_pool_gets_all_notifications_and_shares_them",
        "test_it_returns_when_each_pool_has_handled_it",
    ),
    "NOTIFY arrives": (
        "test_notifications_survive_a_power_cut",
        "",
        "test_notifications_are_handled_though_their_connections_are_cut",
        "test_a_listener_is_killed_and_another_one_of_its_pool_handles_it",
        "test_a_listener_is_killed_and_another_one_of_its_pool_handles_it",
    ),
    "NOTIFY is handled twice": (
        "test_requeued",
        "",
        "test_requeued",
        "test_a_notification_is_handled_again_here",
        "test_a_slow_listener_handles_it_once",
    ),
    "NOTIFY without a listener": (
        "test_stored_until_a_server_starts",
        "",
        "test_a_notification_without_a_listener",
        "test_a_notification_without_a_listener_is_counted",
        "test_without_a_listener_it_fails_at_once_and_in_a_pool_that_does_not_answer_in_time",
    ),
    "`submit` returns when": (
        "test_a_request_stored_before_its_server_starts",
        "test_what_needs_a_store_is_refused_on_a_router",
        "test_what_needs_a_store_is_refused_on_a_router",
        "test_what_needs_a_store_is_refused_by_name",
        "",
    ),
    "`submit` arrives": ("test_what_is_stored_survives_a_restart", "", "", "", ""),
    "`submit` runs twice": ("test_a_request_that_was_stored_twice_is_run_once", "", "", "", ""),
    "`submit` without a server": (
        "test_a_request_stored_before_its_server_starts "
        "test_nothing_is_stored_where_no_queue_was_declared",
        "",
        "",
        "",
        "",
    ),
}


def test_each_guarantee_has_a_test() -> None:
    page = PAGE.read_text(encoding="utf-8")
    marked = page.partition("<!-- guarantees:")[2].partition("<!-- end of guarantees")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in marked.splitlines()[3:]]
    assert [row[0] for row in rows] == list(SHOWN)
    for name, *cells in rows:
        for cell, tests in zip(cells, SHOWN[name], strict=True):
            assert bool(tests) == (cell not in ("", "as without", "as there")), (name, cell)
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (TESTS / "messaging").rglob("test_*.py")
    )
    there = set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE))
    assert {test for tests in SHOWN.values() for each in tests for test in each.split()} <= there
