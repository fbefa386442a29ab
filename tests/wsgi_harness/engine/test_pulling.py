"""Images are pulled where a registry answers, and soon given up where it is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.wsgi_harness.engine.registry import registry, silent_registry
from wsgi_harness.engine import bases, pulling
from wsgi_harness.engine import images as images_module
from wsgi_harness.engine.bases import Base
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, ensure_broker_image, image_tag
from wsgi_harness.engine.pulling import pull
from wsgi_harness.errors import CommandError, HarnessError

Official = Callable[[str], Base]


@pytest.fixture(autouse=True)
def _only_docker(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.kind != "docker":
        pytest.skip("only Docker pulls over plain HTTP from this machine without being configured")
    monkeypatch.setattr(pulling, "_silent", set())


@pytest.fixture
def remove(engine: Engine) -> Iterator[Callable[[str], None]]:
    """Have an image removed when the test ends."""
    names: list[str] = []
    yield names.append
    for name in reversed(names):
        if engine.inspect_image(name, "{{.Id}}"):
            engine.run("rmi", "--force", name)


@pytest.fixture
def official(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, remove: Callable[[str], None]
) -> Official:
    """Put a registry in place of Docker's; our image is a Dockerfile of two lines."""
    (tmp_path / "rabbitmq").mkdir()
    (tmp_path / "rabbitmq" / "Dockerfile").write_text(
        f"ARG BASE\nFROM ${{BASE}}\n# {tmp_path}\nENV BUILT=1\n"
    )
    monkeypatch.setattr(images_module, "CONTAINERS", tmp_path)

    def at(address: str) -> Base:
        base = Base("official-4.0", f"{address}/library/rabbitmq:4.0-management")
        monkeypatch.setattr(bases, "official_base", lambda _version: base)
        for each in (base, bases.debian_base(bases.RABBITMQ["4.0"])):
            remove(image_tag("rabbitmq", each))
        remove(base.image)
        return base

    return at


def test_pulls_from_a_registry_that_answers(engine: Engine, remove: Callable[[str], None]) -> None:
    with registry() as address:
        image = f"{address}/some/image:tag"
        remove(image)
        pull(engine, image)
    assert engine.inspect_image(image, "{{len .RootFS.Layers}}") == "1"


def test_a_silent_registry_is_waited_for_once(engine: Engine) -> None:
    with silent_registry() as address:
        with pytest.raises(CommandError, match=rf"^{address} did not answer within 0\.5 s$"):
            pull(engine, f"{address}/some/image:tag", answer_limit=0.5)
        with pytest.raises(CommandError, match=rf"^{address} did not answer before$"):
            pull(engine, f"{address}/another/image:tag")


def test_a_registry_that_stops_answering_is_given_up(engine: Engine) -> None:
    with (
        registry(without_layers=True) as address,
        pytest.raises(CommandError, match=r"^it took longer than 1 s$"),
    ):
        # It answers at once, so that the first limit is not what ends this.
        pull(engine, f"{address}/some/image:tag", answer_limit=60, limit=1)


def test_a_registry_that_does_not_exist_is_an_error_with_dockers_words(engine: Engine) -> None:
    with pytest.raises(CommandError, match=r"(?s)failed:\n.*127\.0\.0\.1:1"):
        pull(engine, "127.0.0.1:1/some/image:tag", answer_limit=60)


def test_rabbitmqs_official_image_is_used_where_it_can_be_pulled(
    engine: Engine, official: Official
) -> None:
    lines: list[str] = []
    with registry() as address:
        base = official(address)
        tag = ensure_broker_image(engine, "4.0", progress=lines.append)
    assert tag == image_tag("rabbitmq", base)
    assert tag.startswith("hbshim-rabbitmq:official-4.0-")
    assert lines == [f"pulling {base.image}", f"building {tag}", f"built {tag}"]
    # The registry is gone, and nothing asks for it.
    assert ensure_broker_image(engine, "4.0", progress=lines.append) == tag
    assert len(lines) == 3


def test_debians_rabbitmq_is_used_where_the_official_image_cannot_be_pulled(
    engine: Engine, images: Images, official: Official
) -> None:
    lines: list[str] = []
    base = official("127.0.0.1:1")
    tag = ensure_broker_image(engine, "4.0", progress=lines.append)
    assert tag == image_tag("rabbitmq", bases.debian_base("trixie"))
    assert lines[0] == f"pulling {base.image}"
    assert lines[1].startswith(f"pulling {base.image} failed (")
    assert lines[1].endswith("; RabbitMQ 4.0 from Debian trixie instead")
    # The choice stays: the name of the image that was built has it, and no registry is asked.
    del lines[:]
    assert ensure_broker_image(engine, "4.0", progress=lines.append) == tag
    assert lines == []


def test_debians_rabbitmq_is_used_where_nothing_can_be_built_on_the_official_image(
    engine: Engine, images: Images, official: Official, tmp_path: Path
) -> None:
    lines: list[str] = []
    dockerfile = tmp_path / "rabbitmq" / "Dockerfile"
    # The image from the registry has no shell.
    dockerfile.write_text(f"{dockerfile.read_text()}RUN true\n")
    with registry() as address:
        official(address)
        tag = ensure_broker_image(engine, "4.0", progress=lines.append)
    assert tag == image_tag("rabbitmq", bases.debian_base("trixie"))
    assert lines[-3].endswith("; RabbitMQ 4.0 from Debian instead")


def test_a_version_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBSHIM_RABBITMQ", "2.8")
    with pytest.raises(HarnessError, match=r"HBSHIM_RABBITMQ=2\.8 is none of 3\.10, 4\.0, 4\.3"):
        bases.default_rabbitmq()
