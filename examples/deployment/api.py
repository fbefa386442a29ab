"""The API: hands a deployment to the conductor, whether it runs yet or not, and follows it.

HBSHIM_BROKER_URL=hbpika://user:password@host/ python api.py staging
HBSHIM_BROKER_URL=hbpika://user:password@host/ python api.py staging TASK
"""

import os
import sys

from hbshim import messaging

CONDUCTOR = messaging.Target("conductor")


def main(environment: str, task_id: str | None = None) -> None:
    """Follow a new deployment, or with its `task_id` one that another process has submitted."""
    driver = messaging.connect(os.environ["HBSHIM_BROKER_URL"])
    client = messaging.Client(driver, CONDUCTOR)
    if task_id is None:
        # No conductor needs to run: the request is stored, and stays until one takes it.
        messaging.require_store(driver).declare_queue(CONDUCTOR)
        task = client.submit("deploy", environment=environment)
        print("api: submitted", task.id, flush=True)
    else:
        task = client.attach(task_id)
    for report in task.progress(timeout=60):
        print("api: progress:", report, flush=True)
    print("api: result:", task.result(timeout=60), flush=True)
    driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
