"""Checks of the broker, if a URL was given."""

from __future__ import annotations

from hbshim.adapters.versions import release_of
from hbshim.doctor.context import ConnectionProbe, Context, Queues
from hbshim.doctor.findings import Answer, Check

#: RabbitMQ 4.3.0's release notes: transient_nonexcl_queues is denied by default.
REFUSES_TRANSIENT = (4, 3)
#: The same notes: classic queues no longer have a consumer timeout.
QUORUM_ALONE_TIMES_OUT = (4, 3)

NO_URL = "No --url of a broker was given."
NAMED_AT_MOST = 3


def _connection(context: Context) -> Answer:
    if context.broker_error is not None:
        return Answer("problem", *context.broker_error)
    if context.probe is None:
        return Answer("not-applicable", NO_URL)
    probe, agreed = context.probe, context.probe.negotiated
    return Answer(
        "ok",
        f"{probe.client} connected to {agreed.product} {agreed.version} at {probe.peer} "
        f"({probe.route}): T = {agreed.heartbeat} s (the doctor asked for {agreed.asked}, the "
        f"broker suggests {agreed.suggested}), frame_max {agreed.frame_max}, channel_max "
        f"{agreed.channel_max}.",
    )


def _heartbeat_sent(context: Context) -> Answer:
    probe = context.probe
    if probe is None:
        return Answer("not-applicable", "There is no connection to watch.")
    if probe.sent_after is not None:
        return Answer(
            "ok",
            f"A heartbeat was sent after {probe.sent_after:.1f} s, from {probe.worker}; it was due "
            f"at T/2 = {probe.negotiated.heartbeat / 2:g} s.",
        )
    return _not_seen(probe, "No heartbeat was sent", probe.negotiated.heartbeat / 2)


def _heartbeat_received(context: Context) -> Answer:
    probe = context.probe
    if probe is None:
        return Answer("not-applicable", "There is no connection to watch.")
    if probe.received_after is not None:
        return Answer(
            "ok", f"A heartbeat of the broker arrived after {probe.received_after:.1f} s."
        )
    return _not_seen(probe, "No heartbeat arrived", probe.negotiated.heartbeat)


def _not_seen(probe: ConnectionProbe, what: str, due: float) -> Answer:
    if probe.error_text:
        return Answer("problem", f"{what} in {probe.watched:.1f} s: {probe.error_text}.")
    if probe.watched < due:
        return Answer(
            "unknown",
            f"{what} in the remaining {probe.watched:.1f} s; one was due within {due:g} s.",
            "Raise --timeout.",
        )
    return Answer("problem", f"{what} in {probe.watched:.1f} s, though one was due at {due:g} s.")


def _queue_kinds(context: Context) -> Answer:
    if isinstance(context.queues, tuple):
        return Answer("problem", *context.queues)
    if isinstance(context.queues, Queues):
        return _listed_queues(context.queues)
    if context.probe is None:
        return Answer("not-applicable", NO_URL)
    version = context.probe.negotiated.version
    refuses = _at_least(version, REFUSES_TRANSIENT)
    return Answer(
        "unknown",
        f"{context.probe.negotiated.product} {version} "
        + ("refuses" if refuses else "accepts")
        + " queues neither durable nor exclusive"
        + (" unless configured otherwise" if refuses else ", 4.3 refuses them")
        + "; AMQP cannot list queues.",
        "Give --management URL (http://host:15672), which lists them.",
    )


def _listed_queues(queues: Queues) -> Answer:
    part = "" if queues.seen >= queues.total else f" of {queues.total}, the first"
    if not queues.transient:
        return Answer("ok", f"{queues.seen} queues{part}: each is durable or exclusive.")
    names = ", ".join(queues.transient[:NAMED_AT_MOST])
    more = len(queues.transient) - NAMED_AT_MOST
    names += f" and {more} more" if more > 0 else ""
    if _at_least(queues.version, REFUSES_TRANSIENT):
        return Answer(
            "warning",
            f"RabbitMQ {queues.version} refuses queues like these by default, neither durable "
            f"nor exclusive: {names}.",
        )
    return Answer(
        "warning", f"Neither durable nor exclusive, which RabbitMQ 4.3 will refuse: {names}."
    )


def _ack_timeout(context: Context) -> Answer:
    if context.probe is None:
        return Answer("not-applicable", NO_URL)
    agreed = context.probe.negotiated
    if agreed.product != "RabbitMQ":
        return Answer("not-applicable", f"{agreed.product} is not RabbitMQ.")
    queues = "a quorum queue's" if _at_least(agreed.version, QUORUM_ALONE_TIMES_OUT) else "a"
    return Answer(
        "unknown",
        f"RabbitMQ {agreed.version} ends {queues} consumer that leaves a message unacknowledged "
        "for 30 minutes (its default); AMQP does not report the limit, and no heartbeat helps.",
    )


def _at_least(version: str, least: tuple[int, ...]) -> bool:
    # 4.3.0-rc.1 behaves as 4.3.0.
    return release_of(version) >= least


CHECKS = (
    Check(
        "connection",
        "A connection of its own to `--url`: what was negotiated, and with which peer.",
        "What stops the doctor stops the application: name resolution, TLS, login, virtual host.",
        "See the text of the finding.",
        _connection,
    ),
    Check(
        "heartbeat-out",
        "That connection, until hbshim's worker has sent a heartbeat on it.",
        "If none is sent by T/2, the worker does not run in this process.",
        "Set heartbeat_in_pthread=true; if that does not help, report it with --json.",
        _heartbeat_sent,
    ),
    Check(
        "heartbeat-in",
        "That connection, until a heartbeat of the broker has arrived.",
        "A broker also sends one every T/2. If none arrives, a device on the path drops them, and "
        "hbshim will report the peer as dead after 2 T.",
        "Check for a proxy on the path to the broker, and read the broker's log.",
        _heartbeat_received,
    ),
    Check(
        "queue-kinds",
        "Queues that are neither durable nor exclusive, by the management API (`--management`).",
        "RabbitMQ 4.3 refuses to declare them by default, with 541 INTERNAL_ERROR, and closes the "
        "connection: it looks like a lost connection and is none "
        "([release notes](https://github.com/rabbitmq/rabbitmq-server/releases/tag/v4.3.0)). "
        "Celery's remote control and event queues are such before Celery 5.7.",
        "Declare them exclusive, or durable with x-expires; in Celery 5.6 set "
        "control_queue_exclusive and event_queue_exclusive.",
        _queue_kinds,
    ),
    Check(
        "ack-timeout",
        "RabbitMQ's consumer acknowledgement timeout, often mistaken for missed heartbeats.",
        "A consumer that keeps a message unacknowledged for 30 minutes (default) has its *channel* "
        "closed: PRECONDITION_FAILED, 'delivery acknowledgement on channel N timed out'. Since 4.3 "
        "quorum queues alone do so, and cancel the consumer where the client understands that. "
        "The connection, and its heartbeats, are fine "
        "([guide](https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout)).",
        "If your log has PRECONDITION_FAILED or a cancelled consumer: acknowledge "
        "sooner, or raise consumer_timeout or x-consumer-timeout.",
        _ack_timeout,
    ),
)
