"""A program that only sends Celery tasks is no Celery worker."""

from celery import Celery

app = Celery("producer", broker="memory://")
app.send_task("has.no.worker")

import hbshim

report = hbshim.detect()
assert report.host.kind == "plain"
assert report.choice.worker == "pthread"

print("pass")
