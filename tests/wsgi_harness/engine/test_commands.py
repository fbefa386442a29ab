"""Commands end in time, and their errors show what they said."""

import shutil
import time
from pathlib import Path

import pytest

from tests.waiting import wait_until
from wsgi_harness.engine.commands import run, succeeds
from wsgi_harness.engine.dockerd import processes
from wsgi_harness.errors import CommandError


def test_returns_standard_output_alone_or_both_in_order() -> None:
    argv = ["sh", "-c", "echo first; echo second >&2; echo third"]
    assert run(argv, timeout=10) == "first\nthird\n"
    assert run(argv, timeout=10, merge_stderr=True) == "first\nsecond\nthird\n"


def test_hands_in_text_and_environment() -> None:
    argv = ["sh", "-c", 'read line; echo "$line $WORD"']
    assert run(argv, timeout=10, stdin="said\n", env={"WORD": "added"}) == "said added\n"


def test_error_names_the_command_and_its_last_words() -> None:
    with pytest.raises(CommandError, match="`false` failed with status 1"):
        run(["false"], timeout=10)
    with pytest.raises(CommandError, match="no space left"):
        run(["sh", "-c", "echo no space left >&2; exit 3"], timeout=10)
    with pytest.raises(CommandError, match="cannot run `no-such-command`"):
        run(["no-such-command"], timeout=10)


def test_a_command_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    # The child holds the pipe: without ending it too, reading would last as long as it does.
    slow = shutil.copy("/bin/sleep", tmp_path / "hbslow")
    began = time.monotonic()
    with pytest.raises(CommandError, match=r"took longer than 0\.5 s"):
        run(["sh", "-c", '"$0" 3600 & wait', slow], timeout=0.5)
    assert time.monotonic() - began < 60
    wait_until(lambda: not processes("hbslow"))


def test_succeeds_says_whether() -> None:
    assert succeeds(["true"], timeout=10)
    assert not succeeds(["false"], timeout=10)
    assert not succeeds(["no-such-command"], timeout=10)
