"""The frames of AMQP 1.0 and the types within them: parts 2 (transport), 3 and 5 (SASL).

Defaults are those of the specification. A field that it makes mandatory has neither a default nor
`None` among its types.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

from hbshim.amqp1.composites import composite, one_of
from hbshim.amqp1.fields import (
    AnyValue,
    Binary,
    Bool,
    Map,
    Milliseconds,
    Name,
    Names,
    Text,
    UInt16,
    UInt32,
    UInt64,
    ubyte,
)
from hbshim.amqp1.values import Described

#: Values of the field `role`.
SENDER, RECEIVER = False, True
#: Values of `snd_settle_mode`: no delivery is sent settled, every one is, the sender chooses.
UNSETTLED, SETTLED, MIXED = 0, 1, 2
#: Values of `rcv_settle_mode`: the receiver settles first, or after the sender.
FIRST, SECOND = 0, 1
#: Values of `SaslOutcome.code`: accepted, wrong credentials, and failures of the server.
SASL_OK, SASL_AUTH, SASL_SYS, SASL_SYS_PERM, SASL_SYS_TEMP = range(5)

UINT_MAX = 0xFFFFFFFF


@composite(0x1D, "amqp:error:list")
class Error(NamedTuple):
    """Why the peer ends a connection, session or link, or rejects a message (2.8.14)."""

    condition: Name
    description: Text | None = None
    info: Map | None = None


@composite(0x23, "amqp:received:list")
class Received(NamedTuple):
    """How much of an unfinished delivery has arrived (3.4.1)."""

    section_number: UInt32
    section_offset: UInt64


@composite(0x24, "amqp:accepted:list")
class Accepted(NamedTuple):
    """The receiver has processed the message (3.4.2)."""

    def __bool__(self) -> bool:
        # A tuple without fields is false, and would be taken for no state.
        return True


@composite(0x25, "amqp:rejected:list")
class Rejected(NamedTuple):
    """The message is invalid for the receiver (3.4.3)."""

    error: Annotated[Error, one_of(Error)] | None = None


@composite(0x26, "amqp:released:list")
class Released(NamedTuple):
    """The receiver has not processed the message, and will not (3.4.4)."""

    def __bool__(self) -> bool:
        return True


@composite(0x27, "amqp:modified:list")
class Modified(NamedTuple):
    """As `Released`, with changes to the message (3.4.5)."""

    delivery_failed: Bool = False
    undeliverable_here: Bool = False
    message_annotations: Map | None = None


_STATE = one_of(Received, Accepted, Rejected, Released, Modified, unknown=True)

#: What one side reports about a delivery.
DeliveryState: TypeAlias = Received | Accepted | Rejected | Released | Modified | Described
State: TypeAlias = Annotated[DeliveryState, _STATE]


@composite(0x28, "amqp:source:list")
class Source(NamedTuple):
    """Where messages of a link come from (3.5.3)."""

    address: AnyValue = None
    durable: UInt32 = 0
    expiry_policy: Name = "session-end"
    timeout: UInt32 = 0
    dynamic: Bool = False
    dynamic_node_properties: Map | None = None
    distribution_mode: Name | None = None
    filter: Map | None = None
    default_outcome: State | None = None
    outcomes: Names = ()
    capabilities: Names = ()


@composite(0x29, "amqp:target:list")
class Target(NamedTuple):
    """Where messages of a link go to (3.5.4); without an address, to that in each message."""

    address: AnyValue = None
    durable: UInt32 = 0
    expiry_policy: Name = "session-end"
    timeout: UInt32 = 0
    dynamic: Bool = False
    dynamic_node_properties: Map | None = None
    capabilities: Names = ()


@composite(0x10, "amqp:open:list")
class Open(NamedTuple):
    """Negotiates a connection (2.7.1); `idle_time_out` is in milliseconds."""

    container_id: Text
    hostname: Text | None = None
    max_frame_size: UInt32 = UINT_MAX
    channel_max: UInt16 = 0xFFFF
    idle_time_out: UInt32 | None = None
    outgoing_locales: Names = ()
    incoming_locales: Names = ()
    offered_capabilities: Names = ()
    desired_capabilities: Names = ()
    properties: Map | None = None


@composite(0x11, "amqp:begin:list")
class Begin(NamedTuple):
    """Begins a session (2.7.2)."""

    remote_channel: UInt16 | None
    next_outgoing_id: UInt32
    incoming_window: UInt32
    outgoing_window: UInt32
    handle_max: UInt32 = UINT_MAX
    offered_capabilities: Names = ()
    desired_capabilities: Names = ()
    properties: Map | None = None


@composite(0x12, "amqp:attach:list")
class Attach(NamedTuple):
    """Attaches a link to a session (2.7.3)."""

    name: Text
    handle: UInt32
    role: Bool
    snd_settle_mode: Annotated[int, ubyte(2)] = MIXED
    rcv_settle_mode: Annotated[int, ubyte(1)] = FIRST
    source: Annotated[Source, one_of(Source)] | None = None
    target: Annotated[Target | Described, one_of(Target, unknown=True)] | None = None
    unsettled: Map | None = None
    incomplete_unsettled: Bool = False
    initial_delivery_count: UInt32 | None = None
    max_message_size: UInt64 | None = None
    offered_capabilities: Names = ()
    desired_capabilities: Names = ()
    properties: Map | None = None


@composite(0x13, "amqp:flow:list")
class Flow(NamedTuple):
    """Updates the windows of a session and, with a handle, the credit of a link (2.7.4)."""

    next_incoming_id: UInt32 | None
    incoming_window: UInt32
    next_outgoing_id: UInt32
    outgoing_window: UInt32
    handle: UInt32 | None = None
    delivery_count: UInt32 | None = None
    link_credit: UInt32 | None = None
    available: UInt32 | None = None
    drain: Bool = False
    echo: Bool = False
    properties: Map | None = None


@composite(0x14, "amqp:transfer:list")
class Transfer(NamedTuple):
    """Carries a message, or a part of one, behind it in the frame (2.7.5)."""

    handle: UInt32
    delivery_id: UInt32 | None = None
    delivery_tag: Binary | None = None
    message_format: UInt32 | None = None
    settled: Bool | None = None
    more: Bool = False
    rcv_settle_mode: Annotated[int, ubyte(1)] | None = None
    state: State | None = None
    resume: Bool = False
    aborted: Bool = False
    batchable: Bool = False


@composite(0x15, "amqp:disposition:list")
class Disposition(NamedTuple):
    """Changes the state of deliveries (2.7.6)."""

    role: Bool
    first: UInt32
    last: UInt32 | None = None
    settled: Bool = False
    state: State | None = None
    batchable: Bool = False


@composite(0x16, "amqp:detach:list")
class Detach(NamedTuple):
    """Detaches a link (2.7.7)."""

    handle: UInt32
    closed: Bool = False
    error: Annotated[Error, one_of(Error)] | None = None


@composite(0x17, "amqp:end:list")
class End(NamedTuple):
    """Ends a session (2.7.8)."""

    error: Annotated[Error, one_of(Error)] | None = None


@composite(0x18, "amqp:close:list")
class Close(NamedTuple):
    """Closes a connection (2.7.9)."""

    error: Annotated[Error, one_of(Error)] | None = None


@composite(0x40, "amqp:sasl-mechanisms:list")
class SaslMechanisms(NamedTuple):
    """What the server accepts, the best first (5.3.3.1)."""

    sasl_server_mechanisms: Names


@composite(0x41, "amqp:sasl-init:list")
class SaslInit(NamedTuple):
    """The mechanism that the client has chosen (5.3.3.2)."""

    mechanism: Name
    initial_response: Binary | None = None
    hostname: Text | None = None


@composite(0x42, "amqp:sasl-challenge:list")
class SaslChallenge(NamedTuple):
    """A question of the server (5.3.3.3)."""

    challenge: Binary


@composite(0x43, "amqp:sasl-response:list")
class SaslResponse(NamedTuple):
    """The client's answer (5.3.3.4)."""

    response: Binary


@composite(0x44, "amqp:sasl-outcome:list")
class SaslOutcome(NamedTuple):
    """Whether the client is logged in (5.3.3.5)."""

    code: Annotated[int, ubyte(4)]
    additional_data: Binary | None = None


@composite(0x70, "amqp:header:list")
class Header(NamedTuple):
    """How a message is to be delivered (3.2.1); `ttl` is in milliseconds."""

    durable: Bool = False
    priority: Annotated[int, ubyte()] = 4
    ttl: UInt32 | None = None
    first_acquirer: Bool = False
    delivery_count: UInt32 = 0


@composite(0x73, "amqp:properties:list")
class Properties(NamedTuple):
    """The sender's annotations of a message, unchanged on its way (3.2.4)."""

    message_id: AnyValue = None
    user_id: Binary | None = None
    to: AnyValue = None
    subject: Text | None = None
    reply_to: AnyValue = None
    correlation_id: AnyValue = None
    content_type: Name | None = None
    content_encoding: Name | None = None
    absolute_expiry_time: Milliseconds | None = None
    creation_time: Milliseconds | None = None
    group_id: Text | None = None
    group_sequence: UInt32 | None = None
    reply_to_group_id: Text | None = None
