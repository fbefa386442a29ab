"""Machines: network namespaces that a bridge joins, and what breaks the network between them.

Where namespaces are refused, a machine is a loopback address, and tests that break the network are
skipped. :data:`SETUP` says which it is, and is part of the names of the tests.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass
from types import TracebackType

import pytest

from tests.messaging.zmq.nodes import LIMIT, Node, own_address

_numbers = itertools.count(1)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@functools.cache
def refusal() -> str | None:
    """Return why there can be no namespaces; None: there can."""
    for command in ("ip", "iptables"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    name = f"hbz{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "bridge0", "type", "bridge")
        _ip("netns", "exec", name, "iptables", "-w", "-L", "-n")
    except OSError as error:
        return str(error)
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return None


#: How the machines are made here.
SETUP = "namespaces" if refusal() is None else "loopback"


@dataclass(eq=False)
class Machine:
    """A machine.

    Attributes:
        namespace: its name; empty on a loopback address.
    """

    address: str
    namespace: str = ""

    @property
    def within(self) -> tuple[str, ...]:
        """What a command begins with that runs here."""
        return ("ip", "netns", "exec", self.namespace) if self.namespace else ()

    def node(self) -> Node:
        """Return a host here; its proxy does not run yet."""
        return Node(self.address, self.within)

    def drop_from(self, other: Machine) -> None:
        """Have every packet from another machine vanish on its way here."""
        self._filter("-A", "INPUT", "-s", other.address, "-j", "DROP")

    def hear_from(self, other: Machine) -> None:
        """End :meth:`drop_from` for one machine, if that was begun."""
        rule = ("INPUT", "-s", other.address, "-j", "DROP")
        # Without one there is nothing to end.
        command = [*self.within, "iptables", "-w", "-D", *rule]
        subprocess.run(command, check=False, capture_output=True, timeout=LIMIT)

    def reset_from(self, other: Machine, share: float) -> None:
        """Have a share of the packets from another machine reset their connections."""
        self._filter(
            *("-A", "INPUT", "-s", other.address, "-p", "tcp", "-m", "statistic"),
            *("--mode", "random", "--probability", str(share)),
            *("-j", "REJECT", "--reject-with", "tcp-reset"),
        )

    def heal(self) -> None:
        """End what was begun by the others."""
        self._filter("-F")

    def _filter(self, *arguments: str) -> None:
        if not self.namespace:
            pytest.skip(f"no network namespaces here: {refusal()}")
        subprocess.run([*self.within, "iptables", "-w", *arguments], check=True, timeout=LIMIT)


class Network:
    """Machines that reach each other; a context manager.

    Parameters:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._prefix = f"hbz{os.getpid()}-{next(_numbers)}"
        self.machines: list[Machine] = []
        self._count = count

    def __enter__(self) -> Network:
        if refusal() is not None:
            self.machines = [Machine(own_address()) for _ in range(self._count)]
            return self
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _make(self) -> None:
        bridge = f"{self._prefix}-bridge"
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "bridge0", "up")
        for number in range(1, self._count + 1):
            name = f"{self._prefix}-{number}"
            _ip("netns", "add", name)
            machine = Machine(f"10.99.0.{number}", name)
            self.machines.append(machine)
            peer = ("type", "veth", "peer", "name", f"port{number}", "netns", bridge)
            _ip("link", "add", "net0", "netns", name, *peer)
            _ip("-n", bridge, "link", "set", f"port{number}", "master", "bridge0", "up")
            _ip("-n", name, "address", "add", f"{machine.address}/24", "dev", "net0")
            _ip("-n", name, "link", "set", "net0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        names = [each.namespace for each in self.machines if each.namespace]
        for name in [*names, f"{self._prefix}-bridge"] if names else []:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def give_address(self, of: Machine, to: Machine) -> None:
        """Have one machine lose its address, and another one take it."""
        if of.namespace:
            _ip("-n", of.namespace, "address", "delete", f"{of.address}/24", "dev", "net0")
            _ip("-n", to.namespace, "address", "add", f"{of.address}/24", "dev", "net0")
            for machine in self.machines:
                _ip("-n", machine.namespace, "neighbour", "flush", "all")
