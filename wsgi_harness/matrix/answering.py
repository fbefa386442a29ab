"""The services that answer the CALLs of the cells with oslo.messaging."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsgi_harness.cell.answers import SERVING
from wsgi_harness.errors import NotReadyError, StackError
from wsgi_harness.matrix.brokers import ROUTER, broker_of
from wsgi_harness.matrix.scenarios import OSLO_PATHS, REMOVED, Scenario
from wsgi_harness.stack.broker import wait_until
from wsgi_harness.stack.stack import BROKER, CellService

#: By the peer that the cells and the service connect to.
ANSWERS = {BROKER: "answers", ROUTER: "answers-router"}
_READY_LIMIT = 90.0
_PYTHON = "/opt/venv/bin/python"


def services(scenarios: Sequence[Scenario]) -> list[CellService]:
    """Return the services, as further containers of the stack; they bypass the relays."""
    served: dict[tuple[str, str], dict[str, None]] = {}
    for each in scenarios:
        peer = broker_of(each)
        if each.deployment.oslo and peer in ANSWERS:
            # The removed driver is in no other version; the rest are answered by the latest one.
            former = each.deployment.oslo if each.library == REMOVED else ""
            served.setdefault((peer, former), {})[each.library] = None
    program = (_PYTHON, "-W", "ignore", "-m", "wsgi_harness.cell.answers")
    return [
        CellService(
            f"{ANSWERS[peer]}-former" if former else ANSWERS[peer],
            {
                "PYTHONPATH": OSLO_PATHS[former] if former else "",
                # A router has no accounts.
                **({"AMQP_URL": ""} if peer == ROUTER else {}),
            },
            entrypoint=(*program, f"{peer}:5672", *schemes),
        )
        for (peer, former), schemes in served.items()
    ]


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
