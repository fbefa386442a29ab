"""Checks of a peer of AMQP 1.0, if a URL of the driver over it was given."""

from __future__ import annotations

from collections.abc import Callable

from hbshim.doctor.amqp1_facts import Amqp1Facts
from hbshim.doctor.context import Context
from hbshim.doctor.findings import Answer, Check

NO_URL = "No --url of hbamqp:// was given."
NO_CONNECTION = "There is no connection to watch."

#: Mechanisms that send the password as it is.
_CLEAR_TEXT = ("PLAIN",)


def _of(check: Callable[[Amqp1Facts], Answer]) -> Callable[[Context], Answer]:
    def run(context: Context) -> Answer:
        facts = context.amqp1
        return Answer("not-applicable", NO_URL) if facts is None else check(facts)

    return run


def _of_connection(check: Callable[[Amqp1Facts], Answer]) -> Callable[[Context], Answer]:
    def run(facts: Amqp1Facts) -> Answer:
        return Answer("not-applicable", NO_CONNECTION) if facts.error else check(facts)

    return _of(run)


def _connection(facts: Amqp1Facts) -> Answer:
    if facts.error is not None:
        return Answer("problem", *facts.error)
    return Answer(
        "ok",
        f"{facts.scheme}:// connected to {facts.product} {facts.version} at {facts.peer} "
        f"({facts.route}), which is used with the profile {facts.profile!r}.",
    )


def _sasl(facts: Amqp1Facts) -> Answer:
    if facts.mechanisms is None:
        return Answer("not-applicable", "The peer did not offer any.")
    offered = ", ".join(facts.mechanisms) or "none"
    wanted = ", ".join(facts.login_methods)
    if facts.withheld:
        return Answer(
            "problem",
            f"{facts.peer} offers {offered}; the driver wants {wanted}, and sends no password in "
            "clear text.",
            "Use hbamqps://, or plain_without_tls=true if the network is trusted.",
        )
    method = next((each for each in facts.login_methods if each in facts.mechanisms), None)
    if method is None:
        return Answer(
            "problem",
            f"{facts.peer} offers {offered}; the driver wants {wanted}.",
            "Choose another login_method in the URL, or have the peer offer it.",
        )
    if method in _CLEAR_TEXT and not facts.encrypted:
        return Answer(
            "warning",
            f"{facts.peer} offers {offered}; {method} sends the password in clear text here.",
            "Use hbamqps://, or have the peer offer SCRAM-SHA-256.",
        )
    return Answer("ok", f"{facts.peer} offers {offered}; the driver uses {method}.")


def _idle_time(facts: Amqp1Facts) -> Answer:
    if facts.own_idle:
        own = (
            f"this side advertises {facts.own_idle} s (heartbeat_interval), and takes the peer for "
            f"dead after {2 * facts.own_idle} s without a byte"
        )
    else:
        own = "this side advertises none (heartbeat_interval=0), so a silent peer is no dead one"
    if facts.peer_idle is not None:
        sentence = (
            f"The peer advertises an idle-time-out of {facts.peer_idle:g} s: a heartbeat is sent "
            f"after {facts.peer_idle / 2:g} s; {own}."
        )
        return Answer("ok" if facts.own_idle else "warning", sentence)
    if facts.timeout is not None:
        return Answer(
            "ok",
            f"The peer advertises no idle-time-out: a heartbeat is sent after "
            f"{facts.timeout / 2:g} s all the same, for what lies between; {own}.",
        )
    return Answer("warning", f"The peer advertises no idle-time-out; {own}: no heartbeats.")


def _sent(facts: Amqp1Facts) -> Answer:
    if facts.sent_after is not None:
        return Answer(
            "ok", f"A heartbeat was sent after {facts.sent_after:.1f} s, from {facts.worker}."
        )
    return _not_seen(facts, "No heartbeat was sent")


def _received(facts: Amqp1Facts) -> Answer:
    if facts.received_after is not None:
        return Answer(
            "ok",
            f"A heartbeat of the peer arrived after {facts.received_after:.1f} s (the doctor "
            f"advertised {facts.asked} s).",
        )
    return _not_seen(facts, "No heartbeat arrived")


def _not_seen(facts: Amqp1Facts, what: str) -> Answer:
    if facts.error_text:
        return Answer("problem", f"{what} in {facts.watched:.1f} s: {facts.error_text}.")
    if facts.watched < facts.asked:
        return Answer(
            "unknown",
            f"{what} in the remaining {facts.watched:.1f} s; one was due within {facts.asked} s.",
            "Raise --timeout.",
        )
    return Answer("problem", f"{what} in {facts.watched:.1f} s.")


CHECKS = (
    Check(
        "amqp1-connection",
        "A connection of the driver over AMQP 1.0 to the first host of `--url`: what the peer is, "
        "and the profile that follows.",
        "What stops the doctor stops the application: name resolution, TLS, SASL, virtual host.",
        "See the text of the finding.",
        _of(_connection),
    ),
    Check(
        "amqp1-sasl",
        "The SASL mechanisms that the peer offers, against the option `login_method`.",
        "Without a mechanism in common no client can log in; PLAIN without TLS shows the password "
        "to everything on the path.",
        "Use hbamqps://, and a login_method that the peer offers.",
        _of(_sasl),
    ),
    Check(
        "amqp1-idle-time",
        "The idle-time-out of the peer and that of this side: two times, independent of each "
        "other.",
        "The peer closes a connection that is silent for twice what it advertises. If this side "
        "advertises none, a peer whose network is gone is noticed by TCP alone.",
        "Set heartbeat_interval=60.",
        _of_connection(_idle_time),
    ),
    Check(
        "amqp1-heartbeat-out",
        "That connection, until hbshim's worker has sent a heartbeat (an empty frame) on it.",
        "If none is sent, the worker does not run in this process.",
        "Set heartbeat_in_pthread=true; if that does not help, report it with --json.",
        _of_connection(_sent),
    ),
    Check(
        "amqp1-heartbeat-in",
        "That connection, until a heartbeat of the peer has arrived; the doctor advertises a short "
        "idle-time-out (`--heartbeat`).",
        "If none arrives, a device on the path drops them, and the peer will be taken for dead.",
        "Check for a proxy on the path, and read the peer's log.",
        _of_connection(_received),
    ),
)
