"""What images are built on: Debian, or RabbitMQ's official image; pulled, else made from Debian.

RabbitMQ comes from Docker's official image where it can be pulled, else from Debian's packages of
the same minor version. The image that was built keeps the choice: its tag names its base, and as
long as it is there, no registry is asked.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass

from wsgi_harness.engine import debian
from wsgi_harness.engine.commands import Progress
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.pulling import pull
from wsgi_harness.errors import CommandError, HarnessError, ImageError
from wsgi_harness.paths import build_dir

RABBITMQ = {"3.10": "bookworm", "4.0": "trixie", "4.3": "forky"}
"""RabbitMQ's versions, oldest first, with the Debian suite that has each."""
_DEFAULT_RABBITMQ = "4.0"
_DEFAULT_SUITE = "bookworm"

_BOOTSTRAPPED_LABEL = "org.hbshim.bootstrapped"


@dataclass(frozen=True)
class Base:
    """What an image is built on.

    :ivar key: its part of the image's tag.
    :ivar image: its name in full, as Podman does not guess the registry.
    :ivar suite: the Debian suite that it is; None for RabbitMQ's official image.
    """

    key: str
    image: str
    suite: str | None = None


def debian_base(suite: str) -> Base:
    """Return a Debian suite as a base."""
    return Base(suite, f"docker.io/library/debian:{suite}-slim", suite)


def official_base(version: str) -> Base:
    """Return RabbitMQ's official image of a minor version, with the management plugin."""
    return Base(f"official-{version}", f"docker.io/library/rabbitmq:{version}-management")


def default_suite() -> str:
    """Return the Debian suite of Apache and of the browser: `HBSHIM_SUITE`, else bookworm."""
    return os.environ.get("HBSHIM_SUITE") or _DEFAULT_SUITE


def default_rabbitmq() -> str:
    """Return RabbitMQ's minor version: `HBSHIM_RABBITMQ`, else 4.0.

    Raises:
        HarnessError: hbshim knows no such version.
    """
    version = os.environ.get("HBSHIM_RABBITMQ") or _DEFAULT_RABBITMQ
    if version not in RABBITMQ:
        raise HarnessError(
            f"HBSHIM_RABBITMQ={version} is none of {', '.join(RABBITMQ)}; set one of them, or pass "
            "any image to --rabbitmq-image"
        )
    return version


def is_there(engine: Engine, base: Base) -> bool:
    """Return whether the engine has a base image."""
    return engine.inspect_image(base.image, "{{.Id}}") is not None


def pull_official(engine: Engine, version: str, progress: Progress) -> Base | None:
    """Return RabbitMQ's official image, pulled where it is missing; None where it cannot be."""
    base = official_base(version)
    if is_there(engine, base):
        return base
    progress(f"pulling {base.image}")
    try:
        pull(engine, base.image)
    except CommandError as error:
        progress(
            f"pulling {base.image} failed ({last_line(error)}); RabbitMQ {version} from Debian "
            f"{RABBITMQ[version]} instead"
        )
        return None
    return base


def ensure_base(engine: Engine, base: Base, progress: Progress) -> None:
    """Pull a Debian suite, else bootstrap it, where the engine does not have it.

    Raises:
        ImageError: it can neither be pulled nor bootstrapped.
    """
    if is_there(engine, base):
        return
    progress(f"pulling {base.image}")
    try:
        pull(engine, base.image)
    except CommandError as error:
        progress(f"pulling {base.image} failed ({last_line(error)})")
        bootstrap(engine, base, progress)


def was_bootstrapped(engine: Engine, base: Base) -> bool:
    """Return whether a base on the engine was made by :func:`bootstrap`."""
    template = f'{{{{index .Config.Labels "{_BOOTSTRAPPED_LABEL}"}}}}'
    return base.suite is not None and engine.inspect_image(base.image, template) == base.suite


def bootstrap(engine: Engine, base: Base, progress: Progress) -> None:
    """Make a Debian suite from its packages and give it to the engine.

    Raises:
        ImageError: it cannot be bootstrapped.
    """
    suite = base.suite
    if suite is None:
        raise ImageError(f"{base.image} can only be pulled")
    progress(f"bootstrapping Debian {suite} from {debian.MIRROR} instead")
    tarball = build_dir() / f"base-{suite}.tar"
    try:
        # Through a file, not a pipe: an import of half a tree would pass for a base image.
        debian.bootstrap(suite, tarball, progress=progress)
        label = f"LABEL {_BOOTSTRAPPED_LABEL}={suite}"
        engine.run("import", "--change", label, tarball, base.image, timeout=120)
    except CommandError as error:
        raise ImageError(
            f"the base image {base.image} can neither be pulled nor bootstrapped: {error}"
        ) from error
    finally:
        tarball.unlink(missing_ok=True)


def last_line(error: Exception) -> str:
    """Return the last line of an error, shortened."""
    return textwrap.shorten(str(error).splitlines()[-1], 160)
