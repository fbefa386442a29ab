"""Connections to the test broker, plain or over TLS."""

from __future__ import annotations

import ssl

import pika

from wsgi_harness.stack.broker import Broker


def connect_pika(broker: Broker, heartbeat: int, ca_file: str | None) -> pika.BlockingConnection:
    """Connect with pika.

    Parameters:
        heartbeat: T, in seconds.
        ca_file: of the authority to trust; None: without TLS.
    """
    options = None
    if ca_file is not None:
        options = pika.SSLOptions(ssl.create_default_context(cafile=ca_file), broker.host)
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            broker.host,
            broker.amqp_port if ca_file is None else broker.tls_port,
            credentials=pika.PlainCredentials(broker.user, broker.password),
            heartbeat=heartbeat,
            ssl_options=options,
        )
    )
