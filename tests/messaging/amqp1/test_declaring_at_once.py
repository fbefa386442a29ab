"""Connections that declare one queue at the same moment.

RabbitMQ 4 ends the session of the later one with an internal error, unless it is asked again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from hbshim.messaging.amqp.connection import Queue
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.management import Management
from tests.messaging.amqp1.conftest import soon
from tests.messaging.conftest import at_once, unique


def test_a_queue_that_several_connections_declare_is_there_for_each(
    opened: Callable[..., Connection],
) -> None:
    asking = [Management(opened()) for _ in range(8)]
    for _ in range(5):
        queue = Queue(unique("queue"), expires=60)
        declaring = [functools.partial(each.declare_queue, queue, soon()) for each in asking]
        assert at_once(*declaring) == [None] * len(asking)
