"""How long containers run: for the length of a ``with`` block, whatever ends it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

from wsgi_harness.stack.signals import ending_signals_raise

_Self = TypeVar("_Self", bound="UpAndDown")


class UpAndDown(ABC):
    """Starts its containers when a ``with`` block begins; removes them at its end.

    Also where the start fails, and at a signal that ends the process.
    """

    _on_exit: contextlib.ExitStack

    @abstractmethod
    def up(self) -> None:
        """Start the containers."""

    @abstractmethod
    def down(self) -> None:
        """Remove them; does nothing where nothing is up."""

    def __enter__(self: _Self) -> _Self:
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(ending_signals_raise())
            on_error.callback(self.down)
            self.up()
            self._on_exit = on_error.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._on_exit.close()
