"""A fork-aware pool of connections, first come, first served.

The pool depends on no client library. Its state is changed by one thread at a time. That takes
microseconds, and never includes creating, checking or closing a connection, so no green thread
switches meanwhile.

`release` does not wait for another thread. Its own thread may be changing the state already: the
garbage collector can end a generator or a green thread, which releases its connection, at any
allocation. `release` therefore appends the connection to `returned`; the thread that changes the
state processes `returned` afterwards.

The thread that releases a connection hands it to the first waiter. Waiter and releaser compete
for one token, so a waiter that has timed out never receives a connection.
"""

from hbshim.messaging.pool.pool import Lease, Pool
from hbshim.messaging.pool.state import PoolStatistics

__all__ = ["Lease", "Pool", "PoolStatistics"]
