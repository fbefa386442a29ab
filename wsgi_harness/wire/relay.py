"""A TCP relay between AMQP clients and a broker, which parses the traffic and fails on command.

It parses AMQP frames in both directions and never changes a byte; only on command does it repeat
the server's heartbeats. There are two ways to use it:

* in tests, ``with Relay(host, port) as relay:`` runs it in a native thread;
* ``python -m wsgi_harness.wire.relay --listen NAME=PORT ... --target HOST:PORT`` runs one
  listening port for each named cell, and prints its events as JSON lines.

It needs nothing but the standard library, so that any container with a Python runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from wsgi_harness.wire.events import Mode, RelayEvent
from wsgi_harness.wire.relay_cell import SIDES, Cell

T = TypeVar("T")

_COMMAND_LIMIT = 10.0


class Relay:
    """A relay with one port, in a native thread of a test process; a context manager.

    Parameters:
        host, port: the broker.
        receive_buffer, send_buffer: see :class:`Cell`.

    Attributes:
        host, port: where it listens.
        events: everything seen so far, oldest first.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
    ) -> None:
        self.events: list[RelayEvent] = []
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._cell = Cell(
            (host, port), self._heard, receive_buffer=receive_buffer, send_buffer=send_buffer
        )

    def __enter__(self) -> Relay:
        self._thread.start()
        try:
            self._run(self._cell.listen())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._run(self._cell.close())
        finally:
            self._end()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._cell.address[1]

    def deaf(self, *, swallow: bool = False, sides: Collection[str] = SIDES) -> None:
        """Forward nothing, keep every connection open.

        Parameters:
            swallow: keep reading, and throw away what is read, FIN included.
            sides: whose bytes are not forwarded: ``client``, ``server`` or both.
        """
        self._set_mode(Mode.SWALLOW if swallow else Mode.DEAF, sides)

    def vanish(self) -> None:
        """Stop without closing: not even the kernel acknowledges what arrives."""
        self._set_mode(Mode.VANISH)

    def forget_idle(self, after: float | None) -> None:
        """Drop silently and permanently each connection whose client sent nothing for `after` s."""
        self._cell.forget_idle_after = after

    def reset(self) -> None:
        """Reset every connection; new ones are accepted."""
        self._run(self._cell.reset())

    def dial_to(self, host: str, port: int) -> None:
        """Set another address of the broker, for new connections."""
        self._cell.target = (host, port)

    def resume(self) -> None:
        """Forward again; a connection of which bytes were swallowed is reset."""
        self._set_mode(Mode.PASS)

    def slow(self, bytes_per_second: float | None) -> None:
        """Limit each direction of each connection; None lifts the limit."""
        self._cell.bytes_per_second = bytes_per_second

    def repeat_heartbeats(self, extra: int) -> None:
        """Have `extra` more follow each heartbeat of the server: many idle days in seconds."""
        self._cell.extra_heartbeats = extra

    def refuse(self) -> None:
        """Refuse new connections; those that exist stay."""
        self._run(self._cell.refuse())

    def accept(self) -> None:
        """Take new connections again, at the same port."""
        self._run(self._cell.listen())

    def stop(self) -> None:
        """Refuse new connections and reset all others."""
        self._run(self._cell.stop())

    def seen(self, kind: str, side: str | None = None) -> list[RelayEvent]:
        """Return the events so far of one kind, from one side or from any."""
        return [
            event
            for event in list(self.events)
            if event.kind == kind and side in (None, event.side)
        ]

    @property
    def errors(self) -> list[RelayEvent]:
        """Return the events about incomplete AMQP frames."""
        return [event for event in list(self.events) if event.is_error]

    def wait_for(
        self, kind: str, side: str | None = None, *, count: int = 1, limit: float = 30.0
    ) -> list[RelayEvent]:
        """Wait until `count` such events have been seen; return them all.

        Raises:
            TimeoutError: fewer had been after `limit` seconds.
        """
        with self._news:
            if self._news.wait_for(lambda: len(self.seen(kind, side)) >= count, limit):
                return self.seen(kind, side)
        tally = Counter(f"{event.kind} {event.side}".strip() for event in list(self.events))
        in_all = ", ".join(f"{number} {what}" for what, number in tally.items()) or "nothing"
        raise TimeoutError(
            f"{len(self.seen(kind, side))} of {count} events {kind!r} from {side or 'any side'} "
            f"after {limit:g} s; seen in all: {in_all}"
        )

    def _heard(self, event: RelayEvent) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def _set_mode(self, mode: Mode, sides: Collection[str] = SIDES) -> None:
        async def change() -> None:
            self._cell.set_mode(mode, sides)

        self._run(change())

    def _run(self, command: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(command, self._loop).result(_COMMAND_LIMIT)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_COMMAND_LIMIT)
        self._loop.close()


def _listen_argument(text: str) -> tuple[str, int]:
    name, _, port = text.rpartition("=")
    if not name or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PORT")
    return name, int(port)


def _target_argument(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _print_event(event: RelayEvent) -> None:
    line = {key: value for key, value in dataclasses.asdict(event).items() if value != ""}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _serve(listen: list[tuple[str, int]], target: tuple[str, int], host: str) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    cells = [Cell(target, _print_event, listen=(host, port), name=name) for name, port in listen]
    for cell in cells:
        await cell.listen()
        _print_event(
            RelayEvent("listening", "", cell.name, 0, time.time(), detail=str(cell.address[1]))
        )
    await over.wait()
    # Each connection reports its totals when it is closed.
    for cell in cells:
        await cell.close()


def main() -> None:
    """Relay until SIGTERM or SIGINT, with events as JSON lines on standard output."""
    parser = argparse.ArgumentParser(prog="python -m wsgi_harness.wire.relay", description=__doc__)
    parser.add_argument("--listen", action="append", required=True, type=_listen_argument)
    parser.add_argument("--target", required=True, type=_target_argument)
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.listen, arguments.target, arguments.host))


if __name__ == "__main__":
    main()
