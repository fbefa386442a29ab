"""Behind a relay that goes deaf, the next publish must fail instead of being swallowed."""

import pytest


@pytest.mark.parametrize("swallow", [False, True], ids=["deaf", "swallowing"])
def test_next_publish_raises_the_librarys_own_error(start, everywhere, relay, swallow):
    clients = [*everywhere, start("native", "amqp")]
    for client in clients:
        client.open(relay, heartbeat=1)
        client.do("publish")
    relay.deaf(swallow=swallow)
    for client in clients:
        client.wait_until_lost(15)
        assert client.fails("publish").recoverable, client.name
        assert client.do("report")["counters"]["event:link-silent"] == 1, client.name
    relay.resume()
    for client in clients:
        client.do("reopen")
        client.do("publish")


def test_without_hbshim_it_is_accepted_and_lost(start, relay):
    clients = [start("native", library) for library in ("kombu", "pika")]
    for client in clients:
        client.open(relay, heartbeat=1, shim="none")
        client.do("declare", queue=client.name)
        client.do("publish")
        client.wait_for_messages(1)
    relay.deaf(swallow=True)
    relay.wait_for("rst", "server", count=len(clients))  # the broker has given them up
    for client in clients:
        client.do("publish")
    for client in clients:
        witness = start("native", client.library)
        witness.open(heartbeat=60)
        witness.do("declare", queue=client.name)
        assert witness.do("count") == 1, client.name
