"""The relay as a service of the stack, and the story in its lines."""

from __future__ import annotations

import json

from wsgi_harness.observe import wiretap


def line(kind: str, side: str, at: float, cell: str = "none-kombu", **more: object) -> str:
    return json.dumps({"kind": kind, "side": side, "cell": cell, "connection": 1, "at": at, **more})


def test_each_cell_has_a_port_of_its_own_at_the_relay() -> None:
    addresses = wiretap.addresses(["a", "b", "c"])

    assert {host for host, _ in addresses.values()} == {wiretap.RELAY}
    assert len({port for _, port in addresses.values()}) == 3


def test_the_service_listens_where_the_cells_are_sent() -> None:
    service = wiretap.service(["a", "b"])

    for cell, (_, port) in wiretap.addresses(["a", "b"]).items():
        assert f"--listen={cell}={port}" in service.entrypoint


def test_heartbeats_are_distinguished_by_side_and_cell() -> None:
    lines = [
        "something that is no event",
        line("heartbeat", "client", 1.0),
        line("heartbeat", "server", 2.0),
        line("heartbeat", "client", 3.0, cell="none-pika"),
    ]

    seen = wiretap.read(lines)

    assert seen["none-kombu"].client_heartbeats == (1.0,)
    assert seen["none-kombu"].server_heartbeats == (2.0,)
    assert seen["none-pika"].client_heartbeats == (3.0,)
    assert seen["never-connected"].client_heartbeats == ()


def test_the_first_end_reports_who_ended_it() -> None:
    lines = [line("rst", "server", 5.0), line("fin", "client", 6.0), line("closed", "server", 6.0)]

    view = wiretap.read(lines)["none-kombu"]

    assert (view.ended, view.ended_by) == (5.0, "server")


def test_a_torn_frame_is_an_error() -> None:
    lines = [line("torn", "client", 5.0, detail="the stream ended inside a frame")]

    assert wiretap.read(lines)["none-kombu"].errors == ("torn: the stream ended inside a frame",)


def test_the_relays_of_a_cell_with_two_brokers_are_one_story_in_the_order_of_time() -> None:
    one, other = line("fin", "server", 7.0), line("rst", "client", 5.0)

    for lines in ([one, other], [other, one]):
        view = wiretap.read(lines)["none-kombu"]
        assert (view.ended, view.ended_by) == (5.0, "client")
