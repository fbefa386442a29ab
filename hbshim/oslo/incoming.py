"""Converts messages of hbshim's drivers to those of oslo.messaging, and replies back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from hbshim.adapters.oslo.base import (
    PollStyleListener,
    RpcIncomingMessage,
    serialize_remote_exception,
)
from hbshim.errors import MessagingError, PayloadError
from hbshim.messaging.base import Incoming, Listener, Payload
from hbshim.messaging.encoding import Encoding
from hbshim.oslo.envelopes import envelope_of

LOG = logging.getLogger(__name__)

_NOTHING = Payload(b"null")


class OsloIncoming(RpcIncomingMessage):  # type: ignore[misc]
    """A request or a notification; see oslo.messaging's class."""

    def __init__(self, incoming: Incoming, value: Any, encoding: Encoding) -> None:
        self._envelope = envelope_of(value)
        request = self._envelope.open(value)
        super().__init__(request.context, request.message, incoming.message_id)
        self.client_timeout = request.call_monitor_timeout
        self._incoming = incoming
        self._encoding = encoding

    def acknowledge(self) -> None:
        if not self._incoming.acknowledge():
            LOG.warning("A message could not be acknowledged; it may come once more.")

    def requeue(self) -> None:
        try:
            self._incoming.requeue()
        except MessagingError as error:
            LOG.warning("A message could not be requeued: %s", error)

    def reply(self, reply: Any = None, failure: Any = None) -> None:
        if not self._incoming.expects_reply:
            return
        if not failure:
            try:
                payload = Payload(self._encoding.encode(self._envelope.result(reply)))
            except PayloadError:
                # The caller learns of it now, and not by waiting until he gives up.
                failure = sys.exc_info()
        try:
            if failure:
                text = serialize_remote_exception(failure)
                body = self._envelope.failure(text, self._encoding)
                self._incoming.reply(Payload(body), "error")
            else:
                self._incoming.reply(payload)
        except MessagingError as error:
            LOG.warning("A reply could not be sent: %s", error)

    def heartbeat(self) -> None:
        try:
            self._incoming.reply(_NOTHING, "alive")
        except MessagingError as error:
            LOG.warning("A keepalive could not be sent: %s", error)


class OsloListener(PollStyleListener):  # type: ignore[misc]
    """Polls for oslo.messaging; see its class."""

    def __init__(self, listener: Listener, encoding: Encoding, prefetch: int) -> None:
        super().__init__(prefetch or -1)
        self._listener = listener
        self._encoding = encoding

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> list[OsloIncoming]:
        incoming = self._listener.poll(timeout, batch_size, batch_timeout)
        return list(self._decoded(incoming))

    def _decoded(self, incoming: Sequence[Incoming]) -> Any:
        for each in incoming:
            payload = each.payload
            try:
                value = self._encoding.decode(payload.body, payload.content_type)
                yield OsloIncoming(each, value, self._encoding)
            except MessagingError as error:
                # Decoding it again would fail again.
                each.reject(str(error))
                LOG.warning("A message that is not oslo.messaging's was rejected: %s", error)

    def stop(self) -> None:
        self._listener.stop()

    def cleanup(self) -> None:
        self._listener.close()
