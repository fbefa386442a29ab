"""Tries to log in at the port for routers without a certificate: by PLAIN, and by no login.

python intruding_router.py HOST PORT
"""

from __future__ import annotations

import socket
import ssl
import sys
import time

from hbshim.amqp1.connection import Connection
from hbshim.amqp1.events import Closed, LoginRefused, Opened
from hbshim.amqp1.mechanisms import Anonymous, Mechanism, Plain
from hbshim.amqp1.sasl import SaslClient

LIMIT = 15.0


def ends(host: str, port: int, mechanism: Mechanism | None) -> str:
    context = ssl.create_default_context(cafile="/etc/compute/messaging-ca.pem")
    sasl = None if mechanism is None else SaslClient([mechanism], host)
    connection = Connection("intruder", hostname=host, sasl=sasl)
    deadline = time.monotonic() + LIMIT
    with context.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as sock:
        sock.settimeout(LIMIT)
        while time.monotonic() < deadline:
            sock.sendall(connection.data_to_send(time.monotonic()))
            data = sock.recv(65536)
            for event in connection.receive_data(data, time.monotonic()):
                if isinstance(event, Opened):
                    sys.exit(f"{mechanism} was accepted")
                if isinstance(event, (LoginRefused, Closed)):
                    return str(event)
            if not data:
                return "closed"
    sys.exit(f"no answer within {LIMIT} s")


def main(host: str, port: str) -> None:
    for mechanism in (Plain("compute@AMQP", "guess"), Anonymous(), None):
        try:
            print(mechanism, ends(host, int(port), mechanism))
        except OSError as error:
            print(mechanism, error)


if __name__ == "__main__":
    main(*sys.argv[1:])
