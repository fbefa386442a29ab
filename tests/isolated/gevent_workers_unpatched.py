"""What gevent_workers.py asks, in a program that uses gevent's hub and has patched nothing."""

import runpy
import sys
from pathlib import Path

sys.argv.append("unpatched")
runpy.run_path(str(Path(__file__).with_name("gevent_workers.py")))
