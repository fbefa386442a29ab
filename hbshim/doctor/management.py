"""Asks RabbitMQ's management API."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import Any
from urllib.parse import quote

from hbshim.doctor.context import Queues
from hbshim.doctor.deadline import Deadline, cutting_off
from hbshim.doctor.target import Target
from hbshim.errors import BrokerError

#: The most queues to read; listing very many is expensive for the broker.
PAGE = 500
BYTES_AT_MOST = 4 << 20

_REMEDY = "see that --management names RabbitMQ's management API (http://host:15672)"


def list_queues(target: Target, tls: ssl.SSLContext | None, deadline: Deadline) -> Queues:
    """Return the queues of the target's virtual host.

    Parameters:
        target: the management API.
        tls: the TLS context; None for plain HTTP.
        deadline: the time limit.

    Raises:
        BrokerError: the API cannot be reached, refuses access, or sends an invalid answer.
    """
    version = _ask_for_object(target, tls, deadline, "overview").get("rabbitmq_version")
    listed = _ask_for_object(
        target,
        tls,
        deadline,
        f"queues/{quote(target.vhost, safe='')}?page=1&page_size={PAGE}&disable_stats=true"
        "&enable_queue_totals=true",
    )
    queues = listed.get("items")
    if not isinstance(queues, list) or not all(isinstance(queue, dict) for queue in queues):
        raise _failed(target, "it answers, but not with a list of queues", _REMEDY)
    transient = [
        target.clean(queue.get("name"))
        for queue in queues
        if queue.get("durable") is False and queue.get("exclusive") is False
    ]
    total = listed.get("filtered_count")
    return Queues(
        seen=len(queues),
        total=total if isinstance(total, int) else len(queues),
        transient=tuple(sorted(transient)),
        version=target.clean(version),
    )


def _ask_for_object(
    target: Target, tls: ssl.SSLContext | None, deadline: Deadline, path: str
) -> dict[str, Any]:
    answer = ask(target, tls, deadline, path)
    if not isinstance(answer, dict):
        raise _failed(target, "it answers, but not as RabbitMQ does", _REMEDY)
    return answer


def ask(target: Target, tls: ssl.SSLContext | None, deadline: Deadline, path: str) -> Any:
    """Return what ``GET /api/PATH`` gives.

    Parameters:
        target, tls, deadline: as for :func:`list_queues`.
        path: without ``/api/``, escaped.

    Raises:
        BrokerError: as for :func:`list_queues`.
    """
    if tls is None:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=deadline.left)
    else:
        connection = http.client.HTTPSConnection(
            target.host, target.port, timeout=deadline.left, context=tls
        )
    login = base64.b64encode(f"{target.user}:{target.password}".encode()).decode()

    def cut() -> None:
        sock = connection.sock
        if sock is not None:
            try:
                sock.shutdown(2)
            except OSError:
                return

    with cutting_off(deadline, cut):
        try:
            connection.request("GET", f"/api/{path}", headers={"Authorization": f"Basic {login}"})
            response = connection.getresponse()
            body = response.read(BYTES_AT_MOST)
            answer = json.loads(body) if response.status == http.client.OK else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not deadline.left or isinstance(error, TimeoutError):
                raise _failed(target, "no answer in time", _REMEDY) from None
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise _failed(target, str(reason), _REMEDY) from None
        finally:
            connection.close()
    if response.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise _failed(
            target,
            f"it refuses user {target.clean(target.user)!r}",
            "give a login in the --management URL that has the tag monitoring or management",
        )
    if response.status != http.client.OK:
        raise _failed(target, f"it answers with status {response.status}", _REMEDY)
    return answer


def _failed(target: Target, sentence: str, remedy: str) -> BrokerError:
    return BrokerError(f"cannot ask {target.name} for its queues: {target.clean(sentence)}", remedy)
