"""Connects to a broker, waits for one heartbeat in each direction, and closes the connection.

One deadline limits everything. Names are resolved in a native thread that can be abandoned, and
every wait of the client library ends when its socket is shut down.
"""

from __future__ import annotations

import socket
import ssl
import time
from _socket import getaddrinfo
from dataclasses import dataclass

from hbshim.adapters.probe import Client, Login, client_of
from hbshim.doctor.context import ConnectionProbe, Negotiated
from hbshim.doctor.deadline import Deadline, cutting_off, within
from hbshim.doctor.failures import Failure, explain, unreachable
from hbshim.doctor.protocol_probe import listen_to, understand
from hbshim.doctor.target import Target
from hbshim.errors import HbshimError, OptionError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.options import Options

#: Seconds between two checks of the connection.
POLL_INTERVAL = 0.05
#: Seconds reserved for closing the connection.
CLOSE_TIMEOUT = 1.0
#: A broker checks every T/2 whether a heartbeat is due, so one arrives within T. Waiting longer
#: than twice that is useless. In units of T.
WATCH_PERIODS = 2.0


def tls_context(ca: str | None, target: Target | None = None) -> ssl.SSLContext:
    """Return the TLS context for a target.

    Parameters:
        ca: PEM file of the authorities to trust; by default that of the target's URL, and then
            those of the machine.
        target: whose URL may name a client's certificate.

    Raises:
        OptionError: a file cannot be read, or holds no certificate.
    """
    options = {} if target is None else target.tls_options
    source = "--ca" if ca else "cafile of the URL's ssl_options:"
    ca = ca or options.get("cafile")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error
        raise OptionError(f"{source} {ca} cannot be used ({reason}); name a PEM file") from None
    if "certfile" in options:
        try:
            # Without a password, OpenSSL would ask for one at the terminal.
            password = str(options.get("password", ""))
            context.load_cert_chain(options["certfile"], options.get("keyfile"), password)
        except (OSError, ValueError) as error:
            raise OptionError(
                f"the client's certificate that the URL names cannot be used ({error}); correct "
                "certfile and keyfile of ssl_options"
            ) from None
    return context


def probe(
    target: Target,
    *,
    tls: ssl.SSLContext | None,
    client: str | None,
    heartbeat: int,
    deadline: Deadline,
    options: Options,
    worker: str,
) -> ConnectionProbe:
    """Connect to `target` and wait for heartbeats.

    Parameters:
        target: the broker.
        tls: the TLS context; None for plain TCP.
        client: "amqp" or "pika"; None for the one that is installed.
        heartbeat: T to request, in seconds.
        deadline: limits everything.
        options: hbshim's options for this connection.
        worker: the worker that follows from them, for the report.

    Raises:
        BrokerError: it cannot be reached, or refuses the connection.
        MissingExtraError: no client library is installed.
    """
    limit = deadline.left
    failure: Failure | None = None
    for address in _addresses(target, deadline):
        opened = client_of(client)
        login = Login(
            address,
            target.port,
            target.host,
            target.user,
            target.password,
            target.vhost,
            tls,
            heartbeat,
            max(deadline.left, POLL_INTERVAL),
            target.external,
        )
        with cutting_off(deadline, opened.cut):
            try:
                opened.open(login)
            except Exception as error:
                failure = explain(error, target, limit, not deadline.left, opened.reached)
            else:
                return _watch(opened, target, heartbeat, deadline, options, worker)
        if failure.spoken and tls is None:
            failure = understand(listen_to(address, target.port, deadline), target) or failure
        if not failure.elsewhere:
            break
    assert failure is not None  # a name that resolves has an address
    raise failure.error(target)


def _addresses(target: Target, deadline: Deadline) -> list[str]:
    try:
        found = within(
            deadline,
            # The C function: a patched one needs a hub.
            lambda: getaddrinfo(target.host, target.port, 0, socket.SOCK_STREAM),
        )
    except UnicodeError:
        raise OptionError("the host in the URL is no host name; correct it") from None
    except OSError as error:
        raise unreachable(error, target, deadline.seconds).error(target) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _watch(
    client: Client, target: Target, asked: int, deadline: Deadline, options: Options, worker: str
) -> ConnectionProbe:
    began = time.monotonic()
    agreed = _negotiated(client, target, asked)
    until = began + min(WATCH_PERIODS * agreed.heartbeat, max(0.0, deadline.left - CLOSE_TIMEOUT))
    heartbeats = Heartbeats()
    link: Link | None = None
    try:
        link = client.attach(options)
    except HbshimError as refused:
        heartbeats.error_text = str(refused)
    if link is None:
        heartbeats.error_text = heartbeats.error_text or "no heartbeat was negotiated"
    else:
        heartbeats = await_heartbeats(link, began, until)
        if heartbeats.received_after is None and not heartbeats.error_text and _unread(link):
            heartbeats.error_text = "what arrived could not be identified as a heartbeat"
    seen = ConnectionProbe(
        peer=target.name,
        client=client.label,
        route="plain" if link is None else link.wire.route,
        negotiated=agreed,
        worker=worker,
        watched=time.monotonic() - began,
        sent_after=heartbeats.sent_after,
        received_after=heartbeats.received_after,
        error_text=heartbeats.error_text,
    )
    _leave(client, deadline)
    return seen


@dataclass
class Heartbeats:
    """What was seen of one connection.

    Attributes:
        sent_after, received_after: seconds until the first one; None if there was none.
        error_text: why no more of them can be seen; "" if there is no reason.
    """

    sent_after: float | None = None
    received_after: float | None = None
    error_text: str = ""


def await_heartbeats(link: Link, began: float, until: float) -> Heartbeats:
    """Wait for one heartbeat in each direction.

    Parameters:
        began: when the connection was opened, of ``time.monotonic()``.
        until: when to give up, of the same clock.
    """
    seen = Heartbeats()
    while (seen.sent_after is None or seen.received_after is None) and time.monotonic() < until:
        # Green where the program is patched: the hub runs, and with it a green worker.
        time.sleep(POLL_INTERVAL)
        if seen.sent_after is None and link.heartbeats_sent:
            seen.sent_after = time.monotonic() - began
        if seen.received_after is None and _take_heartbeats(link):
            seen.received_after = time.monotonic() - began
        if link.state is not State.ALIVE:
            seen.error_text = "the peer closed the connection"
            break
    return seen


def _take_heartbeats(link: Link) -> bool:
    """Take the broker's heartbeats off the receive queue, as the engine does for an idle client."""
    if not (permit := link.guard.readers.try_acquire()):
        return False
    try:
        return link.wire.take_heartbeats(permit) > 0
    except OSError:
        return False
    finally:
        link.guard.readers.release()


def _unread(link: Link) -> bool:
    try:
        return link.wire.unread() > 0
    except OSError:
        return False


def _negotiated(client: Client, target: Target, asked: int) -> Negotiated:
    heartbeat, suggested, frame_max, channel_max = client.agreed()
    properties = client.broker()
    return Negotiated(
        heartbeat=heartbeat,
        asked=asked,
        suggested=suggested,
        frame_max=frame_max,
        channel_max=channel_max,
        product=target.clean(properties.get("product") or "an unnamed broker"),
        version=target.clean(properties.get("version") or "(version unknown)"),
    )


def _leave(client: Client, deadline: Deadline) -> None:
    closing = Deadline(min(CLOSE_TIMEOUT, deadline.left))
    with cutting_off(closing, client.cut):
        try:
            client.close()
        except Exception:
            # The result is known; a peer that does not answer connection.close is cut off.
            client.cut()
