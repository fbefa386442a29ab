"""Versions that hbshim does not know: of oslo.messaging refused, of a client library left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.stress.child import clean_environment
from tests.stress.oslo.environments import FORMER_VERSION, former_package

PRELUDE = """
import importlib.metadata, sys
real = importlib.metadata.version
def pretend(name):
    return sys.argv[1] if name == "oslo.messaging" else real(name)
importlib.metadata.version = pretend
import oslo_messaging
from oslo_config import cfg
cfg.CONF([], project="hbshim")
"""

LOAD = """
try:
    oslo_messaging.get_rpc_transport(cfg.CONF, "hbrabbit://nobody:secret@127.0.0.1:1/")
except oslo_messaging.DriverLoadFailure as error:
    print(type(error.__cause__).__name__, error)
else:
    print("loaded")
"""

CONNECT = """
import amqp, hbshim, logging, time
amqp.__version__ = "9.0"
logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stdout, level=logging.WARNING)
transport = oslo_messaging.get_rpc_transport(cfg.CONF, sys.argv[2])
class Endpoint:
    def echo(self, ctxt):
        return "answered"
target = oslo_messaging.Target(topic=sys.argv[3], server="here")
server = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor="threading")
server.start()
client = oslo_messaging.get_rpc_client(
    transport, oslo_messaging.Target(topic=sys.argv[3]), timeout=60
)
print(client.call({}, "echo"))
import threading
print([each.name for each in threading.enumerate()])
hbshim.status()
server.stop()
"""


def run(code: str, *argv: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code, *argv],
        capture_output=True,
        text=True,
        timeout=150,
        env=clean_environment(**environment),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["17.2.0", "19.0.0"])
def test_an_oslo_messaging_of_an_unknown_version(version: str) -> None:
    said = run(LOAD, version)
    assert said.startswith('UnsupportedVersionError Failed to load transport driver "hbrabbit"')
    assert f"does not know oslo.messaging {version}" in said
    assert "secret" not in said


@pytest.mark.parametrize("version", ["17.3.0", "18.3.1", "18.9.0"])
def test_those_between_are_taken(version: str) -> None:
    assert run(LOAD, version) == "loaded\n"


def test_a_client_library_of_an_unknown_version_is_left_alone(url: Callable[..., str]) -> None:
    """As without hbshim: calls work, oslo.messaging sends heartbeats. The log has the reason."""
    said = run(CONNECT, "18.3.1", url("hbrabbit"), f"versions-{os.getpid()}")
    assert "answered" in said.splitlines()
    assert "hbshim does not know amqp 9.0" in said
    assert "'Rabbit-heartbeat'" in said


AMQP = """
transport = oslo_messaging.get_rpc_transport(cfg.CONF, "amqp://nobody:secret@127.0.0.1:1/")
print(type(transport._driver).__module__)
"""


def test_an_older_oslo_messaging_keeps_its_own_amqp() -> None:
    """Two distributions have the entry point; without giving way, stevedore refuses both."""
    package = former_package(lambda _text: None)
    path = os.pathsep.join([str(package), clean_environment()["PYTHONPATH"]])
    found = run(AMQP, f"{FORMER_VERSION}.0", PYTHONPATH=path)
    assert found == "oslo_messaging._drivers.impl_amqp1\n"
    stays = "import hbshim.adapters.stevedore\nhbshim.adapters.stevedore.give_way = print\n"
    refused = run(stays + LOAD.replace("hbrabbit", "amqp"), f"{FORMER_VERSION}.0", PYTHONPATH=path)
    assert "ProtonDriver" in refused.partition("Failed to load")[2]


def test_a_newer_one_has_hbshims() -> None:
    assert run(AMQP, "18.3.1") == "hbshim.oslo.amqp1_driver\n"
