"""The service that answers the CALLs of the cells with oslo.messaging."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsgi_harness.cell.answers import SERVING
from wsgi_harness.errors import NotReadyError, StackError
from wsgi_harness.stack.broker import wait_until
from wsgi_harness.stack.stack import BROKER, CellService

ANSWERS = "answers"
_READY_LIMIT = 90.0


def service(schemes: Sequence[str]) -> CellService:
    """Return the service, as one more container of the stack; its connections bypass the relay."""
    program = ("/opt/venv/bin/python", "-W", "ignore", "-m", "wsgi_harness.cell.answers")
    return CellService(ANSWERS, entrypoint=(*program, f"{BROKER}:5672", *schemes))


def wait_for(lines: Callable[[], Sequence[str]]) -> None:
    """Return when it serves.

    Parameters:
        lines: returns what it has written so far.

    Raises:
        StackError: it does not in time.
    """

    def check() -> None:
        if SERVING not in lines():
            raise NotReadyError("the server of the cells with oslo.messaging does not serve")

    try:
        wait_until(check, _READY_LIMIT)
    except NotReadyError as error:
        raise StackError("\n".join([f"{error}; the end of its log:", *lines()[-15:]])) from error
