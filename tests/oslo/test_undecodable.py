"""What oslo.messaging did not send is rejected, and what comes with it is handled."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.stress.child import clean_environment

# In a process of its own: oslo.messaging may import eventlet.
RECEIVES = """
import json
from hbshim.messaging.base import Payload
from hbshim.messaging.encoding import Encoding
from hbshim.oslo.incoming import OsloListener

class Incoming:
    message_id = "one"

    def __init__(self, body, content_type="application/json"):
        self.payload = Payload(body, content_type)
        self.rejected = ""

    def reject(self, reason):
        self.rejected = reason

messages = [
    Incoming(b"{"),
    Incoming(b"[" * 100_000),
    Incoming(b"[]"),
    Incoming(b"null"),
    Incoming(b'{"ctxt": {}}'),
    Incoming(b"{}", "application/x-of-tomorrow"),
    Incoming(b'{"ctxt": {}, "message": {"method": "m"}}'),
]

class Listener:
    def poll(self, *_arguments):
        return messages

received = OsloListener(Listener(), Encoding(), 1).poll(0)
print(json.dumps([each.message for each in received]))
print(json.dumps([each.rejected for each in messages]))
"""


def test_messages_that_are_not_oslo_messagings() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RECEIVES],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    received, rejected = map(json.loads, done.stdout.splitlines())
    assert received == [{"method": "m"}]
    *bad, good = rejected
    assert good == ""
    not_valid, no_request = "a message of", "it is not a message of oslo.messaging's"
    expected = [not_valid, not_valid, no_request, no_request, no_request, not_valid]
    for reason, beginning in zip(bad, expected, strict=True):
        assert reason.startswith(beginning)
    assert done.stderr.count("was rejected") == 6
