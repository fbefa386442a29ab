"""Connects as the file says that the role "service" has written."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

from hbshim import messaging

RPC, NOTIFICATIONS = "DEFAULT", "oslo_messaging_notifications"


def connect(path: str) -> Any:
    """Return a driver for both backends."""
    parser = configparser.RawConfigParser(delimiters=["="])
    parser.read_string(Path(path).read_text(encoding="utf-8"))
    rpc = parser.get(RPC, "transport_url")
    notifications = parser.get(NOTIFICATIONS, "transport_url")
    listen_also = [
        parser.get(section, "listen_also")
        for section in ("oslo_messaging_pika", "oslo_messaging_amqp")
        if parser.has_option(section, "listen_also")
    ]
    if notifications == rpc and not listen_also:
        return messaging.connect(rpc)
    return messaging.connect(rpc, notifications=notifications, listen_also=tuple(listen_also))
