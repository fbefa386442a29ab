"""Which threads run the methods of an object."""

from __future__ import annotations

import gc
import sys
from types import FrameType


def threads_of(*owners: object) -> set[int]:
    """Identities of the threads that run a method of one of these objects."""
    found = set()
    # A collection here would let the threads go on whose frames are followed.
    gc.disable()
    try:
        for ident, innermost in sys._current_frames().items():
            frame: FrameType | None = innermost
            while frame is not None:
                if any(frame.f_locals.get("self") is owner for owner in owners):
                    found.add(ident)
                frame = frame.f_back
    finally:
        gc.enable()
    return found
