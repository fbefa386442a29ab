"""Validates what a watch socket answered: the listening process may send anything."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from hbshim.errors import WatchError
from hbshim.observe.drivers import PATTERNS, ZmqStatus
from hbshim.observe.loops import LoopStatus
from hbshim.observe.protocol import VERSION
from hbshim.observe.snapshot import LinkStatus

T = TypeVar("T")

#: The most characters of a text that are kept.
TEXT_AT_MOST = 200


@dataclasses.dataclass(frozen=True)
class WorkerSeen:
    """One heartbeat worker, as :func:`hbshim.status` reports it."""

    worker: str
    links: int
    worst_lateness: float


@dataclasses.dataclass(frozen=True)
class ProcessSeen:
    """One answer.

    Attributes:
        document: the answer as it was received, with fields that this version does not know.
    """

    pid: int
    program: str
    links_in_all: int
    links: tuple[LinkStatus, ...]
    engines: tuple[WorkerSeen, ...]
    counters: dict[str, int]
    zmq: tuple[ZmqStatus, ...]
    loops: tuple[LoopStatus, ...]
    document: dict[str, Any]


def parse(answer: bytes) -> ProcessSeen:
    """Parse an answer.

    Raises:
        WatchError: it is not the answer of a process with hbshim.
    """
    try:
        document = json.loads(answer.decode("utf-8"), parse_constant=_refuse)
        if document.get("protocol") != VERSION:
            raise ValueError("of another version, or none of hbshim's")
        counters = document["counters"].items()
        return ProcessSeen(
            pid=_integer(document["pid"]),
            program=_text(document["program"]),
            links_in_all=_integer(document["links_in_all"]),
            links=tuple(_read(LinkStatus, link) for link in document["links"]),
            engines=tuple(_read(WorkerSeen, engine) for engine in document["engines"]),
            counters={_text(name): _integer(value) for name, value in counters},
            # Earlier versions of the same format have none.
            zmq=tuple(_read(ZmqStatus, driver) for driver in document.get("zmq", ())),
            loops=tuple(_read(LoopStatus, loop) for loop in document.get("loops", ())),
            document=document,
        )
    # RecursionError: brackets without end.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WatchError(
            f"what answered is no process of this hbshim's ({type(error).__name__}); "
            "is it the right socket, and the same version of hbshim at both ends?"
        ) from None


def _read(kind: Callable[..., T], raw: dict[str, Any]) -> T:
    fields = [
        field
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        # Earlier versions of the same format do not have all of them.
        if field.name in raw or field.default is dataclasses.MISSING
    ]
    return kind(**{field.name: _READERS[str(field.type)](raw[field.name]) for field in fields})


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    # Terminal control characters are not printable.
    kept = value[:TEXT_AT_MOST]
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in kept
    )


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _number_or_none(value: object) -> float | None:
    return None if value is None else _number(value)


def _by_pattern(value: Any) -> dict[str, int]:
    return {pattern: _integer(value[pattern]) for pattern in PATTERNS}


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_READERS: dict[str, Callable[[object], object]] = {
    "str": _text,
    "int": _integer,
    "bool": _boolean,
    "float": _number,
    "float | None": _number_or_none,
    "dict[str, int]": _by_pattern,
}
