"""The conductor: works on several deployments at once, each through the agent of its machine.

HBSHIM_BROKER_URL=hbpika://user:password@host/ python conductor.py
"""

import os
import signal
from typing import Any

from hbshim import messaging

#: Seconds after which the queue of an agent that never started expires; the same in agents.
QUEUE_LIFETIME = 3600


class Deployments:
    """What the API may ask for."""

    def __init__(self, driver: messaging.StoringDriver) -> None:
        self._driver = driver

    def deploy(self, request: messaging.Request, environment: str) -> dict[str, Any]:
        agent = messaging.Target("agent", server=environment)
        # The machine is still booting. Its plan waits for it, but not for ever.
        self._driver.declare_queue(agent, expires=QUEUE_LIFETIME)
        request.progress(f"waiting for the agent of {environment}")
        commands = ["install", "configure", "start"]
        plan = messaging.Client(self._driver, agent).submit("run", commands=commands)
        for report in plan.progress(timeout=60):
            request.progress(report)
        done = plan.result(timeout=60)
        # The agent has ended, and its queue is of no more use.
        self._driver.delete_queue(agent)
        return {"environment": environment, "done": done}


def main() -> None:
    driver = messaging.require_store(messaging.connect(os.environ["HBSHIM_BROKER_URL"]))
    name = f"conductor-{os.getpid()}"
    # A deployment whose conductor died is begun again by another one.
    server = messaging.Server(
        driver,
        messaging.Target("conductor", server=name),
        [Deployments(driver)],
        acknowledge="after",
        expires=messaging.NEVER,
        on_error=lambda error: print("conductor:", error, flush=True),
    )
    server.start()
    print("conductor: ready", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop(timeout=30)
    driver.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
