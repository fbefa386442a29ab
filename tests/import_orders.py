"""Imports each module of hbshim as the first after install(), or installs after each of them.

Each order has a process of its own, forked from one that has imported no client library.
Prints what failed, then "done N".
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator

import hbshim

#: Every module of these may import a client library.
PACKAGES = ("adapters",)
#: What else a program imports.
SINGLE = ("messaging.kombu", "messaging.pika", "messaging", "oslo.entry", "doctor", "cli")
LIBRARIES = ("kombu", "amqp", "pika")


def modules() -> Iterator[str]:
    """Names of the modules to try; those beneath a package's __main__ are programs."""
    for name in SINGLE:
        yield f"hbshim.{name}"
    for package in PACKAGES:
        path = [os.path.join(hbshim.__path__[0], *package.split("."))]
        yield f"hbshim.{package}"
        for found in pkgutil.walk_packages(path, f"hbshim.{package}."):
            if not found.name.endswith("__main__"):
                yield found.name


def unprepared() -> list[str]:
    """Names of the client libraries that are loaded and not wrapped."""
    found = []
    if "amqp" in sys.modules:
        found += [] if hasattr(sys.modules["amqp"].Connection.connect, "__wrapped__") else ["amqp"]
    if "kombu.connection" in sys.modules:
        kind = sys.modules["kombu.connection"].Connection
        found += [] if hasattr(kind._establish_connection, "__wrapped__") else ["kombu"]
        found += [] if hasattr(kind.__init__, "__wrapped__") else ["kombu's URLs"]
    if "pika" in sys.modules:
        kind = sys.modules["pika.connection"].Connection
        found += [] if hasattr(kind._create_heartbeat_checker, "__wrapped__") else ["pika"]
    return found


def attempt(order: str, name: str) -> None:
    if order == "install first":
        hbshim.install()
        importlib.import_module(name)
    else:
        importlib.import_module(name)
        hbshim.install()
    assert not unprepared(), unprepared()
    assert [event.kind for event in hbshim.take_events()] == []
    module = sys.modules[name]
    assert type(module.__spec__.loader).__module__ != "hbshim._import_hooks"
    assert module.__loader__ is module.__spec__.loader


def main(order: str) -> None:
    assert not {*LIBRARIES} & set(sys.modules)
    names = list(modules())
    for name in names:
        child = os.fork()
        if not child:
            try:
                attempt(order, name)
            except BaseException:
                sys.stdout.write(f"{order} {name} {traceback.format_exc()}\n")
                sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
    sys.stdout.write(f"done {len(names)}\n")


main(sys.argv[1])
