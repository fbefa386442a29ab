"""The factory of drivers that a URL's scheme names.

The object of an entry point in the group :data:`hbshim.messaging.schemes.GROUP` is a
:class:`DriverFactory`.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hbshim.errors import DriverLoadError, HbshimError, MissingExtraError, OptionError
from hbshim.messaging.schemes import BUILT_IN, installed, schemes

if TYPE_CHECKING:
    from hbshim.messaging.base import Driver
    from hbshim.messaging.hosts import Host
    from hbshim.options import OptionSet


@runtime_checkable
class DriverFactory(Protocol):
    """Makes the drivers of one URL scheme."""

    @property
    def options_class(self) -> type[OptionSet]:
        """The class of the options that :meth:`open` takes.

        A subclass of :class:`hbshim.messaging.MessagingOptions`, which must be there also where a
        library that the driver needs is missing.
        """
        ...

    def default_port(self, options: Any) -> int:
        """Return the port of a host for which the URL has none.

        Parameters:
            options: of :attr:`options_class`.
        """
        ...

    def open(self, hosts: Sequence[Host], options: Any) -> Driver:
        """Return a driver for `hosts`; it connects at its first use.

        Parameters:
            hosts: the brokers.
            options: of :attr:`options_class`.

        Raises:
            OptionError: the driver cannot use these hosts or options.
            MissingExtraError: a library that it needs is not installed.
        """
        ...


def factory(scheme: str) -> DriverFactory:
    """Return the factory of the drivers that `scheme` names.

    Raises:
        OptionError: no driver has this scheme. The message does not repeat it, because it may be
            part of a malformed URL with a password.
        DriverLoadError: the entry point cannot be loaded, or is no factory.
        MissingExtraError: a library that it needs is not installed.
    """
    if scheme in BUILT_IN:
        found = pkgutil.resolve_name(BUILT_IN[scheme])
        assert isinstance(found, DriverFactory)
        return found
    entry = installed().get(scheme)
    if entry is None:
        known = " or ".join(f"{each}://" for each in schemes())
        raise OptionError(f"the URL names no messaging driver; begin it with {known}")
    try:
        loaded = entry.load()
    except MissingExtraError:
        raise
    except Exception as error:
        raise DriverLoadError(scheme, entry.value, f"{type(error).__name__}: {error}") from error
    if isinstance(loaded, type) or not isinstance(loaded, DriverFactory):
        raise DriverLoadError(scheme, entry.value, "it is not a DriverFactory")
    return loaded


def option_schemes() -> dict[str, list[str]]:
    """Return the schemes of the drivers that have an option, by the name of the option.

    A driver that cannot be loaded counts for none.
    """
    found: dict[str, list[str]] = {}
    for scheme in schemes():
        try:
            options_class = factory(scheme).options_class
        except HbshimError:
            continue
        for field in dataclasses.fields(options_class):
            found.setdefault(field.name, []).append(scheme)
    return found
