"""Makes the driver over ZeroMQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hbshim.errors import OptionError
from hbshim.extras import needs
from hbshim.heartbeat.service import current
from hbshim.messaging.hosts import Host
from hbshim.messaging.zmq.curve import Curve, ServerKeys
from hbshim.messaging.zmq.keys import PublicKeys
from hbshim.messaging.zmq.options import ZmqOptions

if TYPE_CHECKING:
    from hbshim.messaging.base import Driver
    from hbshim.messaging.zmq.directory import Pipeline


class ZmqFactory:
    """See :class:`hbshim.messaging.registry.DriverFactory`."""

    options_class = ZmqOptions

    def default_port(self, options: ZmqOptions) -> int:
        return options.zmq_call_port

    def open(self, hosts: Sequence[Host], options: ZmqOptions) -> Driver:
        """Return a driver for `hosts`, each of which runs a proxy, or for those of a directory.

        Raises:
            MissingExtraError: pyzmq, or the directory's library, is not installed.
            OptionError: the URL has a login or a virtual host, or hosts beside a directory; a
                file of keys cannot be used; or no proxy can be embedded.
            UnsupportedVersionError: the ZeroMQ library is too old.
        """
        curve = curve_of(options)
        _warn_unless_pinned(curve, options)
        with needs(("zmq",), "zmq"):
            from hbshim.messaging.zmq.directory.addresses import Addresses
            from hbshim.messaging.zmq.directory.factory import open_directory
            from hbshim.messaging.zmq.driver import ZmqDriver
            from hbshim.messaging.zmq.embedded import embedded_settings
            from hbshim.messaging.zmq.frames import VERSION
            from hbshim.messaging.zmq.sockets import check_library

        check_library(curve=curve is not None)
        check_hosts(hosts, options)
        proxy = embedded_settings(hosts, options)
        if options.fanout_ds_address is not None:
            found = open_directory(options.fanout_ds_address, options.directory_settings())
            return ZmqDriver(options, found, options.fanout_ds_address.name, curve, proxy)
        directory = Addresses([addresses_of(host, options) for host in hosts], VERSION)
        return ZmqDriver(options, directory, ",".join(host.name for host in hosts), curve, proxy)


def check_hosts(hosts: Sequence[Host], options: ZmqOptions) -> None:
    """Refuse hosts that this driver cannot have.

    Raises:
        OptionError: they have a login or a virtual host, or are there beside a directory.
    """
    for host in hosts:
        if host.username is not None or host.path not in ("", "/"):
            raise OptionError(
                "hbzmq:// has neither logins nor virtual hosts; write "
                "hbzmq://host1,host2/?option=value with the hosts that run hbshim zmq-proxy"
            )
    if options.fanout_ds_address is not None and (hosts[1:] or hosts[0].hostname != "localhost"):
        raise OptionError(
            "hbzmq:// has its hosts either from the URL or from the directory that "
            "fanout_ds_address names; remove one of them"
        )


def curve_of(options: ZmqOptions) -> Curve | None:
    """Return the keys of a client; None: CURVE is off.

    Raises:
        OptionError: a file of keys cannot be used, or nothing has the keys of the proxies.
    """
    secret, pinned = options.secret_key(), options.zmq_curve_server_keys
    if secret is None:
        return None
    if pinned is not None:
        return Curve(secret, ServerKeys(PublicKeys("zmq_curve_server_keys", pinned)))
    if options.fanout_ds_address is None:
        raise OptionError(
            "zmq_curve_secret_key_file turns CURVE on, and nothing has the public keys of the "
            "proxies; name a file of them, zmq_curve_server_keys, or a directory, fanout_ds_address"
        )
    return Curve(secret, ServerKeys(None))


def _warn_unless_pinned(curve: Curve | None, options: ZmqOptions) -> None:
    address = options.fanout_ds_address
    if curve is None or options.zmq_curve_server_keys is not None or address is None:
        return
    if address.kind != "file":
        weakness = f" ({address.weakness})" if address.weakness else ""
        current().metrics.record_once(
            "zmq-keys-not-pinned",
            address.name,
            "the public keys of proxies come from the directory, and anyone who can write "
            f"there{weakness} can replace them; pin them, zmq_curve_server_keys",
        )


def addresses_of(host: Host, options: ZmqOptions) -> dict[Pipeline, str]:
    """Return where the pipelines of a host are: the URL has the port for calls."""
    call = f"tcp://{host.name}"
    others: dict[Pipeline, str] = {
        pipeline: f"{call.rpartition(':')[0]}:{port}" for pipeline, port in options.ports().items()
    }
    return {**others, "call": call}


ZMQ = ZmqFactory()
