"""Inside a TLS session beats go through the SSL object, and nothing is corrupted."""

import ssl
import threading

import amqp
import pika
import pytest

import hbshim
from hbshim.heartbeat.state import State
from tests.waiting import wait_until
from tests.worlds import needs_os_threads


@pytest.fixture
def ca(broker, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(broker.ca_pem)
    return path


@pytest.fixture
def connect_amqp(broker, ca):
    opened = []

    def connect(heartbeat=1):
        connection = amqp.Connection(
            f"localhost:{broker.tls_port}",
            broker.user,
            broker.password,
            heartbeat=heartbeat,
            ssl={"ca_certs": str(ca), "server_hostname": "localhost"},
        )
        connection.connect()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.collect()


@pytest.fixture
def connect_pika(broker, ca):
    opened = []

    def connect(heartbeat=1):
        parameters = pika.ConnectionParameters(
            "localhost",
            broker.tls_port,
            credentials=pika.PlainCredentials(broker.user, broker.password),
            heartbeat=heartbeat,
            ssl_options=pika.SSLOptions(ssl.create_default_context(cafile=ca), "localhost"),
        )
        connection = pika.BlockingConnection(parameters)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        if connection.is_open:
            connection.close()


def test_an_idle_py_amqp_session_is_kept_alive(connect_amqp):
    connection = hbshim.keep_alive(connect_amqp())
    link = connection.transport.hbshim_link
    assert link.wire.route == "tls"
    wait_until(lambda: link.beats >= 10)  # 5 T
    connection.channel().queue_declare("", exclusive=True)
    assert link.state is State.ALIVE


def test_an_idle_pika_session_is_kept_alive(connect_pika):
    connection = hbshim.keep_alive(connect_pika())
    link = connection._impl._heartbeat_checker._link
    assert link.wire.route == "tls"
    wait_until(lambda: link.beats >= 10)
    connection.channel().queue_declare("", exclusive=True)


@needs_os_threads
def test_beats_go_out_while_a_reader_waits_in_a_blocking_read(connect_amqp):
    connection = hbshim.keep_alive(connect_amqp())
    link = connection.transport.hbshim_link
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).queue
    got = []
    channel.basic_consume(queue, no_ack=True, callback=got.append)
    reader = threading.Thread(target=lambda: wait_for_one(connection, got))
    reader.start()
    wait_until(lambda: link.beats >= 8)
    assert not got
    channel.basic_publish(amqp.Message(b"wake up"), routing_key=queue)
    reader.join(10)
    assert not reader.is_alive()
    assert got[0].body == b"wake up"


def wait_for_one(connection, got):
    while not got:
        connection.drain_events()


def test_a_read_with_a_timeout_still_times_out(connect_amqp):
    connection = hbshim.keep_alive(connect_amqp(heartbeat=60))
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    connection.channel().queue_declare("", exclusive=True)


@pytest.mark.parametrize("library", ["py-amqp", "pika"])
def test_beats_forced_between_large_bodies_corrupt_nothing(library, connect_amqp, connect_pika):
    body = bytes(range(256)) * 1024  # 256 KiB, several frames each
    if library == "py-amqp":
        connection = hbshim.keep_alive(connect_amqp(heartbeat=2))
        link = connection.transport.hbshim_link
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).queue

        def exchange():
            channel.basic_publish(amqp.Message(body), routing_key=queue)
            return channel.basic_get(queue, no_ack=True)

        def content(message):
            return message.body
    else:
        connection = hbshim.keep_alive(connect_pika(heartbeat=2))
        link = connection._impl._heartbeat_checker._link
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue

        def exchange():
            channel.basic_publish("", queue, body)
            return channel.basic_get(queue, auto_ack=True)

        def content(message):
            return message[2]

    # The engine finds a beat due at each look, and looks every 5 ms.
    view = link.wire.kernel_view
    link.wire.kernel_view = lambda: view()._replace(sent_ago=9.0, received_ago=0.0)
    link.timeout = 0.01
    beats = link.beats
    for _ in range(30):
        message = exchange()
        while message is None or (library == "pika" and message[0] is None):
            message = channel.basic_get(queue)
        got = content(message)
        assert (got if isinstance(got, bytes) else got.encode("latin-1")) == body
        wait_until(lambda seen=link.beats: link.beats > seen)
    assert link.beats >= beats + 30
