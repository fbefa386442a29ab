"""The connection of one process that all of its senders and callers share.

:mod:`hbshim.messaging.role` describes how they wait, and which of them reads. The connection is
opened when it is first used, and again when it was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hbshim.errors import (
    BrokerBlockedError,
    CallTimeoutError,
    ConnectError,
    ConnectionLostError,
    MessagingError,
)
from hbshim.messaging.amqp1.connection import Connection
from hbshim.messaging.amqp1.prepared import Prepared
from hbshim.messaging.base import driver_closed
from hbshim.messaging.connecting import HostConnector
from hbshim.messaging.role import ReaderRole
from hbshim.runtime.exclusive import OCCUPIED, ExclusiveSection

#: Seconds for closing a connection that is not needed. A caller waits for it.
CLOSE_WITHIN = 0.2

#: Seconds before the next attempt after a connection was lost directly after its login.
LOST_AGAIN = 0.05


class SharedConnection:
    """See the module. A forked child needs its own.

    Parameters:
        connector: opens it.
        refresh: called with each new connection and a deadline, and before each read; returns the
            seconds until it is to be called again at the latest. It may raise ConnectionLostError.

    Attributes:
        role: lets one of the waiting threads read.
        closed: the driver is closed.
    """

    def __init__(
        self,
        connector: HostConnector[Connection],
        refresh: Callable[[Prepared, float], float],
    ) -> None:
        self.role = ReaderRole(self._read)
        self._connector = connector
        self._refresh = refresh
        self._prepared: Prepared | None = None
        self._connecting = ExclusiveSection(threading.RLock())
        self.closed = False

    def connected(self, deadline: float, attempts: int | None) -> Prepared:
        """Return the connection; open one if there is none.

        Parameters:
            deadline: of ``time.monotonic()``.
            attempts: the most attempts to connect; None: as many as the deadline allows.

        Raises:
            ConnectError: no host accepted a connection.
            ConnectionLostError: the driver is closed.
        """
        prepared = self._prepared
        if prepared is not None and prepared.connection.is_open:
            return prepared
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._no_connection()
        connected = self._connecting.run(lambda: self._reconnect(deadline, attempts), left)
        if connected is OCCUPIED:
            raise self._no_connection()
        return connected

    def _no_connection(self) -> ConnectError:
        # Another thread connects next, and reports the error if that fails.
        return ConnectError(f"no connection in time: {self._connector.refused}")

    def _reconnect(self, deadline: float, attempts: int | None) -> Prepared:
        prepared = self._prepared
        if prepared is not None and prepared.connection.is_open:
            return prepared
        if prepared is not None:
            self.lost(prepared)
        prepared = self._connect(deadline, attempts)
        self._prepared = prepared
        if self.closed:
            # Closed meanwhile, in which case the new connection would stay open.
            self.lost(prepared)
            raise driver_closed()
        return prepared

    def _connect(self, deadline: float, attempts: int | None) -> Prepared:
        while True:
            if self.closed:
                raise driver_closed()
            connection = self._connector.connect(deadline, attempts)
            prepared = Prepared(connection)
            try:
                self._refresh(prepared, deadline)
            except (ConnectionLostError, BrokerBlockedError) as error:
                # A broker that restarts does this: it accepts the login and closes the connection.
                connection.close(CLOSE_WITHIN)
                if time.monotonic() + LOST_AGAIN >= deadline:
                    raise ConnectError(f"the connection was lost: {error}") from None
                time.sleep(LOST_AGAIN)
            except BaseException:
                connection.close(CLOSE_WITHIN)
                raise
            else:
                return prepared

    def _read(self, until: float) -> bool:
        """Read from the connection; return False if another one had to be opened."""
        prepared = self._prepared
        try:
            if prepared is None or not prepared.connection.is_open:
                self.connected(until, None)
                return False
            left = self._refresh(prepared, until)
            prepared.connection.drain(max(0.0, min(left, until - time.monotonic())))
        except ConnectionLostError:
            if prepared is not None:
                self.lost(prepared)
            if self.closed:
                raise
        except ConnectError as error:
            if error.final:
                raise
            raise CallTimeoutError(f"no connection: {error}") from None
        except BrokerBlockedError as error:
            raise CallTimeoutError(str(error)) from None
        return True

    def lost(self, prepared: Prepared) -> None:
        """Note that a connection cannot be used any longer, and close it."""
        if self._prepared is prepared:
            self._prepared = None
        prepared.connection.close(CLOSE_WITHIN)

    def close(self, last: Callable[[Prepared], None]) -> None:
        """Close the connection; threads that wait raise an error.

        Parameters:
            last: is called with an open connection before.
        """
        self.closed = True
        self.role.close()
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            try:
                if prepared.connection.is_open:
                    last(prepared)
            except MessagingError:
                pass
            finally:
                prepared.connection.close(CLOSE_WITHIN)
