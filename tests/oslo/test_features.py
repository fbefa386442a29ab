"""What a server or listener needs of a transport: the driver is asked whether it can do it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.child import clean_environment

# In a process of its own: oslo.messaging may import eventlet.
ASKS = """
import sys
import oslo_messaging
from oslo_config import cfg
from hbshim.messaging import Capabilities

conf = cfg.ConfigOpts()
conf([], default_config_files=[])
driver = oslo_messaging.get_notification_transport(conf, url=sys.argv[1])._driver
driver.require_features(requeue=True)
print("supported")
driver._driver.capabilities = Capabilities()
driver.require_features()
try:
    driver.require_features(requeue=True)
except NotImplementedError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "url", ["hbkombu://host/", "hbpika://host/", "hbzmq://host/?notification_acks=true"]
)
def test_requeueing_is_refused_where_the_driver_cannot_do_it(url: str) -> None:
    checkout = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASKS, url],
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean_environment(), "PYTHONPATH": checkout},
        check=False,
    )
    supported, refused = done.stdout.splitlines()
    assert supported == "supported", done.stderr
    assert refused.startswith("this transport cannot requeue messages; with hbzmq://, set "), (
        done.stderr
    )
