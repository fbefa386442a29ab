"""``hbshim doctor --phase``: may a migration take its next step, or its last one back?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hbshim.doctor.broker_probe import tls_context
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.phase_rabbitmq import publishers_between, take_snapshot
from hbshim.doctor.phase_router import senders_between, take_router_snapshot
from hbshim.doctor.target import broker_target, management_target
from hbshim.errors import OptionError
from hbshim.messaging.hybrid import phases
from hbshim.messaging.hybrid.phases import Direction, Facts

#: Seconds between two checks of what is sent. RabbitMQ's figures are up to 5 s old.
INTERVAL = 12.0


@dataclass(frozen=True)
class Gate:
    """The result.

    Attributes:
        phase: in which the deployment is.
        leads_to: the phase that the step leads to.
        missing: by condition, what is in the way; an empty list where it holds.
    """

    phase: str
    leads_to: str
    missing: dict[str, list[str]]

    @property
    def is_open(self) -> bool:
        """Whether the step may be taken."""
        return not any(self.missing.values())

    @property
    def exit_status(self) -> int:
        """0: the step may be taken; 1: not yet."""
        return int(not self.is_open)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values that ``json.dumps`` accepts."""
        return {**dataclasses.asdict(self), "exit_status": self.exit_status}


def evaluate(
    phase: str,
    direction: Direction,
    *,
    router: str,
    rabbitmq: str,
    management: str,
    ca: str | None = None,
    interval: float = INTERVAL,
    timeout: float = 60.0,
    progress: Callable[[str], None] = lambda _sentence: None,
) -> Gate:
    """Observe both sides, and evaluate the gate out of a phase.

    Parameters:
        phase: in which the deployment is.
        direction: of the step.
        router: URL of the routers; all that it names are asked.
        rabbitmq: URL of RabbitMQ, for virtual host and login; nothing connects to it. Addresses of
            the router count in the same virtual host alone.
        management: URL of its management API; without a login in it, RabbitMQ's is used.
        ca: PEM file of the authority to trust, for ``https://``.
        interval: seconds for which the senders are observed.
        timeout: seconds for everything but the interval.
        progress: called with a sentence before what takes seconds.

    Raises:
        OptionError: there is no such gate, or a URL is not valid.
        BrokerError: the management API cannot be used.
    """
    conditions = phases.gate(phase, direction)
    if router.partition("://")[0] not in ("hbamqp", "hbamqps"):
        raise OptionError("--phase needs the router's URL; give --url hbamqp:// or hbamqps://")
    broker = broker_target(rabbitmq)
    target = management_target(management, broker)
    tls = tls_context(ca) if target.tls else None
    deadline = Deadline(timeout + interval)
    before = take_snapshot(target, tls, deadline)
    router_before = take_router_snapshot(router, broker.vhost, deadline)
    after, router_after = before, router_before
    if any(each.over_interval for each in conditions):
        progress(f"observing for {interval:g} s which clients send ...")
        time.sleep(interval)
        after = take_snapshot(target, tls, deadline)
        router_after = take_router_snapshot(router, broker.vhost, deadline)
    facts = Facts(
        servers=after.servers,
        consumers=after.consumers,
        waiting=after.waiting,
        publishers=publishers_between(before, after),
        router=router_after.problems,
        receivers=router_after.receivers,
        senders=senders_between(router_before, router_after),
        undelivered=router_after.undelivered,
    )
    return Gate(
        phase,
        phases.following(phase, direction),
        {each.name: each.missing(facts) for each in conditions},
    )
