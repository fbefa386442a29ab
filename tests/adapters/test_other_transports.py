"""What kombu connects through another client is reported; no broker is needed."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import kombu
import pytest
from kombu.transport import TRANSPORT_ALIASES, base

import hbshim
from hbshim.adapters.kombu import other_transports
from hbshim.heartbeat.service import current


class Foreign(base.Transport):  # type: ignore[misc]
    """A transport of the program's own, over an AMQP client that hbshim does not know."""

    driver_type, driver_name = "amqp", "foreign-amqp"

    def establish_connection(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(close=lambda: None)

    def close_connection(self, connection: types.SimpleNamespace) -> None:
        connection.close()


@pytest.fixture(autouse=True)
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSPORT_ALIASES, "foreign", f"{__name__}:Foreign")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or types.ModuleType("x"))
    monkeypatch.setattr(sys.modules[__name__], "Foreign", Foreign, raising=False)
    other_transports._reported.get().clear()
    current().metrics.take_events()


def events() -> list[tuple[str, str]]:
    return [(event.kind, event.detail) for event in current().metrics.take_events()]


def connect(url: str) -> None:
    with kombu.Connection(url) as connection:
        connection.connect()


def test_an_unknown_amqp_client_is_reported_once() -> None:
    hbshim.install()
    connect("foreign://user:secret@host//")
    connect("foreign://user:secret@other//")
    ((kind, detail),) = events()
    assert kind == "not-kept-alive"
    assert "foreign-amqp" in detail
    assert "use a pyamqp:// URL" in detail
    assert "secret" not in detail


def test_a_transport_without_heartbeats_is_no_problem() -> None:
    hbshim.install()
    connect("memory://")
    ((kind, detail),) = events()
    assert kind == "no-amqp"
    assert "memory" in detail


def test_nothing_is_reported_while_hbshim_is_not_installed() -> None:
    hbshim.install()
    hbshim.uninstall()
    connect("foreign://host//")
    assert events() == []


def test_options_that_cannot_be_read_do_not_make_a_connection_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hbshim.install()
    monkeypatch.setenv("HBSHIM_CONFIG", str(tmp_path / "gone.ini"))
    connect("foreign://host//")
    assert [kind for kind, _ in events()] == ["not-kept-alive"]


def test_librabbitmq_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Foreign, "driver_name", "librabbitmq")
    hbshim.install()
    connect("foreign://host//")
    ((_, detail),) = events()
    assert "uninstall librabbitmq" in detail
