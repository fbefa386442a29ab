"""A service with oslo.messaging, in an interpreter of its own, steered line by line.

    python -m tests.stress.oslo.program green|native

reads one command per line of JSON and answers each with one line. Its hub runs while it
waits for the next, as a service's does. It needs oslo.messaging and hbshim, of whatever
versions its interpreter has, and no more of the harness. See :mod:`.processes` for its
other end.
"""
# ruff: noqa: E402 - patch first, import later.

import sys

MODEL = sys.argv[1]
if MODEL == "green":
    import eventlet

    eventlet.monkey_patch()

import json
import os
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import oslo_messaging
from oslo_config import cfg

import hbshim
from hbshim.runtime.unpatched import original

EXECUTOR = {"green": "eventlet", "native": "threading"}[MODEL]
GROUP = "oslo_messaging_rabbit"


def server_name() -> str:
    return f"server-{os.getpid()}"


class Endpoint:
    """What a server answers with, and what it has been told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def echo(self, _context: Any, value: Any) -> Any:
        return value

    def hear(self, _context: Any, value: Any) -> None:
        self.heard.append(value)

    def fail(self, _context: Any, text: str) -> None:
        raise ValueError(text)

    def name(self, _context: Any) -> str:
        return server_name()

    def echo_late(self, _context: Any, value: Any, seconds: float) -> Any:
        time.sleep(seconds)
        return value

    def info(
        self, _context: Any, _publisher: Any, _event: Any, payload: Any, _metadata: Any
    ) -> None:
        self.heard.append(payload)


class Batches:
    """Hears how large each batch is."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def info(self, messages: list[Any]) -> None:
        self._endpoint.heard.append(len(messages))


class Callers:
    """Threads, green in a green model, that call on and on."""

    def __init__(self, client: Any, number: int, pause: float) -> None:
        #: When each answered call began and ended, for each caller.
        self.answered: list[list[tuple[float, float]]] = [[] for _ in range(number)]
        self.errors: dict[str, int] = {}
        self._client = client
        self._pause = pause
        for index in range(number):
            threading.Thread(target=self._call, args=(index,), daemon=True).start()

    def _call(self, index: int) -> None:
        while True:
            began = time.time()
            try:
                self._client.call({}, "echo", value=index)
            except Exception as error:
                name = type(error).__name__
                self.errors[name] = self.errors.get(name, 0) + 1
            else:
                self.answered[index].append((began, time.time()))
            time.sleep(self._pause)


class Program:
    """Each method without an underscore is a command."""

    def __init__(self) -> None:
        self._endpoint = Endpoint()
        self._servers: list[Any] = []
        self._transports: list[Any] = []
        self._client: Any = None
        self._notifier: Any = None
        self._callers: Callers | None = None

    def configure(self, lines: list[str]) -> None:
        """Read a configuration file with these lines."""
        path = f"/tmp/hbshim-oslo-{os.getpid()}.conf"
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
        try:
            cfg.CONF([], project="hbshim", default_config_files=[path])
        finally:
            os.unlink(path)

    def open(
        self,
        url: str,
        topic: str,
        *,
        news: str | None = None,
        timeout: float = 20.0,
        retry: int | None = None,
        news_retry: int = 3,
    ) -> None:
        """Make a client of `topic`, and a notifier, whose URL is `news` if it is another one."""
        transport = self._transport(url)
        target = oslo_messaging.Target(topic=topic)
        self._client = oslo_messaging.get_rpc_client(
            transport, target, timeout=timeout, retry=retry
        )
        notifications = self._notifications(news or url)
        self._notifier = oslo_messaging.Notifier(
            notifications,
            "hbshim",
            driver="messagingv2",
            topics=[f"{topic}-news"],
            retry=news_retry,
        )

    def serve(self, url: str, topic: str, *, news: str | None = None) -> None:
        """Serve `topic`, and listen to what is notified there."""
        transport = self._transport(url)
        target = oslo_messaging.Target(topic=topic, server=server_name())
        rpc = oslo_messaging.get_rpc_server(transport, target, [self._endpoint], executor=EXECUTOR)
        listener = oslo_messaging.get_notification_listener(
            self._notifications(news or url),
            [oslo_messaging.Target(topic=f"{topic}-news")],
            [self._endpoint],
            executor=EXECUTOR,
        )
        for server in (rpc, listener):
            server.start()
            self._servers.append(server)

    def serve_batches(self, url: str, topic: str, size: int) -> None:
        """Listen to what is notified to `topic`, in batches."""
        listener = oslo_messaging.get_batch_notification_listener(
            self._notifications(url),
            [oslo_messaging.Target(topic=f"{topic}-news")],
            [Batches(self._endpoint)],
            executor=EXECUTOR,
            batch_size=size,
            batch_timeout=60,
        )
        listener.start()
        self._servers.append(listener)

    def call(self, value: Any, method: str = "echo") -> Any:
        return self._client.call({}, method, value=value)

    def call_to_server(self, value: Any) -> Any:
        """Call the server that was called last, by its name."""
        name = self._client.call({}, "name")
        return self._client.prepare(server=name).call({}, "echo", value=value)

    def call_monitored(self, value: Any, seconds: float, timeout: float) -> Any:
        """Call a method that takes `seconds`, with a keepalive at the latest after `timeout`."""
        client = self._client.prepare(call_monitor_timeout=timeout)
        return client.call({}, "echo_late", value=value, seconds=seconds)

    def cast(self, value: Any) -> None:
        self._client.cast({}, "hear", value=value)

    def cast_from_child(self, value: Any) -> int:
        """Cast from a forked child, over the connections that it inherits; its exit status."""
        pid = os.fork()
        if not pid:
            try:
                self.cast(value)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)

    def fanout(self, value: Any) -> None:
        self._client.prepare(fanout=True).cast({}, "hear", value=value)

    def notify(self, value: Any) -> None:
        self._notifier.info({}, "hbshim.test", value)

    def fail(self, text: str) -> None:
        self._client.call({}, "fail", text=text)

    def heard(self) -> list[Any]:
        return self._endpoint.heard

    def start_callers(self, number: int, pause: float = 0.5) -> None:
        self._callers = Callers(self._client, number, pause)

    def callers(self, since: float) -> dict[str, Any]:
        """How many callers there are; when each had the first answer to a call that began later
        than `since`; how many errors of a kind there were."""
        assert self._callers is not None
        answered = self._callers.answered
        first = [next((end for began, end in each if began > since), None) for each in answered]
        return {
            "number": len(answered),
            "answers": [end for end in first if end is not None],
            "errors": self._callers.errors,
        }

    def block(self, seconds: float) -> None:
        """Stand still, with the hub and every green thread."""
        original("time", "sleep")(seconds)

    def report(self) -> dict[str, Any]:
        """What hbshim does here, which threads run, and whose primitives oslo.messaging uses."""
        from oslo_messaging._drivers import amqpdriver, impl_rabbit

        return {
            "status": hbshim.status().as_dict(),
            "threads": [thread.name for thread in threading.enumerate()],
            "replaced": amqpdriver.threading is not threading
            or impl_rabbit.threading is not threading,
        }

    def close(self) -> None:
        for server in self._servers:
            server.stop()
            server.wait()
        for transport in self._transports:
            transport.cleanup()
        self._servers, self._transports = [], []

    def _transport(self, url: str) -> Any:
        transport = oslo_messaging.get_rpc_transport(cfg.CONF, url)
        self._transports.append(transport)
        return transport

    def _notifications(self, url: str) -> Any:
        transport = oslo_messaging.get_notification_transport(cfg.CONF, url)
        self._transports.append(transport)
        return transport


def answer(program: Program, command: dict[str, Any]) -> dict[str, Any]:
    """Do a command."""
    try:
        return {"ok": getattr(program, command.pop("do"))(**command)}
    except Exception as error:
        return {
            "error": f"{type(error).__module__}.{type(error).__qualname__}",
            "message": str(error),
            "traceback": traceback.format_exc(),
        }


def commands() -> Iterator[str]:
    """The lines of standard input; the hub runs while none has come."""
    rest = b""
    while True:
        if MODEL == "green":
            from eventlet.hubs import trampoline

            trampoline(0, read=True)
        chunk = original("os", "read")(0, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode() for line in lines)


def main() -> None:
    program = Program()
    for line in commands():
        sys.stdout.write(json.dumps(answer(program, json.loads(line))) + "\n")
        sys.stdout.flush()
    # It is over: end without a word, whatever state the connections are in.
    os._exit(0)


if __name__ == "__main__":
    main()
