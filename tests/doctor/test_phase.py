"""``hbshim doctor --phase``: the gates of a migration, on a real RabbitMQ and a router."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from hbshim import messaging
from hbshim.doctor.deadline import Deadline
from hbshim.doctor.phase_gate import evaluate
from hbshim.doctor.phase_rabbitmq import _topics, rpc_exchanges
from hbshim.doctor.phase_router import (
    RouterSnapshot,
    senders_between,
    take_router_snapshot,
    topic_of,
)
from hbshim.messaging.amqp1.options import Amqp1Options
from tests.messaging.amqp1.routers import HOST, Router, running
from tests.messaging.conftest import LIMIT, unique
from tests.messaging.endpoints import Endpoint
from tests.waiting import wait_until
from wsgi_harness.stack.broker import Broker

NOVA, DEFAULT_VHOST = "nova", "/"


@pytest.mark.parametrize(
    ("name", "vhost", "topic"),
    [
        ("Mopenstack.org/om/rpc/anycast/openstack_rpc/compute", DEFAULT_VHOST, "compute"),
        ("M0openstack.org/om/rpc/anycast/nova/openstack_rpc/compute", NOVA, "compute"),
        ("Mopenstack.org/om/rpc/unicast/nova/openstack_rpc/compute/host-1", NOVA, "compute"),
        ("Mopenstack.org/om/rpc/unicast/openstack_rpc/compute/host-1", DEFAULT_VHOST, "compute"),
        ("Mopenstack.org/om/rpc/multicast/nova/openstack_rpc/a%2Fb", NOVA, "a/b"),
        ("Mopenstack.org/om/rpc/anycast/%2Fnova/openstack_rpc/compute", "/nova", "compute"),
        # Of another virtual host.
        ("Mopenstack.org/om/rpc/anycast/glance/openstack_rpc/compute", NOVA, None),
        ("Mopenstack.org/om/rpc/anycast/nova/openstack_rpc/compute", DEFAULT_VHOST, None),
        ("Mopenstack.org/om/rpc/anycast/openstack_rpc/compute", NOVA, None),
        # For replies, also to a client of a topic with that name.
        ("Mopenstack.org/om/rpc/unicast/nova/reply/0a1b", NOVA, None),
        ("Mopenstack.org/om/rpc/unicast/reply/0a1b", DEFAULT_VHOST, None),
        ("Mopenstack.org/om/rpc/anycast/nova/openstack_rpc/reply", NOVA, "reply"),
        ("Mopenstack.org/om/notify/anycast/nova/openstack/info", NOVA, None),
        ("M$management", NOVA, None),
        ("temp.0a1b", NOVA, None),
    ],
)
def test_topics_of_addresses(name: str, vhost: str, topic: str | None) -> None:
    assert topic_of(name, Amqp1Options(), vhost) == topic


def test_servers_are_counted_at_the_address_of_any_of_them() -> None:
    base = "Mopenstack.org/om/rpc"
    options = Amqp1Options(rpc_address_prefix="here", anycast_address="any", pseudo_vhost=False)
    assert topic_of("Mhere/any/openstack_rpc/compute", options, NOVA, any_server=True) == "compute"
    assert topic_of("Mhere/multicast/openstack_rpc/compute", options, NOVA, any_server=True) is None
    assert topic_of(f"{base}/anycast/openstack_rpc/compute", options, NOVA) is None


@pytest.mark.parametrize(
    ("before", "after", "senders"),
    [
        ({1: 5}, {1: 5}, ()),
        ({1: 5}, {1: 6}, ("compute",)),
        # A link ends while another one gets messages: their sum falls.
        ({1: 1000, 2: 5}, {2: 6}, ("compute",)),
        ({1: 1000, 2: 5}, {2: 5}, ()),
        ({}, {3: 1}, ("compute",)),
        ({}, {3: 0}, ()),
        # The router has started again.
        ({1: 1000}, {1: 2}, ("compute",)),
    ],
)
def test_who_sends_is_seen_at_each_link(
    before: dict[int, int], after: dict[int, int], senders: tuple[str, ...]
) -> None:
    first, second = (
        RouterSnapshot(
            delivered={("r1:5671", str(link)): ("compute", count) for link, count in each.items()}
        )
        for each in (before, after)
    )
    assert senders_between(first, second) == senders


def test_rpc_at_rabbitmq_is_what_has_fanouts_beside_it() -> None:
    exchanges = {"", "amq.direct", "nova_rpc", "nova_rpc_fanout", "nova", "compute_fanout"}
    assert rpc_exchanges(exchanges) == {"nova_rpc", "nova_rpc_fanout", "compute_fanout"}
    bindings = [
        {"source": source, "routing_key": key, "destination": queue}
        for source, key, queue in [
            ("nova_rpc", "com%2Epute", "nova_rpc.com%2Epute"),
            ("nova_rpc", "compute.host-1", "nova_rpc.compute.host-1"),
            ("nova_rpc_fanout", "compute", "nova_rpc_fanout.compute.1"),
            # Those of rabbit://.
            ("nova", "compute", "compute"),
            ("nova", "compute.host-1", "compute.host-1"),
            ("nova", "notifications.info", "notifications.info"),
            ("", "compute", "compute"),
        ]
    ]
    assert _topics(exchanges, bindings) == {
        "nova_rpc.com%2Epute": "com.pute",
        "nova_rpc.compute.host-1": "",
        "nova_rpc_fanout.compute.1": "",
        "compute": "compute",
        "compute.host-1": "",
    }


@pytest.fixture
def router() -> Iterator[Router]:
    yield from running()


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hbshim", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_lags_behind_is_named(broker: Broker, vhost: str, router: Router) -> None:
    rabbitmq = broker.amqp_url(vhost=vhost).replace("amqp://", "hbpika://")
    over_router = f"hbamqp://{HOST}:{router.port}/{vhost}?login_method=ANONYMOUS"
    login = f"{quote(broker.user)}:{quote(broker.password)}@"
    management = broker.management_url.replace("://", f"://{login}")
    topic = messaging.Target(unique("topic"))

    def lagging() -> str:
        """The finding of the gate out of `dual` about the topic."""
        found = evaluate(
            "dual", "forward", router=over_router, rabbitmq=rabbitmq, management=management
        )
        return " ".join(found.missing["servers-at-router"])

    def wait_for(text: str) -> None:
        # The management API is a second behind.
        wait_until(lambda: text in lagging(), LIMIT)

    driver = messaging.connect(rabbitmq)
    both = messaging.connect(rabbitmq, listen_also=[over_router])
    # A server of the same topic in another virtual host is none of this one.
    elsewhere = messaging.connect(over_router.replace(f"/{vhost}?", "/elsewhere?"))
    foreign = messaging.Server(elsewhere, topic.to(server="foreign"), [Endpoint()])
    old = messaging.Server(driver, topic.to(server="old"), [Endpoint()])
    new = messaging.Server(both, topic.to(server="new"), [Endpoint()])
    try:
        assert foreign.start(LIMIT)
        assert old.start(LIMIT)
        wait_for(f"topic {topic.topic}: 0 of 1 servers")
        assert new.start(LIMIT)
        wait_for(f"topic {topic.topic}: 1 of 2 servers")
        done = doctor(
            *("--url", over_router, "--notifications", rabbitmq, "--management", management),
            *("--phase", "dual"),
        )
        assert done.returncode == 1
        assert f"topic {topic.topic}: 1 of 2 servers" in done.stdout
        assert "dual: may not enter yet cutover" in done.stdout
        assert broker.password not in done.stdout + done.stderr
        assert old.stop(LIMIT)
        wait_until(lambda: not lagging(), LIMIT)
        back = evaluate(
            "draining", "back", router=over_router, rabbitmq=rabbitmq, management=management
        )
        assert back.is_open
        known = evaluate(
            "rabbitmq", "forward", router=over_router, rabbitmq=rabbitmq, management=management
        )
        assert known.is_open
    finally:
        for each in (old, new, foreign):
            each.stop(LIMIT)
        for each_driver in (driver, both, elsewhere):
            each_driver.close()


SECRET = "pa55word-of-nova"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--phase", "dual"], "needs --url (the router), --notifications (RabbitMQ) and --man"),
        (["--phase", "hybrid"], "needs --url"),
        (["--phase", "half"], "'half' is not one of"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], wanted: str) -> None:
    done = doctor(*arguments)
    assert done.returncode == 2
    assert wanted in done.stderr


@pytest.mark.parametrize(
    ("url", "phase", "wanted"),
    [
        (f"hbamqp://n:{SECRET}@127.0.0.1:1/", "hybrid", "hybrid is the last phase"),
        (f"hbpika://n:{SECRET}@127.0.0.1:1/", "dual", "give --url hbamqp:// or hbamqps://"),
        (f"hbamqp://n:{SECRET}@127.0.0.1:1/", "dual", "cannot ask 127.0.0.1:1"),
        (f"hbamqp://n:{SECRET}/@127.0.0.1:1/", "dual", "cannot ask 127.0.0.1:1"),
    ],
)
def test_bad_input_ends_with_2_and_shows_no_password(url: str, phase: str, wanted: str) -> None:
    done = doctor(
        *("--phase", phase, "--url", url, "--timeout", "5"),
        *("--notifications", f"hbpika://n:{SECRET}@127.0.0.1:1/"),
        *("--management", f"http://n:{SECRET}@127.0.0.1:1"),
    )
    assert done.returncode == 2
    assert wanted in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_router_that_does_not_answer_is_a_problem_with_its_name(router: Router) -> None:
    url = f"hbamqp://{HOST}:{router.port},{HOST}:1/?login_method=ANONYMOUS"
    found = take_router_snapshot(url, "/", Deadline(LIMIT))
    (problem,) = found.problems
    assert f"{HOST}:1" in problem
