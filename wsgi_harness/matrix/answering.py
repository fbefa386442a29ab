"""The services that answer the CALLs of the cells with oslo.messaging."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsgi_harness.cell.answers import SERVING
from wsgi_harness.errors import NotReadyError, StackError
from wsgi_harness.matrix.brokers import ROUTER, broker_of
from wsgi_harness.matrix.scenarios import OSLO_PATHS, Scenario
from wsgi_harness.stack.broker import wait_until
from wsgi_harness.stack.stack import BROKER, CellService

#: By the peer that the cells and the service connect to.
ANSWERS = {BROKER: "answers", ROUTER: "answers-router"}
_READY_LIMIT = 90.0
_PYTHON = "/opt/venv/bin/python"


def services(scenarios: Sequence[Scenario]) -> list[CellService]:
    """Return the services, as further containers of the stack; they bypass the relays."""
    found = []
    for peer, name in ANSWERS.items():
        served = [each for each in scenarios if each.deployment.oslo and broker_of(each) == peer]
        if served:
            schemes = dict.fromkeys(each.library for each in served)
            # The driver over AMQP 1.0 is in no other version.
            path = OSLO_PATHS[served[0].deployment.oslo] if peer == ROUTER else ""
            program = (_PYTHON, "-W", "ignore", "-m", "wsgi_harness.cell.answers")
            found.append(
                CellService(
                    name,
                    {"PYTHONPATH": path},
                    entrypoint=(*program, f"{peer}:5672", *schemes),
                )
            )
    return found


def wait_for(what: str, lines: Callable[[], Sequence[str]]) -> None:
    """Return when it serves.

    Parameters:
        what: the service, for the error.
        lines: returns what it has written so far.

    Raises:
        StackError: it does not in time.
    """

    def check() -> None:
        if SERVING not in lines():
            raise NotReadyError(f"the service {what!r} of the cells does not serve")

    try:
        wait_until(check, _READY_LIMIT)
    except NotReadyError as error:
        raise StackError("\n".join([f"{error}; the end of its log:", *lines()[-15:]])) from error
