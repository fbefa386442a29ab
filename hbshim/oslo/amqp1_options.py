"""Every option of ``[oslo_messaging_amqp]``, and its effect in hbshim's driver over AMQP 1.0.

The options are those of the driver ``amqp://`` that oslo.messaging had until 14.9; a test compares.
See :mod:`hbshim.oslo.effects`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hbshim.errors import OptionError
from hbshim.messaging.amqp1.logins import PASSWORD_METHODS
from hbshim.oslo import effects
from hbshim.oslo.effects import Combined, Effect, Ignored, Translated

#: The values of `pre_settled`.
_SETTLED = ("rpc-call", "rpc-reply", "rpc-cast", "notify")


def _half(seconds: int) -> int:
    """Return the idle-time-out to advertise so that the peer is dead after `seconds`."""
    return (seconds + 1) // 2


def _confirms(patterns: list[str]) -> bool:
    return "rpc-cast" not in [each.lower() for each in patterns]


_MODES = {"dynamic": "auto", "routable": "router"}

_TLS = ("ssl", "ssl_options")
_CYRUS = "hbshim logs in without the Cyrus library; set sasl_mechanisms, and the user in the URL"
_PAUSES = "the pauses between attempts double with each, up to 30 s, and are random"
_LINKS = "a link that failed is attached again with the next message"

EFFECTS: Mapping[str, Effect] = {
    "container_name": Translated(
        ("container_name",), "each connection adds a suffix of its own: it has to be unique"
    ),
    "idle_timeout": Translated(
        ("heartbeat_interval",),
        "half of it, rounded up: it is advertised, and the peer is dead after twice that; 0: off",
        _half,
    ),
    "trace": Ignored("hbshim does not write frames; use tcpdump, or Wireshark, which decodes them"),
    "ssl": Combined(_TLS, "`ssl`; a file for TLS turns it on, too"),
    "ssl_ca_file": Combined(_TLS, "`cafile`. Without it the system's authorities are trusted"),
    "ssl_cert_file": Combined(_TLS, "`certfile`"),
    "ssl_key_file": Combined(_TLS, "`keyfile`"),
    "ssl_key_password": Combined(_TLS, "`password`"),
    "ssl_verify_vhost": Combined(_TLS, "`server_hostname` is the virtual host"),
    "sasl_mechanisms": Combined(
        ("login_method",),
        "those that can be used, the best first: EXTERNAL with ssl_cert_file, SCRAM-SHA-512, "
        "SCRAM-SHA-256, SCRAM-SHA-1 and PLAIN with a user, ANONYMOUS without one. Others only: a "
        "`DriverLoadFailure`",
    ),
    "sasl_config_dir": Ignored(_CYRUS),
    "sasl_config_name": Ignored(_CYRUS),
    "sasl_default_realm": Combined((), "added to a user in the URL that has none: `user@realm`"),
    "connection_retry_interval": Translated(("connection_retry_delay",)),
    "connection_retry_backoff": Ignored(_PAUSES),
    "connection_retry_interval_max": Ignored(_PAUSES),
    "link_retry_delay": Ignored(_LINKS),
    "default_reply_retry": Ignored(
        "a reply is sent again for default_reply_timeout seconds, as often as it takes"
    ),
    "default_reply_timeout": Translated(("reply_retry",)),
    "default_send_timeout": Translated(("rpc_timeout",)),
    "default_notify_timeout": Combined(
        (),
        "longest time for one attempt to send a notification; unless set, it takes as long as "
        "`retry` allows",
    ),
    "default_sender_link_timeout": Ignored("one link serves all addresses, and is not purged"),
    "addressing_mode": Translated(
        ("addressing_profile",),
        "dynamic is `auto`, routable is `router`, legacy is `legacy`",
        lambda mode: _MODES.get(mode.lower(), mode),
    ),
    "pseudo_vhost": Translated(("pseudo_vhost",)),
    "server_request_prefix": Translated(("server_request_prefix",)),
    "broadcast_prefix": Translated(("broadcast_prefix",)),
    "group_request_prefix": Translated(("group_request_prefix",)),
    "rpc_address_prefix": Translated(("rpc_address_prefix",)),
    "notify_address_prefix": Translated(("notify_address_prefix",)),
    "multicast_address": Translated(("multicast_address",)),
    "unicast_address": Translated(("unicast_address",)),
    "anycast_address": Translated(("anycast_address",)),
    "default_notification_exchange": Translated(("default_notification_exchange",)),
    "default_rpc_exchange": Translated(("default_rpc_exchange",)),
    "reply_link_credit": Translated(("reply_prefetch_count",)),
    "rpc_server_credit": Translated(("rpc_prefetch_count",)),
    "notify_server_credit": Translated(("notification_prefetch_count",)),
    "pre_settled": Translated(
        ("cast_confirm",),
        "with `rpc-cast`, a cast returns as soon as it is written. Every message is sent "
        "unsettled, so that none is discarded",
        _confirms,
    ),
}

#: Keys of `ssl_options`, each with the option that has its value.
_TLS_KEYS = {
    "cafile": "ssl_ca_file",
    "certfile": "ssl_cert_file",
    "keyfile": "ssl_key_file",
    "password": "ssl_key_password",
}


def translated(values: Mapping[str, Any], *, has_user: bool, path: str) -> dict[str, object]:
    """Return options of :class:`Amqp1Options`, by name.

    Parameters:
        values: the options of the group that are set, by name.
        has_user: the URL has a user.
        path: the virtual host of the URL; empty: there is none.

    Raises:
        OptionError: none of the mechanisms can be used.
    """
    own = effects.translated(EFFECTS, values)
    tls = {key: values[name] for key, name in _TLS_KEYS.items() if values.get(name)}
    if values.get("ssl_verify_vhost") and path:
        tls["server_hostname"] = path
    if tls:
        own["ssl_options"] = tls
    if "ssl" in values or "cafile" in tls or "certfile" in tls:
        own["ssl"] = bool(values.get("ssl") or "cafile" in tls or "certfile" in tls)
    mechanisms = str(values.get("sasl_mechanisms") or "").upper().split()
    if mechanisms:
        own["login_method"] = _usable(mechanisms, "certfile" in tls, has_user)
    return own


def _usable(mechanisms: list[str], has_certificate: bool, has_user: bool) -> str:
    possible = {
        "EXTERNAL": has_certificate,
        **dict.fromkeys(PASSWORD_METHODS, has_user),
        "ANONYMOUS": not has_user,
    }
    usable = [name for name in mechanisms if possible.get(name)]
    if usable:
        return " ".join(usable)
    raise OptionError(
        f"sasl_mechanisms={' '.join(mechanisms)!r}: none of them can be used here; hbshim has "
        f"EXTERNAL (with ssl_cert_file), {', '.join(PASSWORD_METHODS)} (with a user in the URL) "
        "and ANONYMOUS (without one)"
    )


def notices(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that has another effect than in the former driver."""
    settled = [each.lower() for each in values.get("pre_settled") or ()]
    texts = []
    if unknown := [each for each in settled if each not in _SETTLED]:
        texts.append(
            f"pre_settled has {', '.join(unknown)}, which is ignored; use {', '.join(_SETTLED)}"
        )
    if others := [each for each in settled if each in _SETTLED and each == "notify"]:
        texts.append(
            f"pre_settled={', '.join(others)} has no effect: notifications wait until they are "
            "accepted, so that none is lost"
        )
    return texts
