"""Reads the directory and asks proxies, in native threads, within a time limit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from hbshim.doctor.deadline import Deadline, within
from hbshim.doctor.zmq_probe import HostAnswer, ask_hosts
from hbshim.errors import HbshimError
from hbshim.messaging.zmq.curve import Curve
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.directory.listing import list_hosts
from hbshim.messaging.zmq.options import ZmqOptions

#: Seconds that are kept of the time limit for the proxies, whatever the directory takes.
_FOR_PROXIES = 3.0

#: Seconds between two times that the directory is read.
_READ_EVERY = 0.5


class Hosts:
    """The hosts that a driver would use.

    Parameters:
        curve: the keys for their proxies; None: CURVE is off.
        deadline: limits everything.
    """

    def __init__(self, options: ZmqOptions, curve: Curve | None, deadline: Deadline) -> None:
        self._options = options
        self._curve = curve
        self._deadline = deadline

    def listed(self) -> tuple[list[HostRecord], str]:
        """Return the hosts of the directory, and why it cannot be used; "" if it can."""
        address = self._options.fanout_ds_address
        assert address is not None
        settings = self._options.directory_settings()
        limit = max(0.5, self._deadline.left - _FOR_PROXIES)
        until = time.monotonic() + limit
        try:
            return within(Deadline(limit), lambda: list_hosts(address, settings, until)), ""
        except TimeoutError:
            return [], f"{address.name} gave no answer within {limit:.1f} s"
        except HbshimError as error:
            text = str(error)
            # A server may repeat what it was sent.
            return [], text.replace(address.password, "***") if address.password else text

    def ask(self, records: Sequence[HostRecord]) -> list[HostAnswer]:
        """Connect to the proxies of hosts; those that the time is too short for are left out."""
        settings, curve = self._options.socket_settings(), self._curve
        until = time.monotonic() + self._deadline.left
        try:
            # Names are resolved in the meantime, which has no time limit of its own.
            return within(
                Deadline(self._deadline.left + 1.0),
                lambda: ask_hosts(records, settings, curve, until),
            )
        except TimeoutError:
            return []

    def rivals(self, before: Sequence[HostRecord], seconds: float) -> Mapping[str, tuple[str, str]]:
        """Return hosts whose record two proxies write in turn, with the addresses of both.

        A proxy that was restarted leaves a record that nothing answers for any more.

        Parameters:
            seconds: for which the directory is read again and again.
        """
        first = {record.host: record for record in before}
        changed: dict[str, HostRecord] = {}
        end = time.monotonic() + min(seconds, max(0.0, self._deadline.left - _FOR_PROXIES))
        while time.monotonic() < end:
            time.sleep(min(_READ_EVERY, max(0.0, end - time.monotonic())))
            for record in self.listed()[0]:
                known = first.get(record.host)
                if known is not None and known.incarnation != record.incarnation:
                    changed[record.host] = record
        found: dict[str, tuple[str, str]] = {}
        for host, record in changed.items():
            pair = (first[host], record)
            if [each.incarnation for each in self.ask(pair)] == [each.incarnation for each in pair]:
                one, other = (next(iter(each.addresses.values())) for each in pair)
                found[host] = one, other
        return found
