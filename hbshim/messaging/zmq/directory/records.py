"""What a directory stores, as text and back; anyone with access may have written there. No I/O.

Names are percent-encoded wherever they are part of a key or of a member of a set, so that no name
can be taken for two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast
from urllib.parse import quote, unquote, unquote_to_bytes

from hbshim.messaging.zmq.directory import PIPELINES, HostRecord, Pipeline, Registration
from hbshim.messaging.zmq.frames import NAME_LIMIT, VERSION
from hbshim.messaging.zmq.keys import is_key

#: The longest record of a host, in bytes. Four addresses take about 300.
RECORD_LIMIT = 64 * 1024

#: Keys that an announcement names; with more of them, readers look up all that they know.
KEYS_ANNOUNCED = 64

_ADDRESS = re.compile(r"tcp://(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):[0-9]{1,5}|ipc://[!-~]+")


class RecordError(ValueError):
    """A record that no proxy of this project has written."""


class ForeignVersionError(RecordError):
    """A record of a host that speaks another major version of the wire format."""


class Change(NamedTuple):
    """An announcement to those that watch.

    Attributes:
        host: that it is about.
        gone: what was withdrawn: an instance, or with "" the host; None: something was added.
        keys: that something was added to; None: to any.
    """

    host: str
    gone: str | None = None
    keys: tuple[bytes, ...] | None = None


def escape(name: str | bytes) -> str:
    """Return a name with letters, digits and ``_.-~`` alone, and ``%`` before all else."""
    return quote(name, safe="")


def encode_record(record: HostRecord) -> str:
    """Return the text of a host's record."""
    document = {
        "host": record.host,
        "incarnation": record.incarnation,
        "addresses": dict(record.addresses),
        "version": record.version,
    }
    if record.curve_key is not None:
        document["curve_key"] = record.curve_key
    return json.dumps(document, sort_keys=True)


def decode_record(text: bytes | str, host: str) -> HostRecord:
    """Return the record that a text holds.

    Parameters:
        host: whose record it is to be.

    Raises:
        RecordError: it holds none, or that of another host.
        ForeignVersionError: the host speaks another major version.
    """
    return record_of(_loads(text), host)


def record_of(found: object, host: str) -> HostRecord:
    """As :func:`decode_record`, of a value that was decoded from JSON.

    Raises:
        RecordError: it is no record of this host.
        ForeignVersionError: the host speaks another version of the protocol.
    """
    if not isinstance(found, dict):
        raise RecordError("it is no JSON object")
    if found.get("host") != host or not is_name(host):
        raise RecordError("it is not the record of this host")
    if not is_name(found.get("incarnation")):
        raise RecordError("its incarnation is no name")
    version = found.get("version")
    if type(version) is not int or not 0 <= version <= 255:
        raise RecordError("its version is no byte")
    if version >> 4 != VERSION >> 4:
        raise ForeignVersionError(
            f"it speaks version {version >> 4} of the wire format; this is {VERSION >> 4}"
        )
    curve_key = found.get("curve_key")
    if curve_key is not None and not is_key(curve_key):
        raise RecordError("its curve_key is no public key")
    addresses = addresses_of(found.get("addresses"))
    return HostRecord(host, found["incarnation"], addresses, version, curve_key)


def addresses_of(found: object) -> Mapping[Pipeline, str]:
    """Return the addresses of a record.

    Raises:
        RecordError: they are not a mapping from pipelines to addresses.
    """
    if not isinstance(found, dict) or not found:
        raise RecordError("its addresses are missing")
    for pipeline, address in found.items():
        if pipeline not in PIPELINES:
            raise RecordError("it names an unknown pipeline")
        if not isinstance(address, str) or not is_address(address):
            raise RecordError(f"its address for {pipeline} is not tcp://host:port")
    return cast("dict[Pipeline, str]", found)


def is_address(text: str) -> bool:
    """Whether `text` is ``tcp://host:port``, or ``ipc://path``."""
    if len(text) > NAME_LIMIT or _ADDRESS.fullmatch(text) is None:
        return False
    return text.startswith("ipc:") or 0 < int(text.rpartition(":")[2]) < 65536


def is_name(name: object) -> bool:
    """Whether `name` can be that of a host, an instance or an incarnation."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    # A name decoded from JSON may hold half of a surrogate pair, which is not printable.
    return 0 < len(name.encode()) <= NAME_LIMIT


def encode_member(host: str, instance: str) -> str:
    """Return what a set of listeners has for one of them."""
    return f"{escape(host)}|{escape(instance)}"


def decode_member(member: bytes) -> tuple[str, str]:
    """Return the host and the instance of a member.

    Raises:
        RecordError: it is none.
    """
    try:
        parts = [unquote(part, errors="strict") for part in member.decode("ascii").split("|")]
    except UnicodeDecodeError:
        raise RecordError("a member that is not percent-encoded") from None
    if len(parts) != 2 or not all(map(is_name, parts)):
        raise RecordError("a member that is not host|instance")
    return parts[0], parts[1]


def encode_change(change: Change) -> str:
    """Return the text of an announcement; of many keys none is named."""
    document: dict[str, object] = {"host": change.host}
    if change.gone is not None:
        document["gone"] = change.gone
    elif change.keys is not None and len(change.keys) <= KEYS_ANNOUNCED:
        document["keys"] = encode_keys(change.keys)
    return json.dumps(document)


def decode_change(text: bytes) -> Change:
    """Return what a text announces.

    Raises:
        RecordError: nothing.
    """
    found = _loads(text)
    if not isinstance(found, dict) or not is_name(found.get("host")):
        raise RecordError("an announcement without a host")
    gone, keys = found.get("gone"), found.get("keys")
    if gone is not None and gone != "" and not is_name(gone):
        raise RecordError("an announcement of something that is no instance")
    return Change(found["host"], gone, None if keys is None else decode_keys(keys))


def encode_keys(keys: Iterable[bytes]) -> list[str]:
    """Return keys as JSON can hold them."""
    return [escape(key) for key in keys]


def decode_keys(found: object) -> tuple[bytes, ...]:
    """Return keys that were decoded from JSON.

    Raises:
        RecordError: they are no list of keys.
    """
    if not isinstance(found, list) or not all(isinstance(key, str) for key in found):
        raise RecordError("keys that are no list of texts")
    try:
        return tuple(unquote_to_bytes(key) for key in found)
    except UnicodeEncodeError:
        raise RecordError("a key that is no text") from None


def encode_listeners(listeners: Iterable[Registration]) -> dict[str, list[str]]:
    """Return the listeners of a host as JSON can hold them."""
    return {each.instance: encode_keys(each.keys) for each in listeners}


def decode_listeners(found: object) -> dict[str, Registration]:
    """Return the listeners of a host that were decoded from JSON, by instance.

    Raises:
        RecordError: they are none.
    """
    if not isinstance(found, dict) or not all(map(is_name, found)):
        raise RecordError("its listeners are no instances")
    return {name: Registration(decode_keys(keys), name) for name, keys in found.items()}


def _loads(text: bytes | str) -> object:
    if len(text) > RECORD_LIMIT:
        raise RecordError(f"it has more than {RECORD_LIMIT} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError("it is no JSON") from None
