"""eventlet: strips the native pollers after ``monkey_patch()``, however late that is."""

from __future__ import annotations

import functools
import sys
from typing import Any

from hbshim.adapters.attach import OptionsFor, leave_alone
from hbshim.runtime.polling import strip_polling


def prepare(options_for: OptionsFor) -> None:
    """Call :func:`strip_polling` after each ``monkey_patch``, while hbshim is installed.

    eventlet removes ``poll`` and ``epoll`` itself when it patches `select`; after
    ``monkey_patch(select=False)`` pika would choose epoll and block the hub.
    """
    patcher: Any = sys.modules["eventlet.patcher"]
    monkey_patch = patcher.monkey_patch

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

    patcher.monkey_patch = monkey_patch_and_strip
    package: Any = sys.modules.get("eventlet")
    if getattr(package, "monkey_patch", None) is monkey_patch:
        package.monkey_patch = monkey_patch_and_strip
