"""Connects to a broker, watches one beat go out and one come in, and leaves.

Everything is bounded by one deadline: names are looked up in a native thread that
can be left behind, and whatever the client library waits for ends when its socket
is shut down.
"""

from __future__ import annotations

import socket
import ssl
import time
from _socket import getaddrinfo

from hbshim.adapters.probe import Client, Login, client_of
from hbshim.doctor.case import Negotiated, Visit
from hbshim.doctor.deadline import Deadline, cutting_off, within
from hbshim.doctor.failures import Failure, explain, unreachable
from hbshim.doctor.first_words import listen_to, understand
from hbshim.doctor.target import Target
from hbshim.errors import HbshimError, OptionError
from hbshim.heartbeat.link import Link
from hbshim.heartbeat.state import State
from hbshim.options import Options

#: Seconds between two looks at the watched connection.
LOOK = 0.05
#: Seconds kept for the farewell.
FAREWELL = 1.0
#: A broker beats every T/2, and looks whether a beat is due as often: one comes within
#: T. More than twice that is waited for nothing.
WATCH_AT_MOST = 2.0


def tls_context(ca: str | None) -> ssl.SSLContext:
    """The context to trust `ca` with, a PEM file; the machine's authorities without one.

    Raises:
        OptionError: the file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error
        raise OptionError(f"--ca {ca} cannot be used ({reason}); name a PEM file") from None


def visit(
    target: Target,
    *,
    tls: ssl.SSLContext | None,
    client: str | None,
    heartbeat: int,
    deadline: Deadline,
    options: Options,
    worker: str,
) -> Visit:
    """Connect to `target` and watch.

    Parameters:
        tls: how to speak TLS; None for plain TCP.
        client: "amqp" or "pika"; None for whichever there is.
        heartbeat: T to ask for, in seconds.
        options: hbshim's options for this connection.
        worker: the worker they lead to, for the report.

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
            max(deadline.left, LOOK),
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
            # The C function: what stands in its place after patching needs a hub.
            lambda: getaddrinfo(target.host, target.port, 0, socket.SOCK_STREAM),
        )
    except UnicodeError:
        raise OptionError("the host in the URL is no host name; correct it") from None
    except OSError as error:
        raise unreachable(error, target, deadline.seconds).error(target) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _watch(
    client: Client, target: Target, asked: int, deadline: Deadline, options: Options, worker: str
) -> Visit:
    began = time.monotonic()
    agreed = _negotiated(client, target, asked)
    until = began + min(WATCH_AT_MOST * agreed.heartbeat, max(0.0, deadline.left - FAREWELL))
    beat_out = beat_in = None
    trouble = ""
    link: Link | None = None
    try:
        link = client.attach(options)
    except HbshimError as refused:
        trouble = str(refused)
    if link is None:
        trouble = trouble or "no heartbeat was negotiated"
    else:
        while (beat_out is None or beat_in is None) and time.monotonic() < until:
            # Green where the program is patched: the hub runs, and a green worker with it.
            time.sleep(LOOK)
            if beat_out is None and link.heartbeats_sent:
                beat_out = time.monotonic() - began
            if beat_in is None and _take_beat(link):
                beat_in = time.monotonic() - began
            if link.state is not State.ALIVE:
                trouble = "the peer closed the connection"
                break
        else:
            if beat_in is None and _unread(link):
                trouble = "what came in is no heartbeat that could be told from other data"
    seen = Visit(
        peer=target.name,
        client=client.label,
        route="plain" if link is None else link.wire.route,
        negotiated=agreed,
        worker=worker,
        watched=time.monotonic() - began,
        beat_out=beat_out,
        beat_in=beat_in,
        trouble=trouble,
    )
    _leave(client, deadline)
    return seen


def _take_beat(link: Link) -> bool:
    """Take the broker's heartbeats off the wire, as the engine does for an idle client."""
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
    farewell = Deadline(min(FAREWELL, deadline.left))
    with cutting_off(farewell, client.cut):
        try:
            client.close()
        except Exception:
            # What was to be seen has been seen; a peer that spoils the farewell is cut off.
            client.cut()
