"""A directory in a Redis that speaks TLS alone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from hbshim import messaging
from hbshim.errors import CallTimeoutError
from hbshim.heartbeat.service import current
from hbshim.messaging import Client, Server, Target
from tests.messaging.endpoints import Endpoint
from tests.messaging.zmq.nodes import LIMIT, Node
from tests.messaging.zmq.redis_server import Container
from tests.waiting import wait_until

TARGET = Target("compute")

PASSWORD = "only-for-this-test"
PORT = 6390

#: Asks from within the container, before it is said whether this process can reach it.
PING = f"redis-cli --no-auth-warning -a {PASSWORD} --tls --cacert /tmp/ca.pem"


@dataclass
class Secured:
    """A Redis that speaks TLS and asks for a password.

    Attributes:
        place: its host and port.
        cafile: of the authority that its certificate is from.
    """

    place: str
    cafile: Path

    def url(self, cafile: Path | None = None, scheme: str = "rediss") -> str:
        query = f"?cafile={cafile or self.cafile}" if scheme == "rediss" else ""
        return f"{scheme}://:{PASSWORD}@{self.place}/0{query}"


@pytest.fixture
def secured(redis_container: Container, tmp_path: Path) -> Iterator[Secured]:
    # The published port is another test's.
    host = redis_container.address()
    authority = trustme.CA()
    certificate = authority.issue_cert(host)
    for name, text in (
        ("ca", authority.cert_pem.bytes()),
        ("key", certificate.private_key_pem.bytes()),
        ("cert", certificate.cert_chain_pems[0].bytes()),
    ):
        write = f"printf '%s' \"$1\" > /tmp/{name}.pem"
        redis_container.run("sh", "-c", write, "sh", text.decode())
    files = ["--tls-cert-file", "/tmp/cert.pem", "--tls-key-file", "/tmp/key.pem"]
    files += ["--tls-ca-cert-file", "/tmp/ca.pem"]
    redis_container.run(
        *("redis-server", "--port", "0", "--tls-port", str(PORT), "--tls-auth-clients", "no"),
        *("--requirepass", PASSWORD, "--save", "", "--daemonize", "yes", *files),
        *("--pidfile", "/tmp/tls.pid"),
    )
    redis_container.run("sh", "-c", f"until {PING} -h {host} -p {PORT} ping; do sleep 0.05; done")
    try:
        socket.create_connection((host, PORT), 5).close()
    except OSError:
        pytest.skip("this engine's containers cannot be reached at their own address")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    yield Secured(f"{host}:{PORT}", tmp_path / "ca.pem")
    redis_container.run("sh", "-c", "kill -9 $(cat /tmp/tls.pid)")


def test_hosts_are_found_over_tls(
    secured: Secured, nodes: Callable[[], Node], serve: Callable[..., Server], endpoint: Endpoint
) -> None:
    node = nodes()
    # As an operator does: a command line is shown to every user of the machine.
    node.start("--host", "one", environment={"HBSHIM_ZMQ_FANOUT_DS_ADDRESS": secured.url()})
    serve(node.driver(), TARGET, endpoint)
    driver = messaging.connect("hbzmq://", fanout_ds_address=secured.url())
    try:
        assert Client(driver, TARGET, timeout=LIMIT).call("echo", value=1) == 1
    finally:
        driver.close()


@pytest.mark.parametrize("how", ["foreign authority", "no TLS"])
def test_what_does_not_fit_is_reported_without_the_password(
    secured: Secured, tmp_path: Path, how: str
) -> None:
    foreign = tmp_path / "foreign.pem"
    trustme.CA().cert_pem.write_to_path(str(foreign))
    url = secured.url(foreign) if how == "foreign authority" else secured.url(scheme="redis")
    driver = messaging.connect("hbzmq://", fanout_ds_address=url)
    try:
        with pytest.raises(CallTimeoutError, match="the directory cannot be reached") as caught:
            Client(driver, TARGET, timeout=0.5).call("echo", value=1)

        def details() -> list[str]:
            events = current().metrics.recorded()
            return [each.detail for each in events if each.link.endswith(f"{secured.place}/0")]

        wait_until(details, LIMIT)
        reason = "certificate verify failed" if how == "foreign authority" else "connection"
        assert any(reason in each.lower() for each in details()), details()
        assert PASSWORD not in f"{caught.value} {details()}"
    finally:
        driver.close()
