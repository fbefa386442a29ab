"""What a run is made of, before any container starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.errors import HarnessError, ImageError, StackError
from wsgi_harness.matrix import answering, brokers, routing
from wsgi_harness.matrix.run import services_of, that_can_run
from wsgi_harness.matrix.scenarios import SCENARIOS, SCHEMES, select
from wsgi_harness.observe import wiretap


class Lines:
    """A display that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def stage(self, title: str, total: float) -> Iterator[Callable[[float], None]]:
        yield lambda _: None


def test_hbshims_own_broker_takes_every_cell() -> None:
    display = Lines()

    assert that_can_run(SCENARIOS, None, display) == SCENARIOS
    assert display.lines == []


def test_cells_that_need_more_than_one_foreign_broker_are_left_out_and_it_is_said() -> None:
    display = Lines()

    chosen = that_can_run(SCENARIOS, "rabbitmq:4", display)

    own = [
        each
        for each in SCENARIOS
        if each.deployment.tls
        or each.deployment.rabbitmq
        or (each.deployment.protocol == "1.0" and not each.deployment.router)
        or each.deployment.key == "hybrid"
    ]
    assert [scenario for scenario in SCENARIOS if scenario not in chosen] == own
    assert display.lines == [
        f"left out: {len(own)} cells over TLS, on other versions or over AMQP 1.0, which the image "
        "rabbitmq:4 cannot take"
    ]


def test_a_broker_without_amqp_1_0_leaves_out_the_cells_that_need_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HBSHIM_RABBITMQ", "3.10")
    display = Lines()

    chosen = that_can_run(SCENARIOS, None, display)

    left_out = [each.name for each in SCENARIOS if each not in chosen]
    assert left_out == [each.name for each in select(["*-amqp1", "*-amqp1-*", "*-hybrid"])]
    assert "the image of RabbitMQ 3.10 cannot take" in display.lines[0]


@pytest.mark.parametrize("pattern", ["*-tls", "*-rabbitmq43"])
def test_nothing_but_cells_that_need_own_brokers_cannot_run_with_another(pattern: str) -> None:
    with pytest.raises(HarnessError, match="without --rabbitmq-image"):
        that_can_run(select([pattern]), "rabbitmq:4", Lines())


def engine_with(*versions: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that has images of these versions of RabbitMQ and can build no other."""

    def ensure(_engine: Engine, version: str, **_options: object) -> str:
        if version not in versions:
            raise ImageError("the archive is broken")
        return f"image:{version}"

    monkeypatch.setattr(brokers, "ensure_broker_image", ensure)
    return Engine("docker", "1", ("docker",), ("docker",), ("docker", "compose"))


def test_each_further_version_gets_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    display = Lines()
    engine = engine_with("3.10", "4.3", monkeypatch=monkeypatch)

    images, chosen = brokers.images_of(SCENARIOS, engine, display.note)

    assert images == {"rabbitmq310": "image:3.10", "rabbitmq43": "image:4.3"}
    assert chosen == SCENARIOS
    assert brokers.images_of(select(["none-kombu"]), engine, display.note)[0] == {}


def test_a_version_that_cannot_be_had_costs_its_cells_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    display = Lines()
    engine = engine_with("3.10", monkeypatch=monkeypatch)

    images, chosen = brokers.images_of(SCENARIOS, engine, display.note)

    assert images == {"rabbitmq310": "image:3.10"}
    assert [each for each in SCENARIOS if each not in chosen] == list(select(["*-rabbitmq43"]))
    assert display.lines == [
        "left out: the cells on RabbitMQ 4.3, which cannot be had: the archive is broken"
    ]


def test_a_run_of_nothing_but_cells_that_have_no_broker_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_with(monkeypatch=monkeypatch)

    with pytest.raises(ImageError, match="the archive is broken"):
        brokers.images_of(select(["*-rabbitmq310", "*-rabbitmq43"]), engine, Lines().note)


def test_cells_on_another_version_go_to_its_broker_through_a_relay_of_its_own() -> None:
    services = {each.name: each for each in services_of(select(["none-kombu*"]), 4)}

    settings = json.loads(services["none-kombu-rabbitmq43"].environment["CELL"])
    relay = services[settings["host"]]
    assert "--target=rabbitmq43:5672" in relay.entrypoint
    assert f"--listen=none-kombu-rabbitmq43={settings['port']}" in relay.entrypoint
    assert "--target=rabbitmq:5672" in services[wiretap.RELAY].entrypoint
    assert not any("rabbitmq43=" in argument for argument in services[wiretap.RELAY].entrypoint)


def test_cells_over_tls_go_past_the_relay() -> None:
    services = {each.name: each for each in services_of(select(["none-*"]), 4)}

    relay = services[wiretap.RELAY]
    assert any("none-kombu=" in argument for argument in relay.entrypoint)
    assert not any("tls" in argument for argument in relay.entrypoint)
    settings = json.loads(services["none-kombu-tls"].environment["CELL"])
    assert (settings["host"], settings["port"], settings["tls"]) == (*wiretap.ENCRYPTED, True)


def test_somebody_answers_each_driver_that_asks_and_nobody_is_there_without() -> None:
    services = {each.name: each for each in services_of(select(["*-oslo", "none-kombu"]), 4)}

    assert services["answers"].entrypoint[-4:] == SCHEMES
    names = [each.name for each in services_of(select(["none-*"]), 4)]
    assert not set(names) & set(answering.ANSWERS.values())


def test_a_hybrid_cell_on_a_router_reaches_both_peers_through_a_relay_each() -> None:
    name = "hbshim-hybrid-hybrid-router"
    services = {each.name: each for each in services_of(select([name]), 4)}

    settings = json.loads(services[name].environment["CELL"])
    for target, (host, port) in (
        ("router", (settings["host"], settings["port"])),
        ("rabbitmq", settings["notifications"]),
    ):
        relay = services[host].entrypoint
        assert f"--target={target}:5672" in relay
        assert f"--listen={name}={port}" in relay
    assert services["answers-router"].environment["AMQP_URL"] == ""
    assert "sink" not in services


def test_cells_on_a_router_have_one_and_what_receives_there() -> None:
    chosen = select(["none-proton-router", "stock-amqp-oslo14", "hbshim-hbamqp-oslo-router"])
    services = {each.name: each for each in services_of(chosen, 4)}

    assert "--idle-timeout=4" in services["router"].entrypoint
    assert services["sink"].entrypoint[4:7] == (
        "cell-none-proton-router",
        "openstack.org/om/notify/anycast/openstack/cell-stock-amqp-oslo14.info",
        "openstack.org/om/notify/anycast/openstack/stock-amqp-oslo14.opened.info",
    )
    former, latest = services["answers-router-former"], services["answers-router"]
    assert former.entrypoint[-2:] == ("router:5672", "amqp")
    assert former.environment["PYTHONPATH"] == "/opt/oslo14"
    assert latest.entrypoint[-2:] == ("router:5672", "hbamqp")
    assert latest.environment == {"PYTHONPATH": "", "AMQP_URL": ""}
    settings = json.loads(services["none-proton-router"].environment["CELL"])
    assert "--target=router:5672" in services[settings["host"]].entrypoint
    assert settings["router"]


def test_what_arrives_at_the_router_is_read_from_what_receives_there() -> None:
    lines = ["serving", json.dumps({"address": "a", "body": "1"}), "a warning"]

    assert routing.received(lines) == {"a": ["1"]}


def test_a_server_that_does_not_serve_is_an_error_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "_READY_LIMIT", 0.5)

    with pytest.raises(StackError, match=r"(?s)does not serve.*\nModuleNotFoundError"):
        answering.wait_for("answers", lambda: ["Traceback", "ModuleNotFoundError"])
    answering.wait_for("answers", lambda: ["a warning", "serving"])


def test_without_a_cell_to_relay_there_is_no_relay() -> None:
    services = services_of(select(["*-tls"]), 4)

    assert wiretap.RELAY not in [each.name for each in services]
