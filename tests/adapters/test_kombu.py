"""kombu on the real broker: URL options, the stand-in transport, reconnection."""

import kombu
import pytest

import hbshim
from hbshim.errors import AttachError, OptionError
from hbshim.heartbeat.service import current
from tests.waiting import wait_until


@pytest.fixture
def connect(broker):
    opened = []

    def open_connection(scheme="amqp", connect=True, **query):
        url = broker.amqp_url(**query).replace("amqp://", f"{scheme}://", 1)
        connection = kombu.Connection(url, heartbeat=1)
        opened.append(connection)
        if connect:
            connection.connect()
        return connection

    yield open_connection
    for connection in opened:
        connection.release()


def link_of(connection):
    return getattr(connection.connection.transport, "hbshim_link", None)


def use(connection):
    connection.default_channel.queue_declare("", exclusive=True)


def test_install_keeps_kombu_alive(connect):
    hbshim.install()
    connection = connect()
    wait_until(lambda: link_of(connection).beats >= 3)
    use(connection)


def test_an_option_in_the_url_reaches_the_link(connect):
    hbshim.install()
    connect(heartbeat_in_pthread="true")
    with pytest.raises(OptionError, match="heartbeat_in_pthread='perhaps'"):
        connect(heartbeat_in_pthread="perhaps")


def test_a_keyword_of_install_wins_over_the_url(connect):
    hbshim.install(heartbeat_in_pthread="auto")
    assert link_of(connect(heartbeat_in_pthread="perhaps")) is not None


def test_the_stand_in_transport_needs_no_install(connect):
    import hbshim.adapters.kombu  # noqa: F401 - registers the transport

    connection = connect(scheme="hbshim", heartbeat_in_pthread="true")
    assert connection.transport.driver_name == "py-amqp+hbshim"
    wait_until(lambda: link_of(connection).beats >= 3)
    use(connection)


def test_options_survive_the_clones_that_pools_make(connect):
    import hbshim.adapters.kombu  # noqa: F401

    original = connect(scheme="hbshim", connect=False, heartbeat_in_pthread="perhaps")
    clone = original.clone()
    with pytest.raises(OptionError):
        clone.connect()


def test_several_hosts_keep_their_options(broker):
    import hbshim.adapters.kombu as adapter

    good = broker.amqp_url(heartbeat_in_pthread="true")
    nobody = "amqp://guest:guest@127.0.0.1:1//"
    for hosts in (f"{nobody};{good}", [nobody, good]):
        connection = kombu.Connection(hosts)
        assert adapter.connection_options(connection) == {"heartbeat_in_pthread": "true"}
        assert all("heartbeat_in_pthread" not in url for url in connection.alt)


def test_keep_alive_follows_a_kombu_connection_through_its_reconnection(connect):
    connection = connect()
    hbshim.keep_alive(connection)
    first = link_of(connection)
    connection.close()
    connection.connect()
    second = link_of(connection)
    assert second is not None
    assert second is not first
    wait_until(lambda: second.beats >= 2)


def test_a_connection_that_is_not_open_says_what_to_do(connect):
    with pytest.raises(AttachError, match=r"call its connect\(\) first"):
        hbshim.keep_alive(connect(connect=False))


def test_another_transport_is_refused_by_name():
    connection = kombu.Connection("memory://")
    connection.connect()
    with pytest.raises(AttachError, match="use an amqp:// URL"):
        hbshim.keep_alive(connection)
    connection.release()


def test_existing_heartbeat_checks_go_on_working(connect):
    hbshim.install()
    connection = connect()
    beats = link_of(connection).beats
    wait_until(lambda: (connection.heartbeat_check(), link_of(connection).beats >= beats + 6)[1])
    use(connection)


def test_a_released_connection_is_no_longer_watched(connect):
    hbshim.install()
    connection = connect()
    link = link_of(connection)
    assert link in current().links()
    connection.release()
    assert link not in current().links()
