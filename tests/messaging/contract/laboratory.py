"""One laboratory for each driver: what starts, cuts, restarts and counts in the contract tests.

The tests of this directory know the public names of :mod:`hbshim.messaging` and
:class:`Laboratory`, nothing else. To put another driver under contract:

1. Write a class with the methods of :class:`Laboratory` in a module of this directory, and beside
   it a function that makes one (:class:`Maker`). It gets its fixtures from the `request` that
   it is passed, so that a driver without a broker starts no container::

       def zmq_laboratory(scheme, request, *, restarts):
           return ZmqLaboratory(scheme)

2. Add a line to :data:`LABORATORIES`: scheme, module and function, and the marks that all of its
   tests get (``broker``: it needs a container engine)::

       "hbzmq": Entry("tests.messaging.contract.zmq:zmq_laboratory"),

Every test that asks for `laboratory`, `driver`, `drivers`, `storing` or `client` (conftest.py)
then runs with it. What the driver cannot do is skipped: tests call :func:`require_features` with
names of :class:`hbshim.messaging.Capabilities`. A test that states another guarantee than the
driver gives is named in its entry, with the guarantee, and skipped with that as the reason. To run
the tests of one driver: ``pytest tests/messaging/contract -k hbzmq``.

A test that restarts the broker belongs in test_restart.py: `restarts` is true there, and a
laboratory that would disturb other tests takes a broker of its own.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest

from hbshim import messaging


class Laboratory(Protocol):
    """Starts drivers, and breaks what they are connected to.

    Attributes:
        url: for :func:`hbshim.messaging.connect`, in this process or another one. Connections of
            these drivers can be cut.
    """

    @property
    def url(self) -> str: ...

    def start(self, **options: Any) -> messaging.Driver:
        """Return a driver of the test's own; :meth:`close` closes it."""
        ...

    def start_uncut(self, **options: Any) -> messaging.Driver:
        """Return a driver whose connections only :meth:`restart` breaks."""
        ...

    def cut(self) -> None:
        """Break every connection; new ones are accepted."""
        ...

    def disconnect(self) -> None:
        """Break every connection, and accept none until :meth:`reconnect`."""
        ...

    def reconnect(self) -> None:
        """Accept connections again."""
        ...

    def restart(self) -> None:
        """Restart what stands between the drivers; return when it accepts connections again.

        Only where `restarts` was true.
        """
        ...

    def count(self) -> int:
        """Return how many connections :meth:`cut` could break were opened so far."""
        ...

    def close(self) -> None:
        """Close the drivers, and what is between them."""
        ...


class Maker(Protocol):
    """Makes the laboratory of one test."""

    def __call__(
        self, scheme: str, request: pytest.FixtureRequest, *, restarts: bool
    ) -> Laboratory:
        """Return it.

        Parameters:
            scheme: of the driver's URL.
            request: of the test, for the fixtures that are needed.
            restarts: :meth:`Laboratory.restart` is called.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Entry:
    """A driver under contract.

    Attributes:
        maker: of its laboratory, as ``module:function``.
        marks: of its tests.
        other_guarantees: tests that do not hold for it, each with what it guarantees instead.
    """

    maker: str
    marks: tuple[pytest.MarkDecorator, ...] = ()
    other_guarantees: Mapping[str, str] = dataclasses.field(default_factory=dict)


_RABBITMQ = Entry("tests.messaging.contract.rabbitmq:rabbitmq_laboratory", (pytest.mark.broker,))

_ZEROMQ = "tests.messaging.contract.zeromq:zeromq_laboratory"
_ZEROMQ_GUARANTEES = {
    "test_a_cast_without_a_server_is_lost_and_no_error": (
        "a cast waits for a server, and is an error if none takes it in time"
    ),
    "test_calls_that_run_are_answered_after_a_restart": (
        "a proxy stores nothing: calls that run as it is killed end with LostServerError"
    ),
}

_ASYNCHRONOUS = "tests.messaging.contract.asynchronous:asynchronous_laboratory"

#: The modules that also run with :mod:`hbshim.messaging.aio` over a driver.
ASYNCHRONOUS_MODULES = ("test_call", "test_cut", "test_notify", "test_serve", "test_store")

#: Tests of what only the driver does, which is under contract itself.
_OF_THE_DRIVER = dict.fromkeys(
    (
        "test_a_cast_that_no_server_takes_expires",
        "test_a_queue_is_deleted_under_its_server",
        "test_a_queue_without_a_server_expires",
        "test_a_server_is_killed_at_work",
        "test_a_server_that_works_is_not_silent",
        "test_an_expired_request_is_not_run_late",
        "test_large_payloads",
        "test_nothing_is_connected_before_it_is_used",
    ),
    "it tests the driver beneath",
)

#: By the scheme of the driver, and what is added to it where another option changes its guarantees.
LABORATORIES: dict[str, Entry] = {
    "hbpika": _RABBITMQ,
    "hbkombu": _RABBITMQ,
    "hbamqp": Entry(
        "tests.messaging.contract.rabbitmq:rabbitmq_laboratory",
        (pytest.mark.broker,),
        other_guarantees={
            "test_a_cast_without_a_server_is_lost_and_no_error": (
                "a cast waits for a server's queue, and is an error if there is none in time"
            ),
        },
    ),
    "hbamqp_router": Entry(
        "tests.messaging.contract.router:router_laboratory",
        other_guarantees={
            "test_a_cast_without_a_server_is_lost_and_no_error": (
                "a cast waits for a server, and is an error if none takes it in time"
            ),
            "test_one_that_fails_does_not_have_its_batch_repeated": (
                "a notification returns when it is handled, so a paused listener gets no batch"
            ),
            "test_batches_as_large_as_the_prefetch": (
                "a notification returns when it is handled, so no batch waits for another one"
            ),
            "test_a_server_gets_the_priorities_that_it_has_methods_for": (
                "a notification of a priority to which nothing listens is an error"
            ),
            "test_pausing": "a cast to a paused server returns when it is resumed",
            "test_bounded_workers": "a cast returns when a worker has begun it",
        },
    ),
    "hbzmq": Entry(
        _ZEROMQ,
        other_guarantees={
            **_ZEROMQ_GUARANTEES,
            "test_notifications_are_handled_though_their_connections_are_cut": (
                "a notification that is under way as its connection is cut is lost, and counted"
            ),
        },
    ),
    "hbzmq_acknowledged": Entry(
        _ZEROMQ,
        (pytest.mark.extended,),
        other_guarantees={
            **_ZEROMQ_GUARANTEES,
            "test_one_that_fails_does_not_have_its_batch_repeated": (
                "a notification returns when it is handled, so a paused listener gets no batch"
            ),
            "test_batches_as_large_as_the_prefetch": (
                "a notification returns when it is handled, so no batch waits for another one"
            ),
            "test_a_server_gets_the_priorities_that_it_has_methods_for": (
                "a notification of a priority to which nothing listens is an error"
            ),
            "test_pausing": "a cast to a paused server returns when it is resumed",
            "test_bounded_workers": "a cast returns when a worker has begun it",
        },
    ),
    "hybrid": Entry(
        "tests.messaging.contract.hybrid:hybrid_laboratory",
        (pytest.mark.broker, pytest.mark.extended),
        other_guarantees={
            "test_a_cast_without_a_server_is_lost_and_no_error": (
                "a cast waits for a server, and is an error if none takes it in time"
            ),
            "test_a_cast_that_no_server_takes_expires": (
                "a cast waits for a server, and is an error if none takes it in time"
            ),
            "test_pausing": "a cast to a paused server returns when it is resumed",
            "test_bounded_workers": "a cast returns when a worker has begun it",
        },
    ),
    "hbpika_aio": Entry(_ASYNCHRONOUS, (pytest.mark.broker,), _OF_THE_DRIVER),
}
LABORATORIES |= {
    f"{scheme}_aio": Entry(
        _ASYNCHRONOUS,
        (*LABORATORIES[scheme].marks, pytest.mark.extended),
        other_guarantees={**LABORATORIES[scheme].other_guarantees, **_OF_THE_DRIVER},
    )
    for scheme in ("hbkombu", "hbamqp", "hbzmq", "hybrid")
}


def parameters(*schemes: str) -> list[Any]:
    """Return the parameters of a fixture that gives each laboratory in turn.

    Parameters:
        schemes: of the drivers; all, unless some are named.
    """
    return [
        pytest.param(scheme, marks=LABORATORIES[scheme].marks) for scheme in schemes or LABORATORIES
    ]


def extended(*schemes: str) -> list[Any]:
    """Return :func:`parameters` for tests that show the same with further drivers."""
    return [
        pytest.param(scheme, marks=(*LABORATORIES[scheme].marks, pytest.mark.extended))
        for scheme in schemes
    ]


def opened(request: pytest.FixtureRequest, *, restarts: bool = False) -> Iterator[Laboratory]:
    """Yield the laboratory that the fixture's parameter names, and close it."""
    scheme: str = request.param
    entry = LABORATORIES[scheme]
    if (guarantee := entry.other_guarantees.get(request.function.__name__)) is not None:
        pytest.skip(f"{scheme}: {guarantee}")
    maker: Maker = pkgutil.resolve_name(entry.maker)
    laboratory = maker(scheme, request, restarts=restarts)
    yield laboratory
    laboratory.close()


def require_features(driver: messaging.Driver, *features: str) -> None:
    """Skip the test unless the driver has all of `features`.

    Parameters:
        features: names of :class:`hbshim.messaging.Capabilities`.
    """
    missing = [name for name in features if not getattr(driver.capabilities, name)]
    if missing:
        pytest.skip(f"this driver lacks: {', '.join(missing)}")
