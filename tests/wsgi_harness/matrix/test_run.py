"""What a run is made of, before any container starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from wsgi_harness.errors import HarnessError, StackError
from wsgi_harness.matrix import answering
from wsgi_harness.matrix.run import services_of, that_can_run
from wsgi_harness.matrix.scenarios import SCENARIOS, SCHEMES, select
from wsgi_harness.observe import wiretap


class Lines:
    """A display that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    @contextmanager
    def stage(self, title: str, total: float) -> Iterator[Callable[[float], None]]:
        yield lambda _: None


def test_hbshims_own_broker_takes_every_cell() -> None:
    display = Lines()

    assert that_can_run(SCENARIOS, None, display) == SCENARIOS
    assert display.said == []


def test_cells_over_tls_are_left_out_with_another_broker_and_it_is_said() -> None:
    display = Lines()

    chosen = that_can_run(SCENARIOS, "rabbitmq:4", display)

    encrypted = [scenario for scenario in SCENARIOS if scenario.world.tls]
    assert [scenario for scenario in SCENARIOS if scenario not in chosen] == encrypted
    assert display.said == [
        f"left out: {len(encrypted)} cells over TLS, which need hbshim's own broker image"
    ]


def test_nothing_but_cells_over_tls_cannot_run_with_another_broker() -> None:
    with pytest.raises(HarnessError, match="without --rabbitmq-image"):
        that_can_run(select(["*-tls"]), "rabbitmq:4", Lines())


def test_cells_over_tls_go_past_the_relay() -> None:
    services = {each.name: each for each in services_of(select(["none-*"]), 4)}

    relay = services[wiretap.RELAY]
    assert any("none-kombu=" in argument for argument in relay.entrypoint)
    assert not any("tls" in argument for argument in relay.entrypoint)
    told = json.loads(services["none-kombu-tls"].environment["CELL"])
    assert (told["host"], told["port"], told["tls"]) == (*wiretap.ENCRYPTED, True)


def test_somebody_answers_each_driver_that_asks_and_nobody_is_there_without() -> None:
    services = {each.name: each for each in services_of(select(["*-oslo", "none-kombu"]), 4)}

    assert services[answering.ANSWERS].entrypoint[-4:] == SCHEMES
    assert answering.ANSWERS not in [each.name for each in services_of(select(["none-*"]), 4)]


def test_a_server_that_does_not_serve_is_an_error_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "_READY_LIMIT", 0.5)

    with pytest.raises(StackError, match=r"(?s)does not serve.*\nModuleNotFoundError"):
        answering.wait_for(lambda: ["Traceback", "ModuleNotFoundError"])
    answering.wait_for(lambda: ["a warning", "serving"])


def test_without_a_cell_to_relay_there_is_no_relay() -> None:
    services = services_of(select(["*-tls"]), 4)

    assert wiretap.RELAY not in [each.name for each in services]
