"""A driver that its process used before it forked serves parent and child."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hbshim.messaging.amqp.driver import AmqpDriver
from hbshim.messaging.target import Target


def sockets() -> set[str]:
    """What sockets this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue  # that of the directory itself
    return {name for name in found if name.startswith("socket:")}


@pytest.mark.filterwarnings("ignore:[\\s\\S]*fork\\(\\):DeprecationWarning")
def test_a_child_connects_anew_and_keeps_nothing_of_its_parents(
    driver: AmqpDriver, target: Target
) -> None:
    others = sockets()
    driver.declare_queue(target)
    inherited = sockets() - others
    assert inherited
    child = os.fork()
    if child == 0:
        # Nothing of pytest's may run in here, whatever happens.
        code = 1
        try:
            driver.declare_queue(target)
            code = 2 if inherited & sockets() else 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert inherited <= sockets()
    assert driver.delete_queue(target) == 0
    assert inherited <= sockets(), "the parent's connection did not survive"
