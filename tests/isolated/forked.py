"""A child process knows that it was forked after hbshim was imported."""

import os

from hbshim.runtime.detect import detect

assert not detect().forked_since_import

child = os.fork()
if child == 0:
    report = detect()
    os._exit(0 if report.forked_since_import and "forked" in " ".join(report.explain()) else 1)

_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert not detect().forked_since_import

print("pass")
