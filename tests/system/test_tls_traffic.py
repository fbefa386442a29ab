"""Two-way TLS traffic with forced heartbeats: no record corrupted, no two threads in OpenSSL.

`HBSHIM_TLS_SECONDS=600` makes it ten minutes. The SSL objects are watched from beneath
hbshim, and each read and write lingers inside, so that a second thread has time to come
in. Heartbeats come from a native thread in every concurrency model. The controls are the same
program with hbshim's lock taken away: the witness must see threads meet there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.system.conftest import MODELS, RemoteClient
from wsgi_harness.stack.broker import Broker

# A fleet of processes on two cores.
pytestmark = pytest.mark.alone

SECONDS = float(os.environ.get("HBSHIM_TLS_SECONDS", "10"))
CONTROL_SECONDS = min(SECONDS, 10.0)
VERSIONS = ("TLSv1_2", "TLSv1_3")
LIBRARIES = ("amqp", "pika")
#: Seconds between two checks of the engine; at each a heartbeat is due.
EVERY = 0.01
LINGER = 0.001


class Talk:
    """A process with one connection of each TLS version, and what it reported in the end."""

    def __init__(
        self, broker: Broker, ca_file: str, model: str, library: str, serialised: bool
    ) -> None:
        self.serialised = serialised
        self.seconds = SECONDS if serialised else CONTROL_SECONDS
        self.client = RemoteClient(broker, model, library, "tls_agent.py")
        opening = {
            "host": "127.0.0.1",
            "port": broker.tls_port,
            "user": broker.user,
            "password": broker.password,
            "heartbeat": 10,
            "ca_file": ca_file,
        }
        openings = [
            {**opening, "tls_version": version, "name": f"{self.client.name}-{version}"}
            for version in VERSIONS
        ]
        self.client.send(
            "open_all", openings=openings, options={"worker": "pthread"}, linger=LINGER
        )

    def begin(self) -> None:
        sessions = self.client.answer(120)
        assert [session["version"] for session in sessions] == ["TLSv1.2", "TLSv1.3"]
        if not self.serialised:
            self.client.do("let_all_threads_in")
        self.client.do("force_heartbeats", every=EVERY)
        self.client.send("converse_all", seconds=self.seconds)

    def end(self) -> None:
        self.results = self.client.answer(self.seconds + 120)
        self.witnessed = self.client.do("witnessed")
        report = self.client.do("report")
        self.links, self.counters = report["links"], report["counters"]


#: By (model, library, serialised).
Talks: TypeAlias = dict[tuple[str, str, bool], Talk]


@pytest.fixture(scope="module")
def talks(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talks]:
    """Every model and library, and the controls, side by side; by (model, library, serialised)."""
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    assert broker.ca_pem
    ca_file.write_text(broker.ca_pem)
    cells = [(model, library, True) for model in MODELS for library in LIBRARIES]
    cells += [("native", library, False) for library in LIBRARIES]
    started = {}
    try:
        for cell in cells:
            started[cell] = Talk(broker, str(ca_file), *cell)
        for talk in started.values():
            talk.begin()
        for talk in started.values():
            talk.end()
        yield started
    finally:
        for talk in started.values():
            talk.client.end()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("model", MODELS)
def test_no_record_is_corrupted(
    talks: Talks,
    model: str,
    library: str,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    talk = talks[model, library, True]
    figures = {
        "seconds": talk.seconds,
        "messages": sum(result.get("received", 0) for result in talk.results),
        "records_written": talk.witnessed["records_written"],
        "byte_count": talk.witnessed["byte_count"],
        "heartbeats": talk.counters["heartbeats_sent"],
        "errors": [result["error"] for result in talk.results if result["error"]],
    }
    # For a reader: `pytest --junit-xml=FILE` writes them down.
    record_testsuite_property(f"TLS traffic, {model}, {library}", figures)
    assert figures["errors"] == []
    for result, link in zip(talk.results, talk.links, strict=True):
        assert result["sent"] == result["received"] > talk.seconds
        assert (link["state"], link["route"]) == ("alive", "tls")
        assert link["heartbeats_sent"] > talk.seconds


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("model", MODELS)
def test_one_ssl_object_is_never_used_by_two_threads_at_once(
    talks: Talks, model: str, library: str
) -> None:
    seen = talks[model, library, True].witnessed
    assert seen["threads"] >= 2
    assert {"do_handshake", "read", "write"} <= set(seen["calls"])
    assert (seen["overlaps"], seen["first"]) == (0, [])


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_hbshims_lock_the_witness_sees_threads_meet(talks: Talks, library: str) -> None:
    seen = talks["native", library, False].witnessed
    assert seen["overlaps"] > 0
