"""Publisher confirms of one channel (RabbitMQ)."""

from __future__ import annotations

from hbshim.protocol.messages import Delivery, Message


class Confirm:
    """A message that waits for its publisher confirm.

    Attributes:
        settled: the broker has confirmed or rejected it, or closed the channel.
        rejected: by basic.nack.
        returned: the text of basic.return; None if it was routed.
        refused: the broker's code and text when it closed the channel over this message.
        unknown: the channel was closed over something else.
    """

    __slots__ = ("message", "refused", "rejected", "returned", "settled", "unknown")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.settled = self.rejected = self.unknown = False
        self.returned: str | None = None
        self.refused: tuple[int, str] | None = None


class Confirms:
    """Counts what is published on a channel in confirm mode, as the broker does."""

    def __init__(self) -> None:
        self._awaited: dict[int, Confirm] = {}
        self._published = 0

    def published(self, confirm: Confirm, there: bool) -> None:
        """Count a message that was written; `there` False: the last one was taken back.

        Nothing is counted if the channel was closed meanwhile.
        """
        if there:
            self._published += 1
            self._awaited[self._published] = confirm
        elif self._awaited.get(self._published) is confirm:
            del self._awaited[self._published]
            self._published -= 1

    def on_confirm(self, last: int, multiple: bool, refused: bool) -> None:
        """Settle the messages that a confirm names."""
        tags = [tag for tag in self._awaited if tag <= last] if multiple else (last,)
        for tag in tags:
            confirm = self._awaited.pop(tag, None)
            if confirm is not None:
                confirm.rejected = refused
                confirm.settled = True

    def on_return(self, reason: str, exchange: str, returned: Delivery) -> None:
        """Mark a returned message.

        The broker sends basic.return before the confirm, without a delivery tag; if two messages
        are equal, neither is routable.
        """
        for confirm in self._awaited.values():
            message = confirm.message
            if (
                confirm.returned is None
                and message.exchange == exchange
                and message.routing_key == returned.routing_key
                and message.message_id == returned.message_id
                and message.body == returned.body
            ):
                confirm.returned = reason
                return

    def end(self, refused: tuple[int, str] | None) -> None:
        """Settle all messages: the channel is closed, over one of them or over something else."""
        for confirm in self._awaited.values():
            confirm.refused = refused
            confirm.unknown = refused is None
            confirm.settled = True
        self._awaited.clear()
        self._published = 0
