"""The driver over a router: what the contract of all drivers does not say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbshim import messaging
from hbshim.errors import UnroutableError, UnsupportedError
from hbshim.messaging.amqp1.driver import Amqp1Driver
from tests.messaging.conftest import LIMIT
from tests.messaging.endpoints import Endpoint

Drivers = Callable[..., messaging.Driver]
Serve = Callable[..., messaging.Server]


# -- what the peer is --------------------------------------------------------------------


def test_the_peer_says_that_it_is_a_router(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    driver = router_drivers()
    assert isinstance(driver, Amqp1Driver)
    assert driver.capabilities.pools
    serve(driver, target, Endpoint())
    assert messaging.Client(driver, target, timeout=LIMIT).call("echo", value=1) == 1
    assert driver.capabilities == messaging.Capabilities(mandatory=True)


def test_virtual_hosts_are_different_addresses(
    router_drivers: Drivers, target: messaging.Target, serve: Serve
) -> None:
    one, two = router_drivers("one"), router_drivers("two")
    serve(one, target, Endpoint())
    assert messaging.Client(one, target, timeout=LIMIT).call("echo", value=1) == 1
    with pytest.raises(UnroutableError, match="no server"):
        messaging.Client(two, target, timeout=LIMIT, mandatory=True).call("echo", value=1)


# -- notifications -------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["auto", "router"])
def test_notifications_need_the_opt_in(
    profile: str, router_drivers: Drivers, target: messaging.Target
) -> None:
    driver = router_drivers(addressing_profile=profile)
    with pytest.raises(UnsupportedError, match="direct_notifications=true"):
        messaging.Notifier(driver, target.topic, "here", timeout=LIMIT).info("event", 1)

    class Events:
        def info(self, notification: messaging.Notification) -> None:
            """Get none."""

    with pytest.raises(UnsupportedError, match="direct_notifications=true"):
        messaging.NotificationServer(driver, [target.topic], [Events()]).start(LIMIT)


def test_pools_need_a_broker(router_drivers: Drivers, target: messaging.Target) -> None:
    driver = router_drivers(addressing_profile="router", direct_notifications=True)
    with pytest.raises(UnsupportedError, match="pool='one'"):
        driver.listen_for_notifications([(target, "info")], pool="one")


def test_a_notification_without_a_listener(
    router_drivers: Drivers, target: messaging.Target
) -> None:
    driver = router_drivers(direct_notifications=True)
    with pytest.raises(UnroutableError, match=target.topic):
        messaging.Notifier(driver, target.topic, "here", timeout=0.5).info("event", 1)
