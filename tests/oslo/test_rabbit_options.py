"""`[oslo_messaging_rabbit]` under hbkombu:// and hbpika://: nothing is ignored without a word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.oslo.effects import Combined, Ignored, Translated, warnings
from hbshim.oslo.rabbit_options import OPTIONS
from tests.stress.child import clean_environment
from tests.stress.oslo.environments import VERSIONS, package

PROGRAM = Path(__file__).with_name("loading.py")
GROUP = "[oslo_messaging_rabbit]"
URL = "hbpika://user:s3cret@nowhere/"

#: Values that the program cannot know, and what else has to be set with an option.
VALUES = {
    "ssl_version": "TLSv1_2",
    "rabbit_login_method": "EXTERNAL",
    "rabbit_transient_queues_ttl": "77",
    "heartbeat_in_pthread": "true",
}
BESIDE = {
    "ssl_key_file": ["ssl_cert_file = own.pem"],
    "rabbit_login_method": ["ssl_cert_file = own.pem"],
}
#: Options whose effect is that of hbshim's default.
AS_BY_DEFAULT = {"kombu_failover_strategy": ("hosts_shuffle", "True")}


class Loader:
    """Makes transports, with the oslo.messaging of a version, or the one that is installed."""

    def __init__(self, version: str | None = None) -> None:
        environment = clean_environment()
        if version is not None:
            found = package(version, lambda _text: None)
            environment["PYTHONPATH"] = os.pathsep.join([str(found), environment["PYTHONPATH"]])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        #: The options of the group in this version, each with a value that is unusual.
        self.options = json.loads(self._process.stdout.readline())

    def __call__(self, **case: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps({"url": URL, **case}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        result = json.loads(line)
        assert "s3cret" not in json.dumps({**result, "logins": None})
        return result

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


@pytest.fixture(scope="module")
def one() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.end()


@pytest.fixture(params=VERSIONS)
def loader(request: pytest.FixtureRequest) -> Iterator[Loader]:
    loader = Loader(request.param)
    yield loader
    loader.end()


def test_each_option_has_an_effect_or_is_named(loader: Loader) -> None:
    """Of each version; set alone, in the file and in the URL."""
    assert len(loader.options) >= 37
    known = loader.options.keys() | {name for name in OPTIONS if name.startswith("hbshim_")}
    # Removed in 18.0, and hbshim's since.
    assert OPTIONS.keys() - known <= {"heartbeat_in_pthread"}
    for name, unusual in loader.options.items():
        value = VALUES.get(name, unusual)
        beside = BESIDE.get(name, [])
        query = "&".join(line.replace(" = ", "=") for line in beside)
        before = loader(lines=[GROUP, *beside])
        assert before["warnings"] == []
        for result in (
            loader(lines=[GROUP, *beside, f"{name} = {value}"]),
            loader(url=f"{URL}?{query}&{name}={value}"),
        ):
            assert "error" not in result, (name, result)
            check_result(name, before["options"], result)


def check_result(
    name: str,
    before: dict[str, str],
    result: dict[str, Any],
) -> None:
    changed = {each for each, value in result["options"].items() if before[each] != value}
    entry = OPTIONS[name]
    if name in AS_BY_DEFAULT:
        option, value = AS_BY_DEFAULT[name]
        assert result["options"][option] == value
    elif isinstance(entry, Ignored):
        assert not changed, name
        assert [name in text for text in result["warnings"]] == [True], result["warnings"]
    else:
        assert changed, f"{name} has no effect"
        assert changed <= set(entry.names), name
        assert result["warnings"] == [], name


def test_hbshims_options_for_the_other_scheme_are_named(one: Loader) -> None:
    (text,) = one(lines=[GROUP, "hbshim_worker = pthread"])["warnings"]
    assert text.startswith(
        "hbshim_worker=pthread of [oslo_messaging_rabbit] has no effect on hbpika"
    )
    assert "HBSHIM_WORKER" in text


def test_an_option_of_a_later_version_is_named() -> None:
    assert (
        "does not know"
        in warnings(OPTIONS, {"of_tomorrow": 1}, "oslo_messaging_rabbit", "hbpika://")[0]
    )


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("heartbeat_timeout_threshold = 0", {"heartbeat_interval": "off"}),
        ("heartbeat_timeout_threshold = 9", {"heartbeat_interval": "9"}),
        ("rabbit_transient_queues_ttl = 0", {"rpc_queue_expiration": "inf"}),
        (
            "rabbit_qos_prefetch_count = 7",
            {"rpc_prefetch_count": "7", "notification_prefetch_count": "7"},
        ),
        ("rabbit_quorum_queue = false", {"quorum_queues": "False"}),
        ("rpc_conn_pool_size = 5", {"pool_max_size": "5", "pool_max_overflow": "0"}),
        ("rabbit_retry_interval = 3", {"connection_retry_delay": "4.0"}),
        ("kombu_reconnect_delay = 0", {"connection_retry_delay": "1.0"}),
        (
            "ssl_enforce_hostname_verification = false",
            {"ssl_options": "{'verify_hostname': False}"},
        ),
    ],
)
def test_the_values_are_translated(line: str, options: dict[str, str], one: Loader) -> None:
    loaded = one(lines=[GROUP, line])
    assert {name: loaded["options"][name] for name in options} == options
    assert loaded["warnings"] == []


def test_the_url_wins_over_the_own_group_and_that_over_the_other(one: Loader) -> None:
    lines = [
        GROUP,
        "rabbit_qos_prefetch_count = 1",
        "ssl_ca_file = file.pem",
        "ssl_version = tlsv1_2",
        "[oslo_messaging_pika]",
        "rpc_prefetch_count = 2",
    ]
    assert one(lines=lines)["options"]["rpc_prefetch_count"] == "2"
    query = "?rabbit_qos_prefetch_count=3&ssl_ca_file=url.pem"
    loaded = one(lines=lines, url=URL + query)["options"]
    assert loaded["rpc_prefetch_count"] == "3"
    assert loaded["ssl_options"] == "{'cafile': 'url.pem', 'version': 'tlsv1_2'}"
    loaded = one(url=f"{URL}{query}&rpc_prefetch_count=4")["options"]
    assert (loaded["rpc_prefetch_count"], loaded["notification_prefetch_count"]) == ("4", "3")


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([GROUP, "rabbit_login_method = RABBIT-CR-DEMO"], "rabbit_login_method='RABBIT-CR-DEMO'"),
        ([GROUP, "heartbeat_timeout_threshold = 70000"], "heartbeat_timeout_threshold=70000"),
        ([GROUP, "rabbit_qos_prefetch_count = many"], "rabbit_qos_prefetch_count"),
        ([GROUP, "ssl_version = SSLv2"], "ssl_version='SSLv2'"),
        (["[oslo_messaging_pika]", "channel_max = many"], "channel_max"),
    ],
)
def test_a_bad_value_is_a_failure_to_load_that_names_what_is_set(
    lines: list[str], named: str, one: Loader
) -> None:
    loaded = one(lines=lines)
    assert loaded["error"] == "DriverLoadFailure"
    assert named in loaded["text"]


@pytest.mark.parametrize(
    "query", ["rabbit_qos_prefetch_count=many", "hbshim_worker=pthread", "no_such_option=1"]
)
def test_a_bad_option_in_the_url_is_a_failure_to_load(query: str, one: Loader) -> None:
    loaded = one(url=f"{URL}?{query}")
    assert loaded["error"] == "DriverLoadFailure"
    assert query.partition("=")[0] in loaded["text"]


def test_the_exchanges_of_the_environment_are_taken(one: Loader) -> None:
    """Else they are named after `control_exchange`."""
    assert one()["exchanges"] == ["openstack_rpc", "openstack_notification"]
    names = (
        "HBSHIM_MESSAGING_DEFAULT_RPC_EXCHANGE",
        "HBSHIM_MESSAGING_DEFAULT_NOTIFICATION_EXCHANGE",
    )
    assert one(environ=dict.fromkeys(names, "mine"))["exchanges"] == [None, None]


@pytest.mark.parametrize(
    ("login", "expected"),
    [("user:word@", ["user", "word"]), ("user@", ["user", ""]), ("", ["guest", "guest"])],
)
def test_a_user_without_a_password_has_an_empty_one(
    login: str, expected: list[str], one: Loader
) -> None:
    assert one(url=f"hbpika://{login}nowhere/")["logins"] == [expected]


def test_a_consumer_may_hold_a_batch_unless_the_option_is_set(one: Loader) -> None:
    assert one()["prefetch"] == [100, 300, 0] * 2
    assert one(lines=[GROUP, "rabbit_qos_prefetch_count = 7"])["prefetch"] == [7] * 6
    assert one(lines=[GROUP, "rabbit_qos_prefetch_count = 0"])["prefetch"] == [0] * 6


def test_several_hosts_have_replicated_queues_or_a_warning(one: Loader) -> None:
    several = "hbpika://u:p@one,u:p@two,u:p@three/"
    loaded = one(url=several)
    assert (loaded["quorum"], loaded["warnings"]) == (True, [])
    assert sorted(loaded["hosts"]) == ["one", "three", "two"]
    loaded = one(url=f"{several}?rabbit_quorum_queue=false")
    assert loaded["quorum"] is False
    assert "does not replicate" in loaded["warnings"][0]
    assert one()["quorum"] is None


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "oslo.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- rabbit options:")[2].partition("<!-- end of rabbit options -->")[
        0
    ]
    assert [row for row in listed.splitlines() if row.startswith("| `")] == rows()


def rows() -> list[str]:
    def cell(entry: Combined | Ignored | Translated) -> str:
        if isinstance(entry, Ignored):
            return f"a warning: {entry.reason}"
        own = ", ".join(f"`{name}`" for name in entry.names)
        return f"{own}: {entry.meaning}" if entry.meaning else own

    assert all(isinstance(each, Combined | Ignored | Translated) for each in OPTIONS.values())
    return [f"| `{name}` | {cell(entry)} |" for name, entry in OPTIONS.items()]


if __name__ == "__main__":
    sys.stdout.write(os.linesep.join(rows()) + "\n")
