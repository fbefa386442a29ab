"""Attaches one connection once, whichever threads call ``keep_alive()`` for it at the same time.

Without a lock: a signal handler may call it again in the thread that is inside, and a forked child
would find the lock taken. Instead the threads agree on one attachment (``dict.setdefault`` is
atomic). Each of them completes what another one has begun, and so does a later call if an exception
has interrupted the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hbshim.adapters.attach import change, refuse_inherited, watch
from hbshim.errors import AttachError
from hbshim.heartbeat.link import Link
from hbshim.options import Options

#: Where an object of the client library has its attachments, by number: that of the first attempt,
#: and a further one after each attempt that failed.
ATTEMPTS = "hbshim_attempts"

_OUTCOME = "kept"


class Attachment:
    """What keeps one connection alive; it has no effect on the connection when it is made.

    Parameters:
        link: of the connection.

    Attributes:
        link: of the connection.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._outcome: dict[str, bool] = {}

    def install(self) -> None:
        """Put the guard in place; idempotent, in several threads at once."""
        raise NotImplementedError

    def remove(self) -> None:
        """Undo :meth:`install`; idempotent, in several threads at once, and while one installs."""
        raise NotImplementedError

    @property
    def kept(self) -> bool | None:
        """Whether the attempt was successful; None while it is not complete."""
        return self._outcome.get(_OUTCOME)

    def settle(self, kept: bool) -> bool:
        """Return the outcome of the attempt: `kept`, unless another thread has settled it."""
        return self._outcome.setdefault(_OUTCOME, kept)


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
            kept = attachment.settle(True)
        except BaseException:
            if not attachment.settle(False):
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
