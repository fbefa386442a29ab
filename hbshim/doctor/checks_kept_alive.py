"""Checks whether hbshim is installed in this program, and keeps its connections alive."""

from __future__ import annotations

import logging
from collections import Counter

from hbshim.doctor.context import Context
from hbshim.doctor.findings import Answer, Check
from hbshim.doctor.other_clients import KNOWN_CLIENTS

#: Events that report a connection that is not kept alive.
NOT_KEPT = ("not-negotiated", "not-kept-alive", "left-alone")
DETAIL_AT_MOST = 200


def _installed(context: Context) -> Answer:
    here = context.activity
    if here.installed:
        return Answer("ok", "hbshim is installed in this process.")
    if here.run:
        by = f" ({here.sitecustomize})" if here.sitecustomize else ""
        return Answer(
            "problem",
            "This process was started by `hbshim run`, and hbshim is not installed in it: another "
            f"launcher's sitecustomize{by} was imported in place of hbshim's, or Python was "
            "started with -S.",
        )
    if here.links:
        return Answer(
            "ok",
            f"hbshim is not installed here; {here.links} connections are kept alive, as their "
            "own code asks for it.",
        )
    if here.loaded:
        return Answer(
            "warning",
            f"{' and '.join(here.loaded)}: loaded in this process, and hbshim is not installed. "
            "Only a connection that asks for it by itself is kept alive (hbshim.keep_alive(), a "
            "transport or a messaging driver of hbshim's).",
        )
    return Answer("not-applicable", "No client library is loaded in this process.")


def _unkept(context: Context) -> Answer:
    here = context.activity
    if not here.unkept and not here.links:
        return Answer("not-applicable", "No connection is open in this process.")
    if not here.unkept:
        return Answer("ok", f"Open connections, all kept alive: {here.links}.")
    counts = Counter(f"{each.library}, T = {each.timeout:g} s" for each in here.unkept)
    listed = "; ".join(f"{count} of {kind}" for kind, count in sorted(counts.items()))
    return Answer(
        "problem" if here.installed else "warning",
        f"Open in this process and not kept alive by hbshim: {listed}.",
    )


def _clients(context: Context) -> Answer:
    others = ""
    if context.other_clients:
        others = f"Loaded here, and not kept alive by hbshim: {', '.join(context.other_clients)}."
    if context.kombu_transport and "amqp" in context.clients:
        taken = (
            f"kombu takes {context.kombu_transport} for the program's URL; hbshim does not keep "
            "that alive."
        )
        return Answer("problem", f"{taken} {others}".rstrip())
    if others:
        return Answer("warning", others, "See to the heartbeats of that client by its own means.")
    loaded = context.activity.loaded
    used = [it for it in loaded if it in context.clients or it in KNOWN_CLIENTS]
    names = {"amqp": "py-amqp", "pika": "pika", **KNOWN_CLIENTS}
    listed = " or ".join(names[it] for it in used or context.clients)
    if not listed:
        return Answer("not-applicable", "No client library is loaded or installed.")
    return Answer("ok", f"The program connects through {listed}.")


def _events(context: Context) -> Answer:
    events = context.activity.events.values()
    bad = [each for each in events if each.level >= logging.WARNING]
    if not events:
        return Answer("not-applicable", "hbshim has recorded nothing in this process.")
    if not bad:
        return Answer("ok", "hbshim has recorded no warning and no error in this process.")
    recorded = []
    for each in sorted(bad, key=lambda one: one.kind):
        detail = f": {each.detail[:DETAIL_AT_MOST]}" if each.detail else ""
        recorded.append(f"{each.kind} ({each.count}){detail}")
    kept = not any(each.kind in NOT_KEPT for each in bad)
    return Answer(
        "warning" if kept else "problem", f"Recorded in this process: {'; '.join(recorded)}."
    )


CHECKS = (
    Check(
        "installed",
        "Whether hbshim is installed in this process.",
        "A program that `hbshim run` starts is without it if another launcher's sitecustomize "
        "hides hbshim's, if Python is started with -S, or if a process manager cleans the "
        "environment. Connections that were opened before hbshim.install() are not kept alive.",
        "Call hbshim.install() in the program's first lines; or put `hbshim run` behind the other "
        "launcher: launcher hbshim run -- program.",
        _installed,
    ),
    Check(
        "open-connections",
        "The connections of py-amqp, pika and aiormq that are open in this process, and whether "
        "hbshim keeps them alive.",
        "hbshim.install() keeps connections alive that are opened after it. One with T = 0 has no "
        "heartbeats; one that hbshim had to leave alone is among the events.",
        "Call hbshim.install() before the first connection, or hbshim.keep_alive(connection) for "
        "one that is open; ask for heartbeat=60 where T is 0.",
        _unkept,
    ),
    Check(
        "clients",
        "Which client library connects: what kombu takes for the program's URL, and AMQP clients "
        "that are loaded and that hbshim does not know.",
        "For amqp:// kombu prefers librabbitmq where it is installed. hbshim keeps py-amqp, "
        "pika, aiormq and qpid-proton alive, and no other client.",
        "Use a pyamqp:// URL, or uninstall librabbitmq.",
        _clients,
    ),
    Check(
        "events",
        "The warnings and errors that hbshim has recorded in this process, of connections that "
        "are not kept alive above all.",
        "Where hbshim cannot help, the connection works as without it, and an event has the "
        "reason; see observing.md.",
        "Each kind is explained in observing.md, with what to do.",
        _events,
    ),
)
