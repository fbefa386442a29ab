"""Images are found by what goes into them, and a half-built or foreign one is not taken."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from wsgi_harness.engine import bases
from wsgi_harness.engine import images as images_module
from wsgi_harness.engine.bases import debian_base
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, build_command, ensure_images, image_tag
from wsgi_harness.errors import ImageError
from wsgi_harness.paths import CONTAINERS

BOOKWORM, TRIXIE, FORKY = map(debian_base, ("bookworm", "trixie", "forky"))


def test_a_second_run_builds_nothing(engine: Engine, images: Images) -> None:
    lines: list[str] = []
    assert ensure_images(engine, progress=lines.append) == images
    assert lines == []


def test_tag_follows_every_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = shutil.copytree(CONTAINERS, tmp_path / "containers")
    original = image_tag("apache", BOOKWORM)
    monkeypatch.setattr(images_module, "CONTAINERS", copy)
    assert image_tag("apache", BOOKWORM) == original
    assert image_tag("apache", TRIXIE) != original
    other = image_tag("rabbitmq", BOOKWORM)
    with (copy / "apache" / "httpd.conf").open("a") as config:
        config.write("# changed\n")
    assert image_tag("apache", BOOKWORM) != original
    assert image_tag("rabbitmq", BOOKWORM) == other


@pytest.mark.parametrize(
    ("image", "extras"),
    [
        ("apache", ("", "kombu", "pika", "eventlet", "gevent", "oslo", "proton")),
        ("zmq", ("", "zmq")),
        ("systemd", ("", "amqp1", "cli", "kombu", "pika")),
    ],
)
def test_an_image_has_what_the_extras_need(image: str, extras: tuple[str, ...]) -> None:
    lines = (CONTAINERS / image / "requirements.txt").read_text().splitlines()
    installed = {str(Requirement(line)) for line in lines if not line.startswith("#")}

    needed = set()
    for requirement in map(Requirement, importlib.metadata.requires("hbshim") or ()):
        for extra in extras:
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                requirement.marker = None
                needed.add(str(requirement))
                break

    assert "tenacity" in " ".join(needed)
    assert needed <= installed


def test_an_image_that_merely_has_the_name_is_built_again(
    engine: Engine, images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A directory with a Dockerfile of one line, so that building takes no time.
    (tmp_path / "apache").mkdir()
    (tmp_path / "apache" / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    monkeypatch.setattr(images_module, "CONTAINERS", tmp_path)
    tag = image_tag("apache", BOOKWORM)
    engine.run("tag", images.rabbitmq, tag)
    lines: list[str] = []
    try:
        found = ensure_images(engine, rabbitmq_image=images.rabbitmq, progress=lines.append)
        assert found == Images(rabbitmq=images.rabbitmq, apache=tag, own_rabbitmq=False)
        assert lines == [f"building {tag}", f"built {tag}"]
        # the base image's root file system, not RabbitMQ's
        listed = engine.run("run", "--rm", tag, "ls", "/usr/lib")
        assert "rabbitmq" not in listed
    finally:
        engine.run("rmi", tag)


def test_a_build_that_fails_is_tried_without_cache_and_then_explained(
    engine: Engine, images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "apache").mkdir()
    dockerfile = "FROM hbshim-no-such-base:at-all\n"
    (tmp_path / "apache" / "Dockerfile").write_text(dockerfile)
    monkeypatch.setattr(images_module, "CONTAINERS", tmp_path)
    # the base is fine here; making it anew would only take long
    monkeypatch.setattr(bases, "bootstrap", lambda *_: None)
    lines: list[str] = []
    with pytest.raises(ImageError, match="hbshim-no-such-base"):
        ensure_images(engine, rabbitmq_image=images.rabbitmq, progress=lines.append)
    assert lines[-1].endswith("once more, without cache")


def test_a_foreign_image_that_does_not_exist_is_named(engine: Engine) -> None:
    with pytest.raises(ImageError, match="'localhost:1/no-such-broker' is not here"):
        ensure_images(engine, rabbitmq_image="localhost:1/no-such-broker")


def test_what_pip_needs_is_handed_in_as_a_secret(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    monkeypatch.setenv("PIP_CERT", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:hidden@index.example/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@proxy.example")
    argv, environment = build_command(engine, "apache", "a:tag", BOOKWORM)
    words = [str(word) for word in argv]
    assert f"--secret=id=ca,src={bundle}" in words
    assert "--build-arg=HTTPS_PROXY" in words
    assert "hidden" not in " ".join(words)
    assert "index-url = https://user:hidden@index.example/simple" in environment["HBSHIM_PIP_CONF"]


def test_a_suite_whose_release_file_may_be_old_is_read_all_the_same(engine: Engine) -> None:
    argv, _ = build_command(engine, "rabbitmq", "a:tag", FORKY)
    assert "--build-arg=APT_OPTIONS=-o Acquire::Check-Valid-Until=false" in argv
    argv, _ = build_command(engine, "rabbitmq", "a:tag", BOOKWORM)
    assert not [word for word in argv if "Check-Valid-Until" in str(word)]
