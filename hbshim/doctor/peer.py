"""What an examination finds out over the network, about what its URL names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hbshim.doctor.amqp1_facts import Amqp1Facts
from hbshim.doctor.context import ConnectionProbe, Queues
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.target import Target, is_zmq_url, management_target
from hbshim.doctor.zmq_facts import ZmqFacts
from hbshim.errors import BrokerError
from hbshim.options import Options

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class Peer:
    """What was found out; the attributes are those of :class:`hbshim.doctor.context.Context`."""

    probe: ConnectionProbe | None = None
    broker_error: tuple[str, str] | None = None
    queues: Queues | tuple[str, str] | None = None
    zmq: ZmqFacts | None = None
    amqp1: Amqp1Facts | None = None

    @property
    def tls(self) -> bool:
        """The peer of a URL without a :class:`Target` uses TLS."""
        return self.amqp1 is not None and self.amqp1.encrypted

    @property
    def unreachable(self) -> bool:
        """A broker, a management API or a host did not answer."""
        return (
            self.broker_error is not None
            or isinstance(self.queues, tuple)
            or (self.zmq is not None and self.zmq.unreachable)
            or (self.amqp1 is not None and self.amqp1.error is not None)
        )


def examine_peer(
    url: str | None,
    target: Target | None,
    *,
    ca: str | None,
    management: str | None,
    client: str | None,
    heartbeat: int,
    deadline: Deadline,
    progress: Callable[[str], None],
    options: Options,
    worker: str,
) -> Peer:
    """Examine the broker, or the hosts of the driver over AMQP 1.0 or ZeroMQ.

    Parameters:
        url: None to examine nothing.
        target: the broker that `url` names; None where it is of ``hbzmq://`` or ``hbamqp://``.
        ca: PEM file of the authority to trust.
        management: URL of the broker's management API; None to list no queues.
        client: the library to connect with; None for one that is loaded or installed.
        heartbeat: T to request, in seconds.
        deadline: limits everything.
        progress: called with a sentence before each step that takes seconds.
        options: hbshim's.
        worker: the worker that follows from them, for the report.

    Raises:
        OptionError: the URL, `management`, an option of a driver or a file is not valid.
        MissingExtraError: the library that the URL needs is not installed.
    """
    if url is None:
        return Peer()
    # Each is imported only now: they need `ssl`, and the drivers.
    if is_zmq_url(url):
        from hbshim.doctor.zmq_examination import examine_zmq

        return Peer(zmq=examine_zmq(url, deadline, progress))
    if target is None:
        from hbshim.doctor.amqp1_probe import examine_amqp1

        return Peer(
            amqp1=examine_amqp1(
                url,
                ca=ca,
                heartbeat=heartbeat,
                deadline=deadline,
                progress=progress,
                worker=worker,
            )
        )
    from hbshim.doctor.broker_probe import probe, tls_context

    api = None if management is None else management_target(management, target)
    needs_tls = target.tls or (api is not None and api.tls)
    tls = tls_context(ca, target) if needs_tls else None
    progress(f"connecting to {target.name} to wait for a heartbeat in each direction ...")
    try:
        result = Peer(
            probe=probe(
                target,
                tls=tls if target.tls else None,
                client=client,
                heartbeat=heartbeat,
                deadline=deadline,
                options=options,
                worker=worker,
            )
        )
    except BrokerError as error:
        result = Peer(broker_error=_sentences(error))
    return result if api is None else replace(result, queues=_queues(api, tls, deadline))


def _queues(
    api: Target, tls: ssl.SSLContext | None, deadline: Deadline
) -> Queues | tuple[str, str]:
    from hbshim.doctor.management import list_queues

    try:
        return list_queues(api, tls if api.tls else None, deadline)
    except BrokerError as error:
        return _sentences(error)


def _sentences(error: BrokerError) -> tuple[str, str]:
    return f"{error.sentence}.", f"{error.remedy[0].upper()}{error.remedy[1:]}."
