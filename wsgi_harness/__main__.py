"""``python -m wsgi_harness``: reproduce the lost heartbeats, and prove the fix."""

from wsgi_harness.cli import main

if __name__ == "__main__":
    main(prog_name="python -m wsgi_harness")
