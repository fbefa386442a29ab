"""Proton decodes and encodes again: `value HEX` or `message HEX` in, HEX or an error out."""

from __future__ import annotations

import sys

from proton import Data, Message, ProtonException


def again(what: str, data: bytes) -> bytes:
    """What proton makes of it."""
    if what == "message":
        message = Message()
        message.decode(data)
        return bytes(message.encode())
    value = Data()
    if value.decode(data) != len(data):
        raise ProtonException("more than one value")
    return bytes(value.encode())


def main() -> None:
    for line in sys.stdin:
        what, _, data = line.strip().partition(" ")
        try:
            answer = again(what, bytes.fromhex(data)).hex()
        except ProtonException as error:
            answer = f"error {error}"
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
