"""The router's configuration: a list of entities, as JSON or one `key: value` a line (R13).

Both dialects are read: skupper-router's, and the older one of qpid-dispatch, where some attributes
have other names. An attribute that a real router would refuse is refused here.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wsgi_harness.errors import HarnessError
from wsgi_harness.router.addresses import Distribution, Rule
from wsgi_harness.router.links import CAPACITY


class ConfigurationError(HarnessError):
    """A router's configuration is not valid."""


@dataclass(frozen=True)
class RouterEntity:
    """The router itself."""

    id: str = "router"
    mode: str = "standalone"
    default_distribution: Distribution = Distribution.BALANCED
    sasl_config_dir: str | None = None
    sasl_config_name: str = "skrouterd"
    worker_threads: int = 1


@dataclass(frozen=True)
class Listener:
    """Where clients, or other routers, connect."""

    host: str = ""
    port: str = "amqp"
    role: str = "normal"
    ssl_profile: str | None = None
    sasl_mechanisms: str | None = None
    authenticate_peer: bool = False
    require_ssl: bool = False
    require_encryption: bool = False
    max_frame_size: int = 16_384
    max_sessions: int = 32_768
    max_session_frames: int = 0
    idle_timeout_seconds: int = 16
    initial_handshake_timeout_seconds: int = 0
    strip_annotations: str = "both"
    link_capacity: int = CAPACITY
    policy_vhost: str | None = None


@dataclass(frozen=True)
class Connector:
    """Another router to which this one connects."""

    host: str = "127.0.0.1"
    port: str = "amqp"
    role: str = "normal"
    ssl_profile: str | None = None
    sasl_mechanisms: str | None = None
    max_frame_size: int = 16_384
    idle_timeout_seconds: int = 16
    link_capacity: int = CAPACITY
    verify_hostname: bool = True


@dataclass(frozen=True)
class SslProfile:
    """Certificates."""

    ca_cert_file: str | None = None
    cert_file: str | None = None
    private_key_file: str | None = None
    password: str | None = None
    protocols: str | None = None
    ciphers: str | None = None
    uid_format: str | None = None


@dataclass(frozen=True)
class AddressEntity:
    """The distribution of addresses."""

    prefix: str = ""
    distribution: Distribution = Distribution.BALANCED


@dataclass(frozen=True)
class PolicyEntity:
    """Whether virtual hosts are checked."""

    enable_vhost_policy: bool = False
    default_vhost: str = "$default"
    max_connections: int = 65_535
    max_message_size: int = 0


@dataclass(frozen=True)
class Group:
    """What the users of a group may do in a virtual host."""

    users: str = ""
    remote_hosts: str = ""
    sources: str = ""
    targets: str = ""
    allow_dynamic_source: bool = False
    allow_anonymous_sender: bool = False
    allow_user_id_proxy: bool = False
    max_senders: int = 0
    max_receivers: int = 0
    max_sessions: int = 0
    max_frame_size: int = 0
    max_message_size: int = 0


@dataclass(frozen=True)
class Vhost:
    """A virtual host: the `hostname` in a client's Open."""

    hostname: str = ""
    aliases: str = ""
    allow_unknown_user: bool = False
    max_connections: int = 65_535
    groups: Mapping[str, Group] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """All of it."""

    router: RouterEntity = RouterEntity()
    listeners: tuple[Listener, ...] = ()
    connectors: tuple[Connector, ...] = ()
    profiles: Mapping[str, SslProfile] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    policy: PolicyEntity = PolicyEntity()
    vhosts: tuple[Vhost, ...] = ()


@dataclass(frozen=True)
class Dialect:
    """What differs between the routers.

    Attributes:
        product: the property of the router's Open.
        management: how the names of its managed entities begin.
        renamed: by entity, names of attributes that stand for others.
    """

    product: str
    management: str
    renamed: Mapping[str, Mapping[str, str]]


DIALECTS = {
    "skupper": Dialect("skupper-router", "io.skupper.router.", {"log": {"outputFile": "output"}}),
    "dispatch": Dialect(
        "qpid-dispatch-router",
        "org.apache.qpid.dispatch.",
        {
            "sslProfile": {"keyFile": "privateKeyFile", "certDb": "caCertFile"},
            "router": {"saslConfigPath": "saslConfigDir"},
        },
    ),
}

_ENTITIES: dict[str, type] = {
    "router": RouterEntity,
    "listener": Listener,
    "connector": Connector,
    "sslProfile": SslProfile,
    "address": AddressEntity,
    "policy": PolicyEntity,
    "vhost": Vhost,
}
#: They are valid, and mean nothing here.
_IGNORED = frozenset({"log", "site", "network"})


def load(text: str, dialect: Dialect) -> Configuration:
    """Return a configuration.

    Parameters:
        text: JSON, or one `key: value` a line.

    Raises:
        ConfigurationError: it is not valid; the message names the entity and the attribute.
    """
    try:
        sections = json.loads(text) if text.lstrip().startswith("[") else list(_sections(text))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"the router's configuration is not JSON: {error}") from error
    found: dict[type, list[Any]] = {each: [] for each in _ENTITIES.values()}
    profiles: dict[str, SslProfile] = {}
    for kind, attributes in sections:
        if kind in _IGNORED:
            continue
        if kind not in _ENTITIES:
            raise ConfigurationError(f"the router has no entity {kind!r}")
        renamed = dialect.renamed.get(kind, {})
        given = {renamed.get(key, key): value for key, value in attributes.items()}
        name = given.pop("name", None)
        entity = _entity(_ENTITIES[kind], kind, given)
        found[type(entity)].append(entity)
        if isinstance(entity, SslProfile):
            profiles[str(name)] = entity
    if not found[RouterEntity]:
        raise ConfigurationError("the router's configuration has no entity 'router'; add one")
    rules = [Rule(each.prefix, each.distribution) for each in found[AddressEntity]]
    return Configuration(
        router=found[RouterEntity][-1],
        listeners=tuple(found[Listener]),
        connectors=tuple(found[Connector]),
        profiles=profiles,
        rules=tuple(rules),
        policy=(found[PolicyEntity] or [PolicyEntity()])[-1],
        vhosts=tuple(found[Vhost]),
    )


def _entity(kind: type, name: str, attributes: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    names = {_camel_case(each.name): each.name for each in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for key, value in attributes.items():
        if key not in names:
            raise ConfigurationError(f"{name} has no attribute {key!r}; it has {', '.join(names)}")
        if key == "groups":
            groups = value.items()
            given["groups"] = {each: _entity(Group, f"group {each}", of) for each, of in groups}
        else:
            given[names[key]] = _value(f"{name}.{key}", value, hints[names[key]])
    return kind(**given)


def _value(name: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = kind.__args__[0]
    if kind is bool and not isinstance(value, bool):
        if str(value).lower() not in ("yes", "no", "true", "false", "on", "off"):
            raise ConfigurationError(f"{name} must be yes or no, got {value!r}")
        return str(value).lower() in ("yes", "true", "on")
    if kind is Distribution:
        if value not in [each.value for each in Distribution]:
            names = ", ".join(each.value for each in Distribution)
            raise ConfigurationError(f"{name} must be one of {names}, got {value!r}")
        return Distribution(value)
    if kind is int:
        try:
            return int(value)
        except ValueError:
            raise ConfigurationError(f"{name} must be a number, got {value!r}") from None
    return str(value) if kind is str else value


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _sections(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entities of the format with one `key: value` a line."""
    lines = _significant(text)
    for line in lines:
        match = re.fullmatch(r"([\w-]+)\s*{", line)
        if match is None:
            raise ConfigurationError(f"the router's configuration has {line!r} in no entity")
        yield match[1], _attributes(lines)


def _significant(text: str) -> Iterator[str]:
    for line in text.splitlines():
        stripped = line.partition("#")[0].strip()
        if stripped:
            yield stripped


def _attributes(lines: Iterator[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        if line == "}":
            return found
        key, separator, value = (part.strip() for part in line.partition(":"))
        if not separator:
            raise ConfigurationError(f"the router's configuration has {line!r}; use key: value")
        found[key] = json.loads("{" + _json(lines)) if value == "{" else value
    raise ConfigurationError("the router's configuration ends within an entity; add a }")


def _json(lines: Iterable[str]) -> str:
    """Return the rest of a value that is JSON in braces."""
    depth, parts = 1, []
    for line in lines:
        parts.append(line)
        depth += line.count("{") - line.count("}")
        if depth == 0:
            return "\n".join(parts)
    raise ConfigurationError("the router's configuration ends within a map; add a }")
