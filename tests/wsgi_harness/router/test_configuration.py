"""The configuration that the test router reads."""

from __future__ import annotations

import json

import pytest

from wsgi_harness.router.addresses import Distribution, Rule, distribution_of
from wsgi_harness.router.configuration import DIALECTS, ConfigurationError, load

SKUPPER, DISPATCH = DIALECTS["skupper"], DIALECTS["dispatch"]
ROUTER = ["router", {"id": "x"}]


def test_values_have_the_types_of_their_attributes() -> None:
    listener = {"port": 5672, "authenticatePeer": "yes", "idleTimeoutSeconds": "4"}
    found = load(json.dumps([ROUTER, ["listener", listener]]), SKUPPER).listeners[0]
    assert (found.port, found.authenticate_peer, found.idle_timeout_seconds) == ("5672", True, 4)
    assert found.link_capacity == 250


def test_maps_in_lines() -> None:
    text = """
        router {
            id: x
        }
        vhost {
            hostname: alpha
            groups: {
                "services": {
                    "users": "nova",
                    "remoteHosts": "*"
                }
            }
        }
    """
    vhost = load(text, SKUPPER).vhosts[0]
    assert vhost.hostname == "alpha"
    assert vhost.groups["services"].users == "nova"


def test_each_dialect_has_its_own_names() -> None:
    old = json.dumps([ROUTER, ["sslProfile", {"name": "tls", "keyFile": "key", "certDb": "ca"}]])
    profile = load(old, DISPATCH).profiles["tls"]
    assert (profile.private_key_file, profile.ca_cert_file) == ("key", "ca")
    with pytest.raises(ConfigurationError, match="sslProfile has no attribute 'keyFile'"):
        load(old, SKUPPER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no entity 'router'"),
        ("[", "is not JSON"),
        ('[["queue", {}]]', "no entity 'queue'"),
        ('[["listener", {"port": 1, "requireSsl": "perhaps"}]]', "must be yes or no"),
        ('[["listener", {"port": 1, "maxSessions": "many"}]]', "must be a number"),
        ('[["address", {"prefix": "x", "distribution": "loud"}]]', "loud"),
        ("router {\n id: x", "ends within an entity"),
        ("router {\n id\n}", "use key: value"),
        ("router", "in no entity"),
        ("vhost {\n groups: {\n", "ends within a map"),
    ],
)
def test_errors_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(text, SKUPPER)


def test_a_prefix_ends_where_a_part_ends() -> None:
    rules = [Rule("a", Distribution.MULTICAST), Rule("a/b", Distribution.CLOSEST)]
    names = ("a", "a/x", "a.x", "ab", "a/b", "a/b/c", "a/bc")
    found = [distribution_of(name, rules, Distribution.BALANCED).value for name in names]
    assert found == [
        "multicast",
        "multicast",
        "multicast",
        "balanced",
        "closest",
        "closest",
        "multicast",
    ]
