"""The options, their sources, and their documentation.

Precedence, lowest first: defaults, configuration, environment, URL, keyword.

Longer than others: one table, with the parsers of its rows.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypedDict, TypeVar
from urllib.parse import unquote_plus

from hbshim.errors import OptionError

WorkerName: TypeAlias = Literal["pthread", "greenthread", "tpool"]

ENVIRONMENT_PREFIX = "HBSHIM_"
CONFIG_FILE_VARIABLE = "HBSHIM_CONFIG"

Self = TypeVar("Self", bound="OptionSet")


class Default(Enum):
    """The type of :data:`DEFAULT`."""

    OPTION = "the option's value"

    def __repr__(self) -> str:
        return "DEFAULT"


#: As an argument: use the value of the option. None means "not set" or "never".
DEFAULT: Final = Default.OPTION

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def tristate(value: object) -> bool | Literal["auto"]:
    """Parse true, false or auto."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text == "auto":
        return "auto"
    return boolean(text)


def boolean(value: object) -> bool:
    """Parse a truth value in any common spelling."""
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


def int_range(least: int, most: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(value: object) -> int:
        number = int(str(value))
        if not least <= number <= most:
            raise ValueError
        return number

    return parse


#: AMQP 0-9-1, connection.tune-ok: `heartbeat` is an unsigned short, in seconds.
uint16 = int_range(0, 65535)


def non_negative_seconds(value: object) -> float:
    """Parse a finite number of seconds, 0 or more."""
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
    default: Any, parse: Callable[[object], Any], accepts: str, doc: str, url_key: str | None
) -> Any:
    """Return a field of an :class:`OptionSet`.

    Parameters:
        name: of the option.
        default: its value if no source sets it.
        parse: converts the value of a source, or a value that it returned before; raises
            ValueError for an invalid value.
        accepts: the accepted values, in words.
        doc: what the option does.
        url_key: its name in a URL's query; None if no URL may set it.
    """
    metadata = {"parse": parse, "accepts": accepts, "doc": doc, "url_key": url_key}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionSet:
    """A set of options: each field is made by :func:`option`."""

    environment_prefix: ClassVar[str]
    config_section: ClassVar[str]
    #: Options that the URL or a keyword has set; see :meth:`load`.
    given: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            try:
                parsed = field.metadata["parse"](value)
            except OptionError:
                raise  # it has its own text, perhaps because the value holds a password
            except (ValueError, OverflowError):
                raise OptionError(
                    f"{field.name}={value!r} is not valid; use one of: {field.metadata['accepts']}"
                ) from None
            object.__setattr__(self, field.name, parsed)
        self._check()

    def _check(self) -> None:
        """Check options against each other, after each of them was parsed."""

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
            config: a mapping, for example one section of the application's own
                configuration. By default this set's section of the INI file
                that ``HBSHIM_CONFIG`` names, if there is one.
            environ: environment variables; by default ``os.environ``.
            keywords: options by name; None means "not given".

        Raises:
            OptionError: unknown option, invalid value, unreadable file.
        """
        environment = os.environ if environ is None else environ
        values: dict[str, object] = {}
        if config is None:
            config = _from_file(environment, cls.config_section)
        if not isinstance(config, Mapping):
            raise OptionError(
                f"config takes a mapping of options by name, got {type(config).__name__}; "
                "a file goes into the variable HBSHIM_CONFIG"
            )
        values.update(cls._of_config(config))
        values.update(cls._from_environment(environment))
        from_url: Mapping[str, object] = {}
        if url is not None:
            from_url = cls._from_url(url) if isinstance(url, str) else url
        for field in dataclasses.fields(cls):
            if field.metadata["url_key"] is None and field.name in from_url:
                raise OptionError(
                    f"{field.name} is for the whole process, not for one connection; "
                    f"set {cls.environment_prefix}{field.name.upper()}"
                )
        values.update(from_url)
        values.update({name: value for name, value in keywords.items() if value is not None})
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(map(str, set(values) - names)):
            raise cls._unknown(unknown)
        loaded = cls(**values)
        given = {*from_url, *(name for name, value in keywords.items() if value is not None)}
        object.__setattr__(loaded, "given", frozenset(given))
        return loaded

    @classmethod
    def _of_config(cls, config: Mapping[str, object]) -> Mapping[str, object]:
        """Return what is this set's in a configuration that it may share with others."""
        return config

    @classmethod
    def _unknown(cls, names: Sequence[str], others: Collection[str] = ()) -> OptionError:
        """Return the error about options that are not known.

        Parameters:
            others: options that are no options of this set, and that may be meant if none of this
                one is similar.
        """
        from difflib import get_close_matches  # only needed here

        own = sorted(field.name for field in dataclasses.fields(cls))
        similar = [
            match
            for name in names
            for match in get_close_matches(name, own, 1) or get_close_matches(name, others, 1)
        ]
        meant = f"; did you mean {', '.join(similar)}?" if similar else ""
        return OptionError(
            f"unknown option {', '.join(names)}{meant}; known options: {', '.join(own)}"
        )

    @classmethod
    def read_config(cls, environ: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return this set's section of the file that ``HBSHIM_CONFIG`` names, if any.

        Raises:
            OptionError: the file cannot be read.
        """
        return _from_file(os.environ if environ is None else environ, cls.config_section)

    def over(self: Self, earlier: Self) -> Self:
        """Return `earlier` with the values that are given here.

        Raises:
            OptionError: together they contradict each other.
        """
        changes = {name: getattr(self, name) for name in self.given}
        merged = dataclasses.replace(earlier, **changes)
        object.__setattr__(merged, "given", earlier.given | self.given)
        return merged

    def for_connection(self) -> dict[str, Any]:
        """Return the options of one connection, by name, as :meth:`load` takes them for `url`."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["url_key"] is not None
        }

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
        """Return every option's name, values, default, sources and meaning, for printing."""
        return [
            {
                "option": field.name,
                "accepts": field.metadata["accepts"],
                "default": str(field.default),
                "environment": cls.environment_prefix + field.name.upper(),
                "url": field.metadata["url_key"] or "",
                "meaning": field.metadata["doc"],
            }
            for field in dataclasses.fields(cls)
        ]


@dataclasses.dataclass(frozen=True)
class Options(OptionSet):
    """How hbshim keeps connections alive. Immutable; build it with :meth:`load`.

    Raises:
        OptionError: a value is not valid, or two options contradict each other.
    """

    environment_prefix = ENVIRONMENT_PREFIX
    config_section = "hbshim"

    heartbeat_in_pthread: bool | Literal["auto"] = option(
        "auto",
        tristate,
        "true | false | auto",
        "Send heartbeats from a native thread (true), from the program's green threads (false), "
        "or let hbshim detect and decide (auto).",
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
        uint16,
        "whole seconds, 0 to 65535",
        "Heartbeat timeout to ask the broker for on a connection whose application asked "
        "for none; 0 leaves the application's choice alone.",
        "hbshim_heartbeat",
    )
    strip_polling: bool = option(
        True,
        boolean,
        "true | false",
        "Under eventlet, remove epoll, poll and the like from `select` when hbshim is installed; "
        "for the whole process, so not in a URL.",
        None,
    )
    liveness_timeout: float = option(
        0.0,
        non_negative_seconds,
        "seconds, 0 or more",
        "Stop the heartbeats of a connection when the application has shown no activity for so "
        "long: neither written nor read on it, nor called hbshim.mark_alive(); 0 never stops them.",
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
        """The worker that the user chose, or None if hbshim chooses."""
        return None if self.worker == "auto" else self.worker

    @classmethod
    def _from_url(cls, url: str) -> Mapping[str, object]:
        return split_url(url)[1]


class AttachOptions(TypedDict, total=False):
    """Keywords for a connection that is open already; None is "not given". See :class:`Options`."""

    heartbeat_in_pthread: bool | Literal["auto"] | None
    worker: Literal["auto", "pthread", "greenthread", "tpool"] | None
    liveness_timeout: float | None
    watch_socket: str | None


class ConnectOptions(AttachOptions, total=False):
    """Keywords for a connection that is about to be opened."""

    heartbeat: int | None


class InstallOptions(ConnectOptions, total=False):
    """Keywords for all connections of a process."""

    strip_polling: bool | None


#: hbshim's query keys, each with the option it sets.
URL_KEYS: dict[str, str] = {
    field.metadata["url_key"]: field.name
    for field in dataclasses.fields(Options)
    if field.metadata["url_key"]
}

#: Prefix of the names of options that only hbshim has.
_URL_PREFIX = "hbshim_"


def _from_file(environment: Mapping[str, str], section: str) -> dict[str, object]:
    path = environment.get(CONFIG_FILE_VARIABLE)
    if not path:
        return {}
    import configparser  # slow to import, and few programs have a file

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
    """Remove hbshim's options from a broker URL.

    Client libraries reject query options that they do not know, so they get the URL without those
    of hbshim, and otherwise unchanged, to the byte.

    Parameters:
        url: for example ``amqp://user:pw@host/vhost?heartbeat_in_pthread=true``.

    Returns:
        The URL without hbshim's options, and those options by name, not parsed.

    Raises:
        OptionError: an option of hbshim that no URL may set, or a part of the login that looks
            like one.
    """
    address, hash_sign, fragment = url.partition("#")
    address, _, query = address.partition("?")
    kept: list[str] = []
    own: dict[str, object] = {}
    for part in query.split("&"):
        key, _, value = part.partition("=")
        key = unquote_plus(key)
        if "@" in part and "@" not in address and key.startswith((_URL_PREFIX, *URL_KEYS)):
            # A password with an unescaped "?": the rest of it looks like a query.
            raise OptionError(
                "this URL is malformed (it is not repeated here); percent-encode what "
                "is special in user, password and options: / is %2F, ? is %3F, @ is %40"
            )
        if key in URL_KEYS:
            own[URL_KEYS[key]] = unquote_plus(value)
        else:
            check_url_key(key)
            kept.append(part)
    if not own:
        return url, {}
    rest = "&".join(kept)
    return address + (f"?{rest}" if rest else "") + hash_sign + fragment, own


def check_url_key(key: str) -> None:
    """Check that a key in a URL's query is not an option without effect there.

    Raises:
        OptionError: it is; the message names the places where it can be set.
    """
    if key.startswith(_URL_PREFIX) and key not in URL_KEYS:
        raise OptionError(
            f"{key} is not an option in a URL; known there: {', '.join(sorted(URL_KEYS))}; "
            f"set others as {ENVIRONMENT_PREFIX}..., or as keywords of hbshim.install()"
        )
