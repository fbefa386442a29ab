"""The collection as data: what it documents is what it has, and what it renders is valid."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.hybrid import phases
from hbshim.messaging.registry import factory
from tests.waiting import wait_until
from wsgi_harness.roles.environment import COLLECTION, PROJECT
from wsgi_harness.roles.hosts import names_in
from wsgi_harness.roles.scenarios import SCENARIOS
from wsgi_harness.roles.secrets import ArgumentWatch, secrets_in

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (COLLECTION / "roles").iterdir())
DIFFICULT = "p@ss/w,o:r%d?&#{}$'\\\" ü"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def plugin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, COLLECTION / "plugins" / "filter" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("role", ROLES)
def test_a_role_documents_each_of_its_variables(role: str) -> None:
    directory = COLLECTION / "roles" / role
    options = loaded(directory / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = loaded(directory / "defaults" / "main.yml")
    documented = {name: each["default"] for name, each in options.items() if "default" in each}
    assert documented == defaults
    assert all(each["description"] for each in options.values())
    assert all(name.startswith(f"{role}_") for name in options)


@pytest.mark.parametrize("scheme", ["hbpika", "hbkombu", "hbamqp", "hbamqps"])
def test_a_url_has_what_the_variables_have(scheme: str) -> None:
    url = plugin("transport_url").transport_url(
        ["mq1", "2001:db8::1"],
        scheme=scheme,
        port=5671,
        userid="nova@AMQP",
        password=DIFFICULT,
        vhost="/nova/ä",
        options={"ssl": True, "ssl_options": "cafile=/etc/ca,verify=true", "payload_limit": None},
    )
    hosts = read_hosts(url, 1)
    assert [(each.hostname, each.port) for each in hosts] == [("mq1", 5671), ("2001:db8::1", 5671)]
    assert {each.username for each in hosts} == {"nova@AMQP"}
    assert {each.password for each in hosts} == {DIFFICULT}
    assert {each.path for each in hosts} == {"/nova/ä"}
    options: Any = factory(scheme).options_class.load(url=url)
    assert options.tls()["cafile"] == "/etc/ca"


def test_a_url_without_hosts_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one host"):
        plugin("transport_url").transport_url(
            [], scheme="hbpika", port=1, userid="u", password="p", vhost="v"
        )


def test_a_url_for_a_login_by_certificate_has_no_login() -> None:
    url = plugin("transport_url").transport_url(
        ["mq1", "mq2"], scheme="hbpika", port=5671, userid="", password="", vhost="/nova"
    )
    assert url == "hbpika://mq1:5671,mq2:5671/%2Fnova"


def test_the_phases_of_the_role_are_those_of_the_driver() -> None:
    table = loaded(COLLECTION / "roles" / "service" / "vars" / "main.yml")["service_phases"]
    assert tuple(table) == (*phases.NAMES, "router")
    for phase in phases.PHASES:
        row = table[phase.name]
        backends = {row["rpc"], row["listen_also"]} - {""}
        both = phase.servers == "both"
        assert backends == ({"rabbitmq", "router"} if both else {row["rpc"]}), phase.name
        assert row["notifications"] == "rabbitmq"


def test_every_scenario_is_one_that_make_roles_runs() -> None:
    found = {path.parent.name for path in (PROJECT / "molecule").glob("*/molecule.yml")}
    assert found == set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_hosts_of_a_scenario_are_those_of_its_inventory(scenario: str) -> None:
    path = PROJECT / "molecule" / scenario / "inventory.yml"
    groups = loaded(path)["all"]["children"].values()
    wanted = [name for group in groups for name in group["hosts"]]
    assert names_in(path.read_text(encoding="utf-8")) == wanted


def test_a_secret_is_found_however_it_is_written() -> None:
    directory = PROJECT / "molecule" / "rabbitmq"
    assert secrets_in("nothing", directory) == []
    for shown in (
        "mon/it@r:i,ng",
        "mon%2Fit%40r%3Ai%2Cng",
    ):
        assert secrets_in(f"a line with {shown}", directory) == ["rabbitmq_monitoring_password"]
    assert secrets_in(f"x {DIFFICULT} x", directory) == ["password"]


def test_a_secret_in_the_arguments_of_a_process_is_found() -> None:
    with ArgumentWatch(PROJECT / "molecule" / "rabbitmq") as watch:
        command = [sys.executable, "-c", "input()", "user:mon%2Fit%40r%3Ai%2Cng@host"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            wait_until(lambda: watch.found)
            process.kill()
    assert watch.found == {"rabbitmq_monitoring_password": sys.executable}


def test_a_service_that_is_removed_leaves_nothing_at_rabbitmq() -> None:
    services = [
        {"name": "a", "userid": "a", "password": "x", "vhost": "/a", "state": "absent"},
        {
            "name": "b",
            "userid": "b",
            "password": "y",
            "vhost": "/b",
            "policies": [{"name": "ttl", "pattern": "^r", "tags": "expires=3600000,x=y"}],
        },
    ]
    made = plugin("rabbitmq_definitions").rabbitmq_definitions(
        services, monitoring={"name": "m", "password": "z"}
    )
    assert made["vhosts"] == [
        {"name": "/a", "state": "absent"},
        {"name": "/b", "state": "present"},
    ]
    assert {each["name"]: each.get("state") for each in made["users"]} == {
        "guest": "absent",
        "a": "absent",
        "b": None,
        "m": None,
    }
    assert {(each["user"], each["vhost"]) for each in made["permissions"]} == {
        ("b", "/b"),
        ("m", "/b"),
    }
    (policy,) = made["policies"]
    assert policy["definition"] == {"expires": 3600000, "x": "y"}
    assert policy["vhost"] == "/b"


def test_a_service_that_logs_in_by_certificate_has_no_password() -> None:
    services = [{"name": "a", "userid": "a", "vhost": "/a", "login": "certificate"}]
    made = plugin("rabbitmq_definitions").rabbitmq_definitions(services)
    assert {"name": "a", "password": ""} in made["users"]
    accounts = plugin("router_configuration").router_accounts(
        services, realm="AMQP", monitoring={"name": "", "password": ""}
    )
    assert accounts == []


def test_a_service_that_is_removed_leaves_what_another_one_uses() -> None:
    services = [
        {"name": "a", "userid": "a", "password": "x", "vhost": "/one"},
        {"name": "b", "userid": "b", "password": "y", "vhost": "/one", "state": "absent"},
        {"name": "c", "userid": "a", "password": "x", "vhost": "/two", "state": "absent"},
    ]
    made = plugin("rabbitmq_definitions").rabbitmq_definitions(services)
    assert made["vhosts"] == [
        {"name": "/one", "state": "present"},
        {"name": "/two", "state": "absent"},
    ]
    removed = [each["name"] for each in made["users"] if each.get("state") == "absent"]
    assert removed == ["guest", "b"]


def test_the_services_of_a_host_are_listed_without_passwords() -> None:
    services = [
        {"name": "a", "group": "here", "password": "x", "vhost": "/a", "userid": "a"},
        {"name": "b", "group": "there", "password": "y", "vhost": "/b", "userid": "b"},
        {"name": "c", "group": "here", "vhost": "/c", "state": "absent"},
    ]
    assert plugin("services_of").services_of(services, ["here"]) == [{"name": "a", "vhost": "/a"}]


# Addresses of "/" have no part for the virtual host.
@pytest.mark.parametrize("name", ["a,b", "a b", "a*", "${user}", "", "/"])
def test_a_name_that_would_widen_a_policy_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be "):
        plugin("router_configuration").router_vhosts(
            [{"vhost": name, "userid": "u"}],
            prefixes=[{"prefix": "p"}],
            realm="AMQP",
            max_links=1,
            max_message_size=1,
        )


def test_the_page_names_every_role_and_playbook() -> None:
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    for role in ROLES:
        assert f"| `{role}` |" in text
    for playbook in (COLLECTION / "playbooks").glob("*.yml"):
        assert f"| `hbshim.messaging.{playbook.stem}` |" in text


def test_the_examples_use_variables_that_there_are() -> None:
    known = {
        name
        for role in ROLES
        for name in loaded(COLLECTION / "roles" / role / "meta" / "argument_specs.yml")[
            "argument_specs"
        ]["main"]["options"]
    }
    examples = ROOT / "examples" / "ansible"
    used = set(loaded(examples / "hosts" / "inventory.yml")["all"]["vars"])
    used |= set(loaded(examples / "openstack-ansible" / "user_variables_hbshim.yml"))
    of_roles = {name for name in used if name.partition("_")[0] in ROLES}
    assert of_roles <= known
    assert of_roles
