"""Addresses: their senders, their receivers, and which receiver gets a message."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wsgi_harness.router.links import ReceiverDelivery, ReceiverLink, SenderDelivery, SenderLink
from wsgi_harness.router.states import State


class Distribution(enum.Enum):
    """Which receivers of an address get a message."""

    #: One of those at this router, in turn; otherwise one behind another router.
    CLOSEST = "closest"
    #: The one that has the fewest messages; a receiver behind another router counts as one more.
    BALANCED = "balanced"
    #: Each of them.
    MULTICAST = "multicast"
    #: None: the address cannot be used.
    UNAVAILABLE = "unavailable"


class Rule(NamedTuple):
    """The distribution of the addresses that begin with a prefix."""

    prefix: str
    distribution: Distribution


def distribution_of(name: str, rules: Sequence[Rule], default: Distribution) -> Distribution:
    """Return the distribution of an address: that of the longest prefix of whole parts."""
    found = [each for each in rules if _begins(name, each.prefix)]
    return max(found, key=lambda rule: len(rule.prefix)).distribution if found else default


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or (name.startswith(prefix) and name[len(prefix)] in "/.")


class Address:
    """An address; it is there while a link uses it.

    Attributes:
        senders: links with this target.
        receivers: links with this source, from clients of this router; the next one first.
        remotes: links to other routers that have receivers; the next one first.
        handler: answers messages within this router, for an address that is its own.
    """

    def __init__(self, name: str, distribution: Distribution) -> None:
        self.name = name
        self.distribution = distribution
        self.senders: list[SenderLink] = []
        self.receivers: list[ReceiverLink] = []
        self.remotes: list[ReceiverLink] = []
        self.handler: Callable[[bytes], State] | None = None

    @property
    def used(self) -> bool:
        """Whether a link has it, or the router itself."""
        return bool(self.senders or self.receivers or self.remotes or self.handler)

    def candidates(self, *, from_router: bool) -> list[ReceiverLink]:
        """Return the links that may get a message, those of clients first.

        Parameters:
            from_router: the message comes from another router, and goes to no other.
        """
        return self.receivers if from_router else [*self.receivers, *self.remotes]

    def reachable(self, *, from_router: bool) -> bool:
        """Return whether a message would find a receiver."""
        return self.handler is not None or bool(self.candidates(from_router=from_router))

    def forward(self, delivery: SenderDelivery) -> bool:
        """Send a message to its receivers; return whether there is one."""
        link = delivery.link
        if self.handler is not None:
            state = self.handler(delivery.payload)
            if not delivery.settled:
                link.report(delivery, state, settled=True)
            return True
        candidates = self.candidates(from_router=link.from_router)
        if not candidates:
            return False
        if self.distribution is Distribution.MULTICAST:
            chosen = list(candidates)
        elif self.distribution is Distribution.CLOSEST:
            chosen = candidates[:1]
            self._rotate(chosen[0])
        else:
            chosen = [_least_loaded(candidates)]
            self._rotate(chosen[0])
        # All copies first: a receiver may answer at once, and must not be taken for the last one.
        copies = [ReceiverDelivery(each, delivery) for each in chosen]
        for copy in copies:
            copy.link.enqueue(copy)
        return True

    def _rotate(self, link: ReceiverLink) -> None:
        """Make a link the last of those that are in turn."""
        links = self.remotes if link.to_router else self.receivers
        links.remove(link)
        links.append(link)


def _least_loaded(links: Sequence[ReceiverLink]) -> ReceiverLink:
    """Return the link with the fewest messages; full ones come last."""
    cost = {link: link.outstanding + (1 if link.to_router else 0) for link in links}
    return min(links, key=lambda link: (link.outstanding >= link.capacity, cost[link]))
