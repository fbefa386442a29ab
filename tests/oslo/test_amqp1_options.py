"""`[oslo_messaging_amqp]` under hbamqp:// and amqp://: nothing is ignored without a word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.messaging.amqp1.options import Amqp1Options
from hbshim.oslo.amqp1_options import EFFECTS
from hbshim.oslo.effects import Ignored
from tests.stress.child import clean_environment
from tests.stress.oslo.environments import FORMER_VERSION, former_package

PROGRAM = Path(__file__).with_name("amqp1_loading.py")
GROUP = "[oslo_messaging_amqp]"
URL = "hbamqp://user:s3cret@nowhere/vhost"
SECRET = "k3ypass"

#: Each option in oslo.messaging's own list.
LIST = """
import json, sys
from oslo_config import cfg
from oslo_messaging._drivers.amqp1_driver import opts
print(json.dumps([[each.name, type(each).__name__, each.default] for each in opts.amqp1_opts]))
"""

#: Options that are text and need a certain one, and what else has to be set with an option.
VALUES = {
    "ssl_key_password": SECRET,
    "sasl_mechanisms": "EXTERNAL PLAIN",
    "addressing_mode": "legacy",
    "pre_settled": "rpc-cast",
}
BESIDE = {
    "ssl_key_file": ["ssl_cert_file = own.pem"],
    "ssl_key_password": ["ssl_cert_file = own.pem"],
    "sasl_mechanisms": ["ssl_cert_file = own.pem"],
}
#: What is changed that is not one of the driver's options.
ELSEWHERE = {"sasl_default_realm": "users", "default_notify_timeout": "notify_limit"}


@pytest.fixture(scope="module")
def former() -> list[tuple[str, str, Any]]:
    """The options of oslo.messaging 14.9: name, type and default."""
    package = former_package(lambda _text: None)
    path = os.pathsep.join([str(package), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIST],
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean_environment(), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Make transports, each of a URL and the lines of a file."""
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def loaded(*cases: dict[str, Any]) -> list[dict[str, Any]]:
            results = []
            for case in cases:
                process.stdin.write(json.dumps({"url": URL, **case}) + "\n")
                process.stdin.flush()
                results.append(json.loads(process.stdout.readline()))
                # In no message, and in no `repr`.
                shown = json.dumps({**results[-1], "options": None})
                assert "s3cret" not in shown
                assert SECRET not in shown
            return results

        yield loaded
        process.stdin.close()


def unusual(name: str, kind: str, default: Any) -> str:
    """Return a value of an option that is valid, and not its default."""
    if name in VALUES:
        return VALUES[name]
    if kind == "BoolOpt":
        return str(not default)
    return str(default + 7) if kind == "IntOpt" else "other"


def test_each_of_the_38_has_an_effect_or_is_named(
    former: list[tuple[str, str, Any]], load: Callable[..., list[dict[str, Any]]]
) -> None:
    """Set alone, in the file and in the URL."""
    assert len(former) == 38
    assert [name for name, _, _ in former] == list(EFFECTS), f"as {FORMER_VERSION} lists them"
    cases: list[dict[str, Any]] = []
    for option in former:
        beside = BESIDE.get(option[0], [])
        query = "&".join(line.replace(" = ", "=") for line in beside)
        value = unusual(*option)
        cases += [
            {"lines": [GROUP, *beside]},
            {"lines": [GROUP, *beside, f"{option[0]} = {value}"]},
            {"url": f"{URL}?{query}&{option[0]}={value}"},
        ]
    results = iter(load(*cases))
    for name, _, _ in former:
        before, *after = next(results), next(results), next(results)
        assert before["warnings"] == []
        for result in after:
            assert "error" not in result, (name, result)
            judge(name, before, result)


def judge(name: str, before: dict[str, Any], result: dict[str, Any]) -> None:
    changed = {
        each for each, value in result["options"].items() if before["options"][each] != value
    }
    entry = EFFECTS[name]
    if name in ELSEWHERE:
        assert result[ELSEWHERE[name]] != before[ELSEWHERE[name]]
    elif isinstance(entry, Ignored):
        assert not changed, name
        assert [name in text for text in result["warnings"]] == [True], result["warnings"]
        return
    else:
        assert changed, f"{name} has no effect"
    assert changed <= set(entry.names if not isinstance(entry, Ignored) else ()), name
    assert result["warnings"] == [], name


def test_defaults_of_the_former_driver_cause_no_warning(
    former: list[tuple[str, str, Any]], load: Callable[..., list[dict[str, Any]]]
) -> None:
    """A file of oslo-config-generator, with every line in use."""
    lines = [
        f"{name} = {value}"
        for name, _, default in former
        for value in (default if isinstance(default, list) else [default])
        if default is not None
    ]
    (result,) = load({"lines": [GROUP, *lines]})
    assert result["warnings"] == []
    assert result["options"]["heartbeat_interval"] == "0"


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("idle_timeout = 9", {"heartbeat_interval": "5"}),
        ("idle_timeout = 0", {"heartbeat_interval": "0"}),
        ("pre_settled = rpc-cast", {"cast_confirm": "False"}),
        ("pre_settled = rpc-call", {"cast_confirm": "True"}),
        ("ssl_ca_file = ca.pem", {"ssl": "True", "ssl_options": "{'cafile': 'ca.pem'}"}),
        ("ssl_verify_vhost = true", {"ssl_options": "{'server_hostname': 'vhost'}"}),
        ("sasl_mechanisms = PLAIN GSSAPI SCRAM-SHA-1", {"login_method": "SCRAM-SHA-1 PLAIN"}),
        ("container_name = nova", {"container_name": "nova"}),
        ("cast_confirm = false", {"cast_confirm": "False"}),
        ("[amqp1]\nidle_timeout = 8", {"heartbeat_interval": "4"}),
    ],
    ids=lambda value: value.replace("\n", " ") if isinstance(value, str) else "",
)
def test_values(
    load: Callable[..., list[dict[str, Any]]], line: str, options: dict[str, str]
) -> None:
    (result,) = load({"lines": [GROUP, line]})
    assert {name: result["options"][name] for name in options} == options
    assert result["warnings"] == []


def test_the_url_takes_precedence_and_a_user_without_realm_gets_one(
    load: Callable[..., list[dict[str, Any]]],
) -> None:
    url, realm = "hbamqp://user:s3cret@one,admin@here@two/v", "sasl_default_realm = cloud"
    result, anonymous = load(
        {"url": f"{url}?rpc_server_credit=5", "lines": [GROUP, "rpc_server_credit = 9", realm]},
        {"url": "hbamqp://host/"},
    )
    assert result["options"]["rpc_prefetch_count"] == "5"
    assert result["users"] == ["user@cloud", "admin@here"]
    assert anonymous["options"]["login_method"] == "ANONYMOUS"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("idle_timeout = soon", "idle_timeout"),
        ("default_reply_timeout = 1", "default_reply_timeout"),
        ("sasl_mechanisms = GSSAPI", "sasl_mechanisms='GSSAPI'"),
        ("reply_link_credit = 100000", "reply_link_credit=100000"),
        ("max_frame_size = 5", "max_frame_size"),
        ("cast_confirm = perhaps", "cast_confirm"),
        (f"ssl_options = certfile=x,password={SECRET},bla=1", "ssl_options"),
    ],
    ids=lambda text: text.split(" ")[0],
)
def test_what_cannot_be_used_is_named(
    load: Callable[..., list[dict[str, Any]]], line: str, text: str
) -> None:
    name, _, value = line.partition(" = ")
    for result in load({"lines": [GROUP, line]}, {"url": f"{URL}?{name}={value}"}):
        assert result["error"] == "DriverLoadFailure"
        assert text in result["text"]


def test_values_that_have_another_effect_are_named(
    load: Callable[..., list[dict[str, Any]]],
) -> None:
    (result,) = load({"lines": [GROUP, "pre_settled = notify", "pre_settled = fanout"]})
    assert ["notify" in text or "fanout" in text for text in result["warnings"]] == [True, True]


def test_the_page_has_the_options_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "oslo.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- amqp options:")[2].partition("<!-- end of amqp options -->")[0]
    rows = [row for row in listed.splitlines() if row.startswith("| `")]
    assert rows == [f"| `{name}` | {effect(name)} |" for name in EFFECTS]


def effect(name: str) -> str:
    entry = EFFECTS[name]
    if isinstance(entry, Ignored):
        return f"a warning: {entry.reason}"
    names = ", ".join(f"`{each}`" for each in entry.names)
    assert set(entry.names) <= set(Amqp1Options.__dataclass_fields__), name
    meaning = entry.meaning
    return f"{names}: {meaning}" if names and meaning else names or meaning
