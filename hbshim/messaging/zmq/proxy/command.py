"""``hbshim zmq-proxy``."""

from __future__ import annotations

import socket

import click

from hbshim.extras import needs
from hbshim.messaging.zmq.frames import NAME_LIMIT


@click.command(
    "zmq-proxy", short_help="Hand messages over ZeroMQ to the servers of this host (hbzmq://)."
)
@click.option("--host", help="Name of this host in the directory; its host name unless given.")
@click.option("--bind", default="*", show_default=True, help="Address to listen at.")
@click.option("--call-port", help="Port for calls. See zmq_call_port.")
@click.option("--directory", help="Where the host is registered. See fanout_ds_address.")
@click.option("--ipc-dir", help="Directory of the local sockets. See rpc_zmq_ipc_dir.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds for calls that run when it is told to stop.",
)
def zmq_proxy(
    host: str | None,
    bind: str,
    call_port: str | None,
    directory: str | None,
    ipc_dir: str | None,
    grace: float,
) -> None:
    """Take messages for the servers of this host from the network, and hand them over.

    One runs on each host that has servers. It stops at SIGTERM: what waits is handed out, and
    replies are forwarded, for as long as --grace allows. A second SIGTERM ends it at once.

    Options that are not given come from HBSHIM_ZMQ_... variables, or from the section
    hbshim_zmq of the file that HBSHIM_CONFIG names.
    """
    with needs(("zmq",), "zmq"):
        from hbshim.messaging.zmq.directory.factory import open_directory
        from hbshim.messaging.zmq.options import ZmqOptions
        from hbshim.messaging.zmq.proxy.process import run
        from hbshim.messaging.zmq.proxy.requests import ProxySettings

    name = host or socket.gethostname()
    if not 0 < len(name.encode()) <= NAME_LIMIT:
        raise click.BadParameter(f"a name has 1 to {NAME_LIMIT} bytes", param_hint="--host")
    options = ZmqOptions.load(
        zmq_call_port=call_port, rpc_zmq_ipc_dir=ipc_dir, fanout_ds_address=directory
    )
    settings = ProxySettings(
        name, bind, options.zmq_call_port, options.rpc_zmq_ipc_dir, options.socket_settings()
    )
    address = options.fanout_ds_address
    opened = None if address is None else open_directory(address, options.directory_settings())
    run(settings, opened, grace, lambda line: click.echo(f"hbshim zmq-proxy: {line}"))
