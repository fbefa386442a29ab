"""The agent: starts when its machine has booted, finds its plan waiting, carries it out, ends.

HBSHIM_BROKER_URL=hbpika://user:password@host/ python agent.py staging
"""

import os
import sys
import threading

from hbshim import messaging

#: Seconds after its end until its queue expires; the same where the queue is declared beforehand.
QUEUE_LIFETIME = 3600


class Plans:
    """What the conductor may ask for."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def run(self, request: messaging.Request, commands: list[str]) -> int:
        for command in commands:
            request.progress(f"{command}: done")
        self.done.set()
        return len(commands)


def main(environment: str) -> None:
    driver = messaging.connect(os.environ["HBSHIM_BROKER_URL"])
    plans = Plans()
    agent = messaging.Target("agent", server=environment)
    with messaging.Server(driver, agent, [plans], expires=QUEUE_LIFETIME):
        print("agent: ready", flush=True)
        plans.done.wait()
    print("agent: ended", flush=True)
    driver.close()


if __name__ == "__main__":
    main(sys.argv[1])
