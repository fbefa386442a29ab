"""Attaches one connection once, whichever threads call ``keep_alive()`` for it at the same time.

Without a lock: a signal handler may call it again in the thread that is inside, and a forked child
would find the lock taken. Instead the threads agree on one attachment (``dict.setdefault`` is
atomic). Each of them completes what another one has begun, and so does a later call if an exception
has interrupted the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hbshim.adapters.attach import change, refuse_inherited, watch
from hbshim.adapters.earlier_calls import EarlierCalls
from hbshim.errors import AttachError
from hbshim.heartbeat.link import Link
from hbshim.options import Options

#: Where an object of the client library has its attachments, by number: that of the first attempt,
#: and a further one after each attempt that failed.
ATTEMPTS = "hbshim_attempts"

#: The name of the outcome of an attempt.
_KEPT = "kept"

T = TypeVar("T")


class Attachment:
    """What keeps one connection alive; it has no effect on the connection when it is made.

    Parameters:
        link: of the connection.
        earlier: calls into the connection that began before.

    Attributes:
        link: of the connection.
    """

    __slots__ = ("_agreed", "_earlier", "link")

    def __init__(self, link: Link, earlier: EarlierCalls) -> None:
        self.link = link
        self._earlier = earlier
        self._agreed: dict[str, Any] = {}

    def install(self) -> None:
        """Put the guard in place; idempotent, in several threads at once."""
        self._wrap()
        self._earlier.find()
        if self.link.guard.closed:
            self.remove()

    def remove(self) -> None:
        """Undo :meth:`install`; idempotent, in several threads at once, and while one installs."""
        self.link.close()
        self._unwrap()

    def _wrap(self) -> None:
        """Replace functions of the connection by guarded ones."""
        raise NotImplementedError

    def _unwrap(self) -> None:
        """Undo :meth:`_wrap`."""
        raise NotImplementedError

    def agree(self, name: str, value: T) -> T:
        """Return what the threads that install it use: `value`, unless another one was first."""
        agreed: T = self._agreed.setdefault(name, value)
        return agreed

    def agreed(self, name: str) -> Any:
        """Return what the threads have agreed on; None if none has proposed anything."""
        return self._agreed.get(name)

    @property
    def kept(self) -> bool | None:
        """Whether the attempt was successful; None while it is not complete."""
        outcome: bool | None = self.agreed(_KEPT)
        return outcome


def attach_once(names: dict[str, Any], make: Callable[[], Attachment], options: Options) -> Link:
    """Keep a connection alive, or apply `options` if it is kept alive already.

    Parameters:
        names: the attributes of an object that lives as long as the connection.
        make: makes an attachment.
        options: hbshim's options.

    Raises:
        AttachError: the connection was closed meanwhile, or belongs to the parent process.
        WorkerError: the worker cannot run in this process.
    """
    while True:
        attachment = _current(names.setdefault(ATTEMPTS, {}), make)
        link = attachment.link
        refuse_inherited(link)
        if attachment.kept:
            change(link, options)
            return link
        try:
            attachment.install()
            if not link.guard.closed:
                watch(link, options)
            elif attachment.kept is None:
                raise AttachError("this connection was closed meanwhile; open a new one")
            kept = attachment.agree(_KEPT, True)
        except BaseException:
            if not attachment.agree(_KEPT, False):
                _remove(attachment)
            raise
        if kept:
            return link
        # The attempt of another thread failed, perhaps because of its options.


def _current(attempts: dict[int, Attachment], make: Callable[[], Attachment]) -> Attachment:
    number = 0
    while number in attempts:
        attempt = attempts[number]
        if attempt.kept is not False:
            return attempt
        # Completely, before the next one looks for the client's own functions.
        _remove(attempt)
        number += 1
    return attempts.setdefault(number, make())


def _remove(attachment: Attachment) -> None:
    try:
        attachment.remove()
    except BaseException:
        attachment.remove()
        raise


def restore(owner: Any, replaced: Mapping[str, Any]) -> None:
    """Remove from `owner` the attributes that are still those in `replaced`."""
    for name, function in replaced.items():
        if vars(owner).get(name) is function:
            vars(owner).pop(name, None)
