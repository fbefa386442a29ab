"""The command line, as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import holds_at_some_scale
from wsgi_harness.stack.broker import Broker


def hbshim(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hbshim", *argv],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **environment},
    )


def python(code: str) -> tuple[str, str, str, str, str]:
    return (sys.executable, "-W", "ignore", "-c", code)


def test_detect_says_what_it_sees() -> None:
    done = hbshim("detect")
    assert done.returncode == 0
    assert "Heartbeats come from: pthread." in done.stdout


def test_detect_as_json() -> None:
    report = json.loads(hbshim("detect", "--json").stdout)
    assert report["choice"]["worker"] == "pthread"


def test_options_are_printed_with_all_their_names() -> None:
    printed = hbshim("options", COLUMNS="200").stdout
    own, *drivers = printed.split("messaging driver")
    for word in ("heartbeat_in_pthread", "HBSHIM_HEARTBEAT_IN_PTHREAD", "hbshim_worker"):
        assert word in own
    amqp, amqp1, zmq = drivers
    assert "(hbkombu://, hbpika://)" in amqp
    for word in ("pool_max_overflow", "HBSHIM_MESSAGING_POOL_MAX_OVERFLOW", "quorum_queues"):
        assert word in amqp
    assert "(hbamqp://)" in amqp1
    assert "addressing_profile" in amqp1
    assert "(hbzmq://)" in zmq
    assert "zmq_call_port" in zmq


@pytest.mark.parametrize(
    ("argv", "environment", "wanted"),
    [
        (["detect", "--worker", "fiber"], {}, "worker='fiber' is not valid"),
        (["run", "--heartbeat-in-pthread", "maybe", "true"], {}, "use one of: true | false"),
        (["detect"], {"HBSHIM_WORKER": "fiber"}, "worker='fiber' is not valid"),
        (["run", "no-such-program"], {}, "name a program on PATH or a full path"),
    ],
)
def test_bad_input_gets_one_clear_line(
    argv: list[str], environment: dict[str, Any], wanted: str
) -> None:
    done = hbshim(*argv, **environment)
    assert done.returncode != 0
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_run_installs_before_the_programs_first_line() -> None:
    code = "from hbshim import api; print(api.connection_options({}))"
    done = hbshim("run", "--heartbeat-in-pthread", "true", "--", *python(code))
    assert "heartbeat_in_pthread=True" in done.stdout, done.stderr


def test_run_reaches_the_python_processes_that_the_program_starts() -> None:
    code = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-c', "
        "'from hbshim import api; print(api.connection_options({}))'])"
    )
    assert "Options(" in hbshim("run", "--", *python(code)).stdout


def test_run_imports_no_messaging_or_green_library() -> None:
    code = "import sys; print({'amqp', 'kombu', 'pika', 'eventlet', 'gevent'} & set(sys.modules))"
    assert hbshim("run", *python(code)).stdout == "set()\n"


def test_run_hands_the_exit_status_and_the_arguments_on() -> None:
    done = hbshim("run", *python("import sys; print(sys.argv[1:]); sys.exit(7)"), "--worker", "x")
    assert done.returncode == 7
    assert done.stdout == "['--worker', 'x']\n"


def test_run_lets_a_sitecustomize_of_the_programs_own_run(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('theirs')\n")
    done = hbshim("run", *python("print('program')"), PYTHONPATH=str(tmp_path))
    # Once for the command `hbshim` itself, once for the program.
    assert done.stdout == "theirs\ntheirs\nprogram\n"


def test_run_keeps_alive_the_connection_of_a_program_that_never_heard_of_hbshim(
    broker: Broker,
) -> None:
    holds_at_some_scale(lambda t: check_run(broker, int(t)), 1, 4)


def check_run(broker: Broker, t: int) -> None:
    code = f"""
import ctypes, os, pika
connection = pika.BlockingConnection(pika.URLParameters(os.environ["URL"]))
# 5 T in which nothing of this program runs: C code that holds no GIL.
for _ in range(5 * {t}): ctypes.CDLL(None).usleep(999_999)
connection.channel().queue_declare("", exclusive=True)
print("alive")
"""
    url = broker.amqp_url(heartbeat=t)
    kept = hbshim("run", "--", *python(code), URL=url)
    assert kept.stdout == "alive\n", kept.stderr
    lost = subprocess.run(
        python(code), capture_output=True, text=True, env={**os.environ, "URL": url}, timeout=180
    )
    assert lost.stdout == ""
    assert "pika.exceptions" in lost.stderr
