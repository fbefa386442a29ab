"""The messaging driver's connection over kombu and py-amqp."""

from hbshim.messaging.kombu.connection import KombuConnection, connect

__all__ = ["KombuConnection", "connect"]
