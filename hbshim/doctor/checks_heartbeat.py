"""Checks of T, the heartbeat timeout of the program's own connections."""

from __future__ import annotations

from hbshim.doctor.context import Context, Expected
from hbshim.doctor.findings import Answer, Check, Verdict

#: RabbitMQ's heartbeat guide: below this many seconds false positives are likely.
SHORTEST_SOUND = 5

#: A heartbeat is due at T/2 and at most T/8 late.
LATEST_HEARTBEAT = 1 / 2 + 1 / 8

_SEVERITY: tuple[Verdict, ...] = ("ok", "unknown", "warning", "problem")


def _heartbeat(context: Context) -> Answer:
    if not context.expected:
        return Answer(
            "not-applicable",
            "No connection is open, and neither a URL nor an option requests a heartbeat timeout.",
        )
    proposal = (
        ""
        if context.probe is None
        else f" The broker suggests {context.probe.negotiated.suggested} s."
    )
    return _worst([_judge(each) for each in context.expected], proposal)


def _judge(expected: Expected) -> Answer:
    timeout, whose, why = expected.timeout, expected.whose, expected.why
    if not timeout and not why:
        return Answer(
            "problem",
            f"{whose}: T = 0. Neither the URL nor the option heartbeat asks for a heartbeat, and "
            "this client then has none: hbshim sends none, unless the program's own code asks "
            "for one.",
        )
    if not timeout:
        return Answer(
            "warning",
            f"{whose}: heartbeats are off (T = 0, {why}): a peer that vanished is not noticed, "
            "and a firewall may cut the idle connection without a sign.",
        )
    if timeout < SHORTEST_SOUND:
        return Answer(
            "warning",
            f"{whose}: T = {timeout:g} s ({why}) is so short that a busy moment looks like a "
            "dead peer.",
        )
    return Answer(
        "ok", f"{whose}: T = {timeout:g} s ({why}), a heartbeat after {timeout / 2:g} s of silence."
    )


def _worst(answers: list[Answer], more: str = "") -> Answer:
    worst = max((each.verdict for each in answers), key=_SEVERITY.index)
    sentences = [each.sentence for each in answers]
    remedies = [each.remedy for each in answers if each.verdict == worst]
    return Answer(worst, " ".join(dict.fromkeys(sentences)) + more, remedies[0])


def _idle_limit(context: Context) -> Answer:
    limit = context.idle_limit
    if limit is None:
        return Answer("not-applicable", "No --idle-limit was given.")
    if not context.expected:
        return Answer(
            "unknown",
            "The heartbeat timeout is not known here.",
            "Give the application's --url, with its heartbeat=... in the query.",
        )
    return _worst([_stays_below(limit, each) for each in context.expected])


def _stays_below(limit: float, expected: Expected) -> Answer:
    timeout, whose = expected.timeout, expected.whose
    asking = f"Ask for heartbeat={max(1, int(limit))} or less, or raise the idle limit."
    remedy = expected.adjusting or asking
    if not timeout:
        return Answer(
            "problem",
            f"{whose}: no heartbeats, so silence outlasts the limit of {limit:g} s.",
            remedy,
        )
    every = f"{whose}: a heartbeat every {timeout / 2:g} s (T = {timeout:g} s)"
    if timeout / 2 >= limit:
        return Answer(
            "problem",
            f"{every} comes after the idle limit of {limit:g} s has cut the connection.",
            remedy,
        )
    if timeout * LATEST_HEARTBEAT >= limit:
        return Answer(
            "warning", f"{every} that is late by T/8 misses the idle limit of {limit:g} s.", remedy
        )
    return Answer("ok", f"{every} stays below {limit:g} s.")


CHECKS = (
    Check(
        "heartbeat",
        "T, the heartbeat timeout, of the program's connections: of those opened in this process; "
        "else by the rule of each client in use, from the URL (`heartbeat=`), the option "
        "`heartbeat`, a Celery app, or what the broker suggests.",
        "py-amqp and kombu, hence Celery's producers, have no heartbeat where nothing asks for "
        "one; pika takes the broker's value. Without heartbeats a vanished peer is not noticed. "
        "Below 5 s a short delay passes for death "
        "([RabbitMQ's guide](https://www.rabbitmq.com/docs/heartbeats)).",
        "Ask for heartbeat=60, or 5 to 20 behind a load balancer: in the URL, in the program's "
        "code, or by the option heartbeat (HBSHIM_HEARTBEAT=60).",
        _heartbeat,
    ),
    Check(
        "idle-limit",
        "T against the idle limit of a load balancer, firewall or NAT (`--idle-limit`).",
        "Such a device forgets a connection that is silent for too long, often without notice "
        "to either side. Heartbeats come every T/2, up to T/8 late.",
        "Ask for a heartbeat timeout no longer than the idle limit.",
        _idle_limit,
    ),
)
