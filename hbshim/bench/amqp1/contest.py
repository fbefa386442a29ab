"""Rates over an AMQP 1.0 router, in alternating slices: hbshim's driver beside others.

CALL is counted by its replies; CAST and NOTIFY by what has arrived. Client, router and server are
separate processes, and every contestant has a client and a server of its own.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hbshim.bench.libraries import require
from hbshim.bench.rpc.comparing import Comparison, compared, measure, row_of
from hbshim.bench.rpc.parts import PREFIX, Work
from hbshim.bench.rpc.processes import Contestant
from hbshim.bench.rpc.turns import Figures
from hbshim.errors import OptionError

#: Names the router: ``amqp://host:port``; it lets anyone in (SASL ANONYMOUS).
ROUTER_VARIABLE = "HBSHIM_ROUTER_URL"

#: Names a directory with oslo.messaging 14.9 and pyngus, without what they require.
FORMER_VARIABLE = "HBSHIM_FORMER_OSLO"

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
    require(_LIBRARIES)
    former = os.environ.get(FORMER_VARIABLE)
    comparisons = [each for each in COMPARISONS if former or each.against is not FORMER]
    with _present(_host(url), former, comparisons) as contestants:
        return [
            _row(pair, figures[pair.of.name], figures[pair.against.name])
            for work, figures in measure(contestants, comparisons, WORKS, quick=quick)
            for pair in comparisons
            if pair.work is work
        ]


def _host(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise OptionError(f"{ROUTER_VARIABLE} is not a URL of the form amqp://host:port")
    return f"{parts.hostname}:{parts.port}"


@contextlib.contextmanager
def _present(
    host: str, former: str | None, comparisons: list[Comparison[Entry]]
) -> Iterator[dict[str, Contestant]]:
    run_id = uuid.uuid4().hex[:8]
    present = compared(comparisons)
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


def _row(pair: Comparison[Entry], own: Figures, against: Figures) -> dict[str, Any]:
    row = row_of(pair, own, against)
    other = against.microseconds(against.client_cpu)
    return {**row, "against_client_us": other, "cpu_ratio": other / row["client_us"]}
