"""Where things lie, and one set-up at a time."""

import threading
from pathlib import Path

import pytest

import hbshim
from tests.waiting import wait_until
from wsgi_harness.paths import CONTAINERS, build_dir, package_dir, set_up_lock


def test_build_directory_can_be_named_and_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HBSHIM_BUILD_DIR", str(tmp_path / "a" / "b"))
    assert build_dir() == tmp_path / "a" / "b"
    assert build_dir().is_dir()
    monkeypatch.delenv("HBSHIM_BUILD_DIR")
    assert build_dir() == CONTAINERS.parent / "build"


def test_finds_a_package_that_can_be_imported_and_no_other() -> None:
    assert package_dir("hbshim") == Path(hbshim.__file__).parent
    with pytest.raises(ModuleNotFoundError):
        package_dir("no_such_package")


def test_a_second_set_up_says_that_it_waits_and_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HBSHIM_BUILD_DIR", str(tmp_path))
    said: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with set_up_lock(said.append):
            entered.set()

    with set_up_lock(said.append):
        assert said == []
        waiting = threading.Thread(target=second)
        waiting.start()
        wait_until(lambda: said)
        assert not entered.is_set()
    waiting.join(10)
    assert entered.is_set()
    assert said == ["waiting for another run that is setting up in this checkout"]
