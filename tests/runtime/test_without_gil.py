"""Without the GIL hbshim refuses to work, with one sentence; the program works as without hbshim.

No interpreter without it is at hand where the tests run, so `sys` answers as one would.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

import hbshim
from hbshim.adapters.attach import ready, watch
from hbshim.api import installed_options
from hbshim.errors import WorkerError
from hbshim.options import Options

SENTENCE = (
    "hbshim needs the GIL, and this free-threaded Python runs without it; start it with "
    "PYTHON_GIL=1, or use the ordinary build of this Python"
)


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    hbshim.take_events()
    yield
    hbshim.uninstall()
    hbshim.take_events()


@pytest.fixture
def without_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)


def test_install_is_refused(without_gil: None) -> None:
    with pytest.raises(WorkerError) as refused:
        hbshim.install()
    assert str(refused.value) == SENTENCE
    assert installed_options() is None


def test_a_link_is_refused_before_anything_is_done_with_it(without_gil: None) -> None:
    with pytest.raises(WorkerError, match="needs the GIL"):
        watch(None, Options())  # type: ignore[arg-type]


def test_a_connection_is_left_alone_with_an_event(without_gil: None) -> None:
    assert not ready(Options(), "a connection")
    (event,) = hbshim.take_events()
    assert event.kind == "not-kept-alive"
    assert event.detail.startswith(SENTENCE)


def test_a_free_threaded_build_that_runs_with_the_gil_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    hbshim.install()
    assert installed_options() is not None


def test_a_program_that_hbshim_run_starts_runs_all_the_same() -> None:
    code = (
        "import sys; sys._is_gil_enabled = lambda: False; "
        "from hbshim.activation import activate; activate(); print('runs')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.stdout == "runs\n"
    assert done.stderr == f"hbshim: not active in {sys.executable}: {SENTENCE}\n"
