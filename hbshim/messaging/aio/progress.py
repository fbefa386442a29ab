"""What servers report before the end of a call, on its way to the callback of the client."""

from __future__ import annotations

import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any

from hbshim.messaging.aio.home import Home
from hbshim.messaging.base import OnReply, Reply

if TYPE_CHECKING:
    from hbshim.messaging.aio.operation import Operation


class Reports:
    """Calls a callback on the event loop, in the context of the coroutine that made this.

    A driver calls this in any thread: a report may arrive while a thread still sends the request.

    Parameters:
        home: the event loop.
        on_reply: the callback.

    Attributes:
        call: the call; an error of the callback ends it, and what arrives later is dropped.
    """

    def __init__(self, home: Home, on_reply: OnReply) -> None:
        self._home = home
        self._on_reply = on_reply
        self._context = contextvars.copy_context()
        self.call: Operation[Any]

    def __call__(self, reply: Reply) -> None:
        if self._home.is_here:
            self._pass_on(reply)
        else:
            self._home.post(partial(self._pass_on_or_fail, reply))

    def _pass_on(self, reply: Reply) -> None:
        if not self.call.is_over:
            self._context.run(self._on_reply, reply)

    def _pass_on_or_fail(self, reply: Reply) -> None:
        try:
            self._pass_on(reply)
        except BaseException as error:
            self.call.end_with(error)
