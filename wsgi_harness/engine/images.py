"""The images: found by a hash of what goes into them, else built; and the base beneath them.

`python -m wsgi_harness.engine.images` makes the engine and the images ready, and says what it
does.
"""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from wsgi_harness.engine import debian
from wsgi_harness.engine.commands import Progress, run, silent
from wsgi_harness.engine.engine import Engine, ensure_engine
from wsgi_harness.errors import CommandError, HarnessError, ImageError
from wsgi_harness.paths import CONTAINERS, build_dir, set_up_lock

_INPUTS_LABEL = "org.hbshim.inputs"
_BOOTSTRAPPED_LABEL = "org.hbshim.bootstrapped"
_PULL_LIMIT = 45.0
"""Seconds for the base image (30 MB); a registry behind a silent firewall must not cost more."""
_FOREIGN_PULL_LIMIT = 300.0
_BUILD_LIMIT = 600.0
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Images:
    """The images of a run, by name; `own_rabbitmq` says whether the broker's is hbshim's own."""

    rabbitmq: str
    apache: str
    redis: str = ""
    own_rabbitmq: bool = True


def default_suite() -> str:
    """Return the Debian suite of the images: `HBSHIM_SUITE`, else bookworm."""
    return os.environ.get("HBSHIM_SUITE") or "bookworm"


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
        suite: Debian suite of hbshim's own images, default `default_suite()`.

    Raises:
        ImageError: an image cannot be had; the message has the last lines of the attempt.
    """
    suite = suite or default_suite()
    # A run with a foreign broker image is one of the regression, which needs no Redis.
    names = ["apache"] if rabbitmq_image else ["apache", "rabbitmq", "redis"]
    if rabbitmq_image:
        _ensure_foreign(engine, rabbitmq_image, progress)
    tags = _ensure_own(engine, names, suite, progress)
    return Images(
        rabbitmq=rabbitmq_image or tags["rabbitmq"],
        apache=tags["apache"],
        redis=tags.get("redis", ""),
        own_rabbitmq=rabbitmq_image is None,
    )


def ensure_broker_image(engine: Engine, suite: str, *, progress: Progress = silent) -> str:
    """Return the name of hbshim's own broker image on a Debian suite, built where it is missing.

    Raises:
        ImageError: it cannot be had.
    """
    return _ensure_own(engine, ["rabbitmq"], suite, progress)["rabbitmq"]


def ensure_browser_image(engine: Engine, *, progress: Progress = silent) -> str:
    """Return the name of the image with a headless browser, built where it is missing.

    Raises:
        ImageError: it cannot be had.
    """
    return _ensure_own(engine, ["browser"], default_suite(), progress)["browser"]


def has_browser_image(engine: Engine) -> bool:
    """Return whether :func:`ensure_browser_image` would have nothing to build."""
    return _is_built(engine, image_tag("browser", default_suite()))


def has_broker_image(engine: Engine, suite: str) -> bool:
    """Return whether :func:`ensure_broker_image` would have nothing to build."""
    return _is_built(engine, image_tag("rabbitmq", suite))


def _ensure_own(engine: Engine, names: list[str], suite: str, progress: Progress) -> dict[str, str]:
    tags = {name: image_tag(name, suite) for name in names}
    missing = [name for name, tag in tags.items() if not _is_built(engine, tag)]
    if missing:
        base = _ensure_base(engine, suite, progress)
        failed = _build_all(engine, {name: tags[name] for name in missing}, suite, base, progress)
        if failed:
            # A cache or a base left by a build that was cut off: once more, from nothing.
            if engine.inspect_image(base, _label(_BOOTSTRAPPED_LABEL)) == suite:
                _bootstrap(engine, suite, progress)
            for name in failed:
                progress(f"building {tags[name]} once more, without cache")
                try:
                    _build(engine, name, tags[name], suite, base, "--no-cache")
                except CommandError as error:
                    raise ImageError(f"{tags[name]} cannot be built: {error}") from error
    return tags


def base_image(suite: str) -> str:
    """Return the base image's name; in full, as Podman does not guess the registry."""
    return f"docker.io/library/debian:{suite}-slim"


def image_tag(name: str, suite: str) -> str:
    """Return the name of an image of ours, with a hash of all that goes into it."""
    digest = hashlib.sha256(base_image(suite).encode())
    for path in sorted((CONTAINERS / name).iterdir()):
        if path.is_file():
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return f"hbshim-{name}:{suite}-{digest.hexdigest()[:12]}"


def _is_built(engine: Engine, tag: str) -> bool:
    # A name alone proves little: the label is written by the build that finished.
    return engine.inspect_image(tag, _label(_INPUTS_LABEL)) == tag


def _label(name: str) -> str:
    return f'{{{{index .Config.Labels "{name}"}}}}'


def _ensure_base(engine: Engine, suite: str, progress: Progress) -> str:
    name = base_image(suite)
    if engine.inspect_image(name, "{{.Id}}") is not None:
        return name
    progress(f"pulling {name}")
    try:
        engine.run("pull", "--quiet", name, timeout=_PULL_LIMIT)
    except CommandError as error:
        progress(f"pulling {name} failed ({_last(error)})")
        _bootstrap(engine, suite, progress)
    return name


def _bootstrap(engine: Engine, suite: str, progress: Progress) -> None:
    progress(f"bootstrapping Debian {suite} from {debian.MIRROR} instead")
    tarball = build_dir() / f"base-{suite}.tar"
    try:
        # Through a file, not a pipe: an import of half a tree would pass for a base image.
        debian.bootstrap(suite, tarball, progress=progress)
        label = f"LABEL {_BOOTSTRAPPED_LABEL}={suite}"
        engine.run("import", "--change", label, tarball, base_image(suite), timeout=120)
    except CommandError as error:
        raise ImageError(
            f"the base image {base_image(suite)} can neither be pulled nor bootstrapped: {error}"
        ) from error
    finally:
        tarball.unlink(missing_ok=True)


def _build_all(
    engine: Engine, tags: Mapping[str, str], suite: str, base: str, progress: Progress
) -> list[str]:
    """Build images side by side, as one waits while another compiles; return what failed."""

    def build(name: str) -> bool:
        progress(f"building {tags[name]}")
        try:
            _build(engine, name, tags[name], suite, base)
        except CommandError as error:
            progress(f"building {tags[name]} failed: {_last(error)}")
            return False
        progress(f"built {tags[name]}")
        return True

    with ThreadPoolExecutor(len(tags)) as pool:
        built = dict(zip(tags, pool.map(build, tags), strict=True))
    return [name for name, succeeded in built.items() if not succeeded]


def _build(engine: Engine, name: str, tag: str, suite: str, base: str, *options: str) -> None:
    argv, environment = build_command(engine, name, tag, suite, base)
    # its last word is the directory
    run([*argv[:-1], *options, argv[-1]], timeout=_BUILD_LIMIT, env=environment)


def build_command(
    engine: Engine, name: str, tag: str, suite: str, base: str
) -> tuple[list[str | Path], dict[str, str]]:
    """Return the command that builds an image, and the environment that it needs.

    What may hold a password is in the environment alone, as commands are shown in errors.
    """
    arguments = {"BASE": base}
    if suite in debian.UNRELEASED:
        arguments["APT_OPTIONS"] = f"-o {debian.UNRELEASED[suite]}"
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


def _last(error: Exception) -> str:
    return textwrap.shorten(str(error).splitlines()[-1], 160)


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
