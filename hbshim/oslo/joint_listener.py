"""Servers of oslo.messaging that receive from several transports: the option ``listen_also``.

A service sends over its ``transport_url`` alone, and its servers receive over that and over each
``listen_also``. Each transport has its own format of messages, and a reply goes over the transport
that delivered the request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from oslo_config import cfg

from hbshim.adapters.oslo.base import (
    PollStyleListener,
    PollStyleListenerAdapter,
    load_driver,
    polled_by,
)
from hbshim.errors import OptionError
from hbshim.messaging.base import CLOSE_LIMIT
from hbshim.messaging.hybrid.foreign import as_member
from hbshim.messaging.hybrid.joint_listener import JointListener, Member
from hbshim.messaging.joining import Part
from hbshim.messaging.reporting import OnError, log_error
from hbshim.oslo.incoming import OsloListener

LOG = logging.getLogger(__name__)

NAME = "listen_also"

#: In the groups of all drivers of hbshim. Several lines, because a URL may have commas.
OPTIONS = [
    cfg.MultiStrOpt(
        NAME,
        default=[],
        secret=True,
        help="URL of another transport that RPC servers receive from, too, during a migration; "
        "repeat the option for several. Nothing is sent over it, except replies to what it "
        "delivered. Any scheme is accepted.",
    )
]


class OtherTransports:
    """The transports that a driver's servers receive from, beside its own.

    Parameters:
        conf: of the service.
        group: of the driver's options.
        exchange: the service's default exchange.
        modules: whose exceptions keep their type.
    """

    def __init__(self, conf: Any, group: str, exchange: Any, modules: Any) -> None:
        conf.register_opts(OPTIONS, group=group)
        self._conf = conf
        self._group = group
        self._arguments = {"default_exchange": exchange, "allowed_remote_exmods": modules}
        self._drivers: list[Any] | None = None

    def __bool__(self) -> bool:
        return bool(self._conf[self._group][NAME])

    def _loaded(self) -> list[Any]:
        """Return the drivers; loaded here, because they must not load the others in turn."""
        if self._drivers is None:
            self._drivers = []
            for url in self._conf[self._group][NAME]:
                try:
                    self._drivers.append(load_driver(self._conf, url, **self._arguments))
                except Exception as error:
                    self.cleanup()
                    # The URL has a password, and the error may have the URL.
                    raise OptionError(
                        f"{NAME} of [{self._group}] names a transport that cannot be used "
                        f"({type(error).__name__}); write it as transport_url, with a scheme whose "
                        "driver is installed"
                    ) from None
        return self._drivers

    def joined(
        self,
        own: Member[Any],
        prefetch: int,
        target: Any,
        batch_size: int,
        batch_timeout: float | None,
        open_limit: float,
    ) -> Any:
        """Return what polls the driver's own listener and those of the others.

        Parameters:
            own: the driver's.
            prefetch: of the driver.
            target, batch_size, batch_timeout: as oslo.messaging gives them to ``listen``.
            open_limit: seconds to wait for all transports.
        """
        members = [own, *(_member(each, target, batch_size) for each in self._loaded())]
        joint: JointListener[Any] = JointListener(members)
        joint.on_error = log_error
        joint.open(open_limit)
        return PollStyleListenerAdapter(
            OsloJointListener(joint, prefetch), batch_size, batch_timeout
        )

    def cleanup(self) -> None:
        """Close the drivers."""
        drivers, self._drivers = self._drivers, None
        for each in drivers or ():
            try:
                each.cleanup()
            except Exception:
                LOG.exception("a transport of %s could not be closed", NAME)


def _member(driver: Any, target: Any, batch_size: int) -> Member[Any]:
    listener = getattr(driver, "listen_alone", None)
    if listener is not None:
        found: Member[Any] = listener(target, batch_size)
        return found
    return foreign_member(lambda: polled_by(driver.listen(target, batch_size, None)))


def foreign_member(make: Callable[[], Any]) -> Member[Any]:
    """Return a member that polls a listener of oslo.messaging's own.

    Parameters:
        make: returns it. Called by the thread that polls: it connects, and waits until it can.
    """
    return as_member(_Foreign(make))


class JoinableListener(OsloListener):
    """A listener of one of hbshim's drivers, as a member of a joint one."""

    @property
    def on_error(self) -> OnError:
        """See :class:`hbshim.messaging.base.Listener`."""
        return self._listener.on_error

    @on_error.setter
    def on_error(self, on_error: OnError) -> None:
        self._listener.on_error = on_error

    @property
    def _member(self) -> Member[Any]:
        return as_member(self._listener)

    @property
    def serves(self) -> bool:
        """See :class:`hbshim.messaging.hybrid.joint_listener.Member`."""
        return self._member.serves

    def open(self, timeout: float) -> bool:
        return self._listener.open(timeout)

    def check(self, batch_size: int = 1) -> Sequence[Any]:
        return list(self._decoded(self._member.check(batch_size)))

    def begin_wait(self, part: Part) -> bool:
        return self._member.begin_wait(part)

    def pause(self) -> None:
        self._listener.pause()

    def resume(self) -> None:
        self._listener.resume()

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        self._listener.stop(timeout)

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        self._listener.close(timeout)


class OsloJointListener(PollStyleListener):  # type: ignore[misc]
    """Polls several listeners for oslo.messaging; see its class."""

    def __init__(self, joint: JointListener[Any], prefetch: int) -> None:
        super().__init__(prefetch or -1)
        self._joint = joint

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> list[Any]:
        return list(self._joint.poll(timeout, batch_size, batch_timeout))

    def stop(self) -> None:
        self._joint.stop()

    def cleanup(self) -> None:
        self._joint.close()


class _Foreign:
    """A listener of oslo.messaging's own, as :class:`hbshim.messaging.base.Listener` is."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self.on_error: OnError = log_error

    def open(self, timeout: float) -> bool:
        return True

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> Sequence[Any]:
        if self._made is None:
            self._made = self._make()
        return self._made.poll(timeout, batch_size, batch_timeout) or ()

    def pause(self) -> None:
        """Nothing: a service of oslo.messaging stops its servers, and does not pause them."""

    def resume(self) -> None:
        """Nothing, as above."""

    def stop(self, timeout: float = CLOSE_LIMIT) -> None:
        if self._made is not None:
            self._made.stop()

    def close(self, timeout: float = CLOSE_LIMIT) -> None:
        if self._made is not None:
            self._made.cleanup()
