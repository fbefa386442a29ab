"""Where frames end, in what arrives in any pieces."""

from __future__ import annotations

import random

from hbshim.amqp1.frames import AMQP_HEADER, EMPTY_FRAME, SASL_HEADER, encode_frame
from hbshim.messaging.amqp1.transport import Boundaries


def test_a_boundary_is_found_however_the_bytes_arrive() -> None:
    chance = random.Random(7)
    for _ in range(200):
        frames = [
            SASL_HEADER,
            *(encode_frame(bytes(chance.randrange(40))) for _ in range(5)),
            AMQP_HEADER,
            *(chance.choice((EMPTY_FRAME, encode_frame(b"x" * 3000))) for _ in range(5)),
        ]
        ends, stream = {0}, b""
        for frame in frames:
            stream += frame
            ends.add(len(stream))
        boundaries, position = Boundaries(), 0
        while position < len(stream):
            piece = stream[position : position + chance.choice((1, 3, 7, 8, 9, 200, 4000))]
            assert boundaries.split(piece) == [piece]
            position += len(piece)
            missing = min(end for end in ends if end >= position) - position
            assert (boundaries.missing == 0) == (missing == 0)
            assert boundaries.missing <= missing
