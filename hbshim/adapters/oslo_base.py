"""oslo.messaging's classes for drivers, which it keeps private (``oslo_messaging._drivers``)."""

from __future__ import annotations

from importlib.metadata import version

from hbshim.adapters.versions import require_attributes, require_version

LIBRARY = "oslo.messaging"
SUPPORTED = ">=17.3,<19"

# Before the private modules are imported, which another version may not have.
require_version(LIBRARY, version(LIBRARY), SUPPORTED)

from oslo_messaging._drivers import base, common, impl_rabbit  # noqa: E402

require_attributes(
    LIBRARY,
    version(LIBRARY),
    SUPPORTED,
    base,
    ("BaseDriver", "PollStyleListener", "PollStyleListenerAdapter", "RpcIncomingMessage"),
)
require_attributes(
    LIBRARY,
    version(LIBRARY),
    SUPPORTED,
    common,
    ("deserialize_remote_exception", "serialize_remote_exception"),
)
require_attributes(LIBRARY, version(LIBRARY), SUPPORTED, impl_rabbit, ("rabbit_opts",))

BaseDriver = base.BaseDriver
PollStyleListener = base.PollStyleListener
PollStyleListenerAdapter = base.PollStyleListenerAdapter
RpcIncomingMessage = base.RpcIncomingMessage
deserialize_remote_exception = common.deserialize_remote_exception
serialize_remote_exception = common.serialize_remote_exception
#: The options of the group ``oslo_messaging_rabbit``.
RABBIT_OPTIONS = impl_rabbit.rabbit_opts
