"""The options, where they come from, and their documentation.

Precedence, lowest first: defaults, configuration, environment, URL, keyword.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from hbshim.errors import OptionError

WorkerName: TypeAlias = Literal["pthread", "greenthread", "tpool"]

ENVIRONMENT_PREFIX = "HBSHIM_"
CONFIG_FILE_VARIABLE = "HBSHIM_CONFIG"

Self = TypeVar("Self", bound="OptionSet")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def tristate(value: object) -> bool | Literal["auto"]:
    """true, false or auto."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text == "auto":
        return "auto"
    return boolean(text)


def boolean(value: object) -> bool:
    """A truth, however it is spelled."""
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _worker(value: object) -> str:
    text = str(value).strip().lower()
    if text in ("auto", "pthread", "greenthread", "tpool"):
        return text
    raise ValueError


def whole(least: int, most: int) -> Callable[[object], int]:
    """A parser of whole numbers from `least` to `most`."""

    def parse(value: object) -> int:
        number = int(str(value))
        if not least <= number <= most:
            raise ValueError
        return number

    return parse


#: AMQP 0-9-1, connection.tune-ok: `heartbeat` is an unsigned short, in seconds.
interval = whole(0, 65535)


def seconds(value: object) -> float:
    """A finite time, 0 or more."""
    number = float(str(value))
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _socket_path(value: object) -> str:
    text = str(value).strip()
    if "\0" in text:
        raise ValueError
    if not text or text.lower() in _FALSE:
        return "off"
    return "auto" if text.lower() in _TRUE | {"auto"} else text


def option(
    default: Any, parse: Callable[[object], Any], accepts: str, doc: str, url_key: str
) -> Any:
    """A field of an :class:`OptionSet`.

    Parameters:
        parse: makes the value of what a source gave, or of what it made before;
            raises ValueError for what is not acceptable.
        accepts: what is, in words.
        url_key: its name in a URL's query.
    """
    metadata = {"parse": parse, "accepts": accepts, "doc": doc, "url_key": url_key}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionSet:
    """Options that belong together: each field is made by :func:`option`."""

    environment_prefix: ClassVar[str]
    config_section: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            try:
                parsed = field.metadata["parse"](value)
            except (ValueError, OverflowError):
                raise OptionError(
                    f"{field.name}={value!r} is not acceptable; "
                    f"use one of: {field.metadata['accepts']}"
                ) from None
            object.__setattr__(self, field.name, parsed)
        self._check()

    def _check(self) -> None:
        """Look at options together, once each of them is acceptable."""

    @classmethod
    def load(
        cls: type[Self],
        *,
        url: str | Mapping[str, object] | None = None,
        config: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        **keywords: Any,
    ) -> Self:
        """Merge every source of options.

        Parameters:
            url: a broker URL, of which only the query is read; or the options
                that were taken out of one, by name.
            config: a mapping, for instance one section of the application's own
                configuration. Without it, this set's section of the INI file
                that ``HBSHIM_CONFIG`` names is read, if there is one.
            environ: environment variables, ``os.environ`` unless given.
            keywords: options by name; None means "not given".

        Raises:
            OptionError: unknown option, unacceptable value, unreadable file.
        """
        environment = os.environ if environ is None else environ
        values: dict[str, object] = {}
        values.update(_from_file(environment, cls.config_section) if config is None else config)
        values.update(cls._from_environment(environment))
        if url is not None:
            values.update(cls._from_url(url) if isinstance(url, str) else url)
        values.update({name: value for name, value in keywords.items() if value is not None})
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise OptionError(
                f"unknown option {', '.join(unknown)}; known options: {', '.join(sorted(names))}"
            )
        return cls(**values)

    @classmethod
    def _from_environment(cls, environment: Mapping[str, str]) -> Iterator[tuple[str, object]]:
        for field in dataclasses.fields(cls):
            value = environment.get(cls.environment_prefix + field.name.upper())
            if value:
                yield field.name, value

    @classmethod
    def _from_url(cls, url: str) -> Mapping[str, object]:
        raise NotImplementedError

    @classmethod
    def describe(cls) -> list[dict[str, str]]:
        """Every option's name, accepted values, default, sources and meaning, for printing."""
        return [
            {
                "option": field.name,
                "accepts": field.metadata["accepts"],
                "default": str(field.default),
                "environment": cls.environment_prefix + field.name.upper(),
                "url": field.metadata["url_key"],
                "meaning": field.metadata["doc"],
            }
            for field in dataclasses.fields(cls)
        ]


@dataclasses.dataclass(frozen=True)
class Options(OptionSet):
    """How hbshim keeps connections alive. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not acceptable, or two options contradict each other.
    """

    environment_prefix = ENVIRONMENT_PREFIX
    config_section = "hbshim"

    heartbeat_in_pthread: bool | Literal["auto"] = option(
        "auto",
        tristate,
        "true | false | auto",
        "Beat from a native thread (true), from the program's own green threads (false), "
        "or let hbshim look and decide (auto).",
        "heartbeat_in_pthread",
    )
    worker: Literal["auto", "pthread", "greenthread", "tpool"] = option(
        "auto",
        _worker,
        "auto | pthread | greenthread | tpool",
        "Force one heartbeat worker; auto follows heartbeat_in_pthread.",
        "hbshim_worker",
    )
    heartbeat: int = option(
        0,
        interval,
        "whole seconds, 0 to 65535",
        "Heartbeat timeout to ask the broker for on a connection whose application asked "
        "for none; 0 leaves the application's choice alone.",
        "hbshim_heartbeat",
    )
    strip_polling: bool = option(
        True,
        boolean,
        "true | false",
        "Under eventlet, remove epoll, poll and their kin from `select` when hbshim is installed.",
        "hbshim_strip_polling",
    )
    liveness_timeout: float = option(
        0.0,
        seconds,
        "seconds, 0 or more",
        "Stop beating for a connection when the application has shown no sign of life for so "
        "long: neither written nor read on it, nor called hbshim.tick(); 0 beats for ever.",
        "hbshim_liveness_timeout",
    )
    watch_socket: str = option(
        "off",
        _socket_path,
        "off | auto | a path",
        "Open a Unix socket for `hbshim watch`, readable by the process's owner alone; "
        "`{pid}` in the path becomes the process id, and auto is a file of that name where "
        "`hbshim watch` looks first.",
        "hbshim_watch_socket",
    )

    def _check(self) -> None:
        forced_native = {"pthread": True, "greenthread": False, "tpool": False}.get(self.worker)
        if (
            self.heartbeat_in_pthread != "auto"
            and forced_native is not None
            and forced_native != self.heartbeat_in_pthread
        ):
            raise OptionError(
                f"heartbeat_in_pthread={self.heartbeat_in_pthread} contradicts "
                f"worker={self.worker}; set only one of the two"
            )

    @property
    def forced_worker(self) -> WorkerName | None:
        """The worker that the user named, or None when hbshim is to choose."""
        return None if self.worker == "auto" else self.worker

    @classmethod
    def _from_url(cls, url: str) -> Mapping[str, object]:
        return split_url(url)[1]


#: Query keys that are hbshim's, each with the option it sets.
URL_KEYS = {field.metadata["url_key"]: field.name for field in dataclasses.fields(Options)}


def _from_file(environment: Mapping[str, str], section: str) -> dict[str, object]:
    path = environment.get(CONFIG_FILE_VARIABLE)
    if not path:
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        raise OptionError(
            f"{CONFIG_FILE_VARIABLE} names {path}, which cannot be read "
            f"({type(error).__name__}); correct the path or unset the variable"
        ) from None
    return dict(parser[section]) if parser.has_section(section) else {}


def split_url(url: str) -> tuple[str, dict[str, object]]:
    """Take hbshim's options out of a broker URL.

    Client libraries reject query options they do not know, so they are handed
    the URL without ours.

    Parameters:
        url: for instance ``amqp://user:pw@host/vhost?heartbeat_in_pthread=true``.

    Returns:
        The URL without hbshim's options, and those options by name, unparsed.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    ours: dict[str, object] = {URL_KEYS[key]: value for key, value in pairs if key in URL_KEYS}
    if not ours:
        return url, {}
    rest = urlencode([(key, value) for key, value in pairs if key not in URL_KEYS])
    return urlunsplit(parts._replace(query=rest)), ours
