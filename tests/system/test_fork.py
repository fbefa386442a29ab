"""A forked child must leave its parent's stream alone, whatever it does."""

import pytest

T = 1
PARENTS = [("native", "kombu"), ("native", "pika"), ("eventlet", "kombu"), ("gevent", "pika")]
#: In C, as uWSGI and mod_wsgi fork. Without gevent, which must be told of a fork.
WAYS = ["os", "multiprocessing", "c"]


@pytest.fixture(params=PARENTS, ids="-".join)
def parent(request, start, relay):
    """A client that is connected, and idle long enough for the stale rule."""
    client = start(*request.param)
    client.open(relay, heartbeat=T)
    client.do("publish")
    client.do("wait", seconds=0.2, how="block")
    yield client

    def seen(*kinds):
        return [e for e in relay.events if e.connection == 1 and e.kind in kinds]

    # Whatever the child did, the parent goes on, and nobody else beat on its stream.
    beats = client.link["beats"]
    relay.wait_for("heartbeat", "client", count=beats + 2)
    client.do("publish")
    client.wait_for_messages(2)
    link = client.link
    assert link["state"] == "alive"
    assert len([e for e in seen("heartbeat") if e.side == "client"]) <= link["beats"]
    assert seen("fin", "rst", "malformed", "torn") == []


def fork(parent, child, way):
    if way == "c" and parent.world == "gevent":
        pytest.skip("gevent must be told of a fork")
    return parent.do("fork", limit=20, child=child, way=way)


@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_writes_gets_the_librarys_recoverable_error(parent, way):
    answer = fork(parent, "write", way)
    assert answer["recoverable"] is True, answer


@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_closes(parent, way):
    assert fork(parent, "close", way)["recoverable"]


def test_a_child_that_collects_garbage(parent):
    assert fork(parent, "collect", "os") == {"links": 0}


def test_a_child_that_does_nothing_holds_no_socket(parent):
    assert fork(parent, "idle", "os") == {"sockets": 0}


@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_connects_anew(parent, way):
    assert fork(parent, "reconnect", way) == {"state": "alive"}
