"""The messaging driver's connection over kombu and py-amqp."""

from hbshim.messaging.kombu.connection import KombuConnection
from hbshim.messaging.kombu.opening import connect

__all__ = ["KombuConnection", "connect"]
