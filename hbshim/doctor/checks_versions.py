"""Checks of versions: Python and the libraries, versions known to fail and unknown ones."""

from __future__ import annotations

from hbshim.adapters.versions import is_within
from hbshim.doctor.context import Context
from hbshim.doctor.findings import Answer, Check

#: https://github.com/python/cpython/issues/137583, fixed in 3.13.7.
PYTHON_WITH_TLS_DEADLOCK = "3.13.6"

#: The first py-amqp whose frame writer holds a lock around its one buffer
#: (https://github.com/celery/py-amqp/issues/462; 5.3.1 and older have none).
AMQP_WITH_WRITE_LOCK = ">=5.4"

CLIENTS = ("amqp", "pika")


def _python(context: Context) -> Answer:
    python = context.runtime.interpreter.python
    if not context.pythons:
        return Answer("unknown", f"This is Python {python}; hbshim's metadata is not installed.")
    if python.rpartition(".")[0] in context.pythons:
        return Answer("ok", f"hbshim is tested with Python {python.rpartition('.')[0]}.")
    return Answer(
        "warning",
        f"hbshim is not tested with Python {python}, but with {context.pythons[0]} to "
        f"{context.pythons[-1]}.",
    )


def _python_tls(context: Context) -> Answer:
    python = context.runtime.interpreter.python
    if python != PYTHON_WITH_TLS_DEADLOCK:
        return Answer("not-applicable", f"This is Python {python}.")
    if not context.tls:
        return Answer(
            "warning", f"Python {python} deadlocks in TLS connections that two threads use."
        )
    return Answer(
        "problem",
        f"Python {python} deadlocks when one thread waits in a TLS connection and another sends "
        "on it, as a heartbeat does.",
    )


def _amqp_lock(context: Context) -> Answer:
    version = context.installed.get("amqp")
    if version is None:
        return Answer("not-applicable", "py-amqp is not installed.")
    if "amqp" not in context.clients and context.clients:
        return Answer("not-applicable", "The program does not use py-amqp.")
    if is_within(version, AMQP_WITH_WRITE_LOCK):
        return Answer("ok", f"py-amqp {version} locks its frame buffer.")
    return Answer(
        "warning",
        f"py-amqp {version} has no lock around its frame buffer: two threads or greenlets that "
        "publish on one connection at once send a corrupt frame, without an error.",
    )


def _libraries(context: Context) -> Answer:
    if not context.ranges:
        return Answer("unknown", "hbshim's own metadata is not installed, which has the ranges.")
    known = {name: context.installed[name] for name in context.ranges if name in context.installed}
    outside = [
        f"{name} {version} (supported: {context.ranges[name]})"
        for name, version in known.items()
        if not is_within(version, context.ranges[name])
    ]
    if outside:
        return Answer("problem", f"Outside the range that hbshim supports: {', '.join(outside)}.")
    if context.zmq is None and not any(client in known for client in CLIENTS):
        return Answer(
            "warning",
            "Neither py-amqp nor pika is installed here, so there is nothing to keep alive.",
            "Install one of them: pip install 'hbshim[kombu]' or 'hbshim[pika]'.",
        )
    if not known:
        return Answer("not-applicable", "None of these libraries is installed.")
    listed = ", ".join(f"{name} {version}" for name, version in known.items())
    return Answer("ok", f"hbshim supports {listed}.")


CHECKS = (
    Check(
        "python",
        "Whether hbshim is tested with this version of Python.",
        "A new Python may change what hbshim relies on.",
        "Use a version that hbshim is tested with, or a later hbshim.",
        _python,
    ),
    Check(
        "python-tls",
        "CPython 3.13.6 together with TLS.",
        "That release locks the TLS object while a thread waits in it: a heartbeat sent meanwhile "
        "waits for ever ([python/cpython#137583]"
        "(https://github.com/python/cpython/issues/137583)).",
        "Use Python 3.13.7 or later.",
        _python_tls,
    ),
    Check(
        "py-amqp-lock",
        "Whether this py-amqp, which kombu and Celery use, locks its frame buffer.",
        "Up to 5.3.1 two publishers on one connection overwrite each other's frame, and the "
        "broker closes the connection for a framing error "
        "([celery/py-amqp#462](https://github.com/celery/py-amqp/issues/462)).",
        "Upgrade: pip install 'amqp>=5.4'; or give each thread a connection of its own.",
        _amqp_lock,
    ),
    Check(
        "libraries",
        "Versions of the messaging and green libraries, loaded or installed.",
        "hbshim uses private parts of the client libraries, and refuses versions it does not know; "
        "eventlet and gevent below their minimum answer differently.",
        "Install a supported version of each: pip install --upgrade 'hbshim[kombu,pika]'.",
        _libraries,
    ),
)
