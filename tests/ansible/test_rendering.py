"""What the templates render, by Ansible itself: the routers' dialects and the drivers read it."""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import Any

import pytest

from hbshim.messaging import connect
from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.hybrid import phases
from tests.conftest import broker_is_required
from wsgi_harness.engine.commands import run
from wsgi_harness.roles.environment import COLLECTION, PROJECT, ensure_environment

pytestmark = [pytest.mark.alone, pytest.mark.slow]

PASSWORD = "p@ss/w,o:r%d?&#{}$'\\\" ü {{ no }}"
SERVICES = [
    {"name": "nova", "group": "a", "userid": "nova", "password": PASSWORD, "vhost": "/nova/ä"},
    {"name": "glance", "group": "a", "userid": "glance", "password": "x", "vhost": "glance"},
]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what was rendered."""
    if not broker_is_required():
        pytest.skip("Ansible is not installed here; HBSHIM_REQUIRE_BROKER=1 installs it")
    environment = ensure_environment()
    out = tmp_path_factory.mktemp("rendered")
    hosts: dict[str, dict[str, str]] = {
        name: {} for name in ("router1", "router2", "router3", "mq1")
    }
    inventory = {
        "all": {
            "hosts": hosts,
            "children": {
                "qdrouterd_all": {"hosts": {name: {} for name in hosts if name != "mq1"}},
                "rabbitmq_all": {"hosts": {"mq1": {}}},
            },
        }
    }
    (out / "inventory.json").write_text(json.dumps(inventory))
    # As from a vault: braces in a password are no template.
    lines = [f"roles: {COLLECTION / 'roles'}", f"out: {out}", "services:"]
    for each in SERVICES:
        pairs = [
            f"{key}: {'!unsafe ' if key == 'password' else ''}{json.dumps(value)}"
            for key, value in each.items()
        ]
        lines += [f"  - {pairs[0]}", *(f"    {pair}" for pair in pairs[1:])]
    (out / "variables.yml").write_text("\n".join(lines), encoding="utf-8")
    command = [str(environment.tools / "ansible-playbook"), "-i", str(out / "inventory.json")]
    run(
        [*command, "-e", f"@{out / 'variables.yml'}", str(PROJECT / "render.yml")],
        timeout=300,
        env=environment.variables(),
    )
    return out


@pytest.mark.parametrize("name", ["skupper", "dispatch"])
def test_a_router_reads_its_configuration(rendered: Path, name: str) -> None:
    pytest.importorskip("proton")
    from wsgi_harness.router.configuration import DIALECTS, load
    from wsgi_harness.router.policy import Policy

    made = load((rendered / f"{name}.json").read_text(), DIALECTS[name])
    assert made.router.mode == "interior"
    assert made.router.id == "router2"
    assert {listener.role for listener in made.listeners} == {"normal", "inter-router"}
    for listener in made.listeners:
        assert listener.require_ssl
        assert listener.require_encryption
        assert listener.authenticate_peer
        assert listener.ssl_profile == "router"
        assert "ANONYMOUS" not in str(listener.sasl_mechanisms)
    assert [(each.host, each.sasl_mechanisms) for each in made.connectors] == [
        ("router1", "EXTERNAL")
    ]
    rules = {rule.prefix: rule.distribution.value for rule in made.rules}
    assert rules["openstack.org/om/rpc/multicast"] == "multicast"
    assert rules["openstack.org/om/rpc/anycast"] == "balanced"

    policy = Policy(made.policy, made.vhosts)
    allowed = policy.permissions("/nova/ä", "nova@AMQP", "192.0.2.1")
    assert allowed is not None
    own = "openstack.org/om/rpc/anycast/%2Fnova%2Fä/openstack_rpc/compute"
    other = "openstack.org/om/rpc/anycast/glance/openstack_rpc/compute"
    assert allowed.may_send(own)
    assert allowed.may_receive(own)
    assert not allowed.may_send(other)
    assert not allowed.may_receive(other)
    assert not allowed.may_send("$management")
    assert policy.permissions("glance", "nova@AMQP", "192.0.2.1") is None
    assert policy.permissions("elsewhere", "nova@AMQP", "192.0.2.1") is None
    assert policy.permissions(None, "nova@AMQP", "192.0.2.1") is None


@pytest.mark.parametrize("phase", [*phases.NAMES, "router"])
def test_the_drivers_read_the_urls_of_a_phase(rendered: Path, phase: str) -> None:
    parser = configparser.RawConfigParser(delimiters=["="])
    parser.read_string((rendered / f"{phase}.conf").read_text(encoding="utf-8"))
    rpc = parser.get("DEFAULT", "transport_url")
    notifications = parser.get("oslo_messaging_notifications", "transport_url")
    also = [
        parser.get(section, "listen_also")
        for section in parser.sections()
        if parser.has_option(section, "listen_also")
    ]
    for url in (rpc, notifications, *also):
        hosts = read_hosts(url, 1)
        assert {host.password for host in hosts} == {PASSWORD}
        assert {host.path for host in hosts} == {"/nova/ä"}
        names = {host.hostname for host in hosts}
        assert names == ({"mq1"} if "mq1" in names else {"router1", "router2", "router3"})
    options: dict[str, Any] = {}
    if notifications != rpc:
        options["notifications"] = notifications
    # What contradicts itself is refused here; nothing is connected yet.
    connect(rpc, listen_also=also, **options).close()
