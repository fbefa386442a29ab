"""`hbshim watch` as a user runs it, against a real process in each concurrency model."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable

import pytest

from tests.observe.conftest import gone
from tests.waiting import wait_until


@pytest.mark.parametrize("model", ["native", "eventlet", "gevent"])
def test_a_process_is_watched_while_its_main_thread_is_blocked(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
    hbshim: Callable[..., subprocess.CompletedProcess[str]],
    model: str,
) -> None:
    process, path = watched(model)
    done = hbshim("watch", "--json", path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["pid"] == process.pid
    links = {link["heartbeat_timeout"]: link for link in seen["links"]}
    assert set(links) == {2.0, 60.0}
    assert links[60.0]["worker"] == "pthread"
    assert links[60.0]["state"] == "alive"
    assert links[60.0]["sent_ago"] >= 0
    # What is shown changes: the next heartbeat is seen.
    wait_until(lambda: json.loads(hbshim("watch", "--json", path).stdout)["counters"], 120)


def test_the_socket_is_the_owners_alone_and_goes_with_the_process(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    process, path = watched()
    found = os.stat(path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    process.stdin.close()
    process.wait(60)
    gone(path)


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (80, "broker T sent recv app heartbeats late worker state"),
        (
            120,
            "local port, broker T sent recv app wrote app read heartbeats late worker route "
            "protocol state",
        ),
    ],
)
def test_the_table_fits_the_terminal(
    watched: Callable[..., tuple[subprocess.Popen[str], str]],
    hbshim: Callable[..., subprocess.CompletedProcess[str]],
    columns: int,
    titles: str,
) -> None:
    process, path = watched()
    done = hbshim("watch", path, COLUMNS=str(columns))
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"watched.py {process.pid} · 2 links")
    assert lines[1].split() == titles.split()
    assert all(len(line) <= columns for line in lines)
    rows = [line.split() for line in lines[2:4]]
    assert {row[-1] for row in rows} <= {"alive", "lost"}
    assert "60s" in done.stdout
