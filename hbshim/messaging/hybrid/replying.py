"""Replies that occupy no worker for long: the other backends need it.

A reply over a backend that was lost is sent again until its caller's time is over. So each backend
has threads that send its replies. A worker waits for its reply for a moment, and leaves it to the
thread then. A server that stops waits for those that are left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hbshim.messaging.base import CLOSE_LIMIT, Incoming, Payload, ReplyKind
from hbshim.messaging.flag import Flag
from hbshim.messaging.hybrid.joint_listener import Member
from hbshim.messaging.joining import Part
from hbshim.messaging.reporting import OnError
from hbshim.messaging.threads import Threads

#: Seconds that a worker waits for its reply to be sent.
BRIEF = 0.5

#: How many replies of a backend are sent at the same time.
THREADS = 8

#: How many replies of a backend may be left to threads; from then on workers wait for theirs. A
#: broker that delivers requests and accepts no reply would fill the memory otherwise.
MOST_LEFT = 256


class _Attempt:
    """A reply that is sent by a thread."""

    def __init__(self, reply: Callable[[], None], on_error: OnError) -> None:
        self._reply = reply
        self._on_error = on_error
        self._lock = threading.RLock()
        self._ended = Flag()
        self._left = False
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._reply()
        except BaseException as error:
            self._error = error
        with self._lock:
            self._ended.set()
            left = self._left
        if left and self._error is not None:
            self._on_error(self._error)

    def join(self) -> None:
        """Wait until it is sent, or has failed."""
        self._ended.wait()

    def wait(self, timeout: float) -> None:
        """Wait until it is sent; after `timeout` seconds leave it to its thread.

        Raises what sending it has raised by then.
        """
        if not self._ended.wait(timeout):
            with self._lock:
                if not self._ended.is_set():
                    self._left = True
                    return
        if self._error is not None:
            raise self._error


class _Replying:
    """A request; see :class:`hbshim.messaging.base.Incoming`."""

    def __init__(self, incoming: Incoming, member: ReplyingMember) -> None:
        self._incoming = incoming
        self._member = member
        # A result is sent after the progress that was reported before it.
        self._one_at_a_time = threading.RLock()
        self._sends_keepalive = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._incoming, name)

    def reply(self, payload: Payload, kind: ReplyKind = "result") -> None:
        def send() -> None:
            with self._one_at_a_time:
                self._incoming.reply(payload, kind)

        # One without a time limit is a stored request: it runs again if its reply cannot be sent.
        if not self._incoming.expires:
            send()
        elif kind == "alive":
            self._keep_alive(send)
        else:
            self._member.send(send, BRIEF)

    def _keep_alive(self, send: Callable[[], None]) -> None:
        # The thread that sends keepalives does so for the callers of all backends. Over a lost
        # backend one keepalive after the other would wait: the first says all there is to say.
        if self._sends_keepalive:
            return
        self._sends_keepalive = True

        def send_one() -> None:
            try:
                send()
            finally:
                self._sends_keepalive = False

        self._member.send(send_one, 0.0)


class ReplyingMember:
    """See :class:`hbshim.messaging.hybrid.joint_listener.Member`.

    Parameters:
        member: a listener for requests.
    """

    def __init__(self, member: Member[Any]) -> None:
        self._member = member
        self._threads = Threads("hbshim-reply", THREADS)
        self._sending: set[_Attempt] = set()

    @property
    def on_error(self) -> OnError:
        """See :class:`hbshim.messaging.base.Listener`."""
        return self._member.on_error

    @on_error.setter
    def on_error(self, on_error: OnError) -> None:
        self._member.on_error = on_error

    @property
    def serves(self) -> bool:
        """See :class:`hbshim.messaging.hybrid.joint_listener.Member`."""
        return self._member.serves

    def send(self, reply: Callable[[], None], timeout: float) -> None:
        """Send a reply; return when it is sent, or `timeout` seconds later."""
        if len(self._sending) >= MOST_LEFT:
            reply()
            return
        attempt = _Attempt(reply, self.on_error)

        def run() -> None:
            try:
                attempt.run()
            finally:
                self._sending.discard(attempt)

        self._sending.add(attempt)
        try:
            self._threads.submit(run)
        except RuntimeError:
            # No thread can be started now.
            self._sending.discard(attempt)
            reply()
            return
        attempt.wait(timeout)

    def open(self, timeout: float) -> bool:
        return self._member.open(timeout)

    def check(self, batch_size: int = 1) -> Sequence[Any]:
        return [_Replying(each, self) for each in self._member.check(batch_size)]

    def begin_wait(self, part: Part) -> bool:
        return self._member.begin_wait(part)

    def finish(self) -> None:
        """Wait until the replies that are left are sent, or their callers' time is over."""
        for attempt in list(self._sending):
            attempt.join()

    def pause(self) -> None:
        self._member.pause()

    def resume(self) -> None:
        self._member.resume()

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        self._member.stop(timeout)

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        """Close the listener, when the replies that are left are sent."""
        until = time.monotonic() + timeout
        self._threads.close()
        self._threads.join(until)
        self._member.close(max(0.0, until - time.monotonic()))
