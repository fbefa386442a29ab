"""A directory in a file that an operator writes: hosts that do not change, and nothing to run.

::

    {"hosts": [
      {"host": "compute-17", "address": "192.0.2.17",
       "serves": [{"exchange": "nova", "topic": "compute"}]}]}

``address`` stands for all four pipelines at their usual ports; ``addresses`` names them one by
one. A host without ``serves`` is offered for every key: its proxy rejects what it does not have.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory import HostRecord, Pipeline, Registration
from hbshim.messaging.zmq.directory.polled import Listed, PolledDirectory, UnusableError
from hbshim.messaging.zmq.directory.records import RecordError, is_name, record_of
from hbshim.messaging.zmq.frames import VERSION, FrameError, key_of

#: Of a record here: a proxy reports its own in its HELLO.
INCARNATION = "static"

#: The longest file, in bytes.
FILE_LIMIT = 16 * 1024 * 1024


class StaticDirectory(PolledDirectory):
    """See :class:`hbshim.messaging.zmq.directory.Directory`. It writes nothing.

    The file may be replaced at any time. One that cannot be read is reported, and what was read
    before stays in use.

    Parameters:
        path: of the file.
        ports: of the pipelines of a host whose record has one address.

    Raises:
        OptionError: the file is there and cannot be used.
    """

    def __init__(self, path: str, ports: Mapping[Pipeline, int]) -> None:
        super().__init__(path)
        self._ports = ports
        self._hosts: set[str] = set()
        try:
            self.read()
        except FileNotFoundError:
            pass
        except UnusableError as error:
            raise OptionError(f"the file of hosts cannot be used: {error}") from None
        except OSError as error:
            raise OptionError(
                f"the file of hosts, {path}, cannot be read ({error.strerror}); name another one"
            ) from None

    def register(self, record: HostRecord, registration: Registration, deadline: float) -> bool:
        """Return whether the file names the host: a proxy needs no more here."""
        with self._lock.native:
            self._refresh()
            if record.host in self._hosts:
                return True
        self.events.refused(f"{self.path} does not name the host {record.host}; add it there")
        return False

    def withdraw(self, host: str, instance: str | None, deadline: float) -> bool:
        """Do nothing: a client learns from the host itself that it does not serve a key."""
        return True

    def renew(self, host: str, deadline: float) -> bool:
        """Return whether the file names the host."""
        with self._lock.native:
            self._refresh()
            return host in self._hosts

    def read(self) -> list[Listed]:
        found = self._load()
        hosts = found.get("hosts") if isinstance(found, dict) else None
        if not isinstance(hosts, list):
            raise UnusableError(
                f'{self.path} is no {{"hosts": [...]}}; see docs/zmq.md for its form'
            )
        listed: dict[str, Listed] = {}
        for number, entry in enumerate(hosts, 1):
            try:
                each = self._listed_of(entry)
                if each.record.host in listed:
                    raise RecordError("it is named twice")
            except RecordError as error:
                raise UnusableError(f"{self.path}: host {number}: {error}; correct it") from None
            listed[each.record.host] = each
        self._hosts = set(listed)
        return list(listed.values())

    def _load(self) -> Any:
        with Path(self.path).open("rb") as file:
            if os.fstat(file.fileno()).st_size > FILE_LIMIT:
                raise UnusableError(
                    f"{self.path} has more than {FILE_LIMIT} bytes; name another file"
                )
            try:
                return json.load(file)
            except (ValueError, RecursionError) as error:
                raise UnusableError(f"{self.path} is no JSON ({error}); correct it") from None

    def _listed_of(self, entry: Any) -> Listed:
        if not isinstance(entry, dict):
            raise RecordError("it is no JSON object")
        if unknown := set(entry) - {"host", "address", "addresses", "serves", "curve_key"}:
            raise RecordError(f"it has an unknown key, {min(map(str, unknown))!r}")
        host = entry.get("host")
        if not is_name(host):
            raise RecordError("its host is no name")
        addresses = entry.get("addresses")
        if "address" in entry:
            addresses = {
                pipeline: f"tcp://{_bracketed(entry['address'])}:{port}"
                for pipeline, port in self._ports.items()
            }
        document = {
            "host": host,
            "incarnation": INCARNATION,
            "addresses": addresses,
            "version": VERSION,
            "curve_key": entry.get("curve_key"),
        }
        record = record_of(document, str(host))
        return Listed(record, {}, _prefixes(entry.get("serves")), math.inf)


def _bracketed(address: object) -> str:
    text = str(address)
    return f"[{text}]" if ":" in text and not text.startswith("[") else text


def _prefixes(serves: Any) -> tuple[bytes, ...]:
    if serves is None:
        return (b"",)
    if not isinstance(serves, list):
        raise RecordError("what it serves is no list")
    prefixes = []
    for target in serves:
        names = target if isinstance(target, dict) else {}
        exchange, topic = names.get("exchange", ""), names.get("topic")
        if not isinstance(exchange, str) or not isinstance(topic, str):
            raise RecordError('it serves something that is not {"exchange": ..., "topic": ...}')
        try:
            # Without the length of the server, which may be any one.
            prefixes.append(key_of(exchange, topic)[:-1])
        except (FrameError, UnicodeEncodeError):
            raise RecordError("it serves a name that is too long, or no text") from None
    return tuple(prefixes)
