"""Files of keys: what makes them, and which are refused."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq
from hypothesis import given, strategies

from hbshim.cli import main
from hbshim.errors import OptionError
from hbshim.messaging.zmq.keys import FILE_LIMIT, PublicKeys, is_key, read_secret_key

OPTION = "zmq_curve_secret_key_file"

#: Runs the tests as a user who may own files of another one.
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a file of another user needs root")


class Done(NamedTuple):
    status: object
    out: str
    error: str


def zmq_keys(*arguments: str) -> Done:
    """Run the command."""
    out, error = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as ended,
    ):
        main(["zmq-keys", *arguments])
    return Done(ended.value.code, out.getvalue(), error.getvalue())


def test_a_pair_is_made_and_the_secret_is_not_printed(tmp_path: Path) -> None:
    done = zmq_keys("compute-17", "--folder", str(tmp_path))
    secret_path, public_path = tmp_path / "compute-17.secret", tmp_path / "compute-17.public"
    assert done.status == 0, done
    assert done.out == f"secret key: {secret_path}\npublic key: {public_path}\n"
    assert stat.S_IMODE(secret_path.stat().st_mode) == 0o600
    secret = read_secret_key(OPTION, str(secret_path))
    assert secret.decode() not in done.out + done.error
    public = zmq.curve_public(secret)
    assert PublicKeys("option", str(public_path)).by_name == {"compute-17": (public,)}


@pytest.mark.parametrize("there", ["compute-17.secret", "compute-17.public"])
def test_a_file_is_not_replaced_unless_it_is_told_to(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = zmq_keys("compute-17", "--folder", str(tmp_path))
    assert done.status == 2
    assert f"{there} is there already" in done.error
    assert done.error.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"

    (tmp_path / there).chmod(0o644)
    assert zmq_keys("compute-17", "--folder", str(tmp_path), "--force").status == 0
    read_secret_key(OPTION, str(tmp_path / "compute-17.secret"))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["a/b", "a b", ".hidden", "#1", "", "line\nbreak"])
def test_a_name_that_a_file_or_a_line_cannot_have(tmp_path: Path, name: str) -> None:
    done = zmq_keys("--folder", str(tmp_path), "--", name)
    assert done.status == 2
    assert list(tmp_path.iterdir()) == []


def test_every_key_of_the_library_is_one() -> None:
    for _ in range(200):
        for key in zmq.curve_keypair():
            assert is_key(key.decode())


@given(strategies.binary(min_size=32, max_size=32))
def test_any_32_bytes_are_a_key(data: bytes) -> None:
    from zmq.utils import z85

    assert is_key(z85.encode(data).decode())


@pytest.mark.parametrize("text", ["", "0" * 39, "0" * 41, "#" * 40, " " * 40, "ä" * 40, None, 7])
def test_what_is_no_key(text: object) -> None:
    assert not is_key(text)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "short\n", "{secret}\n{secret}\n", "compute-17 {secret}\n", "\xff\xfe"],
)
def test_a_file_that_holds_no_secret_key_is_not_repeated(tmp_path: Path, text: str) -> None:
    secret = zmq.curve_keypair()[1].decode()
    path = tmp_path / "own.secret"
    path.write_bytes(text.replace("{secret}", secret).encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(OptionError, match=OPTION) as caught:
        read_secret_key(OPTION, str(path))
    assert secret not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    zmq_keys("own", "--folder", str(tmp_path))
    (tmp_path / "own.secret").chmod(mode)
    with pytest.raises(OptionError, match=f"mode {mode:04o}.*make it 0600"):
        read_secret_key(OPTION, str(tmp_path / "own.secret"))


@as_root
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    zmq_keys("own", "--folder", str(tmp_path))
    for each in tmp_path.iterdir():
        os.chown(each, 12345, -1)
    with pytest.raises(OptionError, match="belongs to user 12345"):
        read_secret_key(OPTION, str(tmp_path / "own.secret"))
    with pytest.raises(OptionError, match="belongs to user 12345"):
        PublicKeys("option", str(tmp_path / "own.public"))


def test_a_secret_that_is_missing_or_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "long").write_bytes(bytes(FILE_LIMIT + 1))
    for name, reason in (
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("pipe", "it is no file of up to"),
        ("long", "it is no file of up to"),
    ):
        with pytest.raises(OptionError, match=reason):
            read_secret_key(OPTION, str(tmp_path / name))


def test_public_keys_are_read_again_when_they_have_changed(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second = (zmq.curve_keypair()[0] for _ in range(2))
    path.write_text(f"# of two hosts\n\none {first.decode()}\n one   {second.decode()} \n")
    keys = PublicKeys("option", str(path))
    assert keys.by_name == {"one": (first, second)}
    assert not keys.refresh()
    path.write_text(f"two {first.decode()}\n")
    assert keys.refresh()
    assert keys.by_name == {"two": (first,)}
    for text in (f"{first.decode()}\n", "two\n", f"two {first.decode()} more\n", None):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(OptionError, match="option: ") as caught:
            keys.refresh()
        assert first.decode() not in str(caught.value)
        assert keys.by_name == {"two": (first,)}
    path.write_text(f"two {second.decode()}\n")
    assert keys.refresh()


def test_a_folder_of_public_keys(tmp_path: Path) -> None:
    for name in ("one", "two"):
        zmq_keys(name, "--folder", str(tmp_path))
    keys = PublicKeys("option", str(tmp_path))
    assert set(keys.by_name) == {"one", "two"}
    (tmp_path / "one.public").unlink()
    assert keys.refresh()
    assert set(keys.by_name) == {"two"}
    tmp_path.chmod(0o777)
    with pytest.raises(OptionError, match="make it 0644, and a folder 0755"):
        keys.refresh()
