"""Rates over an AMQP 1.0 router, in alternating slices: hbshim's driver beside others.

CALL is counted by its replies; CAST and NOTIFY by what has arrived. Client, router and server are
separate processes, and every contestant has a client and a server of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hbshim.bench.rpc.parts import PREFIX, Work
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.rpc.turns import Figures, ratio_of, take_turns
from hbshim.errors import MissingExtraError, OptionError

#: Names the router: ``amqp://host:port``; it lets anyone in (SASL ANONYMOUS).
ROUTER_VARIABLE = "HBSHIM_ROUTER_URL"

#: Names a directory with oslo.messaging 14.9 and pyngus, without what they require.
FORMER_VARIABLE = "HBSHIM_FORMER_OSLO"

#: Seconds of a slice, and how many each contestant has for each work.
SLICE, SLICES = 1.0, 10
QUICK_SLICE, QUICK_SLICES = 0.3, 4

_LIBRARIES = {"proton": "proton", "oslo_messaging": "oslo"}

CALL, CALLS = Work("call", "call"), Work("call × 32", "call", callers=32)
CAST, NOTIFY = Work("cast", "cast", most=10_000), Work("notify", "notify", most=10_000)
WORKS = (CALL, CALLS, CAST, NOTIFY)


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        name: of its rows.
        former: it runs with the oslo.messaging that :data:`FORMER_VARIABLE` names.
        query: of its URL.
    """

    name: str
    kind: str
    scheme: str
    former: bool = False
    query: str = ""


OWN = Entry("hbamqp", "own", "hbamqp", query="login_method=ANONYMOUS&direct_notifications=true")
PROTON = Entry("bare proton", "bare amqp1", "proton")
ENGINE = Entry("own engine, no driver", "bare amqp1", "engine")
OSLO = Entry("oslo.messaging, hbamqp", "plug-in", "hbamqp")
FORMER = Entry("oslo.messaging 14.9, amqp", "plug-in", "amqp", former=True)
ENTRIES = (OWN, PROTON, ENGINE, OSLO, FORMER)


@dataclass(frozen=True)
class Comparison:
    """Two contestants at one work.

    Attributes:
        must: the ratio of rates to be reached; None: it is for information.
    """

    work: Work
    of: Entry
    against: Entry
    must: float | None = None


COMPARISONS = (
    Comparison(CALL, OWN, PROTON, 3.0),
    Comparison(CALL, OWN, ENGINE, 0.7),
    Comparison(CALL, OSLO, FORMER, 5.0),
    Comparison(CALLS, OWN, PROTON, 5.0),
    Comparison(CALLS, OWN, ENGINE, 0.7),
    Comparison(CALLS, OSLO, FORMER, 5.0),
    Comparison(CAST, OWN, PROTON, 3.0),
    Comparison(CAST, OWN, ENGINE),
    Comparison(CAST, OSLO, FORMER),
    Comparison(NOTIFY, OWN, PROTON),
    Comparison(NOTIFY, OSLO, FORMER),
)


def run(*, quick: bool) -> list[dict[str, Any]] | None:
    """Measure; a row for each comparison. Return None without a router.

    Raises:
        MissingExtraError: a library that is compared is not installed.
        OptionError: the router's URL is malformed.
        HbshimError: a contestant failed, or messages did not arrive.
    """
    url = os.environ.get(ROUTER_VARIABLE)
    if not url:
        return None
    for library, extra in _LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, extra)
    former = os.environ.get(FORMER_VARIABLE)
    comparisons = [each for each in COMPARISONS if former or each.against is not FORMER]
    seconds, count = (QUICK_SLICE, QUICK_SLICES) if quick else (SLICE, SLICES)
    rows = []
    with _present(_host(url), former, comparisons) as contestants:
        for work in WORKS:
            here = [each for each in comparisons if each.work is work]
            names = {each.name for pair in here for each in (pair.of, pair.against)}
            turns = {name: each for name, each in contestants.items() if name in names}
            figures = take_turns(list(turns.values()), work, seconds, count)
            by_name = dict(zip(turns, figures, strict=True))
            rows += [_row(pair, by_name[pair.of.name], by_name[pair.against.name]) for pair in here]
    return rows


def _host(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise OptionError(f"{ROUTER_VARIABLE} is not a URL of the form amqp://host:port")
    return f"{parts.hostname}:{parts.port}"


@contextlib.contextmanager
def _present(
    host: str, former: str | None, comparisons: list[Comparison]
) -> Iterator[dict[str, Contestant]]:
    run_id = uuid.uuid4().hex[:8]
    present = {each.name for pair in comparisons for each in (pair.of, pair.against)}
    with contextlib.ExitStack() as stack:
        contestants = {}
        for at, entry in enumerate(each for each in ENTRIES if each.name in present):
            made = Contestant(
                entry.kind,
                entry.scheme,
                f"{PREFIX}-{run_id}-{at}",
                "native",
                f"amqp://{host}/?{entry.query}" if entry.query else f"amqp://{host}/",
                path=former if entry.former else None,
            )
            contestants[entry.name] = stack.enter_context(made)
        for contestant in contestants.values():
            contestant.await_ready()
        yield contestants


def _row(pair: Comparison, own: Figures, against: Figures) -> dict[str, Any]:
    # A call ends with its reply; what has none counts when it has arrived.
    replied = pair.work.operation == "call"
    mine, theirs = (own.rates, against.rates) if replied else (own.arrived, against.arrived)
    ratio = ratio_of(mine, theirs)
    client, other = own.microseconds(own.client_cpu), against.microseconds(against.client_cpu)
    return {
        "work": pair.work.name,
        "contestant": pair.of.name,
        "against": pair.against.name,
        "ratio": ratio,
        "must": None if pair.must is None else f"≥ {pair.must:g}",
        "reached": None if pair.must is None else ratio >= pair.must,
        "per_second": statistics.median(mine),
        "client_us": client,
        "against_client_us": other,
        "cpu_ratio": other / client,
    }
