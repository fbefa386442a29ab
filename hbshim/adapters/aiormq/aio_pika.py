"""aio-pika, whose connections use aiormq's: its robust ones a new one after each reconnection."""

from __future__ import annotations

from typing import Any

from hbshim.adapters.aiormq import heartbeat
from hbshim.adapters.attach import leave_alone
from hbshim.errors import AttachError
from hbshim.heartbeat.link import Link
from hbshim.options import Options


def attach(connection: Any, options: Options) -> Link | None:
    """Keep an open ``aio_pika.Connection`` alive; a robust one also after it has reconnected.

    Returns:
        The link, or None if no heartbeat was negotiated.

    Raises:
        AttachError: the connection is not open, or see :func:`heartbeat.attach`.
        UnsupportedVersionError: hbshim does not know this version of aiormq.
        WorkerError: the worker cannot run in this process.
    """
    link = heartbeat.attach(_beneath(connection), options)
    callbacks = getattr(connection, "reconnect_callbacks", None)
    if callbacks is None:
        return link
    former: _Again | None = vars(connection).get("hbshim_again")
    if former is None:
        connection.hbshim_again = _Again(options)
        callbacks.add(connection.hbshim_again)
    else:
        former.options = options.over(former.options)
    return link


def _beneath(connection: Any) -> Any:
    transport = getattr(connection, "transport", None)
    if transport is None:
        raise AttachError("the aio-pika connection is not open; await its connect() first")
    return transport.connection


class _Again:
    """Keeps a robust connection alive after each of its reconnections.

    Parameters:
        options: of the connection.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self, connection: Any, *_arguments: Any) -> None:
        try:
            heartbeat.attach(_beneath(connection), self.options)
        except Exception as error:
            leave_alone(f"aio-pika {connection.url.host}:{connection.url.port}", error)
