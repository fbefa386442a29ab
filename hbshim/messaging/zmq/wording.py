"""How errors name a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hbshim.errors import OptionError
from hbshim.messaging.target import Target, described
from hbshim.messaging.zmq.frames import FrameError

#: Why nothing was sent, where only the directory could name the hosts that serve a target.
NOTHING_KNOWN = "the directory cannot be reached, and nothing is known of it"


@contextmanager
def shorter(target: Target) -> Iterator[None]:
    """Report names that the wire format cannot hold.

    Raises:
        OptionError: a name of the target is too long.
    """
    try:
        yield
    except FrameError as error:
        raise OptionError(f"the target {described(target)}: {error}; shorten it") from None
