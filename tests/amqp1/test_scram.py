"""SASL SCRAM by the examples of its specifications, and peers that must not be trusted."""

from __future__ import annotations

from typing import Any

import pytest

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import LoginRefused
from hbshim.amqp1.frames import SASL_HEADER
from hbshim.amqp1.mechanisms import Mechanism, Plain
from hbshim.amqp1.performatives import (
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
)
from hbshim.amqp1.sasl import SaslClient
from hbshim.amqp1.saslprep import saslprep
from hbshim.amqp1.scram import HASHES, Scram
from hbshim.errors import OptionError
from tests.amqp1.cyrus import Cyrus
from tests.amqp1.test_connection import NOW, sasl_frame

#: Mechanism, nonce, and the four messages; RFC 5802, section 5, and RFC 7677, section 3.
EXAMPLES = {
    "SCRAM-SHA-1": (
        "fyko+d2lbbFgONRv9qkxdawL",
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        "rOprNGfwEbeRWgbNEkqO",
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}
NONCE, _, FIRST, FINAL, SIGNATURE = EXAMPLES["SCRAM-SHA-256"]


def client(nonce: str = NONCE, name: str = "SCRAM-SHA-256") -> Connection:
    """A client that has been offered SCRAM, and something weaker before it."""
    mechanisms: list[Mechanism] = [Scram(name, "user", "pencil", nonce), Plain("user", "pencil")]
    connection = Connection("c", sasl=SaslClient(mechanisms, None))
    connection.data_to_send(NOW)
    offer = SASL_HEADER + sasl_frame(SaslMechanisms(("PLAIN", name)))
    assert connection.receive_data(offer, NOW) == []
    return connection


def said(connection: Connection, *frames: Any) -> list[Any]:
    return list(connection.receive_data(b"".join(map(sasl_frame, frames)), NOW))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("apart", [True, False], ids=["challenge", "with the outcome"])
def test_the_examples_of_the_specifications(name: str, apart: bool) -> None:
    nonce, first, challenge, final, signature = EXAMPLES[name]
    connection = client(nonce, name)
    assert connection.data_to_send(NOW) == sasl_frame(SaslInit(name, first.encode()))
    assert said(connection, SaslChallenge(challenge.encode())) == []
    assert connection.data_to_send(NOW) == sasl_frame(SaslResponse(final.encode()))
    if apart:
        assert said(connection, SaslChallenge(signature.encode())) == []
        assert connection.data_to_send(NOW) == sasl_frame(SaslResponse(b""))
        assert said(connection, SaslOutcome(0)) == []
    else:
        assert said(connection, SaslOutcome(0, signature.encode())) == []
    assert connection.logged_in


OK = SaslOutcome(0)
FIRST_FRAME = SaslChallenge(FIRST.encode())
#: What a peer says that does not know the password, or that would have it guessed.
HOSTILE = {
    "accepted at once": ([OK], "did not prove"),
    "accepted without proof": ([FIRST_FRAME, OK], "did not prove"),
    "the proof of another": (
        [FIRST_FRAME, SaslChallenge(SIGNATURE.replace("6", "7", 1).encode())],
        "did not prove",
    ),
    "a proof that is cut": ([FIRST_FRAME, SaslOutcome(0, SIGNATURE[:-8].encode())], "did not"),
    "an error": ([FIRST_FRAME, SaslChallenge(b"e=invalid-proof,x=1")], "refused .*invalid-proof"),
    "an error, and accepted": ([FIRST_FRAME, SaslOutcome(0, b"e=other-error")], "refused"),
    "another nonce": ([SaslChallenge(FIRST.replace("rO", "XX").encode())], "nonce"),
    "the same nonce": ([SaslChallenge(f"r={NONCE},s=W22Z,i=4096".encode())], "nonce"),
    "no salt": ([SaslChallenge(f"r={NONCE}x,s=,i=4096".encode())], "salt"),
    "few iterations": ([SaslChallenge(FIRST.replace("4096", "4095").encode())], "4095 iterations"),
    "many iterations": ([SaslChallenge(FIRST.replace("4096", "9" * 4000).encode())], "iterations"),
    "more digits than Python reads": (
        [SaslChallenge(FIRST.replace("4096", "9" * 5000).encode())],
        "iterations",
    ),
    "negative iterations": ([SaslChallenge(FIRST.replace("4096", "-9").encode())], "-9 iterations"),
    "an extension": ([SaslChallenge(f"m=x,{FIRST}".encode())], "no message"),
    "nothing": ([SaslChallenge(b"")], "no message"),
    "no text": ([SaslChallenge(b"\xff" * 30)], "no message"),
    "no base64": ([SaslChallenge(f"r={NONCE}x,s=?,i=4096".encode())], "no message"),
}


@pytest.mark.parametrize(("frames", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_peer_that_must_not_be_trusted(frames: list[Any], reason: str) -> None:
    connection = client()
    (event,) = said(connection, *frames)
    assert isinstance(event, LoginRefused)
    assert event.code is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(event.reason)
    assert event.reason.endswith("(SASL SCRAM-SHA-256)")
    assert connection.closed
    assert not connection.logged_in


@pytest.fixture(scope="module")
def cyrus(tmp_path_factory: pytest.TempPathFactory) -> Cyrus:
    try:
        return Cyrus(tmp_path_factory.mktemp("cyrus"), "nova", "the s\u00e9cret")
    except OSError as error:
        pytest.skip(f"no Cyrus SASL here: {error}")


@pytest.mark.parametrize("name", HASHES)
def test_logins_at_cyrus(name: str, cyrus: Cyrus) -> None:
    mechanism = Scram(name, "nova", "the s\u00e9cret")
    assert cyrus.log_in(mechanism)
    mechanism.finish(b"")
    assert not cyrus.log_in(Scram(name, "nova", "the wrong secret"))


def test_cyrus_stores_a_password_as_it_is_written(cyrus: Cyrus) -> None:
    """SCRAM's normal form of it is another text: only that can be logged in with."""
    raw, normal = "cafe\u0301", "caf\u00e9"
    cyrus.add("raw", raw)
    cyrus.add("normal", normal)
    assert not cyrus.log_in(Scram("SCRAM-SHA-256", "raw", raw))
    for each in (raw, normal):
        assert cyrus.log_in(Scram("SCRAM-SHA-256", "normal", each))


def test_nonces_are_used_once_and_secrets_are_in_no_text() -> None:
    mechanisms = [Scram("SCRAM-SHA-256", "a,b=c", "the-secret") for _ in range(2)]
    first, second = (each.initial_response() for each in mechanisms)
    assert first != second
    assert first.startswith(b"n,,n=a=2Cb=3Dc,r=")
    connection = Connection("c", sasl=SaslClient(mechanisms, None))
    assert "the-secret" not in repr(mechanisms) + repr(connection) + repr(vars(connection))


@pytest.mark.parametrize(
    ("text", "prepared"),
    # The first five are the examples of RFC 4013, section 3.
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("p\u00a0w\u00e4", "p w\u00e4"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("", ""),
    ],
)
def test_text_is_prepared(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "a\u0627", "\U0001f511", "\ud800"])
def test_text_that_is_not_allowed(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Scram("SCRAM-SHA-1", "user", text)
    assert text not in str(caught.value)
