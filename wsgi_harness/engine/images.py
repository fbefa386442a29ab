"""hbshim's images: found by a hash of what goes into them, else built on a base.

`python -m wsgi_harness.engine.images` makes the engine and the images ready, and prints what it
does.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from wsgi_harness.engine import bases, debian
from wsgi_harness.engine.bases import Base, debian_base, default_rabbitmq, default_suite, last_line
from wsgi_harness.engine.commands import Progress, run, silent
from wsgi_harness.engine.engine import Engine, ensure_engine
from wsgi_harness.errors import CommandError, HarnessError, ImageError
from wsgi_harness.paths import CONTAINERS, set_up_lock

ROLES_SUITE = "trixie"
"""The Debian suite on which the Ansible roles are tested: its RabbitMQ has AMQP 1.0."""
_INPUTS_LABEL = "org.hbshim.inputs"
_FOREIGN_PULL_LIMIT = 300.0
_BUILD_LIMIT = 600.0
_one_base_at_a_time = threading.Lock()
"""Two images may have one base, and making one may install a package."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Images:
    """The images of a run, by name; `own_rabbitmq`: the broker's image is hbshim's own."""

    rabbitmq: str
    apache: str
    redis: str = ""
    own_rabbitmq: bool = True


def prepare(
    *, rabbitmq_image: str | None = None, progress: Progress = silent
) -> tuple[Engine, Images]:
    """Make an engine and the images ready; quick when they are.

    Parameters:
        rabbitmq_image: an image to use as the broker instead of hbshim's own.
        progress: called with a line for each thing that takes time, from several threads.

    Raises:
        EngineUnavailableError: no engine can be had.
        ImageError: an image cannot be had.
    """
    with set_up_lock(progress):
        engine = ensure_engine(progress)
        return engine, ensure_images(engine, rabbitmq_image=rabbitmq_image, progress=progress)


def ensure_images(
    engine: Engine,
    *,
    suite: str | None = None,
    rabbitmq_image: str | None = None,
    progress: Progress = silent,
) -> Images:
    """Return the images, built or pulled where they are missing.

    Parameters:
        suite: Debian suite of Apache's image, default `default_suite()`.

    Raises:
        ImageError: an image cannot be had; the message has the last lines of the attempt.
    """
    if rabbitmq_image:
        _ensure_foreign(engine, rabbitmq_image, progress)
    base = debian_base(suite or default_suite())
    # A run with a foreign broker image is one of the regression, which needs no Redis.
    names = ["apache"] if rabbitmq_image else ["apache", "redis"]
    # Side by side, as one waits for the network while the other compiles.
    with ThreadPoolExecutor(len(names)) as pool:
        built = {name: pool.submit(_ensure_own, engine, name, base, progress) for name in names}
        return Images(
            rabbitmq=rabbitmq_image or ensure_broker_image(engine, progress=progress),
            apache=built["apache"].result(),
            redis=built["redis"].result() if "redis" in built else "",
            own_rabbitmq=rabbitmq_image is None,
        )


def ensure_broker_image(
    engine: Engine, version: str | None = None, *, progress: Progress = silent
) -> str:
    """Return the name of hbshim's own broker image, built where it is missing.

    One that is there is used, whichever its base.

    Parameters:
        version: RabbitMQ's minor version, default `default_rabbitmq()`.

    Raises:
        ImageError: it cannot be had.
    """
    version = version or default_rabbitmq()
    if (found := _broker_image(engine, version)) is not None:
        return found
    base = bases.pull_official(engine, version, progress)
    if base is not None:
        try:
            return _ensure_own(engine, "rabbitmq", base, progress)
        except ImageError as error:
            progress(f"{last_line(error)}; RabbitMQ {version} from Debian instead")
    return _ensure_own(engine, "rabbitmq", _debian_with(version), progress)


def ensure_browser_image(engine: Engine, *, progress: Progress = silent) -> str:
    """Return the name of the image with a headless browser, built where it is missing.

    Raises:
        ImageError: it cannot be had.
    """
    return _ensure_own(engine, "browser", debian_base(default_suite()), progress)


def has_browser_image(engine: Engine) -> bool:
    """Return whether :func:`ensure_browser_image` would have nothing to build."""
    return _is_built(engine, image_tag("browser", debian_base(default_suite())))


def ensure_zmq_image(engine: Engine, *, progress: Progress = silent) -> str:
    """Return the name of the image of a host that runs `hbshim zmq-proxy`, built where missing.

    Raises:
        ImageError: it cannot be had.
    """
    return _ensure_own(engine, "zmq", debian_base(default_suite()), progress)


def has_zmq_image(engine: Engine) -> bool:
    """Return whether :func:`ensure_zmq_image` would have nothing to build."""
    return _is_built(engine, image_tag("zmq", debian_base(default_suite())))


def ensure_systemd_image(
    engine: Engine, suite: str = ROLES_SUITE, *, progress: Progress = silent
) -> str:
    """Return the name of the image of a host for the Ansible roles, built where it is missing.

    Raises:
        ImageError: it cannot be had.
    """
    return _ensure_own(engine, "systemd", debian_base(suite), progress)


def has_systemd_image(engine: Engine, suite: str = ROLES_SUITE) -> bool:
    """Return whether :func:`ensure_systemd_image` would have nothing to build."""
    return _is_built(engine, image_tag("systemd", debian_base(suite)))


def has_broker_image(engine: Engine, version: str) -> bool:
    """Return whether :func:`ensure_broker_image` would have nothing to build."""
    return _broker_image(engine, version) is not None


def _broker_image(engine: Engine, version: str) -> str | None:
    for base in (bases.official_base(version), _debian_with(version)):
        if _is_built(engine, tag := image_tag("rabbitmq", base)):
            return tag
    return None


def _debian_with(version: str) -> Base:
    return debian_base(bases.RABBITMQ[version])


def image_tag(name: str, base: Base) -> str:
    """Return the name of one of hbshim's images, with a hash of all that goes into it."""
    digest = hashlib.sha256(base.image.encode())
    for path in sorted((CONTAINERS / name).iterdir()):
        if path.is_file():
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return f"hbshim-{name}:{base.key}-{digest.hexdigest()[:12]}"


def _is_built(engine: Engine, tag: str) -> bool:
    # A name alone proves little: the label is written by the build that finished.
    return engine.inspect_image(tag, f'{{{{index .Config.Labels "{_INPUTS_LABEL}"}}}}') == tag


def _ensure_own(engine: Engine, name: str, base: Base, progress: Progress) -> str:
    tag = image_tag(name, base)
    if _is_built(engine, tag):
        return tag
    with _one_base_at_a_time:
        bases.ensure_base(engine, base, progress)
    progress(f"building {tag}")
    try:
        _build(engine, name, tag, base)
    except CommandError as error:
        progress(f"building {tag} failed: {last_line(error)}")
        _rebuild(engine, name, tag, base, progress)
    progress(f"built {tag}")
    return tag


def _rebuild(engine: Engine, name: str, tag: str, base: Base, progress: Progress) -> None:
    # A cache or a base left by a build that was cut off: once more, from nothing.
    if bases.was_bootstrapped(engine, base):
        with _one_base_at_a_time:
            bases.bootstrap(engine, base, progress)
    progress(f"building {tag} once more, without cache")
    try:
        _build(engine, name, tag, base, "--no-cache")
    except CommandError as error:
        raise ImageError(f"{tag} cannot be built: {error}") from error


def _build(engine: Engine, name: str, tag: str, base: Base, *options: str) -> None:
    argv, environment = build_command(engine, name, tag, base)
    # its last word is the directory
    run([*argv[:-1], *options, argv[-1]], timeout=_BUILD_LIMIT, env=environment)


def build_command(
    engine: Engine, name: str, tag: str, base: Base
) -> tuple[list[str | Path], dict[str, str]]:
    """Return the command that builds an image, and the environment that it needs.

    What may hold a password is in the environment alone, as commands are shown in errors.
    """
    arguments = {"BASE": base.image}
    if base.suite in debian.UNRELEASED:
        arguments["APT_OPTIONS"] = f"-o {debian.UNRELEASED[base.suite]}"
    secrets, environment = _pip_secrets()
    argv: list[str | Path] = [
        *engine.builder,
        "build",
        *(["--load"] if engine.kind == "docker" else ["--format", "docker"]),
        # The host's network: its DNS, its MTU, and a proxy on its loopback.
        "--network=host",
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        # Named without a value: taken from the environment.
        *(f"--build-arg={key}" for key in _PROXIES if key in os.environ),
        *(f"--secret={secret}" for secret in secrets),
        f"--label={_INPUTS_LABEL}={tag}",
        f"--tag={tag}",
        CONTAINERS / name,
    ]
    return argv, {**engine.environment, **environment}


def _pip_secrets() -> tuple[list[str], dict[str, str]]:
    """Return what pip in a build needs of this machine: its CA bundle and its index."""
    secrets, environment = [], {}
    for key in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        path = Path(os.environ.get(key) or "/nonexistent")
        if path.is_file():
            secrets.append(f"id=ca,src={path}")
            break
    keys = ("index-url", "extra-index-url", "trusted-host")
    found = {key: os.environ.get(f"PIP_{key.replace('-', '_').upper()}") for key in keys}
    if lines := [f"{key} = {value}" for key, value in found.items() if value]:
        environment["HBSHIM_PIP_CONF"] = "\n".join(["[global]", *lines, ""])
        secrets.append("id=pip_conf,env=HBSHIM_PIP_CONF")
    return secrets, environment


def _ensure_foreign(engine: Engine, name: str, progress: Progress) -> None:
    if engine.inspect_image(name, "{{.Id}}") is not None:
        return
    progress(f"pulling {name}")
    try:
        engine.run("pull", "--quiet", name, timeout=_FOREIGN_PULL_LIMIT)
    except CommandError as error:
        raise ImageError(
            f"the RabbitMQ image {name!r} is not here and cannot be pulled; check its name, or "
            f"leave it out to use hbshim's own: {error}"
        ) from error


@click.command()
def main() -> None:
    """Make the container engine and the images ready."""
    try:
        _, images = prepare(progress=lambda line: click.echo(f"hbshim: {line}", err=True))
    except HarnessError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"hbshim: ready: {images.rabbitmq}, {images.redis} and {images.apache}", err=True)


if __name__ == "__main__":
    main()
