"""A channel of pika's, and the confirms of the messages that were published on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from hbshim.errors import TopologyError
from hbshim.messaging.pika.opening import words
from hbshim.protocol.messages import Message
from hbshim.protocol.reply_codes import topology_refused


class Channel:
    """One channel; open or not, it is one for good, and a new one takes its place.

    Parameters:
        inner: pika's.
        on_closed: called when it is closed, by whichever side.

    Attributes:
        number: for the frames of what is sent on it.
    """

    def __init__(self, inner: Any, on_closed: Callable[[Channel], None]) -> None:
        self.inner = inner
        self.number: int = inner.channel_number
        self.gone = False
        self._reason: Exception | None = None
        self._on_closed = on_closed
        inner.add_on_close_callback(self._closed)

    def _closed(self, _inner: Any, reason: Exception) -> None:
        self.gone = True
        self._reason = reason
        self._on_closed(self)

    @property
    def settled(self) -> bool:
        """Whether it is open, or closed again."""
        return self.gone or bool(self.inner.is_open)

    @property
    def reason(self) -> str:
        """Why it is closed, for people."""
        return words(self._reason)

    @property
    def closed_by(self) -> tuple[int, str] | None:
        """The broker's reason for closing it, code and text; None where it did not."""
        reason = self._reason
        if isinstance(reason, ChannelClosedByBroker):
            return reason.reply_code, reason.reply_text
        return None

    def refusal(self, doing: str) -> TopologyError | None:
        """What to raise where the broker closed it over what was asked; `doing` names that."""
        return None if self.closed_by is None else topology_refused(doing, *self.closed_by)


class Confirm:
    """A message whose confirm is awaited.

    Attributes:
        settled: the broker has spoken.
        rejected: by basic.nack.
        returned: why it found no queue; None where it did.
    """

    __slots__ = ("message", "rejected", "returned", "settled")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.settled = self.rejected = False
        self.returned: str | None = None


class Confirms:
    """The confirm mode of one channel (RabbitMQ's publisher confirms).

    Attributes:
        selected: the broker's answer to confirm.select, once it is there.
    """

    def __init__(self, channel: Channel) -> None:
        self.selected: list[Any] = []
        self._awaited: dict[int, Confirm] = {}
        self._published = 0
        channel.inner.add_on_return_callback(self._on_return)
        channel.inner.intake.on_confirm = self._on_confirm
        channel.inner.confirm_delivery(_nothing, self.selected.append)

    def published(self, confirm: Confirm, there: bool) -> None:
        """A message was written; or the last one was taken back."""
        if there:
            # The broker counts them, too, and names them by their number.
            self._published += 1
            self._awaited[self._published] = confirm
        else:
            del self._awaited[self._published]
            self._published -= 1

    def _on_confirm(self, last: int, multiple: bool, refused: bool) -> None:
        tags = [tag for tag in self._awaited if tag <= last] if multiple else (last,)
        for tag in tags:
            confirm = self._awaited.pop(tag, None)
            if confirm is not None:
                confirm.rejected = refused
                confirm.settled = True

    def _on_return(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        # It comes before its confirm, and without its number. Of two that are alike, both
        # find no queue.
        for confirm in self._awaited.values():
            message = confirm.message
            if (
                confirm.returned is None
                and message.exchange == method.exchange
                and message.routing_key == method.routing_key
                and message.body == body
            ):
                confirm.returned = f"{method.reply_text}, {method.reply_code}"
                return


def _nothing(_frame: Any) -> None:
    return None
