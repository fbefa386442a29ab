"""What the broker says of messages that it is to confirm."""

from __future__ import annotations

from typing import Any

from hbshim.adapters.pyamqp.session import Channel
from hbshim.protocol.messages import Message


class Confirms:
    """What the broker said of the messages published on a channel in confirm mode.

    One message at a time waits. Of those whose time was up the broker may still speak, in
    the order in which they were published.
    """

    def __init__(self, channel: Channel) -> None:
        channel.intake.on_confirm = self._on_confirm
        channel.events["basic_return"].add(self._on_return)
        self.published = 0
        self._settled = 0
        self._rejected = False
        self._returned: list[Any] = []

    def begin(self) -> None:
        self.published += 1
        self._rejected = False
        self._returned.clear()

    @property
    def settled(self) -> bool:
        return self._settled >= self.published

    @property
    def rejected(self) -> bool:
        return self._rejected

    def returned(self, message: Message) -> bool:
        """Whether it came back; RabbitMQ returns a message before it confirms it."""
        return any(
            (returned.get("message_id"), exchange, routing_key)
            == (message.message_id, message.exchange, message.routing_key)
            for returned, exchange, routing_key in self._returned
        )

    def _on_confirm(self, tag: int, multiple: bool, refused: bool) -> None:
        # RabbitMQ may confirm out of order; only the last one is waited for.
        self._settled = max(self._settled, self.published if multiple and not tag else tag)
        if refused:
            self._rejected = self.settled

    def _on_return(self, _error: Any, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.append((message.properties, exchange, routing_key))
