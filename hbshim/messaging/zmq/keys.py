"""Files of keys for CURVE, ZeroMQ's encryption: their form, and who may read or write them.

A key has 40 characters (Z85, ZeroMQ RFC 32). The file of a secret key holds that key; a file of
public keys holds lines of a name and a key. A line that begins with ``# `` is a comment: a key may
begin with ``#``, but has no blank. ZeroMQ's library is not needed here.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from hbshim.errors import OptionError
from hbshim.runtime.unpatched import original

#: The end of the name of a file of public keys, where an option names a folder.
PUBLIC_SUFFIX = ".public"

#: The longest file, in bytes: some ten thousand keys.
FILE_LIMIT = 1024 * 1024

#: That of a patched program would have the I/O thread start a hub.
_open: Callable[[str, int], int] = original("os", "open")

#: Seconds within which two changes of a file may have one time: that of the kernel's clock tick.
_TICK = 0.05

_LENGTH = 40

#: The characters of Z85, each at the place of its value.
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


#: Raises OptionError unless the status of a file, named by an option and a path, is acceptable.
_Check: TypeAlias = Callable[[str, str, os.stat_result], None]


def is_key(text: object) -> bool:
    """Return whether `text` can be a key."""
    if not isinstance(text, str) or len(text) != _LENGTH or not set(text) <= set(_ALPHABET):
        return False
    # Five characters stand for four bytes.
    return all(_number(text[at : at + 5]) < 2**32 for at in range(0, _LENGTH, 5))


def _number(text: str) -> int:
    number = 0
    for character in text:
        number = number * len(_ALPHABET) + _ALPHABET.index(character)
    return number


def read_secret_key(option: str, path: str) -> bytes:
    """Return the secret key that a file holds.

    Parameters:
        option: that names the file, for errors.

    Raises:
        OptionError: the file cannot be read, other users can read it, or it holds no key. The
            text repeats nothing of the file.
    """
    lines = _lines(option, path, _check_private)
    if len(lines) != 1 or not is_key(lines[0]):
        raise _error(option, path, "it holds no secret key; make one with hbshim zmq-keys")
    return lines[0].encode()


class PublicKeys:
    """Public keys from a file, or from the files of a folder whose names end with ``.public``.

    Parameters:
        option: that names it, for errors.

    Attributes:
        by_name: the keys of each name, in the order of the file.

    Raises:
        OptionError: it cannot be read, other users can change it, or a line is no name and key.
    """

    def __init__(self, option: str, path: str) -> None:
        self._option = option
        self._path = path
        self._signature: object = None
        self.by_name: Mapping[str, tuple[bytes, ...]] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read again what has changed; return whether the keys differ.

        Raises:
            OptionError: as the class, once for each change; what was read before stays in use.
        """
        signature = self._sign()
        if signature == self._signature:
            return False
        self._signature = signature
        found: dict[str, tuple[bytes, ...]] = {}
        for path in self._paths():
            for line in _lines(self._option, path, _check_trusted):
                name, *rest = line.split()
                if len(rest) != 1 or not is_key(rest[0]):
                    # It may be a secret key, so it is not repeated.
                    raise _error(
                        self._option, path, "a line of it is not NAME PUBLIC-KEY; correct it"
                    )
                found[name] = (*found.get(name, ()), rest[0].encode())
        before, self.by_name = self.by_name, found
        return before != found

    def _paths(self) -> list[str]:
        """Return the files."""
        try:
            if not os.path.isdir(self._path):
                return [self._path]
            _check_trusted(self._option, self._path, os.stat(self._path))
            return [
                os.path.join(self._path, name)
                for name in sorted(os.listdir(self._path))
                if name.endswith(PUBLIC_SUFFIX)
            ]
        except OSError as error:
            raise _error(self._option, self._path, f"{error.strerror}; name another one") from None

    def _sign(self) -> object:
        """Return what differs when anything has changed."""
        paths = [self._path]
        try:
            if os.path.isdir(self._path):
                paths += [os.path.join(self._path, name) for name in sorted(os.listdir(self._path))]
            found = [os.stat(path) for path in paths]
        except OSError as error:
            return error.errno
        if max(each.st_ctime for each in found) > time.time() - _TICK:
            return object()
        return paths, [(each.st_ino, each.st_ctime_ns, each.st_size) for each in found]


def _lines(option: str, path: str, check: _Check) -> list[str]:
    """Return the lines of a file that is checked first, without comments and empty ones."""
    try:
        # A pipe must not keep this process waiting.
        descriptor = _open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_LIMIT:
                raise _error(option, path, f"it is no file of up to {FILE_LIMIT} bytes")
            check(option, path, found)
            text = file.read(FILE_LIMIT).decode()
    except OSError as error:
        raise _error(option, path, f"{error.strerror}; name another file") from None
    except UnicodeDecodeError:
        raise _error(option, path, "it is no text; name another file") from None
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not line.startswith("# ") and line != "#"]


def _check_private(option: str, path: str, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid() or mode & 0o077:
        raise _error(
            option,
            path,
            f"it belongs to user {found.st_uid} with mode {mode:04o}, and must belong to user "
            f"{os.geteuid()} alone; make it 0600, and a new key if another user has read this one",
        )


def _check_trusted(option: str, path: str, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()) or mode & 0o022:
        raise _error(
            option,
            path,
            f"it belongs to user {found.st_uid} with mode {mode:04o}, and only user "
            f"{os.geteuid()} or root may be able to change it; make it 0644, and a folder 0755",
        )


def _error(option: str, path: str, reason: str) -> OptionError:
    return OptionError(f"{option}: {path}: {reason}")
