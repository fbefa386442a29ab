"""The API: hands a deployment to the conductor, whether it runs yet or not, and follows it.

HBSHIM_BROKER_URL=hbpika://user:password@host/ python api.py staging
"""

import os
import sys

from hbshim import messaging

CONDUCTOR = messaging.Target("conductor")


def main(environment: str) -> None:
    driver = messaging.connect(os.environ["HBSHIM_BROKER_URL"])
    # Nobody needs to listen: the request is stored, and stays until a conductor takes it.
    driver.declare(CONDUCTOR)
    task = messaging.Client(driver, CONDUCTOR).submit("deploy", environment=environment)
    print("api: submitted", flush=True)
    for report in task.progress(timeout=60):
        print("api: progress:", report, flush=True)
    print("api: result:", task.result(timeout=60), flush=True)
    driver.close()


if __name__ == "__main__":
    main(sys.argv[1])
