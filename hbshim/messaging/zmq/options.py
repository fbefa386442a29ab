"""The options of the driver over ZeroMQ, and of its proxy.

Longer than others: a table, with one field for each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from hbshim.errors import OptionError
from hbshim.messaging.options import (
    MIB,
    MessagingOptions,
    driver_option,
    optional,
    positive_seconds,
)
from hbshim.messaging.zmq.directory import Pipeline
from hbshim.messaging.zmq.directory.address import FORMS, Address, read_address
from hbshim.messaging.zmq.directory.settings import PORTS, DirectorySettings
from hbshim.messaging.zmq.keys import read_secret_key
from hbshim.messaging.zmq.local_sockets import default_ipc_directory, group_number, ipc_path
from hbshim.messaging.zmq.settings import COPIES_KEPT, SocketSettings
from hbshim.options import boolean, int_range, non_negative_seconds

_port = int_range(1, 65535)
_on_or_system = int_range(-1, 1)
_probes = int_range(-1, 32767)

#: The option that turns CURVE on.
SECRET_KEY_OPTION = "zmq_curve_secret_key_file"

#: The longest name of a local socket that is made in `rpc_zmq_ipc_dir`.
LONGEST_SOCKET = "control-requests"


def _address(value: object) -> Address | None:
    if value is None or isinstance(value, Address):
        return value
    address = read_address(str(value).strip())
    if address.kind == "memory":
        raise OptionError(
            "fanout_ds_address=memory:// is for a proxy in the same process, and that of hbzmq:// "
            "is a process of its own; name a folder of this machine, file:///path, or a Redis"
        )
    return address


def _namespace(value: object) -> str:
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise ValueError
    return text


def _group(value: object) -> str:
    text = str(value).strip()
    if not text:
        raise ValueError
    return text


def _path_or_any(value: object) -> str:
    return "*" if str(value).strip() == "*" else _path(value)


def _path(value: object) -> str:
    text = str(value).strip()
    if not text.startswith("/") or "\0" in text:
        raise ValueError
    return text


@dataclasses.dataclass(frozen=True)
class ZmqOptions(MessagingOptions):
    """The options of the driver over ZeroMQ. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not acceptable, or two options contradict each other.
    """

    environment_prefix = "HBSHIM_ZMQ_"
    config_section = "hbshim_zmq"

    heartbeat_interval: int = driver_option(
        "heartbeat_interval",
        10,
        int_range(0, 32),
        "whole seconds, 0 to 32",
        "T: a peer that is silent for 1 to 1.5 T is taken for dead. 0: no heartbeats, and a peer "
        "whose network is gone is noticed by TCP alone. On local sockets T is 3 at most.",
    )
    default_rpc_exchange: str = driver_option(
        "default_rpc_exchange",
        "openstack_rpc",
        str,
        "a name",
        "Exchange of calls and casts whose target names none.",
    )
    default_notification_exchange: str = driver_option(
        "default_notification_exchange",
        "openstack_notification",
        str,
        "a name",
        "Exchange of notifications whose target names none.",
    )
    zmq_embedded_proxy: bool = driver_option(
        "zmq_embedded_proxy",
        False,
        boolean,
        "true | false",
        "A process with servers runs the proxy of this machine itself, or uses the one that runs. "
        "For hbzmq://localhost/ only.",
    )
    zmq_call_port: int = driver_option(
        "zmq_call_port",
        PORTS["call"],
        _port,
        "1 to 65535",
        "Port for calls of a host whose URL names none.",
    )
    zmq_cast_port: int = driver_option(
        "zmq_cast_port",
        PORTS["cast"],
        _port,
        "1 to 65535",
        "Port for casts to one server that nothing acknowledges.",
    )
    zmq_fanout_port: int = driver_option(
        "zmq_fanout_port",
        PORTS["fanout"],
        _port,
        "1 to 65535",
        "Port for casts to a fanout.",
    )
    zmq_notify_port: int = driver_option(
        "zmq_notify_port",
        PORTS["notify"],
        _port,
        "1 to 65535",
        "Port for notifications.",
    )
    zmq_fanout_hwm: int = driver_option(
        "zmq_fanout_hwm",
        1000,
        int_range(1, 1_000_000),
        "1 to 1000000",
        "Messages of a fanout, or notifications, that wait for one subscriber that does not keep "
        "up; it misses what comes after them.",
    )
    rpc_zmq_ipc_dir: str = driver_option(
        "rpc_zmq_ipc_dir",
        default_ipc_directory(),
        _path,
        "an absolute path",
        "Directory of the local sockets by which the servers of a host reach its proxy; the same "
        "for both. It belongs to one user, and no other may enter it, unless zmq_ipc_group is set.",
    )
    zmq_ipc_group: str | None = driver_option(
        "zmq_ipc_group",
        None,
        optional(_group),
        "a group of the system, or its number",
        "Group of users whose proxy and servers share rpc_zmq_ipc_dir; its mode is 0770 then. The "
        "same for both.",
    )
    fanout_ds_address: Address | None = driver_option(  # noqa: RUF009 - as the others
        "fanout_ds_address",
        None,
        optional(_address),
        FORMS,
        "The directory that lists which hosts serve a target; the same for proxies and clients. "
        "Without it a client knows the hosts of its URL only.",
    )
    directory_namespace: str = driver_option(
        "directory_namespace",
        "default",
        _namespace,
        "1 to 64 letters, digits, _, . and -",
        "Separates deployments that share one Redis.",
    )
    zmq_target_expire: float = driver_option(
        "zmq_target_expire",
        15.0,
        positive_seconds,
        "seconds, more than 0",
        "Seconds that a host stays in the directory after its proxy was killed.",
    )
    zmq_target_update: float = driver_option(
        "zmq_target_update",
        5.0,
        positive_seconds,
        "seconds, more than 0",
        "Seconds after which routes that are in use are looked up again, beside what the directory "
        "announces.",
    )
    directory_timeout: float = driver_option(
        "directory_timeout",
        2.0,
        positive_seconds,
        "seconds, more than 0",
        "Seconds that connecting to Redis, and each of its answers, may take.",
    )
    directory_retry_delay: float = driver_option(
        "directory_retry_delay",
        0.25,
        positive_seconds,
        "seconds, more than 0",
        "Longest first pause before Redis is tried again; it doubles, up to 5 s.",
    )
    rpc_zmq_host: str = driver_option(
        "rpc_zmq_host",
        "",
        str,
        "a name of up to 255 bytes",
        "Name of the host in the directory, for its proxy; empty: the name that the system has.",
    )
    rpc_zmq_bind_address: str = driver_option(
        "rpc_zmq_bind_address",
        "*",
        str,
        "* or an address",
        "Address at which the proxy listens; *: at every one.",
    )
    rpc_zmq_topic_backlog: int = driver_option(
        "rpc_zmq_topic_backlog",
        1000,
        int_range(1, 2**31),
        "1 or more",
        "Requests to one target that wait in a proxy for a server; more are passed to another "
        "host, or rejected.",
    )
    rpc_use_acks: bool = driver_option(
        "rpc_use_acks",
        False,
        boolean,
        "true | false",
        "A cast to one server returns when a server has begun it, and is sent again until then.",
    )
    notification_acks: bool = driver_option(
        "notification_acks",
        False,
        boolean,
        "true | false",
        "A notification returns when a listener of each pool has handled it, and is sent again "
        "until then. The same for publishers and listeners.",
    )
    rpc_ack_timeout_base: float = driver_option(
        "rpc_ack_timeout_base",
        15.0,
        positive_seconds,
        "seconds, more than 0",
        "Seconds until a cast or notification without an acknowledgement is sent again.",
    )
    rpc_ack_timeout_multiplier: int = driver_option(
        "rpc_ack_timeout_multiplier",
        2,
        int_range(1, 1000),
        "1 to 1000",
        "Each time that it is sent again, these seconds are multiplied by this.",
    )
    rpc_retry_attempts: int = driver_option(
        "rpc_retry_attempts",
        3,
        int_range(-(2**31), 2**31),
        "a whole number",
        "How often it is sent again, within its timeout; below 0: any number of times.",
    )
    rpc_message_ttl: float = driver_option(
        "rpc_message_ttl",
        300.0,
        positive_seconds,
        "seconds, more than 0",
        "Seconds for which proxies and servers recognise what is sent again, of the latest "
        f"{COPIES_KEPT} messages.",
    )
    zmq_curve_secret_key_file: str | None = driver_option(
        "zmq_curve_secret_key_file",
        None,
        optional(_path),
        "an absolute path",
        "Turns CURVE on, which encrypts and authenticates: the file with the secret key of this "
        "proxy or client, of mode 0600, as `hbshim zmq-keys` makes it.",
    )
    zmq_curve_server_keys: str | None = driver_option(
        "zmq_curve_server_keys",
        None,
        optional(_path),
        "an absolute path",
        "Of clients: the public keys of the proxies by the names of their hosts, `*` for all "
        "others; a file, or a folder of *.public files. Without it the directory is believed, "
        "with a warning.",
    )
    zmq_curve_allowed_keys: str | None = driver_option(
        "zmq_curve_allowed_keys",
        None,
        optional(_path_or_any),
        "an absolute path, or *",
        "Of proxies: the public keys of the clients that may connect; a file, or a folder of "
        "*.public files. *: any key, with a warning.",
    )
    zmq_idle_disconnect: float = driver_option(
        "zmq_idle_disconnect",
        300.0,
        non_negative_seconds,
        "seconds, 0 or more",
        "Seconds after which a host is disconnected to which nothing was sent; 0: never.",
    )
    zmq_linger: float = driver_option(
        "zmq_linger",
        2.0,
        non_negative_seconds,
        "seconds, 0 or more",
        "Longest time for which closing a driver, and the end of a process, wait until what is "
        "ready was sent.",
    )
    zmq_outbox_bytes: int = driver_option(
        "zmq_outbox_bytes",
        64 * MIB,
        int_range(1, 2**40),
        "bytes, 1 or more",
        "Bytes of replies that a listener keeps for a proxy that does not take them, and of casts "
        "that a client keeps; then sending more of them waits.",
    )
    zmq_inbox_bytes: int = driver_option(
        "zmq_inbox_bytes",
        64 * MIB,
        int_range(1, 2**40),
        "bytes, 1 or more",
        "Bytes of a fanout, or of notifications, that wait in a listener; the newest are dropped "
        "beyond it, and counted.",
    )
    zmq_tcp_keepalive: int = driver_option(
        "zmq_tcp_keepalive",
        1,
        _on_or_system,
        "1 | 0 | -1",
        "TCP keepalive beside the heartbeats: on, off, or as the system has it (-1).",
    )
    zmq_tcp_keepalive_idle: int = driver_option(
        "zmq_tcp_keepalive_idle",
        10,
        _probes,
        "seconds, or -1",
        "Seconds without traffic before the first probe; -1: as the system has it.",
    )
    zmq_tcp_keepalive_cnt: int = driver_option(
        "zmq_tcp_keepalive_cnt",
        3,
        _probes,
        "1 or more, or -1",
        "Probes without an answer after which the connection ends; -1: as the system has it.",
    )
    zmq_tcp_keepalive_intvl: int = driver_option(
        "zmq_tcp_keepalive_intvl",
        5,
        _probes,
        "seconds, or -1",
        "Seconds between two probes; -1: as the system has it.",
    )

    def _check(self) -> None:
        if self.ssl or self.tls():
            raise OptionError(
                "ZeroMQ speaks no TLS; remove ssl, ssl_options, ssl_version and ssl_ca_file, and "
                "encrypt with CURVE: "
                f"{SECRET_KEY_OPTION}"
            )
        ipc_path(self.rpc_zmq_ipc_dir, LONGEST_SOCKET)
        for name in ("zmq_curve_server_keys", "zmq_curve_allowed_keys"):
            if getattr(self, name) is not None and self.zmq_curve_secret_key_file is None:
                raise OptionError(
                    f"{name} has no effect without CURVE; turn that on with "
                    f"{SECRET_KEY_OPTION}, or remove {name}"
                )

    def ports(self) -> Mapping[Pipeline, int]:
        """Return the port of each pipeline."""
        return {
            **PORTS,
            "call": self.zmq_call_port,
            "cast": self.zmq_cast_port,
            "fanout": self.zmq_fanout_port,
            "notify": self.zmq_notify_port,
        }

    def directory_settings(self) -> DirectorySettings:
        """Return what the directory needs of them."""
        return DirectorySettings(
            expire=self.zmq_target_expire,
            update=self.zmq_target_update,
            namespace=self.directory_namespace,
            socket_timeout=self.directory_timeout,
            wait_timeout=self.directory_retry_delay,
            ports=self.ports(),
        )

    def ipc_group(self) -> int | None:
        """Return the number of the group that may enter `rpc_zmq_ipc_dir`; None: there is none.

        Raises:
            OptionError: the system has no such group.
        """
        name = self.zmq_ipc_group
        return None if name is None else group_number(name)

    def secret_key(self) -> bytes | None:
        """Return the secret key of this process; None: CURVE is off.

        Raises:
            OptionError: the file cannot be used, see :func:`read_secret_key`.
        """
        path = self.zmq_curve_secret_key_file
        return None if path is None else read_secret_key(SECRET_KEY_OPTION, path)

    def socket_settings(self) -> SocketSettings:
        """Return what the sockets need of them, without a key."""
        return SocketSettings(
            self.heartbeat_interval,
            self.zmq_linger,
            (
                self.zmq_tcp_keepalive,
                self.zmq_tcp_keepalive_idle,
                self.zmq_tcp_keepalive_cnt,
                self.zmq_tcp_keepalive_intvl,
            ),
            self.zmq_fanout_hwm,
        )
