"""Runs the benchmarks, and puts their figures into tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from typing import Any

from hbshim import __version__
from hbshim.bench import engine_load, footprint, lateness, libraries, throughput
from hbshim.bench.amqp1 import contest as amqp1_contest
from hbshim.bench.publisher import BROKER_VARIABLE
from hbshim.bench.rpc import contest
from hbshim.bench.zmq import contest as zmq_contest
from hbshim.errors import HbshimError

#: What each benchmark is, in the order they run.
BENCHMARKS = ("import", "memory", "throughput", "lateness", "engine", "rpc", "zmq", "amqp1")

#: The libraries that each benchmark imports, and the extras that install them.
_LIBRARIES: dict[str, dict[str, str]] = {
    "memory": {"amqp": "kombu"},
    "throughput": {"kombu": "kombu", "pika": "pika"},
    "lateness": {"amqp": "kombu", "eventlet": "eventlet"},
    "engine": {"amqp": "kombu"},
    "rpc": contest.LIBRARIES,
    "zmq": zmq_contest.LIBRARIES,
}

#: Those that are nothing without a broker.
_ON_BROKER: dict[str, Callable[..., Any]] = {"throughput": throughput.run, "rpc": contest.run}


def run(
    names: Iterable[str], broker_url: str | None, *, quick: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run the named benchmarks.

    Parameters:
        names: of :data:`BENCHMARKS`.
        broker_url: an AMQP URL, or None: then the throughput, the messaging over AMQP and the
            comparison of ZeroMQ with it are left out, and the engine's load is measured on the
            local sink.
        quick: fewer pairs and shorter waits.
        progress: called with the name of each benchmark when it begins.

    Raises:
        HbshimError: a benchmark cannot run here.
        MissingExtraError: a library is not installed.
    """
    names = tuple(names)
    for name in names:
        libraries.require(_LIBRARIES.get(name, {}))
    result: dict[str, Any] = {
        "hbshim": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "quick": quick,
    }
    for name in names:
        progress(name)
        if name == "import":
            result[name] = footprint.import_time(quick=quick)
        elif name == "memory":
            result[name] = footprint.memory()
        elif name == "lateness":
            result[name] = lateness.run(quick=quick)
        elif name == "engine":
            result[name] = engine_load.run(broker_url, quick=quick)
        elif name == "zmq":
            result[name] = zmq_contest.run(broker_url, quick=quick)
        elif name == "amqp1":
            result[name] = amqp1_contest.run(quick=quick)
        elif name in _ON_BROKER:
            measure = _ON_BROKER[name]
            result[name] = None if broker_url is None else measure(broker_url, quick=quick)
        else:
            raise HbshimError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    return result


#: For each benchmark: title, columns, and how each figure is printed.
_TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "import": ("Import time over bare Python", {"pairs": "d", "extra_ms": ".1f"}),
    "memory": ("Memory a link", {"links": "d", "bytes_per_link": ".0f"}),
    "throughput": (
        "Publish throughput, kept alive / bare (1 KiB bodies, no confirms)",
        {
            "library": "",
            "pairs": "d",
            "ratio": ".3f",
            "lower_quartile": ".3f",
            "upper_quartile": ".3f",
            "cpu_ratio": ".3f",
            "bare_per_second": ",.0f",
        },
    ),
    "lateness": (
        "Lateness of checks, T = 10 s",
        {
            "condition": "",
            "worker": "",
            "links": "d",
            "checks": "d",
            "p50_ms": ".1f",
            "p99_ms": ".1f",
            "max_ms": ".1f",
        },
    ),
    "engine": (
        "One engine thread, T = 10 s",
        {
            "links": "d",
            "peer": "",
            "seconds": ".0f",
            "core_share": ".3%",
            "heartbeats": "d",
            "wakeups": "d",
            "lost": "d",
        },
    ),
    "rpc": (
        "Messaging, 1 KiB: each beside what it is compared with, as a ratio of rates",
        {
            "model": "",
            "contestant": "",
            "work": "",
            "per_second": ",.0f",
            "p50_ms": ".2f",
            "p99_ms": ".2f",
            "ratio": ".2f",
            "aim": ".1f",
            "reached": "",
        },
    ),
    "zmq": (
        "Messaging over ZeroMQ, 1 KiB: ratios of rates, beside what each must be",
        {
            "work": "",
            "contestant": "",
            "against": "",
            "ratio": ".2f",
            "must": "",
            "reached": "",
            "per_second": ",.0f",
            "client_us": ".0f",
            "server_us": ".0f",
            "proxy_us": ".0f",
        },
    ),
    "amqp1": (
        "Messaging over an AMQP 1.0 router, 1 KiB: ratios of rates, beside what each must be",
        {
            "work": "",
            "contestant": "",
            "against": "",
            "ratio": ".2f",
            "must": "",
            "reached": "",
            "per_second": ",.0f",
            "client_us": ".0f",
            "against_client_us": ".0f",
            "cpu_ratio": ".1f",
        },
    ),
}

#: What those need that can be left out, and the variable that names it.
_NEEDED = {"amqp1": ("a router", amqp1_contest.ROUTER_VARIABLE)}


#: Of the widest table.
_WIDTH = 120


def print_tables(result: dict[str, Any]) -> None:
    """Print what :func:`run` returned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # A file has no width.
        console.width = max(console.width, _WIDTH)
    console.print(
        f"hbshim {result['hbshim']}, Python {result['python']}, {result['cores']} cores, "
        f"load {result['load']:.1f} at the start; compare figures only within one run"
    )
    for name, (title, columns) in _TABLES.items():
        if name not in result:
            continue
        if result[name] is None:
            needed, variable = _NEEDED.get(name, ("a broker", BROKER_VARIABLE))
            console.print(f"{title}: left out, it needs {needed}; name one in {variable}")
            continue
        rows = result[name] if isinstance(result[name], list) else [result[name]]
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for row in rows:
            table.add_row(*(_cell(row[column], form) for column, form in columns.items()))
        console.print(table)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, form)
