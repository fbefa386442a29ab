"""The two proxies between the contestants: ``hbshim zmq-proxy``, and ZeroMQ's own in C.

Both are processes of their own, at 127.0.0.1 and at local sockets of a directory of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from hbshim.errors import HbshimError
from hbshim.messaging.zmq.keys_command import make_pair

#: Seconds until a proxy is ready, and for its end.
_LIMIT = 30.0

#: Publications that may wait for one subscriber: a slice is sent faster than it is handled.
FANOUT_HWM = 1_000_000

PIPELINES = ("call", "cast", "fanout", "notify")


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs.

    Attributes:
        pid: of its process, which may have children.
        place: where bare contestants reach it: an address for clients of each pipeline, and one for
            servers, as JSON.
        url: of hbshim's driver; empty for the proxy in C.
    """

    pid: int
    place: str
    url: str = ""

    def cpu(self) -> float:
        """Return the seconds of CPU time so far, of all its processes and threads."""
        return _cpu(self.pid)


@contextlib.contextmanager
def c_proxy() -> Iterator[Proxy]:
    """Start ``zmq.proxy`` for each pipeline."""
    with _directory() as directory:
        command = [sys.executable, "-m", "hbshim.bench.zmq.c_proxy", directory]
        with _running(command, os.environ) as (process, line):
            yield Proxy(process.pid, line)


@contextlib.contextmanager
def own_proxy(*, curve: bool = False) -> Iterator[Proxy]:
    """Start ``hbshim zmq-proxy``, with a directory in files.

    Parameters:
        curve: with CURVE; then bare contestants cannot use it.
    """
    with _directory() as directory:
        ports = dict(zip(PIPELINES, _free_ports(len(PIPELINES)), strict=True))
        options = {
            "rpc_zmq_ipc_dir": directory,
            "fanout_ds_address": f"file://{directory}/hosts",
            "zmq_fanout_hwm": FANOUT_HWM,
        }
        proxy_options = dict(options)
        if curve:
            folder = Path(directory, "keys")
            folder.mkdir()
            secret, public = "zmq_curve_secret_key_file", "zmq_curve_allowed_keys"
            proxy_options[secret] = str(make_pair("proxy", folder)[0])
            options[secret], proxy_options[public] = map(str, make_pair("client", folder))
        environment = {
            **{name: each for name, each in os.environ.items() if not name.startswith("HBSHIM_")},
            **{f"HBSHIM_ZMQ_{name.upper()}": str(value) for name, value in proxy_options.items()},
        }
        command = [sys.executable, "-m", "hbshim", "zmq-proxy", "--bind", "127.0.0.1"]
        command += [f"--{pipeline}-port={port}" for pipeline, port in ports.items()]
        place = {pipeline: f"tcp://127.0.0.1:{port}" for pipeline, port in ports.items()}
        for local in ("servers", "fanout", "notify"):
            place[f"server-{local}"] = f"ipc://{directory}/{local}"
        with _running(command, environment) as (process, _):
            yield Proxy(process.pid, json.dumps(place), f"hbzmq://localhost/?{urlencode(options)}")


@contextlib.contextmanager
def _directory() -> Iterator[str]:
    made = tempfile.mkdtemp(prefix="hbshim")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process; give it, and the line that it prints when it is ready."""
    with tempfile.TemporaryFile("w+") as log:  # shown only if it fails
        process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        try:
            ready = select.select([process.stdout], [], [], _LIMIT)[0]
            line = process.stdout.readline() if ready else ""
            if not line:
                log.seek(0)
                last = log.read().strip().splitlines()[-1:] or ["it wrote nothing"]
                raise HbshimError(f"a proxy of the benchmark did not start: {last[0]}")
            yield process, line
        finally:
            process.terminate()
            try:
                process.wait(_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in found]


def _cpu(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task")
    nanoseconds, children = 0, []
    for task in tasks.iterdir():
        # proc(5): schedstat begins with nanoseconds on the CPU.
        nanoseconds += int((task / "schedstat").read_text().split()[0])
        children += (task / "children").read_text().split()
    return nanoseconds / 1e9 + sum(_cpu(int(child)) for child in children)
