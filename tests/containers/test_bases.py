"""Both Debian suites build, by the argument BASE, and what they bring is what is said of them."""

import pytest

from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import ensure_images

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("suite", "rabbitmq", "python"), [("bookworm", "3.10", "3.11"), ("trixie", "4.0", "3.13")]
)
def test_builds_on(engine: Engine, suite: str, rabbitmq: str, python: str) -> None:
    images = ensure_images(engine, suite=suite)
    asked = ["--rm", "--entrypoint", "dpkg-query", images.rabbitmq]
    found = engine.run("run", *asked, "--showformat=${Version}", "--show", "rabbitmq-server")
    assert found.startswith(f"{rabbitmq}.")
    asked = ["--rm", "--entrypoint", "/opt/venv/bin/python", images.apache]
    loaded = engine.run("run", *asked, "-c", "import mod_wsgi, sys; print(sys.version)")
    assert loaded.startswith(f"{python}.")
