"""Attacks both backends as a user of another virtual host; each attempt must fail in its own way.

python hostile.py RABBITMQ ROUTER DIRECTORY

Run on the host of a service of virtual host /intruder. DIRECTORY has certificates: other-ca.pem,
and expired.pem and foreign.pem with their keys.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from hbshim import messaging
from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import (
    Attached,
    Begun,
    Closed,
    CreditChanged,
    Detached,
    LoginRefused,
    Opened,
    Updated,
)
from hbshim.amqp1.mechanisms import Plain
from hbshim.amqp1.messages import Data, Message, encode_message
from hbshim.amqp1.performatives import Properties, Source, Target
from hbshim.amqp1.sasl import SaslClient
from hbshim.errors import HbshimError

LIMIT = 15.0
VICTIM = "openstack.org/om/rpc/anycast/%2Fvictim/openstack_rpc/victim"
OWN = "openstack.org/om/rpc/anycast/%2Fintruder/openstack_rpc/intruder"
USER, PASSWORD = "intruder", "intruder's own password"


def url(scheme: str, host: str, port: int, **changes: Any) -> str:
    user = changes.pop("user", USER) + ("@AMQP" if scheme == "hbamqp" else "")
    login = f"{quote(user, safe='')}:{quote(changes.pop('password', PASSWORD), safe='')}"
    vhost = quote(changes.pop("vhost", "/intruder"), safe="")
    options = changes.pop("tls", {})
    if changes.pop("ssl", True):
        options = {"cafile": "/etc/intruder/messaging-ca.pem", **options}
        pairs = ",".join(f"{key}={value}" for key, value in options.items())
        query = f"ssl=true&ssl_options={quote(pairs, safe='')}"
    else:
        query = "ssl=false"
    if scheme == "hbamqp":
        # The driver would not send the password; the router must refuse it all the same.
        query += "&addressing_profile=router&plain_without_tls=true"
    return f"{scheme}://{login}@{host}:{port}/{vhost}?{query}&connection_retry_attempts=1"


def call(address: str) -> str:
    """Return the error with which a call over a connection ends."""
    driver = messaging.connect(address, handshake_timeout=5.0)
    try:
        messaging.Client(driver, messaging.Target("nobody"), timeout=6.0).call("echo", value=1)
    except HbshimError as error:
        return str(error)
    finally:
        driver.close()
    return ""


def clear(host: str, port: int) -> str:
    """Return what becomes of a connection without TLS."""
    with socket.create_connection((host, port), LIMIT) as sock:
        sock.settimeout(LIMIT)
        sock.sendall(b"AMQP\x03\x01\x00\x00")
        try:
            answer = sock.recv(8)
        except OSError as error:
            return f"closed: {error}"
        return f"answered {answer!r}" if answer.startswith(b"AMQP") else f"closed after {answer!r}"


def handshake(host: str, port: int, *, name: str, ca: str, certificate: str) -> str:
    """Return the error with which a TLS handshake, or what follows it, ends."""
    context = ssl.create_default_context(cafile=ca or "/etc/intruder/messaging-ca.pem")
    if certificate:
        context.load_cert_chain(f"{certificate}.pem", f"{certificate}.key")
    try:
        with (
            socket.create_connection((host, port), LIMIT) as plain,
            context.wrap_socket(plain, server_hostname=name or host) as sock,
        ):
            # With TLS 1.3 a server refuses a certificate after the handshake, by an alert.
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(b"AMQP\x03\x01\x00\x00")
            return f"answered {sock.recv(8)!r}"
    except OSError as error:
        return str(error)


class Peer:
    """A connection to the router with the engine alone, which asks for what no driver would."""

    def __init__(self, host: str, port: int, vhost: str) -> None:
        context = ssl.create_default_context(cafile="/etc/intruder/messaging-ca.pem")
        self.sock = context.wrap_socket(
            socket.create_connection((host, port)), server_hostname=host
        )
        sasl = SaslClient([Plain(f"{USER}@AMQP", PASSWORD)], vhost)
        self.connection = Connection("intruder", hostname=vhost, sasl=sasl)
        self.events: list[Any] = []

    def wait(self, *kinds: type) -> Any:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            for event in self.events:
                if isinstance(event, kinds):
                    self.events.remove(event)
                    return event
            if data := self.connection.data_to_send(time.monotonic()):
                self.sock.sendall(data)
            self.sock.settimeout(0.5)
            try:
                received = self.sock.recv(65536)
            except TimeoutError:
                continue
            self.events += self.connection.receive_data(received, time.monotonic())
        return None

    def session(self) -> Any:
        assert isinstance(self.wait(Opened, Closed, LoginRefused), Opened)
        session = self.connection.begin()
        assert self.wait(Begun)
        return session


def refused(event: Any) -> str:
    error = getattr(event, "error", None)
    return f"{error.condition}: {error.description}" if error else f"not refused: {event}"


def source(peer: Peer, address: str) -> str:
    peer.session().attach_receiver("steal", Source(address)).grant(10)
    return refused(peer.wait(Detached, Closed))


def target(peer: Peer, address: str) -> str:
    peer.session().attach_sender("forge", Target(address))
    return refused(peer.wait(Detached, Closed))


def anonymous(peer: Peer, address: str) -> str:
    sender = peer.session().attach_sender("anonymous", Target(None))
    assert peer.wait(Attached)
    assert peer.wait(CreditChanged)
    message = Message(Data((b"forged",)), properties=Properties(to=address))
    delivery = sender.send(encode_message(message))
    peer.wait(Updated, Detached, Closed)
    return f"{type(delivery.state).__name__} {getattr(delivery.state, 'error', '')}"


def opening(peer: Peer) -> str:
    event = peer.wait(Opened, Closed)
    if isinstance(event, Opened):
        event = peer.wait(Closed)
    return refused(event)


def closed_port(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), LIMIT).close()
    except OSError as error:
        return str(error)
    return ""


#: What is tried, and what the text of the error must contain.
Attempt = tuple[Callable[[], str], str]


def attempts(rabbitmq: str, router: str, directory: str) -> dict[str, Attempt]:
    found = {
        **on_either("rabbitmq", "hbpika", rabbitmq, 5671, directory),
        **on_either("router", "hbamqp", router, 31459, directory),
        **on_router(router),
    }
    for host, port in ((rabbitmq, 5672), (rabbitmq, 15672), (router, 31460), (router, 31462)):
        found[f"plain port {port}"] = (functools.partial(closed_port, host, port), "refused")
    return found


def on_either(side: str, scheme: str, host: str, port: int, directory: str) -> dict[str, Attempt]:
    """Return the attempts that RabbitMQ and the router have to refuse alike."""

    def tried(**changes: Any) -> Callable[[], str]:
        return lambda: call(url(scheme, host, port, **changes))

    def shaken(name: str = "", ca: str = "", certificate: str = "") -> Callable[[], str]:
        return lambda: handshake(host, port, name=name, ca=ca, certificate=certificate)

    login = "login|password|refuse|ACCESS"
    found: dict[str, Attempt] = {
        "without TLS": (lambda: clear(host, port), "^closed"),
        "wrong CA": (
            shaken(ca=f"{directory}/other-ca.pem"),
            "certificate verify failed: self-signed|unable to get local issuer",
        ),
        "name that is not in the certificate": (shaken(name="elsewhere"), "Hostname mismatch"),
        "expired certificate of the client": (
            shaken(certificate=f"{directory}/expired"),
            "certificate expired|certificate unknown|unknown ca",
        ),
        "certificate of another CA": (
            shaken(certificate=f"{directory}/foreign"),
            "unknown ca|certificate unknown|unknown certificate",
        ),
        "wrong password": (tried(password="guess"), login),
        "user that does not exist": (tried(user="ghost"), login),
        "virtual host of the victim": (
            tried(vhost="/victim"),
            # The driver tries again until its time is over; "router: Open" has the reason.
            "NOT_ALLOWED" if side == "rabbitmq" else "policy|no connection",
        ),
    }
    return {f"{side}: {name}": attempt for name, attempt in found.items()}


def on_router(host: str) -> dict[str, Attempt]:
    """Return the attempts to use what belongs to another virtual host, or to none."""

    def peer(vhost: str = "/intruder") -> Peer:
        return Peer(host, 31459, vhost)

    policy = "connection disallowed by local policy"
    return {
        "router: source": (lambda: source(peer(), VICTIM), "amqp:unauthorized-access"),
        "router: target": (lambda: target(peer(), VICTIM), "amqp:unauthorized-access"),
        "router: anonymous link": (
            lambda: anonymous(peer(), VICTIM),
            "Rejected.*unauthorized-access",
        ),
        "router: Open": (lambda: opening(peer("/victim")), policy),
        "router: Open without a virtual host": (lambda: opening(peer(host)), policy),
        "router: management": (
            lambda: target(peer(), "$management"),
            "amqp:unauthorized-access",
        ),
    }


def main(rabbitmq: str, router: str, directory: str) -> None:
    # The control: what the intruder may do works, so that the refusals mean something.
    peer = Peer(router, 31459, "/intruder")
    peer.session().attach_receiver("own", Source(OWN)).grant(1)
    assert isinstance(peer.wait(Attached, Detached, Closed), Attached)
    results, failed = {}, []
    for name, (attempt, wanted) in attempts(rabbitmq, router, directory).items():
        try:
            said = attempt()
        except (OSError, AssertionError) as error:
            said = f"{type(error).__name__}: {error}"
        results[name] = said
        if (
            not said
            or not re.search(wanted, said, re.DOTALL)
            or ("within 6 s" in said and "no connection" not in said)
        ):
            failed.append(name)
    print(json.dumps(results, indent=1))
    if failed:
        sys.exit(f"not refused as they must be: {', '.join(failed)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
