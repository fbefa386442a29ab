"""A URL's scheme names the client library; nothing is connected before it is used."""

import socket

import pytest

from hbshim.errors import ConnectError, OptionError
from hbshim.messaging import MessagingOptions, Target, connect
from hbshim.messaging.drivers import driver_over
from hbshim.messaging.hosts import Host


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_a_driver_is_made_for_several_hosts_of_ipv6(scheme):
    driver = connect(f"{scheme}://one,[::1]:5673/vhost?pool_max_size=3", pool_stale=9)
    assert (driver.options.pool_max_size, driver.options.pool_stale) == (3, 9)
    driver.close()


@pytest.mark.parametrize("url", ["amqp://u:s3cret@host/", "rabbit://u:s3cret@[host/", "host", ""])
def test_a_url_of_no_driver_is_refused_and_not_repeated(url):
    with pytest.raises(OptionError, match="begin it with hbkombu:// or hbpika://") as caught:
        connect(url)
    assert "s3cret" not in str(caught.value)


def tried(shuffle):
    """The ports of eight hosts that refuse, in the order in which a driver tries them."""
    bound = []
    try:
        # Bound and not listening: whoever connects is refused.
        for _ in range(8):
            sock = socket.socket()
            bound.append(sock)
            sock.bind(("127.0.0.1", 0))
        ports = [sock.getsockname()[1] for sock in bound]
        options = MessagingOptions(
            hosts_shuffle=shuffle, socket_timeout=10, connection_retry_attempts=1
        )
        driver = driver_over("pika", [Host("127.0.0.1", port) for port in ports], options)
        with pytest.raises(ConnectError) as caught:
            driver.delete(Target("nothing"))
        driver.close()
    finally:
        for sock in bound:
            sock.close()
    said = str(caught.value)
    return sorted(range(8), key=lambda number: said.index(f":{ports[number]}"))


def test_hosts_are_tried_in_their_order():
    assert tried(shuffle=False) == list(range(8))


def test_hosts_are_tried_in_any_order_where_that_is_asked_for():
    assert len({tuple(tried(shuffle=True)) for _ in range(4)}) > 1
