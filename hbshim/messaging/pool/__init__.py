"""A fork-aware pool of connections, first come, first served.

The pool depends on no client library. One lock protects its state. It is held for microseconds,
and never while a connection is created, checked or closed, so no green thread switches while it
holds the lock.

`release` does not wait for the lock. Its thread may hold the lock already: the garbage collector
can end a generator or a green thread, which releases its connection, at any allocation. `release`
therefore appends the connection to `returned`; the thread that holds the lock processes
`returned` after it has released the lock.

The thread that releases a connection hands it to the first waiter. Waiter and releaser compete
for one token, so a waiter that has timed out never receives a connection.
"""

from hbshim.messaging.pool.pool import Lease, Pool
from hbshim.messaging.pool.state import PoolStatistics

__all__ = ["Lease", "Pool", "PoolStatistics"]
