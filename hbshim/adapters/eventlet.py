"""eventlet: strips the native pollers after ``monkey_patch()``, however late that is."""

from __future__ import annotations

import functools
import sys
from typing import Any

from hbshim.adapters.attach import OptionsFor, leave_alone
from hbshim.adapters.replacing import replace_once
from hbshim.runtime.polling import strip_polling


def prepare(options_for: OptionsFor) -> None:
    """Call :func:`strip_polling` after each ``monkey_patch``, while hbshim is installed.

    eventlet removes ``poll`` and ``epoll`` itself when it patches `select`; after
    ``monkey_patch(select=False)`` pika would choose epoll and block the hub. Idempotent.
    """
    patcher: Any = sys.modules["eventlet.patcher"]
    stock = replace_once(patcher, "monkey_patch", lambda stock: _stripping(stock, options_for))
    package: Any = sys.modules.get("eventlet")
    # An earlier call, or one of another thread, may not have come to this.
    if getattr(package, "monkey_patch", None) is stock:
        package.monkey_patch = patcher.monkey_patch


def _stripping(monkey_patch: Any, options_for: OptionsFor) -> Any:
    @functools.wraps(monkey_patch)
    def monkey_patch_and_strip(*args: Any, **kwargs: Any) -> Any:
        result = monkey_patch(*args, **kwargs)
        try:
            options = options_for({})
            if options is not None and options.strip_polling:
                strip_polling(on_install=True)
        except Exception as error:
            leave_alone("eventlet", error, "polling-left-alone")
        return result

    return monkey_patch_and_strip
