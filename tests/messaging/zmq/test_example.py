"""The example with two hosts in Compose runs as its README says, on the real engine."""

from __future__ import annotations

import json
import re
import secrets
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import broker_is_required
from wsgi_harness.engine.commands import run, silent
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, ensure_zmq_image, has_zmq_image
from wsgi_harness.paths import set_up_lock
from wsgi_harness.stack import leftovers
from wsgi_harness.stack.signals import ending_signals_raise, undisturbed
from wsgi_harness.stack.stack import project_name

EXAMPLE = Path(__file__).parents[3] / "examples" / "zmq"
SERVICES = ("redis", "keys", "host-1", "host-2", "client")
LIMIT = 60.0

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def image(engine: Engine, images: Images) -> str:
    """The image of the hosts."""
    if not broker_is_required() and not has_zmq_image(engine):
        pytest.skip("the image of the hosts is not built here; HBSHIM_REQUIRE_BROKER=1 builds it")
    with set_up_lock(silent):
        return ensure_zmq_image(engine)


@pytest.fixture
def compose(engine: Engine, images: Images, image: str, tmp_path: Path) -> Iterator[Compose]:
    """Run a command of Compose in a project of the test's own, which is gone afterwards."""
    leftovers.remove(engine, progress=silent)
    project = project_name("example")
    owned = {"labels": {leftovers.OWNER_LABEL: leftovers.owner()}}
    override = {"services": dict.fromkeys(SERVICES, owned), "networks": {"default": owned}}
    (tmp_path / "owner.json").write_text(json.dumps(override))
    files = ("--file", EXAMPLE / "compose.yaml", "--file", tmp_path / "owner.json")
    environment = {
        **engine.environment,
        "HBSHIM_ZMQ_IMAGE": image,
        "HBSHIM_REDIS_IMAGE": images.redis,
        "REDIS_PASSWORD": secrets.token_hex(16),
    }

    def command(*argv: str) -> str:
        named: tuple[str | Path, ...] = ("--ansi", "never", "--project-name", project, *files)
        return run([*engine.compose, *named, *argv], timeout=LIMIT, env=environment)

    with ending_signals_raise():
        try:
            yield command
        finally:
            with undisturbed():
                leftovers.take_down(engine, project)


def promised() -> str:
    """What the client prints according to the README."""
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?:^    .+: .+\n)+", text, re.MULTILINE)
    return textwrap.dedent(block)


def test_the_hosts_get_what_the_client_sends_and_one_goes_on_alone(compose: Compose) -> None:
    compose("up", "--detach", "--no-build")
    client = ("run", "--rm", "-T", "client")
    assert compose(*client, "host-1", "host-2") == promised()
    status = ("hbshim", "zmq-proxy", "--status", "--json")
    figures = json.loads(compose("exec", "-T", "host-1", *status))["requests"]
    assert (figures["keys_allowed"], figures["servers"]) == (1, 2)
    compose("stop", "host-1")
    assert compose(*client, "host-2") == (
        "call to host-2: answered by host-2\n"
        "10 calls to any host: answered by host-2\n"
        "host-2 got: a cast, a fanout, notification order.paid\n"
    )
    assert compose("logs", "host-1").endswith("host-1: the server has stopped\n")


def test_the_readme_names_every_program() -> None:
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    programs = {path.name for path in EXAMPLE.iterdir() if path.suffix in (".py", ".sh")}
    assert programs == set(re.findall(r"`(\w+\.(?:py|sh))`", readme))
