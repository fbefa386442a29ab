"""Everything the choice of a heartbeat worker depends on, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hbshim.runtime.green import GreenFacts
from hbshim.runtime.host import HostFacts
from hbshim.runtime.interpreter import InterpreterFacts

HubState = Literal["none", "runs", "parked", "blocked", "unknown"]


@dataclass(frozen=True)
class Facts:
    """What was found in this process.

    Attributes:
        hub: "none" nothing is patched; "runs" between requests; "parked" by the
            host until the next request; "blocked" by the program's own native
            sockets at each wait; "unknown" nothing promises that it runs.
        forked_since_import: this process is a child of the one that imported hbshim.
    """

    green: GreenFacts
    host: HostFacts
    hub: HubState
    interpreter: InterpreterFacts
    forked_since_import: bool

    @property
    def tpool_has_room(self) -> bool:
        """A green library rules here and its native pool has a thread to spare."""
        # A turn may come at any time: the pool must have another thread for the
        # program, and a pool of eventlet's with 0 runs its jobs in the hub.
        return self.green.library in ("eventlet", "gevent") and self.green.tpool_threads >= 2
