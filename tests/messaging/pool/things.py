"""Stand-ins for connections, and a pool of them with a fake clock."""

from hbshim.errors import ConnectError
from hbshim.messaging.pool import Pool


class Thing:
    """A stand-in for a connection."""

    def __init__(self, number):
        self.number = number
        self.dead = False
        self.closed = False

    def __repr__(self):
        return f"<thing {self.number}>"


class Shop:
    """Creates things, or raises while `shut` is set; `now` is the fake clock."""

    def __init__(self):
        self.now = 1000.0
        self.made = []
        self.shut = False
        self.given = []

    def create(self, timeout):
        self.given.append(timeout)
        if self.shut:
            raise ConnectError("connection refused")
        self.made.append(Thing(len(self.made)))
        return self.made[-1]

    def close(self, thing):
        assert not thing.closed, f"{thing} closed twice"
        thing.closed = True

    def is_dead(self, thing):
        assert not thing.closed, f"{thing} checked after it was closed"
        return thing.dead

    def pool(self, **settings):
        settings = {"clock": lambda: self.now, **settings}
        return Pool(self.create, self.close, self.is_dead, **settings)

    @property
    def open(self):
        return [thing for thing in self.made if not thing.closed]
