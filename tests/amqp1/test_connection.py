"""Connections open, log in, close, and end when the peer does what is not allowed."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim.amqp1.composites import encode_composite
from hbshim.amqp1.connection import CHANNEL_MAX, Connection
from hbshim.amqp1.errors import StateError
from hbshim.amqp1.events import Begun, Closed, Ended, LoginRefused, Opened, Origin
from hbshim.amqp1.frames import AMQP_HEADER, EMPTY_FRAME, SASL, SASL_HEADER, encode_frame
from hbshim.amqp1.mechanisms import Anonymous, External, Mechanism, Plain, plain_credentials
from hbshim.amqp1.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    End,
    Error,
    Flow,
    Open,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Transfer,
)
from hbshim.amqp1.sasl import SaslClient, SaslServer
from hbshim.amqp1.states import ConnectionState
from hbshim.errors import OptionError, PayloadError
from tests.amqp1.pair import Pair, opened

NOW = 100.0


def frame(performative: Any, channel: int = 0, payload: bytes = b"") -> bytes:
    return encode_frame(encode_composite(performative) + payload, channel)


def sasl_frame(performative: Any) -> bytes:
    return encode_frame(encode_composite(performative), kind=SASL)


def client(**options: Any) -> Connection:
    """A client without login, whose server has opened."""
    connection = Connection("c", **options)
    connection.data_to_send(NOW)
    (event,) = connection.receive_data(AMQP_HEADER + frame(Open("s")), NOW)
    assert isinstance(event, Opened)
    return connection


@pytest.mark.parametrize("chunk", [1, 3, 7, 100, 10_000])
def test_a_connection_opens_and_closes_wherever_the_network_cuts(chunk: int) -> None:
    client = Connection("client", hostname="h", idle_timeout=7, properties={"product": "p"})
    pair = Pair(client, Connection("server", server=True))
    pair.run(chunk)
    (seen,) = pair.events[1]
    assert isinstance(seen, Opened)
    assert (seen.remote.container_id, seen.remote.hostname) == ("client", "h")
    assert (seen.remote.idle_time_out, seen.remote.properties) == (7000, {"product": "p"})
    assert pair.last(0, Opened).remote.container_id == "server"
    pair.client.close()
    pair.run(chunk)
    assert pair.events[0][-1] == Closed(None, Origin.LOCAL)
    assert pair.events[1][-1] == Closed(None, Origin.PEER)
    assert pair.client.closed
    assert pair.server.closed
    assert pair.client.state is pair.server.state is ConnectionState.END


def test_what_a_client_says_first() -> None:
    """Header and Open are one write; with a login, they follow it."""
    plain = Connection("c")
    assert plain.data_to_send(NOW) == AMQP_HEADER + frame(plain.local)
    connection = Connection("c", sasl=SaslClient([Plain("user", "secret")], "h"))
    assert connection.data_to_send(NOW) == SASL_HEADER
    assert connection.receive_data(SASL_HEADER, NOW) == []
    assert connection.data_to_send(NOW) == b""
    offer = SaslMechanisms(("ANONYMOUS", "PLAIN"))
    assert connection.receive_data(sasl_frame(offer), NOW) == []
    init = SaslInit("PLAIN", b"\0user\0secret", "h")
    assert connection.data_to_send(NOW) == sasl_frame(init)
    assert connection.receive_data(sasl_frame(SaslOutcome(0)), NOW) == []
    assert connection.data_to_send(NOW) == AMQP_HEADER + frame(connection.local)


def test_what_a_server_says_first() -> None:
    connection = Connection("s", server=True)
    assert connection.data_to_send(NOW) == b""
    assert connection.receive_data(AMQP_HEADER, NOW) == []
    assert connection.data_to_send(NOW) == AMQP_HEADER
    assert len(connection.receive_data(frame(Open("c")), NOW)) == 1
    assert connection.data_to_send(NOW) == frame(connection.local)


@pytest.mark.parametrize(
    "mechanism", [Anonymous(), External(), Plain("user", "pässword")], ids=lambda each: each.name
)
def test_logins(mechanism: Any) -> None:
    asked = []

    def accepts(name: str, response: bytes) -> bool:
        asked.append((name, response))
        return True

    offered = ["PLAIN", "EXTERNAL", "ANONYMOUS"]
    pair = Pair(
        Connection("client", sasl=SaslClient([mechanism], None)),
        Connection("server", server=True, sasl=SaslServer(offered, accepts)),
    )
    pair.run(5)
    assert pair.last(0, Opened)
    assert pair.last(1, Opened)
    assert asked == [(mechanism.name, mechanism.initial_response())]
    if mechanism.name == "PLAIN":
        assert plain_credentials(asked[0][1]) == ("user", "pässword")


def test_wrong_credentials() -> None:
    pair = Pair(
        Connection("client", sasl=SaslClient([Plain("user", "wrong")], None)),
        Connection("server", server=True, sasl=SaslServer(["PLAIN"], lambda name, data: False)),
    )
    pair.run()
    (event,) = pair.events[0]
    assert event == LoginRefused(1, "the peer refused the credentials (SASL PLAIN)")
    assert pair.events[1] == [LoginRefused(1, "this side refused the credentials")]
    assert pair.client.closed
    assert pair.server.closed
    assert pair.client.data_to_send(NOW) == b""
    assert pair.client.receive_data(b"", NOW) == []


def test_no_common_mechanism() -> None:
    pair = Pair(
        Connection("client", sasl=SaslClient([External(), Plain("u", "p")], None)),
        Connection("server", server=True, sasl=SaslServer(["ANONYMOUS"], lambda name, data: True)),
    )
    pair.run()
    (event,) = pair.events[0]
    assert event.code is None
    assert "offers the SASL mechanisms ANONYMOUS; not EXTERNAL, PLAIN" in event.reason


def test_the_first_mechanism_that_is_offered_is_taken() -> None:
    asked = []
    mechanisms: list[Mechanism] = [External(), Plain("u", "p"), Anonymous()]
    offered = ["ANONYMOUS", "PLAIN"]
    server = SaslServer(offered, lambda name, data: not asked.append(name))
    pair = Pair(
        Connection("client", sasl=SaslClient(mechanisms, None)),
        Connection("server", server=True, sasl=server),
    )
    pair.run()
    assert asked == ["PLAIN"]


def test_a_mechanism_that_is_withheld() -> None:
    """The reason is for a server that offers nothing else."""
    for offered, reason in (("PLAIN", "not without TLS"), ("EXTERNAL", "not ANONYMOUS")):
        login = SaslClient([Anonymous()], None, {"PLAIN": "not without TLS"})
        pair = Pair(
            Connection("client", sasl=login),
            Connection("server", server=True, sasl=SaslServer([offered], lambda name, data: True)),
        )
        pair.run()
        (event,) = pair.events[0]
        assert event.reason.endswith(reason)


@pytest.mark.parametrize(
    ("response", "message"),
    [(b"user", "three parts"), (b"\0\0\0\0", "three parts"), (b"\0\xff\0p", "not UTF-8")],
)
def test_responses_to_plain_that_are_none(response: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_credentials(response)


def test_a_password_is_in_no_text() -> None:
    mechanism = Plain("user", "secret")
    connection = Connection("c", sasl=SaslClient([mechanism], None))
    assert "secret" not in repr(mechanism) + repr(connection) + repr(vars(connection))


SASL_MISTAKES = {
    "an outcome first": [SaslOutcome(0)],
    "mechanisms twice": [SaslMechanisms(("ANONYMOUS",)), SaslMechanisms(("ANONYMOUS",))],
    "a challenge": [SaslMechanisms(("ANONYMOUS",)), SaslChallenge(b"?")],
    "init": [SaslInit("ANONYMOUS")],
    "a frame of AMQP": [Open("s")],
}


@pytest.mark.parametrize("frames", SASL_MISTAKES.values(), ids=SASL_MISTAKES)
def test_what_sasl_does_not_allow(frames: list[Any]) -> None:
    connection = Connection("c", sasl=SaslClient([Anonymous()], None))
    connection.data_to_send(NOW)
    data = SASL_HEADER + b"".join(map(sasl_frame, frames))
    (event,) = connection.receive_data(data, NOW)
    assert isinstance(event, Closed)
    assert event.origin is Origin.LOCAL
    assert connection.closed


def test_a_client_chooses_what_was_offered() -> None:
    connection = Connection("s", server=True, sasl=SaslServer(["PLAIN"], lambda name, data: True))
    init = sasl_frame(SaslInit("ANONYMOUS"))
    (event,) = connection.receive_data(SASL_HEADER + init, NOW)
    assert event.error.description == "SASL ANONYMOUS was not offered"


def test_a_client_that_asks_for_no_mechanism() -> None:
    connection = Connection("s", server=True, sasl=SaslServer(["PLAIN"], lambda name, data: True))
    (event,) = connection.receive_data(SASL_HEADER + sasl_frame(SaslOutcome(0)), NOW)
    assert event.error.description == "SaslOutcome is not allowed now"


def test_nothing_is_read_before_the_login() -> None:
    connection = Connection("s", server=True, sasl=SaslServer(["PLAIN"], lambda name, data: True))
    (event,) = connection.receive_data(SASL_HEADER + frame(Open("c")), NOW)
    assert event.error.description == "a frame of AMQP before the login"
    assert not isinstance(event, Opened)


@pytest.mark.parametrize(
    ("theirs", "sasl"),
    [
        (b"AMQP\0\0\x09\1", None),
        (SASL_HEADER, None),
        (AMQP_HEADER, SaslClient([Anonymous()], None)),
        (b"HTTP/1.1", None),
    ],
)
def test_a_peer_that_speaks_something_else(theirs: bytes, sasl: Any) -> None:
    connection = Connection("c", sasl=sasl)
    (event,) = connection.receive_data(theirs + b" 400 Bad Request", NOW)
    assert isinstance(event, Closed)
    assert event.error is not None
    assert str(theirs) in str(event.error.description)
    assert connection.closed


def test_a_server_says_what_it_speaks() -> None:
    connection = Connection("s", server=True, sasl=SaslServer(["PLAIN"], lambda name, data: True))
    connection.receive_data(AMQP_HEADER, NOW)
    assert connection.data_to_send(NOW) == SASL_HEADER


def test_a_peer_that_refuses_to_open() -> None:
    """RabbitMQ sends Open first; others only Close."""
    error = Error("amqp:not-found", "no such virtual host")
    for data in (frame(Open("s")) + frame(Close(error)), frame(Close(error))):
        connection = Connection("c")
        connection.data_to_send(NOW)
        events = connection.receive_data(AMQP_HEADER + data, NOW)
        assert events[-1] == Closed(error, Origin.PEER)
        assert connection.data_to_send(NOW) == frame(Close())


@pytest.mark.parametrize("said", [b"", AMQP_HEADER, AMQP_HEADER + frame(Open("s"))])
def test_a_stream_that_ends(said: bytes) -> None:
    connection = Connection("c")
    if said:
        connection.receive_data(said, NOW)
    assert connection.receive_data(b"", NOW) == [Closed(None, Origin.LOST)]
    assert connection.receive_data(b"", NOW) == []
    with pytest.raises(StateError):
        connection.begin()


def test_closing_early() -> None:
    """A client that gives up before the server has answered."""
    connection = Connection("c")
    connection.close()
    assert connection.data_to_send(NOW).endswith(frame(Close()))
    with pytest.raises(StateError):
        connection.begin()
    data = AMQP_HEADER + frame(Open("s")) + frame(Close())
    assert connection.receive_data(data, NOW) == [Closed(None, Origin.LOCAL)]
    logging_in = Connection("c", sasl=SaslClient([Anonymous()], None))
    assert logging_in.data_to_send(NOW) == SASL_HEADER
    logging_in.close()
    assert logging_in.closed
    assert logging_in.data_to_send(NOW) == b""


def test_both_sides_close_at_once() -> None:
    pair = opened()
    pair.client.close(Error("a:client", None))
    pair.server.close(Error("a:server", None))
    pair.client.close()
    pair.run()
    assert pair.events[0][-1] == Closed(Error("a:server", None), Origin.LOCAL)
    assert pair.events[1][-1] == Closed(Error("a:client", None), Origin.LOCAL)


def test_nothing_is_handled_after_close() -> None:
    connection = client()
    session = connection.begin()
    connection.close()
    data = connection.data_to_send(NOW)
    assert data.endswith(frame(Close()))
    late = frame(Begin(0, 0, 1, 1)) + frame(Attach("l", 0, False)) + frame(End()) + EMPTY_FRAME
    assert connection.receive_data(late, NOW) == []
    with pytest.raises(StateError):
        session.attach_sender("l", None)  # type: ignore[arg-type]
    assert connection.data_to_send(NOW) == b""
    assert connection.receive_data(frame(Close()) + late, NOW) == [Closed(None, Origin.LOCAL)]


MISTAKES = {
    "not a frame": (b"\0\0\0\7\2\0\0\0", "amqp:connection:framing-error"),
    "a frame that is too large": (b"\0\1\0\1\2\0\0\0", "amqp:connection:framing-error"),
    "SASL after the login": (sasl_frame(SaslOutcome(0)), "amqp:illegal-state"),
    "not a performative": (encode_frame(b"\x40"), "amqp:decode-error"),
    "a state as performative": (frame(Accepted()), "amqp:decode-error"),
    "Open twice": (frame(Open("s")), "amqp:illegal-state"),
    "more behind Close": (frame(Close(), payload=b"x"), "amqp:decode-error"),
    "a channel without session": (frame(Flow(0, 1, 0, 1), 3), "amqp:illegal-state"),
    "the end of no session": (frame(End(), 3), "amqp:illegal-state"),
    "a channel that is not allowed": (frame(Begin(None, 0, 1, 1), 256), "amqp:not-allowed"),
    "a session twice": (2 * frame(Begin(None, 0, 1, 1), 1), "amqp:illegal-state"),
    "an answer without question": (frame(Begin(5, 0, 1, 1), 1), "amqp:illegal-state"),
    "a transfer without session": (frame(Transfer(0, 0, b"")), "amqp:illegal-state"),
}


@pytest.mark.parametrize(("data", "condition"), MISTAKES.values(), ids=MISTAKES)
def test_a_peer_that_makes_a_mistake_is_told(data: bytes, condition: str) -> None:
    connection = client()
    events = connection.receive_data(data, NOW)
    closed = events[-1]
    assert isinstance(closed, Closed)
    assert closed.error is not None
    assert (closed.error.condition, closed.origin) == (condition, Origin.LOCAL)
    assert connection.closed
    assert connection.data_to_send(NOW).endswith(frame(Close(closed.error)))
    # What follows is not read, until the peer has answered.
    assert connection.receive_data(data, NOW) == []
    assert connection.data_to_send(NOW) == b""


def test_sessions_are_limited_on_both_sides() -> None:
    connection = Connection("c")
    connection.receive_data(AMQP_HEADER + frame(Open("s", channel_max=1)), NOW)
    connection.begin()
    connection.begin()
    with pytest.raises(StateError, match="has 2 sessions; no more are allowed"):
        connection.begin()
    connection = client()
    own = connection.begin()
    for channel in range(CHANNEL_MAX):
        (event,) = connection.receive_data(frame(Begin(None, 0, 1, 1), channel), NOW)
        assert event.session is not own
    (closed,) = connection.receive_data(frame(Begin(None, 0, 1, 1), CHANNEL_MAX), NOW)
    assert closed.error.condition == "amqp:resource-limit-exceeded"


def test_a_channel_is_used_again_after_all_others() -> None:
    """RabbitMQ 4.0 loses a begin on a channel whose end it has just answered."""
    connection = Connection("c")
    connection.receive_data(AMQP_HEADER + frame(Open("s", channel_max=2)), NOW)
    for channel in (0, 1, 2, 0, 1):
        session = connection.begin()
        assert session.channel == channel
        (event,) = connection.receive_data(frame(Begin(channel, 0, 1, 1), 9), NOW)
        assert event == Begun(session)
        session.end()
        assert connection.receive_data(frame(End(), 9), NOW) == [Ended(session, None, False)]
    kept = connection.begin()
    assert [connection.begin().channel, connection.begin().channel, kept.channel] == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [{"max_frame_size": 511}, {"max_frame_size": 1 << 25}, {"idle_timeout": 0.9}],
    ids=str,
)
def test_options_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Connection("c", **options)
    with pytest.raises(OptionError, match="NUL"):
        Plain("a\0b", "c")


def test_open_fits_into_the_first_frame() -> None:
    with pytest.raises(PayloadError, match="it may have 512: use shorter names"):
        Connection("c" * 500)


def test_frames_are_as_large_as_both_sides_allow() -> None:
    for ours, theirs, both in ((4096, 8192, 4096), (8192, 4096, 4096), (4096, 1, 512)):
        connection = Connection("c", max_frame_size=ours)
        connection.receive_data(AMQP_HEADER + frame(Open("s", max_frame_size=theirs)), NOW)
        assert connection.peer_max_frame_size == both


def test_missing_bytes_are_known() -> None:
    connection = client()
    assert connection.missing == 0
    connection.receive_data(EMPTY_FRAME[:3], NOW)
    assert connection.missing == 5
