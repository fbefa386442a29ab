"""A hung process is not kept alive for ever, if its user wants it so; otherwise it is."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.conftest import RemoteClient
from tests.waiting import wait_until

T = 2

#: The agents wait for commands: their application does nothing of itself.
HUNG_AFTER = {"liveness_timeout": 1}


def test_the_broker_closes_the_connection_of_a_hung_application(
    everywhere: list[RemoteClient], start: Callable[..., RemoteClient]
) -> None:
    controls = [start("native", library) for library in ("kombu", "pika")]
    for client in everywhere:
        client.open(heartbeat=T, options=HUNG_AFTER)
    for client in controls:
        client.open(heartbeat=T)
    heartbeats = {}
    for client in everywhere:
        wait_until(lambda client=client: client.link["state"] != "alive", 15)  # type: ignore[misc]
        heartbeats[client] = client.link["heartbeats_sent"]
    for client in everywhere:
        client.wait_until_lost(30)
        assert client.link["heartbeats_sent"] == heartbeats[client], client.name

        # It was the broker that gave up, not hbshim. The event comes a moment after the state.
        def reported(client: RemoteClient = client) -> bool:
            return client.do("report")["counters"].get("event:peer-closed") == 1

        wait_until(reported)
        counters = client.do("report")["counters"]
        assert counters["event:application-hung"] == 1, client.name
        assert "event:link-silent" not in counters, client.name
        assert client.fails("publish").recoverable, client.name
    for client in controls:
        assert client.link["state"] == "alive", client.name
        assert client.wait_until_at_broker()
        assert "event:application-hung" not in client.do("report")["counters"]
        client.do("publish")


def test_heartbeats_resume_when_the_application_is_active_again(
    everywhere: list[RemoteClient],
) -> None:
    # A round of questions to all of them must be over before the next one hangs again.
    for client in everywhere:
        client.open(heartbeat=2 * T, options={"liveness_timeout": 3})
    for client in everywhere:
        wait_until(lambda client=client: client.link["state"] == "hung", 15)  # type: ignore[misc]
    back = {client: client.link["heartbeats_sent"] for client in everywhere}

    def beaten_on() -> bool:
        for client in everywhere:
            client.do("show_life")
        return all(client.link["heartbeats_sent"] >= back[client] + 6 for client in everywhere)

    # For longer than a broker waits that hears nothing.
    wait_until(beaten_on, 60)
    for client in everywhere:
        assert client.link["state"] == "alive", client.name
        assert client.do("report")["counters"]["event:application-back"] >= 1, client.name
        client.do("publish")


def test_traffic_of_its_own_shows_life(everywhere: list[RemoteClient]) -> None:
    for client in everywhere:
        client.open(heartbeat=T, options={"liveness_timeout": 4})
        client.send("publish", times=60, pause=0.1)
        client.send("report")
    for client in everywhere:
        client.answer()
        report = client.answer()
        assert "event:application-hung" not in report["counters"], client.name
        assert report["links"][0]["state"] == "alive", client.name
