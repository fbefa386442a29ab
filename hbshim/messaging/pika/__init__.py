"""The connection protocol over pika: :class:`hbshim.messaging.amqp.connection.Connection`."""

from hbshim.messaging.pika.connection import PikaConnection, connect

__all__ = ["PikaConnection", "connect"]
