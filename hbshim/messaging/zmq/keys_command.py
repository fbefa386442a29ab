"""``hbshim zmq-keys``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from hbshim.errors import OptionError
from hbshim.extras import needs
from hbshim.messaging.zmq.keys import PUBLIC_SUFFIX

#: The end of the name of a file with a secret key.
SECRET_SUFFIX = ".secret"


@click.command(
    "zmq-keys", short_help="Create a key pair for a proxy or a client of hbzmq:// (CURVE)."
)
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Where the files are made; by default here.",
)
@click.option("--force", is_flag=True, help="Replace the files of this name.")
def zmq_keys(name: str, folder: Path, force: bool) -> None:
    """Create the key pair of a proxy or a client: NAME.secret and NAME.public.

    NAME is that of the host in the directory, or in the URLs of clients; for a client any name.

    The secret key stays where it is: zmq_curve_secret_key_file names it. The public key is a line
    for the files that zmq_curve_server_keys (at clients) and zmq_curve_allowed_keys (at proxies)
    name. Existing files are replaced only with --force.
    """
    secret_path, public_path = make_pair(name, folder, force=force)
    click.echo(f"secret key: {secret_path}\npublic key: {public_path}")


def make_pair(name: str, folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Make the files of a key pair, that of the secret key and that of the public one.

    Parameters:
        force: replace files that are there.

    Raises:
        OptionError: the name is not valid, a file is there or cannot be made, or libzmq has no
            CURVE.
        MissingExtraError: pyzmq is not installed.
    """
    if not name.isprintable() or set(name) & set(" /") or name[:1] in ("", ".", "#"):
        raise OptionError(
            f"NAME={name!r} is not valid; it has no blank and no slash, and begins with a letter"
        )
    with needs(("zmq",), "zmq"):
        import zmq

    if not zmq.has("curve"):
        raise OptionError("this libzmq has no CURVE; install pyzmq's wheel, or libzmq with sodium")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    secret_path, public_path = folder / f"{name}{SECRET_SUFFIX}", folder / f"{name}{PUBLIC_SUFFIX}"
    _write(secret_path, f"# secret key of {name}\n{secret}\n", 0o600, force=force)
    try:
        _write(public_path, f"{name} {public}\n", 0o644, force=force)
    except OptionError:
        if not force:
            secret_path.unlink()
        raise
    return secret_path, public_path


def _write(path: Path, text: str, mode: int, *, force: bool) -> None:
    """Make a file; replace one only with `force`, and then as a whole.

    Raises:
        OptionError: it is there, or cannot be made.
    """
    made = path.with_name(f".{path.name}.{os.getpid()}") if force else path
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(made, flags, mode), "w") as file:
            file.write(text)
        if force:
            made.replace(path)
    except FileExistsError:
        raise OptionError(f"{path} is there already; name another one, or add --force") from None
    except OSError as error:
        with contextlib.suppress(OSError):
            made.unlink()
        raise OptionError(
            f"{path} cannot be made ({error.strerror}); name another folder"
        ) from None
