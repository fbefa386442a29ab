"""The named deployments, and settings that contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from hbshim.errors import OptionError

#: Which backend has RPC and which has notifications: see docs/hybrid.md.
Deployment: TypeAlias = Literal["rabbitmq", "router", "hybrid"]

DEPLOYMENTS: tuple[str, ...] = get_args(Deployment)

#: The schemes whose peer may be a router.
ROUTER_SCHEMES = ("hbamqp", "hbamqps")

#: The schemes over AMQP: the path is a virtual host, and they speak TLS.
AMQP_SCHEMES = (*ROUTER_SCHEMES, "hbkombu", "hbpika", "hbrabbit", "rabbit", "amqp")


@dataclass(frozen=True)
class Backend:
    """What two backends are compared by.

    Attributes:
        scheme: of its URL.
        virtual_host: that its URL names; "/" is the default.
        tls: whether connections use TLS.
        tls_options: see :meth:`hbshim.messaging.options.MessagingOptions.tls`.
        direct_notifications: notifications may go to a router, which stores none.
        profile: what its peer is by its options; "auto": this is known once it is connected. None:
            the scheme has no such option.
    """

    scheme: str
    virtual_host: str
    tls: bool
    tls_options: dict[str, Any]
    direct_notifications: bool = False
    profile: str | None = None

    @property
    def is_router(self) -> bool:
        """Whether it is a router by its options."""
        return self.profile == "router"

    @property
    def may_be_router(self) -> bool:
        """Whether its peer may be a router."""
        return self.scheme in ROUTER_SCHEMES and self.profile in ("auto", "router")

    @property
    def may_be_rabbitmq(self) -> bool:
        """Whether its peer may be RabbitMQ."""
        return self.speaks_amqp and self.profile in (None, "auto", "rabbitmq")

    @property
    def described(self) -> str:
        """Its scheme, and what its peer is by its options."""
        is_named = self.profile not in (None, "auto")
        return f"{self.scheme}://" + (
            f" with addressing_profile={self.profile}" if is_named else ""
        )

    @property
    def speaks_amqp(self) -> bool:
        """Whether it has virtual hosts and TLS."""
        return self.scheme in AMQP_SCHEMES


def check(
    rpc: Backend, notifications: Backend | None, deployment: Deployment | None = None
) -> None:
    """Refuse settings that contradict each other.

    Parameters:
        rpc: of calls, casts and fanouts.
        notifications: of its own; None: `rpc` has them.
        deployment: the one that the operator names, if any.

    Raises:
        OptionError: they do.
    """
    if deployment is not None:
        _check_deployment(rpc, notifications, deployment)
    storing = rpc if notifications is None else notifications
    if storing.is_router and not storing.direct_notifications:
        raise OptionError(
            "the notifications go to a router, which stores none: without a listener they would "
            "be lost; name a broker with notifications=, or set direct_notifications=true"
        )
    if notifications is not None and rpc.speaks_amqp and notifications.speaks_amqp:
        _check_pair(rpc, notifications)


def _check_deployment(rpc: Backend, notifications: Backend | None, deployment: Deployment) -> None:
    if deployment not in DEPLOYMENTS:
        raise OptionError(
            f"messaging_backend={deployment!r} is not valid; use one of {', '.join(DEPLOYMENTS)}"
        )
    if notifications is not None and deployment != "router" and not notifications.may_be_rabbitmq:
        raise OptionError(
            f"messaging_backend={deployment} has notifications over RabbitMQ, and notifications= "
            f"is {notifications.described}; use the URL of RabbitMQ"
        )
    if deployment == "rabbitmq":
        if not rpc.may_be_rabbitmq:
            raise OptionError(
                "messaging_backend=rabbitmq has RPC over RabbitMQ, and the URL for RPC is "
                f"{rpc.described}; use messaging_backend=hybrid, or another URL"
            )
        return
    if not rpc.may_be_router:
        raise OptionError(
            f"messaging_backend={deployment} has RPC over a router, and the URL for RPC is "
            f"{rpc.described}; use hbamqp:// or hbamqps:// with addressing_profile=router, or "
            "messaging_backend=rabbitmq"
        )
    if deployment == "hybrid":
        if notifications is None:
            raise OptionError(
                "messaging_backend=hybrid has notifications over RabbitMQ; name it with "
                "notifications=, or use messaging_backend=router"
            )
        return
    if notifications is not None:
        raise OptionError(
            "messaging_backend=router has no backend for notifications, and notifications= names "
            "one; use messaging_backend=hybrid, or leave it out"
        )
    if not rpc.direct_notifications:
        raise OptionError(
            "messaging_backend=router stores no notifications: without a listener they would be "
            "lost; set direct_notifications=true if that is acceptable, or use "
            "messaging_backend=hybrid"
        )


def _check_pair(rpc: Backend, notifications: Backend) -> None:
    if rpc.virtual_host != notifications.virtual_host:
        raise OptionError(
            f"the URL for RPC names virtual host {rpc.virtual_host!r} and the one for "
            f"notifications {notifications.virtual_host!r}; use one name for both"
        )
    if rpc.tls != notifications.tls:
        with_tls, without = ("RPC", "notifications") if rpc.tls else ("notifications", "RPC")
        raise OptionError(
            f"the URL for {with_tls} uses TLS and the one for {without} does not; "
            "set ssl=true in both, or in neither"
        )
    if not rpc.tls:
        return
    for key, default in (("verify", True), ("verify_hostname", True), ("version", "sslv23")):
        here, there = (each.tls_options.get(key, default) for each in (rpc, notifications))
        if here != there:
            raise OptionError(
                f"the URLs differ in {key} of TLS: {here} for RPC, {there} for notifications; "
                "use one value for both"
            )
