"""Gathers the facts about a URL of the driver over ZeroMQ, within a time limit."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

from hbshim.doctor.deadline import Deadline, within
from hbshim.doctor.target import ZMQ_SCHEME
from hbshim.doctor.zmq_facts import HostFacts, ZmqFacts
from hbshim.errors import HbshimError, OptionError
from hbshim.extras import needs
from hbshim.messaging.hosts import read_hosts
from hbshim.messaging.zmq.curve import Curve
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.factory import addresses_of, check_hosts, curve_of
from hbshim.messaging.zmq.frames import VERSION
from hbshim.messaging.zmq.local_sockets import inspect_ipc_directory
from hbshim.messaging.zmq.options import ZmqOptions
from hbshim.runtime import descriptors

#: A proxy renews its record this often in the time of a lease; and seconds beyond that.
_RENEWALS, _LATE = 3, 0.5


def options_of(url: str) -> ZmqOptions:
    """Return the options of a URL, of the environment and of the configuration file.

    Raises:
        OptionError: it is malformed, or has hosts that the driver cannot have.
    """
    if url.startswith(f"{ZMQ_SCHEME}+"):
        return ZmqOptions.load(fanout_ds_address=url.removeprefix(f"{ZMQ_SCHEME}+"))
    options = ZmqOptions.load(url=url)
    check_hosts(read_hosts(url, options.zmq_call_port), options)
    return options


def examine_zmq(url: str, deadline: Deadline, progress: Callable[[str], None]) -> ZmqFacts:
    """Find out what the checks need.

    Parameters:
        deadline: limits everything.
        progress: called with a sentence before each step that takes seconds.

    Raises:
        MissingExtraError: pyzmq is not installed.
        OptionError: see :func:`options_of`.
    """
    options = options_of(url)
    with needs(("zmq",), "zmq"):
        import zmq

        from hbshim.doctor.zmq_hosts import Hosts

    curve, key_error = _keys(options)
    address = options.fanout_ds_address
    hosts = Hosts(options, curve if not key_error else None, deadline)
    if address is None:
        records: Sequence[HostRecord] = [
            HostRecord("", "", addresses_of(host, options), VERSION)
            for host in read_hosts(url, options.zmq_call_port)
        ]
        directory_error = ""
    else:
        progress(f"reading the directory at {address.name} ...")
        records, directory_error = hosts.listed()
    if records:
        progress(f"connecting to the proxies of {len(records)} hosts ...")
    # With keys that cannot be used no proxy would answer.
    asked = [] if key_error else hosts.ask(records)
    facts = [_facts(answer) for answer in asked]
    rivals: Mapping[str, tuple[str, str]] = {}
    watched = 0.0
    if asked and address is not None and address.kind in ("redis", "sentinel"):
        watched = options.zmq_target_expire / _RENEWALS + _LATE
        progress(f"reading the directory again for {watched:.1f} s ...")
        rivals = hosts.rivals(records, watched)
    group, group_error = _group(options)
    ipc_error = group_error or _ipc_error(options.rpc_zmq_ipc_dir, group)
    return ZmqFacts(
        pyzmq=zmq.__version__,
        redis=_version("redis"),
        libzmq=zmq.zmq_version_info(),
        has_curve=bool(zmq.has("curve")),
        descriptors=(descriptors.count(), *resource.getrlimit(resource.RLIMIT_NOFILE)),
        ipc_directory=options.rpc_zmq_ipc_dir,
        ipc_error=ipc_error,
        local=_local(options.rpc_zmq_ipc_dir, deadline) if ipc_error == "" else None,
        curve=options.zmq_curve_secret_key_file is not None,
        key_error=key_error,
        directory="" if address is None else address.name,
        directory_error=directory_error,
        found=len(records),
        hosts=tuple(facts),
        not_asked=0 if key_error else len(records) - len(asked),
        rivals=rivals,
        watched=watched,
    )


def _keys(options: ZmqOptions) -> tuple[Curve | None, str]:
    try:
        return curve_of(options), ""
    except OptionError as error:
        return None, str(error)


def _group(options: ZmqOptions) -> tuple[int | None, str]:
    try:
        return options.ipc_group(), ""
    except OptionError as error:
        return None, str(error)


def _ipc_error(path: str, group: int | None) -> str | None:
    try:
        inspect_ipc_directory(path, group)
    except FileNotFoundError:
        return None
    except OptionError as error:
        return str(error)
    return ""


def _local(path: str, deadline: Deadline) -> Mapping[str, Any] | None:
    from hbshim.messaging.zmq.proxy.control import ANSWER_WITHIN, ask

    limit = min(ANSWER_WITHIN, deadline.left)
    with suppress(TimeoutError, HbshimError):
        figures = within(Deadline(limit + 1), lambda: ask(path, timeout=limit))
        return {str(process): each for process, each in figures.items()}
    return None


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _facts(answer: Any) -> HostFacts:
    record = answer.record
    return HostFacts(
        name=record.host or record.addresses["call"].removeprefix("tcp://"),
        ports=len(record.addresses),
        failures=dict(answer.failures),
        listed="" if record.incarnation == "static" else record.incarnation,
        host=answer.host,
        incarnation=answer.incarnation,
    )
