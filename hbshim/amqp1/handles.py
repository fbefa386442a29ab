"""The links of a session by their numbers, which each side chooses for itself."""

from __future__ import annotations

from hbshim.amqp1.link import Link


class Handles:
    """The links, by the number on this side and by that on the peer's."""

    def __init__(self) -> None:
        self._links: dict[int, Link] = {}
        self._by_remote: dict[int, Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def __getitem__(self, handle: int) -> Link:
        return self._links[handle]

    def free(self, most: int) -> int | None:
        """Return the lowest free number up to `most`; None if there is none."""
        return next((each for each in range(most + 1) if each not in self._links), None)

    def named(self, name: str, role: bool) -> Link | None:
        """Return the link with this name; senders and receivers have names of their own."""
        for link in self._links.values():
            if link.name == name and link.role is role:
                return link
        return None

    def add(self, link: Link) -> None:
        """Add a link, with its number on this side."""
        self._links[link.local.handle] = link

    def bind(self, remote_handle: int, link: Link) -> None:
        """Note the number of a link on the peer's side."""
        self._by_remote[remote_handle] = link

    def of_peer(self, remote_handle: int) -> Link | None:
        """Return the link with this number on the peer's side; None if there is none."""
        return self._by_remote.get(remote_handle)

    def remove(self, remote_handle: int) -> None:
        """Remove a link that the peer has detached."""
        link = self._by_remote.pop(remote_handle)
        del self._links[link.local.handle]

    def end(self) -> None:
        """Remove all: the session has ended."""
        for link in self._links.values():
            link.end()
        self._links.clear()
        self._by_remote.clear()
