"""Connects by the file that the role "service" has written."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

from hbshim import messaging

RPC, NOTIFICATIONS = "DEFAULT", "oslo_messaging_notifications"


def urls(path: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the URLs of RPC, of notifications, and of what servers listen to, too."""
    parser = configparser.RawConfigParser(delimiters=["="])
    parser.read_string(Path(path).read_text(encoding="utf-8"))
    listen_also = tuple(
        parser.get(section, "listen_also")
        for section in ("oslo_messaging_pika", "oslo_messaging_amqp")
        if parser.has_option(section, "listen_also")
    )
    return (
        parser.get(RPC, "transport_url"),
        parser.get(NOTIFICATIONS, "transport_url"),
        listen_also,
    )


def connect(path: str) -> Any:
    """Return a driver for both backends."""
    rpc, notifications, listen_also = urls(path)
    if notifications == rpc and not listen_also:
        return messaging.connect(rpc)
    return messaging.connect(rpc, notifications=notifications, listen_also=listen_also)
