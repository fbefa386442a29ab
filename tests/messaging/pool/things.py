"""Stand-ins for connections, and a pool of them with a fake clock."""

from __future__ import annotations

from typing import Any

from hbshim.errors import ConnectError
from hbshim.messaging.pool import Pool


class Thing:
    """A stand-in for a connection."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dead = False
        self.closed = False

    def __repr__(self) -> str:
        return f"<thing {self.number}>"


class Shop:
    """Creates things, or raises while `shut` is set; `now` is the fake clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.made: list[Thing] = []
        self.shut = False
        self.given: list[float] = []

    def create(self, timeout: float) -> Thing:
        self.given.append(timeout)
        if self.shut:
            raise ConnectError("connection refused")
        self.made.append(Thing(len(self.made)))
        return self.made[-1]

    def close(self, thing: Thing) -> None:
        assert not thing.closed, f"{thing} closed twice"
        thing.closed = True

    def is_dead(self, thing: Thing) -> bool:
        assert not thing.closed, f"{thing} checked after it was closed"
        return thing.dead

    def pool(self, **settings: Any) -> Pool[Thing]:
        settings = {"clock": lambda: self.now, **settings}
        return Pool(self.create, self.close, self.is_dead, **settings)

    @property
    def open(self) -> list[Thing]:
        return [thing for thing in self.made if not thing.closed]
