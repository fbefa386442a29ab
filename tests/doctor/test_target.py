"""URLs are taken apart, and no error repeats any part of one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hbshim.doctor.broker_probe import tls_context
from hbshim.doctor.target import broker_target, management_target
from hbshim.errors import OptionError

SECRET = "s3cr3t"


def test_every_part_is_found() -> None:
    target = broker_target("amqps://me:a%2Fb%40c@broker:1/%2Fmine?heartbeat=60&hbshim_worker=tpool")
    assert (target.host, target.port, target.tls) == ("broker", 1, True)
    assert (target.user, target.password, target.vhost) == ("me", "a/b@c", "/mine")
    assert target.heartbeat == 60
    assert target.options == {"worker": "tpool"}
    assert target.name == "broker:1"


def test_a_driver_may_log_in_by_certificate() -> None:
    target = broker_target(
        "hbpika://broker/nova?login_method=EXTERNAL&ssl=true"
        "&ssl_options=cafile%3D/ca.pem%2Ccertfile%3D/c.pem%2Ckeyfile%3D/c.key"
    )
    assert target.external
    assert target.tls_options["cafile"] == "/ca.pem"
    assert "c.key" not in repr(target)
    with pytest.raises(OptionError, match="certfile and keyfile of ssl_options"):
        tls_context(None, replace(target, tls_options={"certfile": "/missing.pem"}))
    with pytest.raises(OptionError, match=r"cafile of the URL's ssl_options: /missing\.pem"):
        tls_context(None, replace(target, tls_options={"cafile": "/missing.pem"}))
    with pytest.raises(OptionError, match=r"^--ca /other\.pem cannot be used"):
        tls_context("/other.pem", replace(target, tls_options={"cafile": "/missing.pem"}))


@pytest.mark.parametrize(
    ("url", "port", "vhost"),
    [
        ("amqp://h", 5672, "/"),
        ("amqp://h/", 5672, "/"),
        ("amqp://h//", 5672, "/"),
        ("amqp://h/%2F", 5672, "/"),
        ("pyamqp://h/x", 5672, "x"),
        ("hbshim://h/x", 5672, "x"),
        ("amqps://h/", 5671, "/"),
    ],
)
def test_what_is_left_out_has_the_usual_value(url: str, port: int, vhost: str) -> None:
    target = broker_target(url)
    assert (target.port, target.vhost) == (port, vhost)
    assert (target.user, target.password, target.heartbeat) == ("guest", "guest", None)


def test_an_ipv6_address_keeps_its_brackets_in_reports() -> None:
    assert broker_target("amqp://[::1]/").name == "[::1]:5672"


def test_a_password_is_in_no_repr_and_in_nothing_a_peer_says() -> None:
    target = broker_target(f"amqp://user:{SECRET}@h/")
    assert SECRET not in repr(target)
    assert target.clean(f"no {SECRET}\x1b[2J\n") == "no ***?[2J?"
    assert len(target.clean(b"x" * 10_000)) < 200
    assert broker_target("amqp://h").clean("user guest") == "user guest"


@pytest.mark.parametrize(
    "url",
    [
        f"user:{SECRET}@host",
        f"amqp://user:{SECRET}/12@host/",
        f"amqp://user:12/{SECRET}@host/",
        f"amqp://user:12?{SECRET}@host/",
        f"amqp://user:12#{SECRET}@host/",
        f"amqp://user:{SECRET}#@host:x/",
        f"http://user:{SECRET}@host/",
        f"amqp://user:{SECRET}@host:port/",
        f"amqp://user:{SECRET}@[::1/",
        f"amqp://user:{SECRET}@host/?heartbeat={SECRET}",
        f"amqp://user:{SECRET}@a/;amqp://user:{SECRET}@b/",
        "",
    ],
)
def test_what_cannot_be_taken_apart_is_not_repeated(url: str) -> None:
    with pytest.raises(OptionError) as caught:
        broker_target(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def port_or_error(url: str) -> int | str:
    try:
        return broker_target(url).port
    except OptionError as error:
        return str(error)


def test_any_text_is_a_target_or_an_option_error() -> None:
    rng = random.Random(1812)
    letters = "amqp:/@?#[];%=. 0123456789\x00\n\ud800é⁈"
    for _ in range(2000):
        text = "".join(rng.choices(letters, k=rng.randrange(1, 20)))
        for url in (text, f"amqp://{text}", f"amqp://user:{text}@host/"):
            answer = port_or_error(url)
            assert isinstance(answer, str) or 0 <= answer <= 65535


def test_the_management_api_has_the_brokers_login_unless_it_names_one() -> None:
    broker = broker_target("amqp://me:mine@h/v")
    api = management_target("http://api", broker)
    assert (api.host, api.port, api.user, api.password, api.vhost) == (
        "api",
        15672,
        "me",
        "mine",
        "v",
    )
    own = management_target("https://you:yours@api:1", broker)
    assert (own.port, own.tls, own.user, own.password) == (1, True, "you", "yours")
    with pytest.raises(OptionError, match="http://host:15672"):
        management_target("amqp://h", broker)
