"""Makes a driver over several backends from their URLs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hbshim.errors import OptionError
from hbshim.messaging.base import Driver
from hbshim.messaging.hosts import Host, read_hosts
from hbshim.messaging.hybrid import deployments
from hbshim.messaging.hybrid.deployments import AMQP_SCHEMES, Backend, Deployment
from hbshim.messaging.hybrid.driver import HybridDriver
from hbshim.messaging.registry import DriverFactory, factory


class _Side:
    """One URL, with its options loaded and its hosts read."""

    def __init__(
        self, url: str, config: Mapping[str, object] | None, options: Mapping[str, Any]
    ) -> None:
        self.scheme = url.partition("://")[0]
        self._factory: DriverFactory = factory(self.scheme)
        self._options: Any = self._factory.options_class.load(url=url, config=config, **options)
        self._hosts: Sequence[Host] = read_hosts(url, self._factory.default_port(self._options))

    def backend(self) -> Backend:
        return backend_of(self.scheme, self._hosts[0].path if self._hosts else "", self._options)

    @property
    def places(self) -> frozenset[tuple[str, int, str]]:
        """Host, port and path of each of its hosts: two sides with a common one are one backend."""
        return frozenset((each.hostname, each.port, each.path or "/") for each in self._hosts)

    def open(self) -> Driver:
        return self._factory.open(self._hosts, self._options)


def backend_of(scheme: str, path: str, options: Any) -> Backend:
    """Return what the deployment of a backend is checked by.

    Parameters:
        scheme: of its URL.
        path: of its URL.
        options: of its driver.
    """
    return Backend(
        scheme,
        (path or "/") if scheme in AMQP_SCHEMES else "",
        tls=bool(options.ssl) or scheme == "hbamqps",
        tls_options=options.tls(),
        direct_notifications=bool(getattr(options, "direct_notifications", False)),
        profile=getattr(options, "addressing_profile", None),
    )


def connect(
    url: str,
    notifications: str | None,
    listen_also: Sequence[str],
    messaging_backend: Deployment | None,
    *,
    stored_requests: bool,
    config: Mapping[str, object] | None,
    options: Mapping[str, Any],
) -> Driver:
    """Return one driver over several backends; see :func:`hbshim.messaging.connect`.

    Raises:
        OptionError: a URL or an option is not valid, or they contradict each other.
        MissingExtraError: the library of a URL is not installed.
    """
    if isinstance(listen_also, str):
        raise OptionError('listen_also must be a list of URLs; write listen_also=("…",)')
    rpc = _Side(url, config, options)
    notifying = None if notifications is None else _Side(notifications, config, {})
    others = [_Side(each, config, {}) for each in listen_also]
    deployments.check(
        rpc.backend(), None if notifying is None else notifying.backend(), messaging_backend
    )
    for each, other in itertools.combinations([rpc, *others], 2):
        if each.places & other.places:
            raise OptionError(
                "listen_also names a backend that is named already, so that servers would receive "
                "each fanout twice; name each backend once"
            )
    places: dict[Driver, frozenset[tuple[str, int, str]]] = {}
    with contextlib.ExitStack() as opened:

        def open_one(side: _Side) -> Driver:
            driver = side.open()
            opened.callback(driver.close)
            places[driver] = side.places
            return driver

        first = open_one(rpc)
        second = first if notifying is None else open_one(notifying)
        made = HybridDriver(
            first,
            second,
            [open_one(each) for each in others],
            stored_requests=stored_requests,
            shares_backend=lambda one, other: bool(places[one] & places[other]),
        )
        opened.pop_all()
    return made
