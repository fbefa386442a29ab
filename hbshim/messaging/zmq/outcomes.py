"""Why a request has no reply."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """What ended a request. All but LOST, CUT, SILENT and REQUEUED: it was not handed over."""

    UNREACHABLE = "its host cannot be reached"
    UNRESOLVED = "the name of its host has no address, or the name server does not answer"
    BUSY = "its host has too many requests waiting"
    UNKNOWN = "its host has no such server"
    APART = "its host speaks another version of the protocol"
    LOST = "it was handed over, and its server is gone"
    CUT = "it was handed over, and the proxy is gone"
    SILENT = "no acknowledgement came in time"
    REQUEUED = "its listener requeued it"
    # The proxy is there, and the connection was refused.
    NO_KEY = (
        "the public key of its proxy is not known; name it in the file of zmq_curve_server_keys"
    )
    WRONG_KEY = (
        "its proxy ended the handshake; its public key is another one than zmq_curve_server_keys "
        "or the directory has, or CURVE is off there"
    )
    NOT_ALLOWED = (
        "its proxy does not allow the key of this client; add the public key to what "
        "zmq_curve_allowed_keys names there"
    )
    CURVE_THERE = (
        "its handshakes are ended, as by a proxy that asks for CURVE; if it does, turn it on here, "
        "zmq_curve_secret_key_file"
    )
    CURVE_HERE = "its proxy ended the handshake; CURVE is off there, and on here: turn it on there"
    FOREIGN = "what listens there is no proxy of this version"
