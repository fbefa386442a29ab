"""A real Celery worker under `hbshim run`: its pool forks, idles, and goes on working."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until

HERE = Path(__file__).parent

# Three calls, each after 4 T in which nothing is published: producers of Celery's
# pool send no heartbeat of their own.
CALLER = """
import time
from celery_app import nap
for _ in range(3):
    print(nap.delay(2).get(timeout=30))
    time.sleep(4)
"""


@pytest.mark.parametrize("pool", ["prefork", "eventlet", "gevent"])
def test_a_worker_and_its_caller_survive_silence(broker, tmp_path, pool):
    environment = {
        **os.environ,
        "URL": broker.amqp_url(),
        "QUEUE": f"hbshim-celery-{pool}-{os.getpid()}",
        "PYTHONPATH": str(HERE),
        "PYTHONWARNINGS": "ignore",
        "HBSHIM_HEARTBEAT": "1",
    }
    log = tmp_path / "worker.log"
    hbshim = [sys.executable, "-m", "hbshim.cli", "run", "--"]
    # Without mingle, which hangs in Celery 5.7 itself when a worker starts alone.
    worker_argv = ["celery", "-A", "celery_app", "worker", "-P", pool, "-c", "1", "-l", "info"]
    argv = [*hbshim, sys.executable, "-m", *worker_argv, "--without-mingle", "--without-gossip"]
    with log.open("w") as sink:
        worker = subprocess.Popen(argv, env=environment, stdout=sink, stderr=sink)
        try:
            wait_until(lambda: "ready." in log.read_text(), timeout=60)
            done = subprocess.run(
                [*hbshim, sys.executable, "-c", CALLER],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            # Celery's green pools do not end on SIGTERM, with or without hbshim; they
            # have no children to leave behind, as prefork has.
            worker.terminate() if pool == "prefork" else worker.kill()
            worker.wait(30)
    assert len(done.stdout.split()) == 3, done.stderr + log.read_text()
    assert "onnection to broker lost" not in log.read_text()
    assert broker.password not in log.read_text()
