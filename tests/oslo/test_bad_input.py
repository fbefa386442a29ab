"""What goes wrong under hbshim's drivers over RabbitMQ comes as oslo.messaging's own exceptions."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stress.child import clean_environment
from wsgi_harness.stack.broker import Broker

SCHEMES = ("hbkombu", "hbpika", "hbamqp")
SECRET = "a-password-that-is-never-printed"
PROGRAM = Path(__file__).with_name("bad_input.py")

#: For each case: the exception, its text, and the seconds that it may take. Those
#: that need no answer of the broker's take as long as the machine is busy.
EXPECTED = {
    "all hosts unreachable, call": ("MessagingTimeout|MessageDeliveryFailure", "127.0.0.1", 20),
    "all hosts unreachable, cast": ("MessageDeliveryFailure", "127.0.0.1", 20),
    "all hosts unreachable, cast with a timeout": ("MessagingTimeout", "127.0.0.1", 20),
    "refused credentials": ("MessageDeliveryFailure", "credentials", 20),
    "missing virtual host": ("MessageDeliveryFailure", "no-such-virtual-host", 20),
    "no server": ("MessagingTimeout", "not answered", 20),
    "no server, at least once": ("MessageUndeliverable", "", 9),
    "no server, cast at least once": ("MessageUndeliverable", "", 9),
    "no server, fanout at least once": ("no error", "", 9),
    "refused credentials, listener": ("MessageDeliveryFailure", "credentials", 20),
    "exchange of another type": ("MessageDeliveryFailure", "another", 20),
    "target that no queue can be named after": ("InvalidTarget", "use another one", 20),
    "server of a long name": ("no error|MessageUndeliverable", "", 20),
    "payload that cannot be serialised": ("PayloadFailure", "cannot be encoded", 20),
    "payload that is too large": ("PayloadFailure", "payload_limit", 20),
    "unknown option": ("DriverLoadFailure", "no_such_option", 20),
    "wrong type": ("DriverLoadFailure", "pool_max_size", 20),
    "endpoint raises": ("KeyError", "missing", 9),
    "endpoint raises another's": ("RemoteError", "no one allowed", 9),
    "result not serialisable": ("RemoteError", "cannot be encoded", 9),
    "no such method": ("RemoteError", "missing", 9),
}


@functools.cache
def outcomes(scheme: str, url: str) -> tuple[dict[str, dict[str, Any]], str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PROGRAM, scheme, url, SECRET],
        capture_output=True,
        text=True,
        timeout=200,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == EXPECTED.keys()
    return found, done.stderr


@pytest.fixture(scope="module", params=SCHEMES)
def outcome(
    request: pytest.FixtureRequest, broker: Broker
) -> tuple[dict[str, dict[str, Any]], str]:
    url = broker.amqp_url().replace("amqp://", f"{request.param}://").removesuffix("%2F")
    return outcomes(request.param, url)


@pytest.mark.parametrize("case", EXPECTED)
def test_it_is_reported_in_its_own_terms(
    outcome: tuple[dict[str, dict[str, Any]], str], case: str
) -> None:
    found = outcome[0][case]
    kinds, text, limit = EXPECTED[case]
    names = {kind.rpartition(".")[2] for kind in found["kinds"]}
    assert names & set(kinds.split("|")), found
    assert text in found["text"], found
    assert found["seconds"] < limit


def test_every_host_is_named_with_its_reason(
    outcome: tuple[dict[str, dict[str, Any]], str],
) -> None:
    text = outcome[0]["all hosts unreachable, cast"]["text"]
    assert text.count("connection refused") == 2, text


def test_no_password_is_reported(
    outcome: tuple[dict[str, dict[str, Any]], str],
) -> None:
    found, logged = outcome
    assert SECRET not in json.dumps(found)
    assert SECRET not in logged


def test_a_payload_failure_is_oslos_and_a_value_error(
    outcome: tuple[dict[str, dict[str, Any]], str],
) -> None:
    kinds = outcome[0]["payload that is too large"]["kinds"]
    assert {"oslo_messaging.exceptions.MessagingException", "builtins.ValueError"} <= set(kinds)
