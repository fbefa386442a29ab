"""Every option of the messaging drivers, its default, its sources, and the errors."""

from __future__ import annotations

import dataclasses
import ssl
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import trustme

from hbshim.errors import OptionError
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.options import MessagingOptions
from hbshim.messaging.registry import factory
from tests.option_table import shown, table

#: As the specification of oslo.messaging's pika driver has them.
SPECIFIED = {
    "channel_max": 0,
    "frame_max": 131072,
    "heartbeat_interval": 0,
    "ssl": False,
    "ssl_options": None,
    # Specified as 0.25, which no distant broker meets; pika changed its own to 10, too.
    "socket_timeout": 10,
    "pool_max_size": 10,
    "pool_max_overflow": 10,
    "pool_timeout": 30,
    "pool_recycle": None,
    "pool_stale": None,
    "connection_retry_attempts": 3,
    "connection_retry_delay": 0.1,
    "rejected_message_retry_attempts": 3,
    "rejected_message_retry_delay": 0.1,
    "rpc_queue_expiration": 60,
    "default_rpc_exchange": "openstack_rpc",
    "rpc_reply_exchange": "openstack_rpc_reply",
    "notification_persistence": False,
    "default_notification_exchange": "openstack_notification",
}


def load(**keywords: Any) -> AmqpOptions:
    return AmqpOptions.load(**{"environ": {}, **keywords})


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HBSHIM_HEARTBEAT_IN_PTHREAD", "HBSHIM_WORKER", "HBSHIM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_every_option_of_the_specification_has_its_name_and_default() -> None:
    options = load()
    assert {name: getattr(options, name) for name in SPECIFIED} == SPECIFIED


def test_precedence_is_default_configuration_environment_url_keyword() -> None:
    config = {"pool_max_size": "1"}
    environ = {"HBSHIM_MESSAGING_POOL_MAX_SIZE": "2"}
    url = "hbpika://u:p@one,u:p@[::1]/v?pool_max_size=3&pool_stale=9"
    assert load().pool_max_size == 10
    assert load(config=config).pool_max_size == 1
    assert load(config=config, environ=environ).pool_max_size == 2
    assert load(config=config, environ=environ, url=url).pool_max_size == 3
    given = load(config=config, environ=environ, url=url, pool_max_size=4)
    assert given.pool_max_size == 4
    assert given.pool_stale == 9


def test_a_query_alone_will_do() -> None:
    assert load(url="?pool_max_size=3").pool_max_size == 3
    assert load(url="?") == load()


def test_a_section_of_its_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "service.ini"
    path.write_text("[hbshim]\nheartbeat = 30\n[hbshim_messaging]\nquorum_queues = yes\n")
    assert load(environ={"HBSHIM_CONFIG": str(path)}).quorum_queues is True


def test_hbshims_own_environment_is_not_taken_for_ours() -> None:
    assert load(environ={"HBSHIM_HEARTBEAT": "30", "HBSHIM_WORKER": "pthread"}) == load()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("pool_recycle", "none", None),
        ("pool_recycle", "", None),
        ("pool_recycle", "90", 90.0),
        ("frame_max", "8192", 8192),
        ("notification_persistence", "ON", True),
        ("heartbeat_in_pthread", "true", True),
        ("heartbeat_interval", "65535", 65535),
        ("heartbeat_interval", "OFF", "off"),
        ("login_method", "amqplain", "AMQPLAIN"),
        ("rpc_queue_expiration", "never", float("inf")),
        ("rpc_queue_expiration", 0, float("inf")),
        ("quorum_queues", "none", None),
        ("pool_max_overflow", 0, 0),
        ("socket_timeout", "0.5", 0.5),
        ("ssl_options", "", None),
        (
            "ssl_options",
            "cafile=/a b/c=d.pem, verify=no",
            {"cafile": "/a b/c=d.pem", "verify": False},
        ),
        ("ssl_options", '{"cafile": "/x", "verify": true}', {"cafile": "/x", "verify": True}),
        ("ssl_options", {"cafile": "/x", "keyfile": None}, {"cafile": "/x"}),
    ],
)
def test_values_are_read(name: str, text: dict[str, str | None] | int | str, value: Any) -> None:
    assert getattr(load(config={name: text}), name) == value


@pytest.mark.parametrize(
    "bad",
    [
        {"channel_max": -1},
        {"channel_max": 65536},
        {"frame_max": 8191},
        {"frame_max": 4096},
        {"frame_max": 2**32},
        {"heartbeat_interval": 65536},
        {"heartbeat_interval": 1.5},
        {"heartbeat_interval": "on"},
        {"ssl": "perhaps"},
        {"ssl_options": "cafile"},
        {"ssl_options": "no_such_key=1"},
        {"ssl_options": "{not json"},
        {"ssl_options": "[1]"},
        {"ssl_options": 5},
        {"ssl_options": {"verify": "maybe"}},
        {"socket_timeout": 0},
        {"socket_timeout": "nan"},
        {"pool_max_size": 0},
        {"pool_max_size": "many"},
        {"pool_max_overflow": -1},
        {"pool_timeout": -1},
        {"pool_timeout": "inf"},
        {"pool_recycle": 0},
        {"pool_stale": "soon"},
        {"connection_retry_attempts": 0},
        {"connection_retry_delay": -0.1},
        {"rejected_message_retry_attempts": 0},
        {"rpc_timeout": 0},
        {"rpc_queue_expiration": -1},
        {"rpc_queue_expiration": "nan"},
        {"login_method": "RABBIT-CR-DEMO"},
        {"ssl_options": "version=sslv2"},
        {"ssl_version": "sslv2"},
        {"quorum_delivery_limit": -1},
        {"default_rpc_exchange": ""},
        {"rpc_reply_exchange": "ä" * 128},
        {"default_notification_exchange": "a\0b"},
        {"rpc_prefetch_count": 65536},
        {"payload_limit": 0},
        {"quorum_queues": 2},
        {"heartbeat_in_pthread": "perhaps"},
    ],
    ids=str,
)
def test_a_bad_value_names_the_option_and_what_it_accepts(bad: dict[str, Any]) -> None:
    name = next(iter(bad))
    with pytest.raises(OptionError, match=rf"(?s)^{name}=.* use one of: "):
        load(**bad)


@pytest.mark.parametrize("where", ["url", "config", "keyword"])
def test_an_unknown_option_lists_the_known_ones(where: str) -> None:
    sources: dict[str, dict[str, Any]] = {
        "url": {"url": "hbpika://host/?pool_size=1"},
        "config": {"config": {"pool_size": 1}},
        "keyword": {"pool_size": 1},
    }
    with pytest.raises(
        OptionError, match=r"unknown option pool_size; did you mean .*\?; known .*pool_max_size"
    ):
        load(**sources[where])


def test_an_option_of_hbshims_own_is_pointed_to_its_place() -> None:
    with pytest.raises(
        OptionError, match=r"hbshim_worker is not an option .* set HBSHIM_WORKER in"
    ):
        load(url="hbpika://host/?hbshim_worker=pthread")


def test_a_bad_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(OptionError) as caught:
        load(url="hbpika://u:s3cret/x@host?pool_max_size=3")
    assert "s3cret" not in str(caught.value)


def test_options_are_immutable_and_comparable() -> None:
    options = load(ssl_options="verify=no")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.ssl = True  # type: ignore[misc]
    assert options == load(ssl_options={"verify": False})
    assert len({options, load(ssl_options={"verify": False})}) == 1


@pytest.mark.parametrize("in_pthread", [True, False])
def test_the_heartbeat_is_made_as_the_option_says(
    no_environment: pytest.MonkeyPatch, in_pthread: bool
) -> None:
    no_environment.setenv("HBSHIM_HEARTBEAT_IN_PTHREAD", str(not in_pthread))
    options = load(heartbeat_in_pthread=in_pthread).heartbeat_options()
    assert options.heartbeat_in_pthread is in_pthread


def test_auto_leaves_the_heartbeat_to_hbshims_own_options(
    no_environment: pytest.MonkeyPatch,
) -> None:
    no_environment.setenv("HBSHIM_HEARTBEAT_IN_PTHREAD", "true")
    no_environment.setenv("HBSHIM_LIVENESS_TIMEOUT", "7")
    options = load().heartbeat_options()
    assert options.heartbeat_in_pthread is True
    assert options.liveness_timeout == 7


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a CA, and of a certificate with its key."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    own = authority.issue_cert("client@example.org")
    own.cert_chain_pems[0].write_to_path(directory / "own.pem")
    own.private_key_pem.write_to_path(directory / "own.key")
    return directory


def test_without_tls_there_is_no_context() -> None:
    assert load(ssl_options="verify=no").ssl_context() is None


def test_tls_verifies_by_default(certificates: Path) -> None:
    context = load(ssl=True).ssl_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    lax = load(ssl=True, ssl_options="verify=false").ssl_context()
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)


def test_tls_may_leave_the_name_and_fix_the_version(certificates: Path) -> None:
    own = "verify_hostname=false,version=TLSv1_2"
    context = load(ssl=True, ssl_options=own).ssl_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert {context.minimum_version, context.maximum_version} == {ssl.TLSVersion.TLSv1_2}
    either = load(ssl=True, ssl_options="version=SSLv23").ssl_context()
    assert either.maximum_version != ssl.TLSVersion.TLSv1_2


def test_tls_trusts_the_ca_that_is_named_alone(certificates: Path) -> None:
    context = load(ssl=True, ssl_options={"cafile": certificates / "ca.pem"}).ssl_context()
    (trusted,) = context.get_ca_certs()
    assert ("organizationName", f"trustme v{version('trustme')}") in sum(trusted["subject"], ())


def test_tls_presents_our_certificate(certificates: Path) -> None:
    own = {"certfile": certificates / "own.pem", "keyfile": certificates / "own.key"}
    assert load(ssl=True, ssl_options=own).ssl_context() is not None


@pytest.mark.parametrize(
    "files",
    [
        {"cafile": "missing.pem"},
        {"cafile": "own.key"},
        {"certfile": "own.pem"},
        {"certfile": "missing.pem", "keyfile": "own.key"},
    ],
    ids=str,
)
def test_files_that_cannot_be_used_are_named(certificates: Path, files: dict[str, str]) -> None:
    paths = {key: certificates / name for key, name in files.items()}
    with pytest.raises(OptionError, match=r"ssl_options names cannot be used .* correct cafile"):
        load(ssl=True, ssl_options=paths).ssl_context()


def test_a_login_by_certificate_needs_one() -> None:
    with pytest.raises(OptionError, match="EXTERNAL needs a client certificate"):
        load(login_method="EXTERNAL", ssl=True)
    assert load(login_method="EXTERNAL", ssl_options="certfile=/x").login_method == "EXTERNAL"


def test_without_heartbeats_hbshims_own_option_asks_for_none(
    no_environment: pytest.MonkeyPatch,
) -> None:
    no_environment.setenv("HBSHIM_HEARTBEAT", "30")
    assert load(heartbeat_interval="off").heartbeat_options().heartbeat == 0
    assert load(heartbeat_interval=9).heartbeat_options().heartbeat == 30


def test_the_arguments_of_quorum_queues_are_those_that_are_set() -> None:
    assert load().quorum_arguments() == {}
    limits = {
        "quorum_delivery_limit": 5,
        "quorum_max_memory_length": 6,
        "quorum_max_memory_bytes": 7,
    }
    assert load(**limits).quorum_arguments() == {
        "x-delivery-limit": 5,
        "x-max-in-memory-length": 6,
        "x-max-in-memory-bytes": 7,
    }


def test_a_key_alone_is_refused() -> None:
    with pytest.raises(OptionError, match="a keyfile without a certfile"):
        load(ssl_options="keyfile=/x")


def test_every_option_documents_itself() -> None:
    rows = AmqpOptions.describe()
    assert {row["option"] for row in rows} > set(SPECIFIED)
    for row in rows:
        assert row["meaning"].endswith(".")
        assert row["accepts"]
        assert row["url"] == row["option"]
        assert row["environment"] == f"HBSHIM_MESSAGING_{row['option'].upper()}"


def test_the_documented_table_is_the_code() -> None:
    rows = AmqpOptions.describe()
    assert shown("messaging-options.md", "tests/messaging/test_options.py") == table(rows)


#: What the service templates of OpenStack-Ansible append to each transport URL.
OPENSTACK_ANSIBLE = "?ssl=1&ssl_version=TLSv1_2&ssl_ca_file=/etc/ssl/certs/ca.pem"


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika", "hbamqp", "hbamqps"])
def test_urls_of_openstack_ansible_are_accepted(scheme: str) -> None:
    url = f"{scheme}://nova:secret@host:5671/nova{OPENSTACK_ANSIBLE}"
    options = factory(scheme).options_class.load(url=url, environ={})
    assert isinstance(options, MessagingOptions)
    assert options.ssl
    assert options.tls() == {"cafile": "/etc/ssl/certs/ca.pem", "version": "tlsv1_2"}


def test_zeromq_has_no_tls_and_names_what_encrypts() -> None:
    with pytest.raises(OptionError, match="ssl_version and ssl_ca_file, and encrypt with CURVE"):
        factory("hbzmq").options_class.load(url=f"hbzmq://host/{OPENSTACK_ANSIBLE}", environ={})


def test_tls_of_its_own_options_takes_precedence(certificates: Path) -> None:
    options = load(
        ssl=True,
        ssl_options="cafile=/missing,version=tlsv1_3",
        ssl_ca_file=str(certificates / "ca.pem"),
        ssl_version="TLSv1_2",
    )
    context = options.ssl_context()
    assert len(context.get_ca_certs()) == 1
    assert {context.minimum_version, context.maximum_version} == {ssl.TLSVersion.TLSv1_2}


def test_a_password_with_special_characters_is_named_as_the_cause() -> None:
    with pytest.raises(OptionError, match="percent-encode special characters") as caught:
        read_hosts(f"hbpika://nova:se/cr@et@host:5671/nova{OPENSTACK_ANSIBLE}", 5672)
    assert "cr" not in str(caught.value).split("percent")[0]
