"""eventlet's own hub keeps its poller, even when `select` is stripped before it starts."""

import select

from hbshim.runtime.polling import strip_polling

HAS_EPOLL = hasattr(select, "epoll")
strip_polling(force=True)

import eventlet
import eventlet.hubs

eventlet.monkey_patch()
strip_polling()

hub = type(eventlet.hubs.get_hub()).__module__
assert hub == "eventlet.hubs.epolls" or not HAS_EPOLL, hub
done = eventlet.spawn_after(0.01, lambda: "ran").wait()
assert done == "ran"

print("pass")
