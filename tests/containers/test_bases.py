"""Every base builds, by the argument BASE, and what it brings is what is said of it."""

from __future__ import annotations

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, ensure_images

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("suite", "python"),
    [("bookworm", "3.11"), pytest.param("trixie", "3.13", marks=pytest.mark.extended)],
)
def test_apache_builds_on(engine: Engine, images: Images, suite: str, python: str) -> None:
    built = ensure_images(engine, suite=suite, rabbitmq_image=images.rabbitmq)
    options = ["--rm", "--entrypoint", "/opt/venv/bin/python", built.apache]
    loaded = engine.run("run", *options, "-c", "import mod_wsgi, sys; print(sys.version)")
    assert loaded.startswith(f"{python}.")
