"""Checks of the event loops of asyncio in this process."""

from __future__ import annotations

from hbshim.doctor.context import Context
from hbshim.doctor.findings import Answer, Check
from hbshim.observe.loops import LoopStatus
from hbshim.runtime.detect import LOOP_NAMES

#: aiormq sends a heartbeat every T/2, and RabbitMQ closes a connection 2 T after the last byte at
#: the earliest. tests/system/test_asyncio.py measures both sides of it.
SURVIVES_IN_T = 1.5


def _event_loop(context: Context) -> Answer:
    if left_alone := [each for each in context.activity.unkept if each.over_uvloop_tls]:
        limit = SURVIVES_IN_T * min(each.timeout for each in left_alone)
        return Answer(
            "warning",
            f"Connections of aiormq over TLS on uvloop, whose session no other thread may use: "
            f"{len(left_alone)}. hbshim leaves them alone: aiormq's own heartbeats keep them alive "
            f"while uvloop is never blocked for longer than {SURVIVES_IN_T:g} T = {limit:g} s.",
            "Run the program on asyncio's own event loop (uvicorn --loop asyncio), or connect "
            "through a TLS proxy on the same host.",
        )
    if blocked := [each for each in context.loops if _late_in_t(each) > 1 / 2]:
        worst = max(blocked, key=_late_in_t)
        return Answer(
            "warning",
            f"{_named(worst)} was blocked for {worst.worst_lateness:.1f} s, longer than T/2 = "
            f"{worst.heartbeat_timeout / 2:g} s: a client's own heartbeats are late there. "
            "hbshim's were sent; nothing else was.",
        )
    stopped = [each for each in context.loops if not each.running]
    if stopped:
        return Answer(
            "warning",
            f"{_named(stopped[0])} does not run, and has {stopped[0].links} connections: "
            "heartbeats keep them open, and nothing is sent or received on them.",
            "Run the loop, or close its connections before it is stopped.",
        )
    if context.loops:
        worst = max(context.loops, key=_late_in_t)
        return Answer(
            "ok",
            f"{_named(worst)} was at most {worst.worst_lateness * 1000:.0f} ms late, at "
            f"T = {worst.heartbeat_timeout:g} s.",
        )
    if running := context.runtime.loops.running:
        return Answer(
            "ok",
            f"{_sentence_name(running[0].kind, running[0].thread)} runs; its lateness is measured "
            "while a connection of it is kept alive.",
        )
    return Answer("not-applicable", "No event loop of asyncio runs in this process.")


def _late_in_t(loop: LoopStatus) -> float:
    return loop.worst_lateness / loop.heartbeat_timeout


def _named(loop: LoopStatus) -> str:
    return _sentence_name(loop.kind, loop.thread)


def _sentence_name(kind: str, thread: str) -> str:
    name = LOOP_NAMES.get(kind, kind)
    return (
        f"{name[0].upper()}{name[1:]} in thread {thread}"
        if kind != "uvloop"
        else (f"uvloop in thread {thread}")
    )


CHECKS = (
    Check(
        "event-loop",
        "The event loops of asyncio that run in this process, and how late those run that have "
        "connections which are kept alive.",
        "A handler that computes or calls blocking code stops the loop, and every task with it. "
        "hbshim sends heartbeats meanwhile, except over TLS on uvloop; but no message is read or "
        "written, and other clients of the process may lose their connections.",
        "Call blocking code with `await asyncio.to_thread(...)`.",
        _event_loop,
    ),
)
