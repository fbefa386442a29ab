"""URLs with one or several brokers: what they mean, and what is said of bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hbshim.errors import OptionError
from hbshim.messaging import connect
from hbshim.messaging.amqp.factory import PIKA
from hbshim.messaging.amqp.login import Login, login_at
from hbshim.messaging.amqp.options import AmqpOptions
from hbshim.messaging.hosts import Host, read_hosts

SECRETS = ("pr1vate", "s3cret", "user-name", "intern", "5673")


def only(url: str, **settings: Any) -> Host:
    (host,) = hosts_of(url, **settings)
    return host


def hosts_of(url: str, **settings: Any) -> tuple[Host, ...]:
    return read_hosts(url, PIKA.default_port(AmqpOptions(**settings)))


def test_everything_that_a_url_can_say() -> None:
    url = "hbpika://a:b@one:5673,c:d@[::1]:5674,e:f@10.0.0.1/vhost?pool_max_size=3"
    assert list(hosts_of(url)) == [
        Host("one", 5673, "a", "b", "vhost"),
        Host("::1", 5674, "c", "d", "vhost"),
        Host("10.0.0.1", 5672, "e", "f", "vhost"),
    ]


def test_what_a_url_does_not_say_is_as_rabbitmq_has_it() -> None:
    host = only("hbkombu://")
    assert host == Host("localhost", 5672)
    assert login_at(host) == Login("guest", "guest", "/")


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_the_schemes_have_the_port_of_amqp(scheme: str) -> None:
    assert [host.port for host in hosts_of(f"{scheme}://host,other:9/")] == [5672, 9]


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_a_scheme_without_a_library_is_refused(scheme: str) -> None:
    with pytest.raises(OptionError, match="schemes hbkombu, hbpika"):
        hosts_of(f"{scheme}://host/")
    with pytest.raises(OptionError, match="schemes hbkombu, hbpika"):
        AmqpOptions.load(url=f"{scheme}://host/", environ={})


def test_tls_decides_the_port() -> None:
    assert only("hbpika://host", ssl=True).port == 5671


@pytest.mark.parametrize(
    ("path", "virtual_host"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/%2F", "/"),
        ("/vhost", "vhost"),
        ("/%2Fvhost", "/vhost"),
        ("//vhost", "/vhost"),
        ("/a%20b%2Fc", "a b/c"),
        ("/a/b", "a/b"),
    ],
)
def test_the_virtual_host(path: str, virtual_host: str) -> None:
    assert login_at(only(f"hbpika://host{path}?ssl=false")).virtual_host == virtual_host


OSLO_READS = """
import json, sys
from oslo_config import cfg
from oslo_messaging import TransportURL
urls = [TransportURL.parse(cfg.CONF, url) for url in sys.argv[1:]]
print(json.dumps([
    [[h.hostname, h.port, h.username, h.password, url.virtual_host or "/"] for h in url.hosts]
    for url in urls
]))
"""


def test_oslo_reads_the_same_from_a_url() -> None:
    addresses = [
        "a:b@one:5673,c:d@two:1/vhost?x=1",
        "us%40er:p%2F%2C%3A%25w@host:1/v%2Fh",
        "a:b@[::1]:5674,a:b@[fe80::1]:2/",
        "a:@host:3//",
    ]
    # In a process of its own: it imports eventlet, and warns of that.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OSLO_READS, *(f"rabbit://{a}" for a in addresses)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    def fields(host: Host) -> list[object]:
        login = login_at(host)
        return [host.hostname, host.port, login.username, login.password, login.virtual_host]

    ours = [[fields(host) for host in hosts_of(f"hbpika://{address}")] for address in addresses]
    assert ours == json.loads(done.stdout)


def test_several_hosts_of_ipv6_without_a_login() -> None:
    hosts = hosts_of("hbpika://one,[::1],[fe80::1%eth0]:7/")
    assert [host.name for host in hosts] == ["one:5672", "[::1]:5672", "[fe80::1%eth0]:7"]


def test_a_percent_sign_that_encodes_nothing_is_one() -> None:
    assert only("hbpika://u:100%@host").password == "100%"


def test_a_user_without_a_password_has_an_empty_one() -> None:
    host = only("hbpika://me@host")
    assert host.password is None
    assert login_at(host) == Login("me", "", "/")


def test_a_name_is_for_people() -> None:
    one, six = hosts_of("hbpika://u:pr1vate@one,u:pr1vate@[::1]:9")
    assert (str(one), six.name) == ("one:5672", "[::1]:9")


def test_no_password_is_shown() -> None:
    hosts = hosts_of("hbpika://u:pr1vate@one,u:pr1vate@two")
    assert "pr1vate" not in repr(login_at(hosts[0]))
    for shown in (repr(hosts), str(hosts), str(hosts[0])):
        assert "pr1vate" not in shown
        assert "one" in shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "http://user-name:pr1vate@host/",
        "rabbit://user-name:pr1vate@host/",
        "hbpika:host",
        "hbpika://user-name:pr1vate/s3cret@intern:5673/v",
        "hbpika://user-name:pr1vate?s3cret@intern:5673/v",
        "hbpika://user-name:pr1vate#s3cret@intern:5673/v",
        "hbpika://user-name:pr1vate@s3cret@intern:5673/v",
        "hbpika://user-name:pr1vate,s3cret@intern:5673/v",
        "hbpika://user-name:pr1vate@intern:567300/",
        "hbpika://user-name:pr1vate@intern:0/",
        "hbpika://user-name:pr1vate@intern:port/",
        "hbpika://user-name:pr1vate@intern:/",
        "hbpika://user-name:pr1vate@[intern:5673/",
        "hbpika://user-name:pr1vate@[::1/",
        "hbpika://user-name:pr1vate@[nonsense]/",
        "hbpika://user-name:pr1vate@[:::::]/",
        "hbpika://user-name:pr1vate@::1:5673/",
        "hbpika://user-name:pr1vate@in tern/",
        "hbpika://user-name:pr1vate@intern;s3cret/",
        "hbpika://user-name:pr1vate@intern,/",
        "hbpika://user-name:pr1vate@intern,,s3cret/",
        "hbpika://user-name:pr1vate@intern,s3cret",
        "hbpika://user-name:pr1vate@intern/v%ff",
        "hbpika://user-name:pr1vate%ff@intern/v",
        "hbpika://:pr1vate@intern/",
        "hbpika://@intern/",
        "hbpika://one,,two/",
        "hbpika://one,",
        "hbpika://intern/\n",
    ],
)
def test_a_bad_url_is_refused_and_not_repeated(url: str) -> None:
    refused_and_not_repeated(lambda: hosts_of(url))


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_virtual_host_that_is_too_long_for_amqp_is_refused_and_not_repeated(scheme: str) -> None:
    url = f"{scheme}://user-name:pr1vate@intern/"
    connect(url + "v" * 255).close()
    refused_and_not_repeated(lambda: connect(url + "v" * 256))


def refused_and_not_repeated(use: Callable[..., Any]) -> None:
    with pytest.raises(OptionError) as caught:
        use()
    said = str(caught.value)
    assert not [secret for secret in SECRETS if secret in said]
    assert "write " in said
    # A cause would bring the URL with it into every traceback.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
