"""Checks of the driver over ZeroMQ, if a URL of it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hbshim.doctor.context import Context
from hbshim.doctor.findings import Answer, Check
from hbshim.doctor.zmq_facts import HostFacts, ZmqFacts

#: Older ones have faults that a peer can use (CVE-2021-20234 to 20237).
OLDEST_LIBZMQ = (4, 3, 4)

#: Descriptors that a process needs for each host, at most, and beside them.
DESCRIPTORS_PER_HOST, SPARE_DESCRIPTORS = 4, 100

#: The part of a limit from which on it counts as nearly reached.
NEARLY = 0.8

NAMED_AT_MOST = 3

NO_URL = "No --url of hbzmq:// was given."
NO_DIRECTORY = "The hosts are those of the URL; there is no directory."


def _of(check: Callable[[ZmqFacts], Answer]) -> Callable[[Context], Answer]:
    """Return what runs a check where there is a URL of this driver."""

    def run(context: Context) -> Answer:
        facts = context.zmq
        return Answer("not-applicable", NO_URL) if facts is None else check(facts)

    return run


def _versions(facts: ZmqFacts) -> Answer:
    libzmq = ".".join(map(str, facts.libzmq))
    if facts.libzmq < OLDEST_LIBZMQ:
        return Answer("problem", f"libzmq {libzmq} has known security faults, and is refused.")
    if facts.curve and not facts.has_curve:
        return Answer(
            "problem",
            f"libzmq {libzmq} was built without CURVE, which is on.",
            "Install pyzmq's wheel, or a libzmq that was built with libsodium.",
        )
    redis = f", redis-py {facts.redis}" if facts.redis else ", without redis-py"
    return Answer("ok", f"pyzmq {facts.pyzmq} with libzmq {libzmq}{redis}.")


def _keys(facts: ZmqFacts) -> Answer:
    if facts.key_error:
        return Answer("problem", f"{facts.key_error}.", "See the text of the finding.")
    if not facts.curve:
        return Answer("ok", "CURVE is off: connections are neither encrypted nor authenticated.")
    return Answer("ok", "CURVE is on, and its files of keys can be used.")


def _descriptors(facts: ZmqFacts) -> Answer:
    used, soft, hard = facts.descriptors
    needed = used + DESCRIPTORS_PER_HOST * facts.found + SPARE_DESCRIPTORS
    for process, figures in (facts.local or {}).items():
        if figures and figures["descriptors"] > NEARLY * figures["descriptor_limit"]:
            return Answer(
                "warning",
                f"The process {process} of this host's proxy has {figures['descriptors']:.0f} of "
                f"{figures['descriptor_limit']:.0f} descriptors open.",
                "Raise its hard limit, LimitNOFILE= of its unit; at the limit no client connects.",
            )
    if needed > soft:
        return Answer(
            "warning",
            f"This process may open {soft} descriptors (hard limit {hard}), and may need {needed} "
            "with these hosts.",
        )
    return Answer("ok", f"This process may open {soft} descriptors, and needs {needed} at most.")


def _ipc_directory(facts: ZmqFacts) -> Answer:
    if facts.ipc_error is None:
        return Answer(
            "not-applicable",
            f"{facts.ipc_directory} does not exist: no proxy has run here. Clients need none.",
        )
    if facts.ipc_error:
        return Answer("problem", f"{facts.ipc_error}.", "See the text of the finding.")
    return Answer("ok", f"{facts.ipc_directory} belongs to those who may use it, and no other.")


def _local_proxy(facts: ZmqFacts) -> Answer:
    if facts.local is None or not any(facts.local.values()):
        return Answer(
            "not-applicable", f"No proxy answers in {facts.ipc_directory}; only servers need one."
        )
    silent = [process for process, figures in facts.local.items() if figures is None]
    if silent:
        return Answer(
            "problem", f"Processes of this host's proxy do not answer: {_listed(silent)}."
        )
    servers = (facts.local.get("requests") or {}).get("servers", 0)
    return Answer("ok", f"All processes of this host's proxy answer; it has {servers:.0f} servers.")


def _directory(facts: ZmqFacts) -> Answer:
    if facts.directory_error:
        return Answer("problem", f"{facts.directory_error.rstrip('.')}.")
    if not facts.directory:
        return Answer("not-applicable", NO_DIRECTORY)
    if not facts.found:
        return Answer(
            "warning",
            f"{facts.directory} answers, and has no host.",
            "Start hbshim zmq-proxy with the same fanout_ds_address and directory_namespace on "
            "the hosts with servers; a host is listed once a server has started there.",
        )
    return Answer("ok", f"{facts.directory} answers; hosts in it: {facts.found}.")


def _proxies(facts: ZmqFacts) -> Answer:
    if facts.key_error:
        return Answer("unknown", "The keys cannot be used, so no proxy was asked.")
    # Those that the directory has, and that do not answer at all, are another check.
    asked = [host for host in facts.hosts if not (facts.directory and host.is_silent)]
    failed = [host for host in asked if host.failures]
    if failed:
        named = [f"{host.name}: {_failures(host)}" for host in failed]
        return Answer(
            "problem",
            f"{_count(failed)} of {len(facts.hosts)} cannot be used: {_listed(named, '; ')}.",
        )
    if facts.not_asked:
        return Answer(
            "unknown",
            f"{_count(asked)} answered on all ports; {facts.not_asked} could not be asked in time.",
            "Raise --timeout.",
        )
    if not asked:
        return Answer("not-applicable", "No host is known that answers.")
    names = sorted({host.host for host in asked} - {""})
    return Answer("ok", f"On all ports of {_count(asked)} a proxy answers: {_listed(names)}.")


def _stale_hosts(facts: ZmqFacts) -> Answer:
    if not facts.directory:
        return Answer("not-applicable", NO_DIRECTORY)
    if not facts.hosts:
        return Answer("not-applicable", "No host of it was asked.")
    stale = [host for host in facts.hosts if host.is_silent]
    if not stale:
        return Answer("ok", "Every host of the directory that was asked answers.")
    named = [f"{host.name} ({_failures(host)})" for host in stale]
    return Answer(
        "problem" if len(stale) == len(facts.hosts) else "warning",
        f"{_count(stale)} of {len(facts.hosts)} in the directory does not answer: "
        f"{_listed(named, '; ')}.",
    )


def _two_proxies(facts: ZmqFacts) -> Answer:
    for name, (one, other) in facts.rivals.items():
        return Answer(
            "problem", f"The proxies at {one} and {other} both write the record of host {name}."
        )
    by_host: dict[str, dict[str, str]] = {}
    for host in facts.hosts:
        if host.host:
            by_host.setdefault(host.host, {})[host.incarnation] = host.name
        if facts.directory and host.host not in ("", host.name):
            return Answer(
                "problem",
                f"The directory has host {host.name}, and at its address host {host.host} answers.",
            )
    for name, incarnations in by_host.items():
        if len(incarnations) > 1:
            return Answer(
                "problem",
                f"Two proxies have the name {name}: {_listed(sorted(incarnations.values()))}.",
            )
    for host in facts.hosts:
        if host.listed and host.incarnation and host.listed != host.incarnation:
            return Answer(
                "warning",
                f"The directory has another incarnation of host {host.name} than the proxy that "
                "answers: it has restarted just now, or cannot write, or there are two.",
                "Run this again; if it stays, look for directory-refused and directory-lost in "
                "the log of that host's proxy.",
            )
    if not by_host:
        return Answer("not-applicable", "No proxy has sent its identity.")
    if facts.watched:
        return Answer("ok", f"No record was written by two proxies in {facts.watched:.1f} s.")
    return Answer("ok", "Each proxy has a name of its own.")


def _count(hosts: Sequence[HostFacts]) -> str:
    return f"{len(hosts)} host{'' if len(hosts) == 1 else 's'}"


def _failures(host: HostFacts) -> str:
    """Return why the ports of a host do not answer."""
    reasons: dict[str, list[str]] = {}
    for address, reason in host.failures.items():
        reasons.setdefault(reason, []).append(address.rpartition(":")[2])
    return ", ".join(f"port {'/'.join(ports)}: {reason}" for reason, ports in reasons.items())


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    more = len(names) - NAMED_AT_MOST
    return separator.join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


CHECKS = (
    Check(
        "zmq-versions",
        "The versions of pyzmq, of the C library libzmq, and of redis-py, for `hbzmq://`.",
        "libzmq before 4.3.4 has faults that a peer can use (CVE-2021-20234 to 20237), and hbshim "
        "refuses it. Some builds have no CURVE.",
        "Install pyzmq's wheel, which has a libzmq of its own: pip install --upgrade pyzmq.",
        _of(_versions),
    ),
    Check(
        "zmq-keys",
        "The files of keys, where `zmq_curve_secret_key_file` turns CURVE on: their form, owner "
        "and mode.",
        "A secret key that others can read is refused, and so is a client without the keys of the "
        "proxies.",
        "See the text of the finding.",
        _of(_keys),
    ),
    Check(
        "zmq-descriptors",
        "The limit of descriptors (`RLIMIT_NOFILE`) of this process, and of this host's proxy.",
        "A client needs up to four for each host, a proxy one for each connection. ZeroMQ cannot "
        "refuse a connection: at the limit it accepts none, without an error.",
        "Raise it: ulimit -n, or LimitNOFILE= of the unit. A proxy raises its soft limit itself.",
        _of(_descriptors),
    ),
    Check(
        "zmq-ipc-directory",
        "The directory of the local sockets (`rpc_zmq_ipc_dir`): whether it exists, its owner and "
        "its mode.",
        "Servers reach their proxy by it. A user who may enter it may answer calls, so servers and "
        "proxies refuse one that others may enter.",
        "See the text of the finding.",
        _of(_ipc_directory),
    ),
    Check(
        "zmq-local-proxy",
        "Each process of the proxy in that directory, by its control socket.",
        "Each kind of message has a process of its own; one that hangs or is missing stops that "
        "kind on this host.",
        "See hbshim zmq-proxy --status, and the log of the proxy.",
        _of(_local_proxy),
    ),
    Check(
        "zmq-directory",
        "The directory (`fanout_ds_address`): Redis, Sentinels or files.",
        "Without it known routes stay in use, and new targets are not found.",
        "Correct fanout_ds_address, or start the directory.",
        _of(_directory),
    ),
    Check(
        "zmq-proxies",
        "The proxy of each host, on each of its ports, as a client connects to them.",
        "A port that does not answer takes nothing of its kind: calls (9501), fanouts (9502), "
        "notifications (9503), casts (9504).",
        "Start hbshim zmq-proxy on that host; open its ports in firewalls; compare the ports and "
        "keys of both sides.",
        _of(_proxies),
    ),
    Check(
        "zmq-stale-hosts",
        "Hosts of the directory of which no port answers.",
        "Their records end with their leases (`zmq_target_expire`), or never in a file of hosts. "
        "Until then clients try them, and go on to the next host after 1 s.",
        "If the host is gone, remove it from the file of hosts, or wait for the end of its lease; "
        "else see why its address cannot be reached from here: rpc_zmq_host, rpc_zmq_bind_address.",
        _of(_stale_hosts),
    ),
    Check(
        "zmq-two-proxies",
        "Whether two proxies have one name, or write one record; in Redis for the time of one "
        "renewal.",
        "Clients know a host by its name, which is also the address of its replies. With two of "
        "them messages reach one, then the other.",
        "Give each proxy a name of its own: hbshim zmq-proxy --host; run one for each host.",
        _of(_two_proxies),
    ),
)
