"""Lists the hosts in a Redis, by a search for keys: nothing that messages depend on does so."""

from __future__ import annotations

import contextlib
import time

from hbshim.errors import DirectoryError
from hbshim.messaging.zmq.directory import HostRecord
from hbshim.messaging.zmq.directory.address import Address
from hbshim.messaging.zmq.directory.client import ERRORS, RedisClient
from hbshim.messaging.zmq.directory.records import RecordError, decode_member, decode_record
from hbshim.messaging.zmq.directory.settings import DirectorySettings
from hbshim.messaging.zmq.directory.store import channel_of, prefix_of

#: Keys that Redis reads for each answer.
_AT_ONCE = 500


def hosts_in_redis(address: Address, settings: DirectorySettings, until: float) -> list[HostRecord]:
    """See :func:`hbshim.messaging.zmq.directory.listing.list_hosts`.

    Raises:
        DirectoryError: Redis cannot be reached, or refuses access.
    """
    client = RedisClient(address, channel_of(settings.namespace), settings.socket_timeout)
    beginning = f"{prefix_of(settings.namespace)}h:".encode()
    found: dict[str, HostRecord] = {}
    try:
        client.open()
        cursor = b"0"
        while time.monotonic() < until:
            cursor, keys = client.call("SCAN", cursor, "MATCH", beginning + b"*", "COUNT", _AT_ONCE)
            for key in keys:
                text = client.call("GET", key)
                with contextlib.suppress(RecordError):
                    host, _ = decode_member(key.removeprefix(beginning) + b"|-")
                    found[host] = decode_record(text or b"", host)
            if cursor == b"0":
                break
    except DirectoryError:
        raise
    except ERRORS as error:
        raise DirectoryError(f"{address.name} cannot be reached ({error})") from None
    finally:
        client.close()
    return list(found.values())
