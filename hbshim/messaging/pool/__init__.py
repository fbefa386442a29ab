"""Lends things that are dear to make, connections for instance, and takes them back.

Knows no library. What belongs to whom is decided under one lock, held for microseconds and
never while something is made, looked at or closed: no green thread is switched away with it.
Who gives back does not wait even for that. His thread may be within the lock already, when
the garbage collector ends a generator or a green thread that had something lent; so he
leaves it in `returned`, and whoever has the lock looks there after letting go of it.

Who waits is served in order, by whoever gives back, and the two agree on it by a token that
only one of them can take: a waiter who gave up has not been handed anything.
"""

from hbshim.messaging.pool.pool import Loan, Pool
from hbshim.messaging.pool.state import PoolStatistics

__all__ = ["Loan", "Pool", "PoolStatistics"]
