"""Every source of options, their precedence, and the error for bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from hbshim.errors import OptionError
from hbshim.options import AttachOptions, ConnectOptions, InstallOptions, Options, split_url
from tests.option_table import shown, table


def load(**keywords: Any) -> Options:
    return Options.load(**{"environ": {}, **keywords})


def test_precedence_is_default_configuration_environment_url_keyword() -> None:
    config = {"heartbeat_in_pthread": "false"}
    environ = {"HBSHIM_HEARTBEAT_IN_PTHREAD": "true"}
    url = "amqp://host//?heartbeat_in_pthread=auto"
    assert load().heartbeat_in_pthread == "auto"
    assert load(config=config).heartbeat_in_pthread is False
    assert load(config=config, environ=environ).heartbeat_in_pthread is True
    assert load(config=config, environ=environ, url=url).heartbeat_in_pthread == "auto"
    assert load(url=url, heartbeat_in_pthread=False).heartbeat_in_pthread is False


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "ON", True])
def test_truth_is_spelled_in_many_ways(text: bool | str) -> None:
    assert load(heartbeat_in_pthread=text).heartbeat_in_pthread is True


@pytest.mark.parametrize(
    ("text", "setting"),
    [("", "off"), ("0", "off"), ("off", "off"), ("1", "auto"), ("AUTO", "auto"), ("/a/b", "/a/b")],
)
def test_the_watch_socket_is_off_auto_or_a_path(text: str, setting: str) -> None:
    assert load(watch_socket=text).watch_socket == setting


def test_a_configuration_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "service.ini"
    path.write_text("[hbshim]\nheartbeat_in_pthread = false\nheartbeat = 30\n")
    options = load(environ={"HBSHIM_CONFIG": str(path)})
    assert options.heartbeat_in_pthread is False
    assert options.heartbeat == 30


def test_a_configuration_file_without_our_section_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "service.ini"
    path.write_text("[other]\nheartbeat_in_pthread = false\n")
    assert load(environ={"HBSHIM_CONFIG": str(path)}) == Options()


def test_an_unreadable_configuration_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="correct the path or unset the variable"):
        load(environ={"HBSHIM_CONFIG": str(tmp_path / "missing.ini")})


@pytest.mark.parametrize(
    "bad",
    [
        {"heartbeat_in_pthread": "perhaps"},
        {"worker": "process"},
        {"heartbeat": -1},
        {"heartbeat": 1.5},
        {"heartbeat": 70000},
        {"heartbeat": "soon"},
        {"heartbeat": float("inf")},
        {"strip_polling": "maybe"},
        {"liveness_timeout": -1},
        {"liveness_timeout": "nan"},
        {"liveness_timeout": "inf"},
        {"watch_socket": "a\0b"},
    ],
)
def test_a_bad_value_names_the_option_and_what_it_accepts(bad: dict[str, Any]) -> None:
    name = next(iter(bad))
    with pytest.raises(OptionError, match=rf"^{name}=.* use one of: "):
        load(**bad)


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(
        OptionError,
        match=r"unknown option heartbeat_in_thread; did you mean heartbeat_in_pthread\?; known",
    ):
        load(heartbeat_in_thread=True)


@pytest.mark.parametrize(
    ("in_pthread", "worker"), [(True, "greenthread"), (True, "tpool"), (False, "pthread")]
)
def test_contradicting_options_are_refused(in_pthread: bool, worker: str) -> None:
    with pytest.raises(OptionError, match="contradicts"):
        load(heartbeat_in_pthread=in_pthread, worker=worker)


def test_our_options_are_taken_out_of_a_url_and_the_rest_stays() -> None:
    url = (
        "amqp://u:p%40w@host:5672/%2Fv?heartbeat=10&heartbeat_in_pthread=true&hbshim_worker=pthread"
    )
    clean, ours = split_url(url)
    assert clean == "amqp://u:p%40w@host:5672/%2Fv?heartbeat=10"
    assert ours == {"heartbeat_in_pthread": "true", "worker": "pthread"}


def test_a_url_without_our_options_is_left_to_the_letter() -> None:
    url = "amqp://u:p@host//?b=2&a=%2f&empty="
    assert split_url(url) == (url, {})


URLS = (
    "amqp://",
    "amqp:///",
    "amqp:///%2F",
    "amqp:////",
    "memory://",
    "amqp://host//",
    "AMQPS://u:p%40:w@[::1]:5671/%2f",
    "amqp://h1/v,amqp://h2/v",
    "sqs://key%2Fid:a+b@",
)
QUERIES = ("", "a=%2f&b=", "ssl_ca=/a/b;c&x", "&&k=a+b&k=%20", "heartbeat=10")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("fragment", ["", "#part?hbshim_worker=tpool"])
def test_the_rest_of_a_url_stays_to_the_byte(url: str, query: str, fragment: str) -> None:
    pairs = query.split("&") if query else []
    expected = url + (f"?{query}" if query else "") + fragment
    for place in range(len(pairs) + 1):
        with_option = "&".join([*pairs[:place], "hbshim%5Fworker=pth%72ead", *pairs[place:]])
        assert split_url(f"{url}?{with_option}{fragment}") == (expected, {"worker": "pthread"})


@pytest.mark.parametrize("key", ["hbshim_strip_polling", "hbshim_livenes_timeout", "hbshim_"])
def test_a_url_key_that_would_have_no_effect_is_refused(key: str) -> None:
    with pytest.raises(OptionError, match=f"{key} is not an option in a URL; known there: "):
        split_url(f"amqp://host//?{key}=1")


@pytest.mark.parametrize("piece", ["hbshim_secret", "heartbeat_in_pthread=secret"])
def test_a_piece_of_a_password_is_not_repeated(piece: str) -> None:
    """A "?" that is not percent-encoded ends the address, and begins the query."""
    with pytest.raises(OptionError) as raised:
        split_url(f"amqp://user:pass?{piece}@host//")
    assert "secret" not in str(raised.value)
    assert "percent-encode" in str(raised.value)


def test_an_at_sign_in_an_option_is_accepted() -> None:
    _, found = split_url("amqp://user:password@host//?hbshim_watch_socket=/run/a@b")
    assert found == {"watch_socket": "/run/a@b"}


def test_an_option_of_the_process_is_no_option_of_one_connection() -> None:
    with pytest.raises(OptionError, match="set HBSHIM_STRIP_POLLING"):
        load(url={"strip_polling": False})


def test_what_url_and_keywords_give_is_known_and_goes_over_what_was_before() -> None:
    earlier = load(config={"heartbeat": 9}, url={"liveness_timeout": 7}, worker="pthread")
    assert earlier.given == {"liveness_timeout", "worker"}
    merged = load(config={}, liveness_timeout=8).over(earlier)
    assert (merged.liveness_timeout, merged.worker, merged.heartbeat) == (8, "pthread", 9)
    assert merged.given == {"liveness_timeout", "worker"}


def test_options_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().worker = "tpool"  # type: ignore[misc]


def test_every_option_documents_itself() -> None:
    rows = Options.describe()
    assert [row["option"] for row in rows] == [f.name for f in dataclasses.fields(Options)]
    assert all(row["meaning"] and row["accepts"] and row["environment"] for row in rows)


def test_the_documented_table_is_the_code() -> None:
    assert shown("options.md", "tests/test_options.py") == table(Options.describe())


@pytest.mark.parametrize("config", ["hbshim.ini", 5, [("heartbeat", 5)], {5: "x"}])
def test_a_configuration_that_is_no_mapping_of_names_is_refused(config: Any) -> None:
    with pytest.raises(OptionError, match=r"HBSHIM_CONFIG|unknown option 5"):
        load(config=config)


def test_the_typed_keywords_are_the_options() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert set(get_type_hints(InstallOptions)) == names
    assert set(get_type_hints(ConnectOptions)) == names - {"strip_polling"}
    assert set(get_type_hints(AttachOptions)) == names - {"strip_polling", "heartbeat"}
