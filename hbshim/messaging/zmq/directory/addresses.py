"""A directory of hosts that are known beforehand, by their addresses alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hbshim.messaging.zmq.directory import HostRecord, Pipeline, Route, Routes


class Addresses:
    """See :class:`hbshim.messaging.zmq.directory.Reader`.

    Every host may serve every key; the proxy there rejects it if it does not.

    Parameters:
        hosts: each with the address of each pipeline.
        version: of the wire format.
    """

    def __init__(self, hosts: Sequence[Mapping[Pipeline, str]], version: int) -> None:
        self._routes = Routes(tuple(Route(HostRecord("", "", each, version)) for each in hosts))

    def routes(self, key: bytes, deadline: float) -> Routes:
        return self._routes

    def forget(self, key: bytes, host: str) -> None:
        """Do nothing: a server may start there at any time."""

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        return lambda: None  # it never changes

    def close(self) -> None:
        """Do nothing."""
