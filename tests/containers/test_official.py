"""hbshim's broker image, built on an image that is laid out as Docker's official one is.

Where the official image can be pulled, every other test of a broker runs on it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsgi_harness.engine.bases import Base
from wsgi_harness.engine.commands import run
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, build_command
from wsgi_harness.stack.services import BROKER
from wsgi_harness.stack.stack import Stack, project_name

#: What docker-library/rabbitmq does: everything in /opt, no wrappers, a volume, the home directory.
STAND_IN = r"""
FROM {image}
RUN mv /usr/lib/rabbitmq/lib/rabbitmq_server-* /opt/rabbitmq \
 && rm -r /usr/lib/rabbitmq /usr/sbin/rabbitmq* /usr/local/bin/*.sh /etc/rabbitmq \
 && mkdir -p /etc/rabbitmq/conf.d \
 && chown -R rabbitmq:rabbitmq /etc/rabbitmq && chmod 1777 /etc/rabbitmq \
 && echo 'log.console = true' > /etc/rabbitmq/conf.d/10-defaults.conf \
 && ln -s /var/lib/rabbitmq/.erlang.cookie /root/.erlang.cookie
ENV RABBITMQ_HOME=/opt/rabbitmq PATH=/opt/rabbitmq/sbin:$PATH RABBITMQ_DATA_DIR=/var/lib/rabbitmq \
    HOME=/var/lib/rabbitmq LC_ALL=C.UTF-8 RUNNING_UNDER_SYSTEMD=true
# Debian's package looks for plugins where it has put them itself.
ENV RABBITMQ_PLUGINS_DIR=/opt/rabbitmq/plugins
VOLUME /var/lib/rabbitmq
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["rabbitmq-server"]
"""


@pytest.fixture
def built(engine: Engine, images: Images, tmp_path: Path) -> Iterator[str]:
    """The broker's image on the stand-in for the official one."""
    if ":official-" in images.rabbitmq:
        pytest.skip("the official image itself is used here")
    name = secrets.token_hex(6)
    base = Base("official", f"docker.io/library/hbshim-test-official:{name}")
    tag = f"hbshim-test-on-official:{name}"
    (tmp_path / "Dockerfile").write_text(STAND_IN.format(image=images.rabbitmq))
    load = ["--load"] if engine.kind == "docker" else []
    command: list[str | Path] = [*engine.builder, "build", *load, f"--tag={base.image}", tmp_path]
    try:
        run(command, timeout=300, env=engine.environment)
        command, environment = build_command(engine, "rabbitmq", tag, base)
        run(command, timeout=300, env=environment)
        yield tag
    finally:
        for each in (tag, base.image):
            if engine.inspect_image(each, "{{.Id}}"):
                engine.run("rmi", "--force", each)


def test_the_image_works_on_the_official_one_as_on_debian(
    engine: Engine, images: Images, built: str
) -> None:
    prepared = (engine, Images(built, images.apache))
    with Stack(project_name("official"), heartbeat=7, prepared=prepared) as stack:
        listeners = stack.broker.management.overview()["listeners"]
        assert {5671, 5672, 15672} <= {each["port"] for each in listeners}
        assert "BEGIN CERTIFICATE" in (stack.broker.ca_pem or "")
        asked = ["env", "HOME=/var/lib/rabbitmq", "rabbitmqctl", "--quiet", "environment"]
        assert "{heartbeat,7}" in stack.exec(BROKER, asked)
        assert "Server startup complete" in stack.broker.log()


def test_no_erlang_cookie_is_left_from_the_official_image(engine: Engine, built: str) -> None:
    find = ["run", "--rm", "--entrypoint", "find", built, "/var/lib/rabbitmq", "/root"]
    assert engine.run(*find, "-name", ".erlang.cookie") == ""
