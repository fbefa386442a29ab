"""How each fault is made to happen, and how it is ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.stress.chaos.faults import FaultKind, Scope
from tests.stress.chaos.processes import Application
from wsgi_harness.stack.stack import BROKER, Stack
from wsgi_harness.wire.relay import Relay

_SLOW = 4096
_HOUR = 3600.0
_CTL_LIMIT = 60.0
#: Any value that is below what a node needs; and RabbitMQ's own default.
_TOO_LITTLE, _DEFAULT = "0.000001", "0.4"

#: Begins a fault that lasts for so many seconds; returns what ends it.
Begin = Callable[[float], Callable[[], None]]


def _nothing() -> None:
    return None


class Actions:
    """Carries faults out on relays, a broker and applications.

    Parameters:
        stack: holds the broker; None where no fault of the broker is asked for.
        zones: the relays by name.
        processes: the applications by name.
        store: makes the broker write the messages that it has to its disk.
    """

    def __init__(
        self,
        stack: Stack | None,
        zones: Mapping[str, Relay],
        processes: Mapping[str, Application],
        store: Callable[[], None],
    ) -> None:
        self._stack = stack
        self._store = store
        self._zones = zones
        self._processes = processes

    def begin(self, kind: FaultKind, target: str, seconds: float) -> Callable[[], None]:
        """Begin a fault; return what ends it. Both return when the fault has taken effect."""
        if kind.scope is Scope.ZONE:
            return self._zone(kind.name, self._zones[target])
        if kind.scope is Scope.PROCESS:
            return self._process(kind.name, self._processes[target], seconds)
        assert self._stack is not None
        return self._broker(kind.name, self._stack)

    def _zone(self, name: str, relay: Relay) -> Callable[[], None]:
        if name == "reset":
            relay.reset()
            return _nothing
        if name == "outage":
            relay.stop()
            return relay.accept
        if name == "slow":
            relay.slow(_SLOW)
            return lambda: relay.slow(None)
        begin: Mapping[str, Callable[[], None]] = {
            "deaf": relay.deaf,
            "hiccup": relay.deaf,
            "swallow": lambda: relay.deaf(swallow=True),
            "vanish": relay.vanish,
            "deaf-to-client": lambda: relay.deaf(sides=["client"]),
            "deaf-to-broker": lambda: relay.deaf(sides=["server"]),
        }
        begin[name]()
        return relay.resume

    def _process(self, name: str, application: Application, seconds: float) -> Callable[[], None]:
        if name in ("stopped", "nap"):
            application.stop()
            return application.go_on
        command = {
            "hub-blocked": {"do": "block", "seconds": seconds},
            "computing": {"do": "burn", "seconds": seconds},
            "clock-ahead": {"do": "jump", "seconds": _HOUR},
            "clock-back": {"do": "jump", "seconds": -_HOUR},
        }[name]
        application.send(command)
        return _nothing

    def _broker(self, name: str, stack: Stack) -> Callable[[], None]:
        if name == "broker-paused":
            stack.pause(BROKER)
            return lambda: stack.unpause(BROKER)
        if name == "broker-stopped":
            _control(stack, "stop_app")
            return lambda: _control(stack, "start_app")
        if name == "broker-killed":
            # RabbitMQ 4 keeps unconfirmed messages in memory, for as long as a queue is busy: they
            # would be lost with it, however early they arrived, and hide what hbshim loses.
            self._store()
            stack.kill(BROKER)
            return self._start_again
        _control(stack, "set_vm_memory_high_watermark", _TOO_LITTLE)
        return lambda: _control(stack, "set_vm_memory_high_watermark", _DEFAULT)

    def _start_again(self) -> None:
        assert self._stack is not None
        self._stack.start(BROKER)
        broker = self._stack.broker
        for relay in self._zones.values():
            relay.dial_to(broker.host, broker.amqp_port)


def _control(stack: Stack, *arguments: str) -> None:
    # The cookie that lets the tool in lies in this directory.
    argv = ["env", "HOME=/var/lib/rabbitmq", "rabbitmqctl", *arguments]
    stack.exec(BROKER, argv, timeout=_CTL_LIMIT)
