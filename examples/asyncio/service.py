"""A service on asyncio that calls itself.

HBSHIM_BROKER_URL=hbpika://user:password@host/ python service.py
"""

import asyncio
import hashlib
import os
import signal

from hbshim import messaging
from hbshim.messaging import aio

TARGET = messaging.Target("asyncio-example", server="one")


class Service:
    """What others may call."""

    async def build(self, request: aio.Request, parts: int) -> str:
        """Runs on the event loop, as any number of others do at the same time."""
        for part in range(parts):
            await asyncio.sleep(0.01)
            await request.progress(f"part {part + 1} of {parts}")
        return f"built of {parts} parts"

    async def wait(self, request: aio.Request) -> None:
        """Never ends by itself."""
        await asyncio.Event().wait()

    def digest(self, request: messaging.Request, text: str) -> str:
        """Computes, and so runs in a worker thread."""
        return hashlib.sha256(text.encode()).hexdigest()[:8]


async def use(driver: aio.Driver) -> None:
    client = aio.Client(driver, TARGET, timeout=20)
    print(await client.prepare(on_progress=print).call("build", parts=3))
    digests = await asyncio.gather(*(client.call("digest", text=f"{n}") for n in range(20)))
    print(len(set(digests)), "digests")
    try:
        await asyncio.wait_for(client.call("wait"), timeout=0.2)
    except asyncio.TimeoutError:
        print("gave up")


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with aio.connect(os.environ["HBSHIM_BROKER_URL"]) as driver:
        server = aio.Server(driver, TARGET, [Service()], workers=50)
        await server.start()
        await use(driver)
        print("ready", flush=True)
        await stop.wait()
        # The method that waits is cancelled after a second.
        print("all ended" if await server.stop(timeout=1) else "one was cancelled")


asyncio.run(main())
