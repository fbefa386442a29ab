"""Removes what the contestants left on the broker."""

from __future__ import annotations

from collections.abc import Iterable

from hbshim.bench.rpc.parts import PREFIX

#: Exchanges of all contestants; those of one topic have a name made of it.
EXCHANGES = (PREFIX, *(f"{PREFIX}{end}" for end in ("_rpc", "_rpc_fanout", "_notification")))


def tidy(url: str, topics: Iterable[str]) -> None:
    """Delete the queues of `topics`, and the exchanges that no other benchmark uses.

    Parameters:
        url: of the broker.
        topics: of the contestants; it is no error if a queue does not exist.
    """
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for topic in topics:
        for name in (topic, f"{topic}.server"):
            for exchange in ("", *EXCHANGES):
                channel.queue_delete(f"{exchange}.{name}" if exchange else name)
        notes = f"{topic}-notes"
        channel.queue_delete(notes)
        for exchange in ("", *EXCHANGES):
            channel.queue_delete(f"{exchange}.{notes}.info" if exchange else f"{notes}.info")
        channel.exchange_delete(f"{topic}_fanout")
    for exchange in EXCHANGES:
        try:
            channel.exchange_delete(exchange, if_unused=True)
        except pika.exceptions.ChannelClosedByBroker:
            channel = connection.channel()
    connection.close()
