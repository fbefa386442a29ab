"""The URL of a directory is taken apart, or refused without a word of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbshim.errors import OptionError
from hbshim.messaging.zmq.directory.address import SENTINEL_GROUP, read_address
from hbshim.messaging.zmq.directory.factory import open_directory
from hbshim.messaging.zmq.directory.settings import DirectorySettings


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("hbzmq://h", "redis://h:6379/0"),
        ("hbzmq+redis://u:s%40cret@h:1/2", "redis://h:1/2"),
        ("redis://[::1]:1?db=3", "redis://[::1]:1/3"),
        ("rediss://h?cafile=/ca", "rediss://h:6379/0"),
        ("sentinel://a,b:1", f"sentinel://a:26379,b:1/{SENTINEL_GROUP}"),
        ("hbzmq+sentinel://:s%40cret@a,:s%40cret@b/g?db=1", "sentinel://a:26379,b:26379/g"),
        ("file:///run/x", "/run/x"),
        ("memory://", "memory"),
    ],
)
def test_a_url_is_taken_apart(url: str, name: str) -> None:
    address = read_address(url)
    assert address.name == name
    assert address.password == ("s@cret" if "@" in url else None)
    assert "cret" not in repr(address)
    assert address.tls == ((("ssl_ca_certs", "/ca"),) if "cafile" in url else None)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "amqp://:secret@h",
        "redis://:secret@h:70000",
        "redis://:secret@h:0",
        "redis://:secret@a,b",
        "redis://:secret@h/name",
        "sentinel://:secret@a,:other-secret@b/g",
        "redis://:sec/ret@h",
        "file://elsewhere/secret",
        "file:secret",
        "redis://:secret@h\n",
    ],
)
def test_another_one_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(OptionError) as refused:
        read_address(url)
    assert "secret" not in str(refused.value)
    assert "redis://:password@host:6379/0" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", "MemoryDirectory"),
        ("hbzmq+file://{path}/directory", "LocalDirectory"),
        ("file://{path}/hosts.json", "StaticDirectory"),
        ("redis://127.0.0.1:1", "RedisDirectory"),
    ],
)
def test_the_address_chooses_the_directory(url: str, kind: str, tmp_path: Path) -> None:
    directory = open_directory(read_address(url.format(path=tmp_path)), DirectorySettings())
    assert type(directory).__name__ == kind
    directory.close()
