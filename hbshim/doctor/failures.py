"""Explains in one sentence why a broker could not be reached, and names the remedy.

py-amqp raises the original error; pika wraps it several times. Everything that an error holds is
therefore searched for the most specific cause.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hbshim.doctor.target import Target
from hbshim.errors import BrokerError

#: AMQP 0-9-1 reply codes of a refused login, and of a virtual host without access.
ACCESS_REFUSED = 403
NOT_ALLOWED = 530

#: X.509 verification errors (openssl's x509_vfy.h) more specific than "unknown authority".
_EXPIRED = {9, 10}
_HOSTNAME = {62, 64}

#: pika's and py-amqp's own types for these; by name, because neither library may be installed.
_LOGIN_REFUSED = {"AuthenticationError", "ProbableAuthenticationError", "AccessRefused"}
_VHOST_REFUSED = {"ProbableAccessDeniedError"}
_TIMED_OUT = {"AMQPConnectorStackTimeout"}
_NOT_REACHED = {"AMQPConnectorSocketConnectError"}
DEPTH = 8

#: How pika quotes the broker's reply text in an error of its own.
_QUOTED = re.compile(r"ConnectionClosedByBroker: \((\d{3})\) (.*)", re.DOTALL)


@dataclass(frozen=True)
class Failure:
    """A failed attempt to connect.

    Attributes:
        elsewhere: another address of the same name may succeed.
        spoken: the peer sent something that the library did not understand, or closed.
    """

    sentence: str
    remedy: str
    elsewhere: bool = False
    spoken: bool = False

    def error(self, target: Target) -> BrokerError:
        """Return the error to raise."""
        return BrokerError(f"cannot connect to {target.name}: {self.sentence}", self.remedy)


def explain(
    error: BaseException, target: Target, limit: float, late: bool, reached: bool | None
) -> Failure:
    """Return the meaning of `error`, which a client library raised while connecting.

    Parameters:
        error: the error.
        target: the broker.
        limit: the time limit of the attempt, in seconds.
        late: the time limit was exceeded.
        reached: the peer had accepted the TCP connection; None: as the error shows.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, target)
    # Errors of the socket after it was cut off are the doctor's own doing.
    if late or any(isinstance(it, TimeoutError) or _named(it, _TIMED_OUT) for it in causes):
        if reached is False or any(_named(it, _NOT_REACHED) for it in causes):
            return Failure(
                f"no answer within {limit:.3g} s",
                "correct host and port in the URL, or see to a firewall in between",
                elsewhere=True,
            )
        return Failure(
            f"it accepts connections, but no AMQP handshake was complete within {limit:.3g} s",
            "see that host and port are a broker's, that it is not overloaded, and that no "
            "proxy is in the way; or give more --timeout",
        )
    # A code first: pika reports any end of a login as a probable refusal.
    for run in (_by_code, _by_name, _by_socket):
        for cause in causes:
            found = run(cause, target)
            if found is not None:
                return found
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _tls(cause, target)
    kind = type(causes[-1]).__name__
    return Failure(
        f"it hung up, or spoke no AMQP 0-9-1 ({kind})",
        "see that host and port are a broker's (usually 5672, TLS 5671; 15672 is HTTP), and "
        "check its log",
        spoken=True,
    )


def unreachable(error: OSError, target: Target, limit: float) -> Failure:
    """Return the meaning of `error`, which was raised while the host's name was resolved."""
    if isinstance(error, TimeoutError):
        return Failure(
            f"the name {target.host} was not resolved within {limit:.3g} s",
            "see that the name servers of this machine answer",
        )
    return Failure(
        f"the name {target.host} cannot be resolved ({target.clean(error.strerror)})",
        "correct the host in the URL, or this machine's name resolution",
    )


def _causes(error: BaseException, depth: int = DEPTH) -> Iterator[BaseException]:
    yield error
    if not depth:
        return
    inner: list[Any] = [getattr(error, "exception", None), error.__cause__]
    inner += [*(getattr(error, "exceptions", None) or ()), *error.args]
    for each in inner:
        if isinstance(each, BaseException) and each is not error:
            yield from _causes(each, depth - 1)


def _named(error: BaseException, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _certificate(error: ssl.SSLCertVerificationError, target: Target) -> Failure:
    reason = target.clean(error.verify_message)
    if error.verify_code in _HOSTNAME:
        return Failure(
            f"its certificate is for another name ({reason})",
            "use a host name that the certificate names",
        )
    if error.verify_code in _EXPIRED:
        return Failure(
            f"its certificate is not valid today ({reason})",
            "renew the broker's certificate, or set this machine's clock",
        )
    return Failure(
        f"its certificate comes from an authority not trusted here ({reason})",
        "name that authority's PEM file with --ca FILE",
    )


def _tls(error: ssl.SSLError, target: Target) -> Failure:
    reason = target.clean(error.reason or type(error).__name__)
    return Failure(
        f"it does not speak TLS as expected ({reason})",
        "use the port of the broker's TLS listener (usually 5671), or amqp:// for one without",
    )


def _by_code(error: BaseException, target: Target) -> Failure | None:
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
    if quoted := _QUOTED.match(str(error.args[0] if error.args else "")):
        code, text = int(quoted[1]), quoted[2]
    if not isinstance(code, int) or not code:
        return None
    text = target.clean(text or "")
    if code == ACCESS_REFUSED:
        return _login_refused(target)
    if code == NOT_ALLOWED:
        return _vhost_refused(target, f" ({text})")
    return Failure(
        f"the broker closed the connection with {code} ({text})", "check the broker's log"
    )


def _by_name(error: BaseException, target: Target) -> Failure | None:
    if _named(error, _LOGIN_REFUSED):
        return _login_refused(target)
    return _vhost_refused(target, "") if _named(error, _VHOST_REFUSED) else None


def _login_refused(target: Target) -> Failure:
    return Failure(
        f"the broker refuses the login of user {target.clean(target.user)!r}",
        "correct user and password in the URL (percent-encoded); 'guest' may log in from "
        "the broker's own machine only",
    )


def _vhost_refused(target: Target, reason: str) -> Failure:
    return Failure(
        f"the broker refuses virtual host {target.clean(target.vhost)!r}{reason}",
        "correct the virtual host at the end of the URL (/ is written %2F), or give the "
        "user permissions on it",
    )


def _by_socket(error: BaseException, _target: Target) -> Failure | None:
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return None
    known = _SOCKET_ERRORS.get(error.errno or 0)
    return None if known is None else Failure(*known, elsewhere=True)


_SOCKET_ERRORS: dict[int, tuple[str, str]] = {
    errno.ECONNREFUSED: (
        "nothing listens there",
        "start the broker, or correct host and port in the URL",
    ),
    errno.EHOSTUNREACH: ("no route to that host", "see to the network between here and there"),
    errno.ENETUNREACH: ("no route to its network", "see to the network between here and there"),
    errno.EADDRNOTAVAIL: ("no such address", "correct the host in the URL"),
    errno.EACCES: ("this machine forbids the connection", "see to its firewall rules"),
    errno.EPERM: ("this machine forbids the connection", "see to its firewall rules"),
}
