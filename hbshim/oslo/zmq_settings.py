"""The options of ``hbzmq://``.

They are in the groups of oslo.messaging's former ZeroMQ driver, under their names there, so that a
configuration file of it loads unchanged but for the scheme. hbshim's own ones are in
``[oslo_messaging_zmq]``, too. A URL's query takes precedence over both. The scheme may name the
directory: ``hbzmq+redis://:password@host:6379/0``, ``hbzmq+sentinel://host1,host2/group``,
``hbzmq+file:///path``; otherwise the URL's hosts are those that run the proxy.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any
from urllib.parse import quote

from oslo_config import cfg

from hbshim.errors import OptionError
from hbshim.messaging.zmq import legacy
from hbshim.messaging.zmq.options import ZmqOptions

LOG = logging.getLogger(__name__)

GROUP = legacy.ZMQ

_FIELDS = {field.name: field for field in dataclasses.fields(ZmqOptions)}

_SECRET = frozenset(("fanout_ds_address", "password", "url", "ssl_options"))


def _options(section: str) -> list[Any]:
    docs = {each.name: each.doc for each in legacy.OPTIONS if each.section == section}
    if section == GROUP:
        docs.update({name: field.metadata["doc"] for name, field in _FIELDS.items()})
    # Without types: hbshim's own error names the option and what it takes. In the former driver's
    # time some of them were in [DEFAULT].
    return [
        cfg.StrOpt(name, help=doc, secret=name in _SECRET, deprecated_group="DEFAULT")
        if section == GROUP
        else cfg.StrOpt(name, help=doc, secret=name in _SECRET)
        for name, doc in docs.items()
    ]


#: By group; without defaults, because an option that is not set has this driver's own default.
OPTIONS: dict[str, list[Any]] = {
    group: _options(group) for group in (GROUP, legacy.REDIS, legacy.PROXY)
}


def register(conf: Any) -> None:
    """Register all groups with `conf`."""
    for group, options in OPTIONS.items():
        conf.register_opts(options, group=group)


def load(conf: Any, url: Any) -> tuple[ZmqOptions, frozenset[str]]:
    """Return the options of a transport, and the names of those that are set.

    Parameters:
        conf: with the options registered.
        url: of the transport.

    Raises:
        OptionError: a value is not valid, or an option in the query is unknown.
    """
    sections: dict[str, dict[str, str]] = {
        group: {
            option.dest: conf[group][option.dest]
            for option in options
            if conf[group][option.dest] is not None
        }
        for group, options in OPTIONS.items()
    }
    for text in legacy.warnings(sections):
        LOG.warning("%s.", text)
    configured = legacy.driver_options(sections)
    if (address := _address(url)) is not None:
        configured["fanout_ds_address"] = address
    elif url.hosts and "fanout_ds_address" not in sections[GROUP]:
        # The URL's hosts are those with proxies; former options name a directory in any case.
        configured.pop("fanout_ds_address", None)
    asked = ZmqOptions.from_query(url.query)
    options = ZmqOptions.load(config=configured, url=asked)
    chosen = frozenset(configured) | frozenset(asked) | ZmqOptions.names_in_environment()
    return options, chosen


def _address(url: Any) -> str | None:
    """Return the address of the directory that the scheme of a URL names.

    Raises:
        OptionError: the scheme names none that there is.
    """
    kind = url.transport.partition("+")[2]
    path = url.virtual_host or ""
    if not kind:
        return None
    if kind == "file":
        return f"file:///{path.lstrip('/')}"
    if kind not in ("redis", "rediss", "sentinel"):
        raise OptionError(
            f"{url.transport}:// names no directory; use hbzmq+redis, hbzmq+rediss, "
            "hbzmq+sentinel or hbzmq+file"
        )
    hosts = ",".join(_host(host) for host in url.hosts)
    # Former files have names here that are no database.
    path = path if kind == "sentinel" or path.isdigit() else ""
    return f"{kind}://{hosts}/{quote(path, safe='')}"


def _host(host: Any) -> str:
    name = f"[{host.hostname}]" if ":" in (host.hostname or "") else host.hostname or "localhost"
    login = ""
    if host.username or host.password:
        login = f"{quote(host.username or '', safe='')}:{quote(host.password or '', safe='')}@"
    return f"{login}{name}:{host.port}" if host.port else f"{login}{name}"
