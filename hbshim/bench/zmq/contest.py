"""Rates over ZeroMQ, in alternating slices: hbshim's driver beside what it is compared with.

CALL is counted by its replies; CAST, FANOUT and NOTIFY by what has arrived. Client, proxy and
server are separate processes, and every contestant has a client and a server of its own.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from hbshim.bench.libraries import require
from hbshim.bench.rpc.comparing import Comparison, compared, measure, row_of
from hbshim.bench.rpc.parts import PREFIX, Work
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.rpc.tidy import tidy
from hbshim.bench.rpc.turns import Figures
from hbshim.bench.zmq.proxies import Proxy, c_proxy, own_proxy

#: The libraries that are compared, and the extras that install them; the second for the comparison
#: with RabbitMQ.
LIBRARIES = {"zmq": "zmq", "eventlet": "eventlet", "gevent": "gevent"}
_BROKER_LIBRARIES = {"kombu": "kombu", "pika": "pika"}

#: Messages of a slice without replies: what waits for the server stays below every limit.
_MOST = 10_000

CALL, CALLS = Work("call", "call"), Work("call × 32", "call", callers=32)
CAST = Work("cast", "cast", most=_MOST)
FANOUT = Work("fanout", "fanout", most=_MOST)
NOTIFY = Work("notify", "notify", most=_MOST)
WORKS = (CALL, CALLS, CAST, FANOUT, NOTIFY)


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        name: of its rows.
        via: what is between its client and its server.
        acknowledged: notifications are.
    """

    name: str
    kind: str
    scheme: str
    model: str
    via: Literal["own proxy", "own proxy, again", "own proxy, CURVE", "C proxy", "broker"]
    acknowledged: bool = False


OWN = Entry("hbzmq", "own", "hbzmq", "native", "own proxy")
#: The same contestant a second time: its ratio would be 1 on a machine that does nothing else.
CONTROL = Entry("hbzmq, again", "own", "hbzmq", "native", "own proxy, again")
ACKNOWLEDGED = Entry(
    "hbzmq, acknowledged", "own", "hbzmq", "native", "own proxy", acknowledged=True
)
EVENTLET = Entry("hbzmq, eventlet", "own", "hbzmq", "eventlet", "own proxy")
GEVENT = Entry("hbzmq, gevent", "own", "hbzmq", "gevent", "own proxy")
CURVE = Entry("hbzmq, CURVE", "own", "hbzmq", "native", "own proxy, CURVE")
BARE = Entry("pyzmq, same proxy", "bare pyzmq", "hbshim", "native", "own proxy")
BARE_C = Entry("pyzmq, zmq.proxy", "bare pyzmq", "c", "native", "C proxy")
RABBIT = Entry("hbkombu", "own", "hbkombu", "native", "broker")
ENTRIES = (OWN, CONTROL, ACKNOWLEDGED, EVENTLET, GEVENT, CURVE, BARE, BARE_C, RABBIT)


COMPARISONS = (
    Comparison(CALL, OWN, BARE, 0.6),
    Comparison(CALL, OWN, BARE_C),
    Comparison(CALL, OWN, RABBIT, 1.5),
    Comparison(CALL, EVENTLET, BARE, 0.6),
    Comparison(CALL, GEVENT, BARE, 0.6),
    Comparison(CALL, CURVE, OWN, 0.9),
    Comparison(CALLS, OWN, BARE, 0.55),
    Comparison(CALLS, OWN, BARE_C),
    Comparison(CALLS, OWN, RABBIT, 2.0),
    Comparison(CALLS, EVENTLET, BARE, 0.55),
    Comparison(CALLS, GEVENT, BARE, 0.55),
    Comparison(CAST, OWN, BARE, 0.4),
    Comparison(CAST, OWN, BARE_C),
    Comparison(CAST, OWN, RABBIT, 1.5),
    Comparison(CAST, CURVE, OWN, 0.7),
    Comparison(FANOUT, OWN, BARE, 0.4),
    Comparison(FANOUT, OWN, BARE_C),
    Comparison(NOTIFY, OWN, BARE),
    Comparison(NOTIFY, OWN, BARE_C),
    Comparison(NOTIFY, OWN, RABBIT, 5.0),
    Comparison(NOTIFY, ACKNOWLEDGED, RABBIT, 1.2),
    *(Comparison(work, CONTROL, OWN) for work in WORKS),
)

#: The CPU time of hbshim's proxy for one call, as a multiple of that of ZeroMQ's own, at most.
PROXY_CPU = 4.5


def run(broker_url: str | None, *, quick: bool) -> list[dict[str, Any]]:
    """Measure; a row for each comparison.

    Parameters:
        broker_url: of a RabbitMQ; None: hbkombu is left out.

    Raises:
        MissingExtraError: a library that is compared is not installed.
        HbshimError: a contestant or a proxy failed, or messages did not arrive.
    """
    require(LIBRARIES if broker_url is None else {**LIBRARIES, **_BROKER_LIBRARIES})
    comparisons = [
        each for each in COMPARISONS if broker_url is not None or each.against is not RABBIT
    ]
    entries = [entry for entry in ENTRIES if entry.name in compared(comparisons)]
    rows = []
    with _present(entries, broker_url) as contestants:
        for work, figures in measure(contestants, comparisons, WORKS, quick=quick):
            for pair in comparisons:
                if pair.work is work:
                    rows.append(_row(pair, figures[pair.of.name], figures[pair.against.name]))
            if {BARE.name, BARE_C.name} <= figures.keys() and work.operation == "call":
                rows.append(_proxy_row(work, figures[BARE.name], figures[BARE_C.name]))
    return rows


@contextlib.contextmanager
def _present(entries: list[Entry], broker_url: str | None) -> Iterator[dict[str, Contestant]]:
    run_id = uuid.uuid4().hex[:8]
    topics = {entry.name: f"{PREFIX}-{run_id}-{at}" for at, entry in enumerate(entries)}
    with contextlib.ExitStack() as stack:
        if broker_url is not None:
            stack.callback(tidy, broker_url, topics.values())
        starts: dict[str, Callable[[], AbstractContextManager[Proxy]]] = {
            "own proxy": own_proxy,
            "own proxy, again": own_proxy,
            "own proxy, CURVE": functools.partial(own_proxy, curve=True),
            "C proxy": c_proxy,
        }
        used = dict.fromkeys(entry.via for entry in entries if entry.via in starts)
        proxies = {via: stack.enter_context(starts[via]()) for via in used}
        contestants = {}
        for entry in entries:
            proxy = proxies.get(entry.via)
            url = broker_url or "" if proxy is None else _url(entry, proxy)
            names = (entry.kind, entry.scheme, topics[entry.name], entry.model)
            made = Contestant(*names, url, *([] if proxy is None else [proxy.cpu]))
            contestants[entry.name] = stack.enter_context(made)
        for contestant in contestants.values():
            contestant.await_ready()
        yield contestants


def _url(entry: Entry, proxy: Proxy) -> str:
    if entry.kind != "own":
        return proxy.place
    return f"{proxy.url}&notification_acks=true" if entry.acknowledged else proxy.url


def _row(pair: Comparison[Entry], own: Figures, against: Figures) -> dict[str, Any]:
    return {
        **row_of(pair, own, against),
        "p50_ms": own.percentile(50) if pair.work.operation == "call" else None,
        "server_us": own.microseconds(own.server_cpu),
        "proxy_us": own.microseconds(own.between_cpu),
    }


def _proxy_row(work: Work, own: Figures, in_c: Figures) -> dict[str, Any]:
    mine, theirs = own.microseconds(own.between_cpu), in_c.microseconds(in_c.between_cpu)
    return {
        "work": work.name,
        "contestant": "CPU of zmq-proxy",
        "against": "CPU of zmq.proxy",
        "ratio": mine / theirs,
        "must": f"≤ {PROXY_CPU:g}",
        "reached": mine / theirs <= PROXY_CPU,
        "per_second": statistics.median(own.rates),
        "against_per_second": statistics.median(in_c.rates),
        "p50_ms": None,
        "client_us": None,
        "server_us": None,
        "proxy_us": mine,
    }
