"""What a client needs for CURVE: its own key, and those of the proxies. No I/O thread is needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbshim.errors import OptionError
from hbshim.heartbeat.service import current
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.keys import PublicKeys

#: The name that stands for every host without keys of its own.
ANY_HOST = "*"


class ServerKeys:
    """The public keys of proxies.

    Parameters:
        pinned: by the names of their hosts; None: the directory is believed.
    """

    def __init__(self, pinned: PublicKeys | None) -> None:
        self._pinned = pinned

    def of(self, record: HostRecord, address: str) -> tuple[bytes, ...]:
        """Return the keys that the proxy of a host may have.

        Where there are pinned keys, no other one is believed. They are read again when they have
        changed, so that a proxy may get a new key while its clients run.

        Parameters:
            address: of the proxy. It has the name of a host that no directory names.
        """
        if self._pinned is None:
            return () if record.curve_key is None else (record.curve_key.encode(),)
        try:
            self._pinned.refresh()
        except OptionError as error:
            detail = f"{error}; the keys that were read before stay in use"
            current().metrics.record("zmq-key-file", "", detail)
        name = record.host or address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        by_name = self._pinned.by_name
        return by_name.get(name) or by_name.get(ANY_HOST, ())


@dataclass(frozen=True)
class Curve:
    """The keys of a client; see the module."""

    secret_key: bytes = field(repr=False)
    server_keys: ServerKeys
