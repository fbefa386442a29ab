"""The wire format: what hosts send each other over ZeroMQ, as bytes and back. No I/O.

Each ZeroMQ message has one frame beside the routing id of a router: libzmq aborts the process if a
connection ends while it is within a message of several frames. The frame has a header and a body.
The header has a fixed part, then the exchange, the topic, the server, the content type and the
client. A long body is split into parts, each with the header before it: ZeroMQ's heartbeats stand
still while one long frame travels, and would take the peer for dead. Time is sent as time left, so
no two clocks are compared. docs/zmq.md has the table.

Longer than others: every byte of the format is here.
"""

from __future__ import annotations

import enum
import functools
import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

#: The longest part of a body, in bytes.
PART_LIMIT = 256 * 1024

#: The longest body, in bytes; the option `payload_limit` allows no more.
BODY_LIMIT = 512 * 1024 * 1024

#: The version that is sent: the major one in the upper four bits, the minor one in the lower.
VERSION = 0x20

#: The longest name, and the longest content type, in bytes of UTF-8.
NAME_LIMIT = 255

#: Milliseconds left that fit into the field; a longer time is sent as this one, seven weeks.
LONGEST_LEFT = 2**32 - 1

#: Bytes of the id of a listener, a proxy or a publisher.
INSTANCE_SIZE = 16

#: Keys that one listener may have.
KEYS_LIMIT = 200_000

#: Requests that one OUTSTANDING may name: each is answered, and others wait meanwhile.
OUTSTANDING_LIMIT = 10_000

#: The end of the key of notifications: it never equals one of calls and casts.
NOTIFICATION = b"N"

#: The end of the key of one pool of listeners.
POOL = b"P"

#: Names that are kept, encoded and decoded: those of most messages are the same.
_NAMES_KEPT = 1024

_MAGIC = b"HBZ1"
_FIXED = struct.Struct("!4sBBH16sQI5B2H")

#: Where the id is, in every version; where fields are that are replaced in a frame; and the start
#: of the names.
_ID, _SEQUENCE, _LEFT, _CLIENT, _PARTS, _NAMES = 8, 24, 32, 40, 41, 45
_CREDIT = struct.Struct("!q")
_OUTSTANDING = struct.Struct("!16sQ")
_PART = struct.Struct("!2H")

#: Parts of the longest body; that of a RELEASE has a header in it.
_MOST_PARTS = BODY_LIMIT // PART_LIMIT + 1

_LENGTH = struct.Struct("!H")

#: The longest header, in bytes.
HEADER_LIMIT = _FIXED.size + 5 * NAME_LIMIT


class FrameError(ValueError):
    """Bytes that are no message of this format."""


class ForeignVersionError(FrameError):
    """A message of another major version.

    Attributes:
        id: of the message, at the same place in every version.
    """

    def __init__(self, version: int, id_: bytes) -> None:
        super().__init__(f"version {version >> 4}.{version & 15}; this is {VERSION >> 4}")
        self.id = id_


class Kind(enum.IntEnum):
    """What a message is."""

    CALL = 1
    CAST = 2
    FANOUT = 3
    NOTIFY = 4
    RESULT = 16
    ERROR = 17
    PROGRESS = 18
    ALIVE = 19
    #: From a server: its target, incarnation and credit. From a proxy: its incarnation.
    HELLO = 32
    BYE = 33
    #: From a proxy: a server is registered, or a cast was taken. From a server: a message with the
    #: flag ACKNOWLEDGED was begun or handled.
    ACK = 34
    #: More requests that the proxy may hand over; fewer, if negative.
    CREDIT = 35
    #: A request that the server was handed and has not begun; its frame is the body.
    RELEASE = 36
    DONE = 37
    #: Not handed to any server; the body is one of :data:`REASONS`.
    REJECT = 38
    #: Handed to a server that is gone; it may have been run.
    LOST = 39
    PING = 40
    #: To a proxy: which listeners has this key? Its answer has their ids as body.
    LISTENERS = 41
    #: To a proxy, or from it to a server, over a new connection: the requests that its sender
    #: waits for. Those that the receiver knows nothing of are answered.
    OUTSTANDING = 42
    #: To a proxy: which pools have listeners with this key? Its answer has the id of each of these,
    #: and its pool, as body.
    POOLS = 43


#: Kinds with a payload: what a client sends to a listener, and what it gets back.
REQUESTS = frozenset((Kind.CALL, Kind.CAST, Kind.NOTIFY))
ANSWERS = frozenset((Kind.RESULT, Kind.ERROR, Kind.PROGRESS))

#: Why a request is rejected. One that was missed did not arrive before its connection broke. A
#: notification is requeued by its listener, to be handled later.
BUSY, UNKNOWN, APART, MISSED = b"busy", b"unknown", b"version", b"missed"
REQUEUED = b"requeued"
REASONS = frozenset((BUSY, UNKNOWN, APART, MISSED, REQUEUED))


#: Faster than to call the class.
_KINDS = {kind.value: kind for kind in Kind}


class Flag(enum.IntEnum):
    """How a message is to be treated: bits. Not an IntFlag, whose operators are slow."""

    NONE = 0
    #: A proxy acknowledges it when it has taken it.
    WANTS_ACK = 1
    MANDATORY = 2
    NEVER_REDELIVER = 4
    #: A server acknowledges it.
    ACKNOWLEDGED = 8
    #: An earlier copy of it was sent, and may have reached a server.
    AGAIN = 16


class Header(NamedTuple):
    """What a message is, and where it goes.

    Attributes:
        id: 16 bytes; replies have that of their request.
        sequence: of a publication: numbers what one sender sends to one key, so that the receiver
            counts gaps. Of a request: numbers those of a client, so that its proxy knows which
            have arrived; 0: its client does not ask for that.
        left: milliseconds until the message expires; 0: it does not.
    """

    kind: Kind
    id: bytes
    flags: int = 0
    sequence: int = 0
    left: int = 0
    exchange: str = ""
    topic: str = ""
    server: str = ""
    content_type: str = ""

    @property
    def key(self) -> bytes:
        """Its address, see :func:`key_of` and :func:`notification_key`."""
        if self.kind is Kind.NOTIFY:
            return key_of(self.exchange, self.topic) + NOTIFICATION
        return key_of(self.exchange, self.topic, self.server)

    @property
    def dispatch_key(self) -> bytes:
        """The key by which a proxy finds a server for it; of a notification, see `pool_key`."""
        if self.kind is Kind.NOTIFY:
            return pool_key(self.exchange, self.topic, self.server)
        return self.key


class Message(NamedTuple):
    """A frame, or all parts of a message.

    Attributes:
        client: the routing id that replies go to, between a proxy and its servers.
        part: the number of the part, from 0.
        parts: of the message.
        head: the bytes of the header.
        frame: has the body at its end.
        start: of the body in it.
    """

    header: Header
    client: bytes
    part: int
    parts: int
    head: bytes
    frame: bytes
    start: int

    @property
    def body(self) -> bytes:
        """A copy of the body."""
        return self.frame[self.start :]

    @property
    def view(self) -> memoryview:
        """The body, to be sent on without a copy."""
        return memoryview(self.frame)[self.start :]


def encode(header: Header, client: bytes = b"") -> bytes:
    """Return the bytes of a header: the frame of a message without a body.

    Raises:
        FrameError: a name or the client is too long, or the id has not 16 bytes.
    """
    lengths, names = _encoded_names(header[5:])
    if len(header.id) != 16:
        raise FrameError(f"an id has 16 bytes, not {len(header.id)}")
    if len(client) > NAME_LIMIT or max(lengths) > NAME_LIMIT:
        raise FrameError(f"a name has more than {NAME_LIMIT} bytes")
    fixed = _FIXED.pack(
        _MAGIC,
        VERSION,
        header.kind,
        header.flags,
        header.id,
        header.sequence,
        min(header.left, LONGEST_LEFT),
        *lengths,
        len(client),
        0,
        1,
    )
    return b"".join((fixed, names, client))


@functools.lru_cache(_NAMES_KEPT)
def _encoded_names(names: tuple[str, ...]) -> tuple[tuple[int, ...], bytes]:
    """Return the lengths of names, and their bytes."""
    encoded = [name.encode() for name in names]
    return tuple(map(len, encoded)), b"".join(encoded)


@functools.lru_cache(_NAMES_KEPT)
def _decoded_names(lengths: tuple[int, ...], encoded: bytes) -> tuple[str, ...]:
    """Return the names of these lengths.

    Raises:
        UnicodeDecodeError: one is not in UTF-8.
    """
    names, at = [], 0
    for length in lengths:
        names.append(encoded[at : at + length].decode())
        at += length
    return tuple(names)


def pack(
    header: Header, body: bytes | memoryview = b"", *, client: bytes = b"", before: bytes = b""
) -> list[bytes]:
    """Return the frames of a message; each is sent as a ZeroMQ message of its own.

    Parameters:
        before: what each begins with, for publications.

    Raises:
        FrameError: see :func:`encode`.
    """
    return pack_encoded(encode(header, client), body, before=before)


def pack_encoded(
    head: bytes, body: bytes | memoryview = b"", *, before: bytes = b""
) -> list[bytes]:
    """Return the frames of a message whose header is encoded.

    Raises:
        FrameError: the body is too long.
    """
    if len(body) <= PART_LIMIT:
        return [b"".join((before, head, body))]
    parts = -(-len(body) // PART_LIMIT)
    if parts > _MOST_PARTS:
        raise FrameError(f"a body has {len(body)} bytes; the limit is {BODY_LIMIT}")
    view = memoryview(body)
    return [
        b"".join(
            (
                before,
                head[:_PARTS],
                _PART.pack(part, parts),
                head[_NAMES:],
                view[part * PART_LIMIT : (part + 1) * PART_LIMIT],
            )
        )
        for part in range(parts)
    ]


def id_of(frame: bytes) -> bytes:
    """Return the id in an encoded header."""
    return frame[_ID:_SEQUENCE]


def readdressed(head: bytes, client: bytes, left: int) -> bytes:
    """Return an encoded header with another client and other milliseconds left."""
    end = len(head) - head[_CLIENT]
    return b"".join(
        (
            head[:_LEFT],
            left.to_bytes(4, "big"),
            head[_LEFT + 4 : _CLIENT],
            bytes((len(client),)),
            head[_PARTS:end],
            client,
        )
    )


def sole(message: Sequence[bytes]) -> bytes:
    """Return the one frame of a message, routing ids left out.

    Raises:
        FrameError: it has none, or several.
        ForeignVersionError: it has several, as those of another major version have.
    """
    if len(message) != 1:
        for frame in message:
            _check_version(frame)
        raise FrameError(f"a message with {len(message)} frames")
    return message[0]


def _check_version(frame: bytes, at: int = 0) -> None:
    """Refuse a frame with a header of another major version; the fields up to the id stay."""
    if len(frame) >= at + _SEQUENCE and frame[at : at + 4] == _MAGIC:
        version = frame[at + 4]
        if version >> 4 != VERSION >> 4:
            raise ForeignVersionError(version, frame[at + _ID : at + _SEQUENCE])


def unpack(frame: bytes, at: int = 0) -> Message:
    """Return what a frame holds.

    Parameters:
        at: where the header begins.

    Raises:
        FrameError: it is none of this format.
        ForeignVersionError: it is one of another major version.
    """
    found = unpack_whole(frame, at)
    size, part, parts = len(frame) - found.start, found.part, found.parts
    full = size == PART_LIMIT if part < parts - 1 else 0 < size <= PART_LIMIT
    if not part < parts <= _MOST_PARTS or not (full or (parts == 1 and not size)):
        raise FrameError(f"part {part} of {parts} with {size} bytes")
    return found


def unpack_whole(frame: bytes, at: int = 0) -> Message:
    """Return what a frame holds whose body may have any size, as the body of a RELEASE.

    Raises:
        FrameError, ForeignVersionError: see :func:`unpack`.
    """
    _check_version(frame, at)
    if len(frame) < at + _FIXED.size or frame[at : at + 4] != _MAGIC:
        raise FrameError("not a frame of this protocol")
    _, _, kind, flags, id_, sequence, left, *rest = _FIXED.unpack_from(frame, at)
    *lengths, client_length, part, parts = rest
    name = at + _NAMES + sum(lengths)
    try:
        names = _decoded_names(tuple(lengths), frame[at + _NAMES : name])
        header = Header(_KINDS[kind], id_, flags, sequence, left, *names)
    except KeyError:
        raise FrameError(f"a header of an unknown kind: {kind}") from None
    except ValueError as error:
        raise FrameError(f"a header that cannot be read: {error}") from None
    end = name + client_length
    if len(frame) < end:
        raise FrameError("a header with a wrong length")
    return Message(header, frame[name:end], part, parts, frame[at:end], frame, end)


def decode(frame: bytes) -> Header:
    """Return the header that a frame holds.

    Raises:
        FrameError, ForeignVersionError: see :func:`unpack`.
    """
    return unpack(frame).header


@functools.lru_cache(_NAMES_KEPT)
def key_of(exchange: str, topic: str, server: str = "") -> bytes:
    """Return the address of a target: exchange, topic and server, each behind its length.

    Raises:
        FrameError: a name is too long.
    """
    key = b""
    for name in (exchange, topic, server):
        encoded = name.encode()
        if len(encoded) > NAME_LIMIT:
            raise FrameError(f"a name has {len(encoded)} bytes; the limit is {NAME_LIMIT}")
        key += bytes((len(encoded),)) + encoded
    return key


def notification_key(exchange: str, topic: str, priority: str) -> bytes:
    """Return the address of notifications, which each pool of listeners gets.

    Raises:
        FrameError: a name is too long.
    """
    return key_of(exchange, f"{topic}.{priority}") + NOTIFICATION


def pool_key(exchange: str, topic: str, pool: str) -> bytes:
    """Return the address of the listeners of one pool.

    Parameters:
        topic: with a dot and the priority.

    Raises:
        FrameError: a name is too long.
    """
    return key_of(exchange, topic, pool) + POOL


def split_pool_key(key: bytes) -> tuple[bytes, bytes] | None:
    """Return the notification key and the pool of a key of a pool; None of any other key."""
    at, ends = 0, []
    for _ in range(3):
        if at >= len(key):
            return None
        at += 1 + key[at]
        ends.append(at)
    if key[at:] != POOL:
        return None
    return key[: ends[1]] + b"\0" + NOTIFICATION, key[ends[1] + 1 : at]


def milliseconds(left: float | None) -> int:
    """Return a time left as a header has it: at least one millisecond, 0 for no limit.

    Parameters:
        left: in seconds; None or infinity: no limit.
    """
    if left is None or left == math.inf:
        return 0
    return max(1, min(LONGEST_LEFT, int(left * 1000)))


def instances_of(names: Iterable[str]) -> list[bytes]:
    """Return the ids of listeners that a directory names; none if it names one that is no id."""
    return list(_instances_of(tuple(names)))


@functools.lru_cache(_NAMES_KEPT)
def _instances_of(names: tuple[str, ...]) -> tuple[bytes, ...]:
    try:
        found = tuple(bytes.fromhex(name) for name in names)
    except ValueError:
        return ()
    return found if all(len(each) == INSTANCE_SIZE for each in found) else ()


def split_instances(body: bytes) -> list[bytes]:
    """Return the ids of listeners that the body of LISTENERS holds.

    Raises:
        FrameError: it holds none.
    """
    if len(body) % INSTANCE_SIZE:
        raise FrameError(f"ids of listeners have {INSTANCE_SIZE} bytes each")
    return [body[at : at + INSTANCE_SIZE] for at in range(0, len(body), INSTANCE_SIZE)]


def encode_pools(listeners: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the body of POOLS.

    Parameters:
        listeners: the id of each, and its pool.
    """
    return b"".join(instance + bytes((len(pool),)) + pool for instance, pool in listeners)


def decode_pools(body: bytes) -> list[tuple[bytes, str]]:
    """Return the listeners in the body of POOLS: the id of each, and its pool.

    Raises:
        FrameError: it holds none.
    """
    found = []
    at = 0
    try:
        while at < len(body):
            name = at + INSTANCE_SIZE + 1
            end = name + body[name - 1]
            if end > len(body):
                raise FrameError("a pool with a wrong length")
            found.append((body[at : name - 1], body[name:end].decode()))
            at = end
    except (IndexError, UnicodeDecodeError):
        raise FrameError("pools that cannot be read") from None
    return found


def encode_outstanding(requests: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """Return the bodies of OUTSTANDING.

    Parameters:
        requests: the id of each, and its sequence number.
    """
    left = iter(requests)
    while part := list(itertools.islice(left, OUTSTANDING_LIMIT)):
        yield b"".join(_OUTSTANDING.pack(*request) for request in part)


def decode_outstanding(body: bytes) -> list[tuple[bytes, int]]:
    """Return the requests in the body of OUTSTANDING.

    Raises:
        FrameError: it holds none, or too many.
    """
    if len(body) > OUTSTANDING_LIMIT * _OUTSTANDING.size:
        raise FrameError(f"{OUTSTANDING_LIMIT} requests are allowed here")
    if len(body) % _OUTSTANDING.size:
        raise FrameError(f"a request has {_OUTSTANDING.size} bytes here")
    return list(_OUTSTANDING.iter_unpack(body))


def encode_credit(credit: int) -> bytes:
    """Return the body of a CREDIT or BYE."""
    return _CREDIT.pack(credit)


def decode_credit(body: bytes) -> int:
    """Return the number in the body of a CREDIT or BYE.

    Raises:
        FrameError: it holds none.
    """
    if len(body) != _CREDIT.size:
        raise FrameError("a credit has 8 bytes")
    credit: int = _CREDIT.unpack(body)[0]
    return credit


def encode_hello(credit: int, keys: Iterable[bytes]) -> bytes:
    """Return the body of the HELLO of a server: its credit and its keys."""
    parts = [_CREDIT.pack(credit)]
    for key in keys:
        parts += (_LENGTH.pack(len(key)), key)
    return b"".join(parts)


def decode_hello(body: bytes) -> tuple[int, list[bytes]]:
    """Return the credit and the keys in the body of the HELLO of a server.

    Raises:
        FrameError: it holds none, or too many.
    """
    credit, at = decode_credit(body[: _CREDIT.size]), _CREDIT.size
    keys: list[bytes] = []
    while at < len(body):
        begin = at + _LENGTH.size
        if begin > len(body):
            raise FrameError("a key with a wrong length")
        at = begin + _LENGTH.unpack_from(body, begin - _LENGTH.size)[0]
        if at > len(body):
            raise FrameError("a key with a wrong length")
        keys.append(body[begin:at])
        if len(keys) > KEYS_LIMIT:
            raise FrameError(f"more than {KEYS_LIMIT} keys")
    return credit, keys
