"""Run by test_stack.py: a stack that is up until the process has to end."""

import sys
import time

from wsgi_harness.stack.stack import Stack


def main() -> None:
    """Bring up the project named on the command line; print a line for each step."""

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    with Stack(sys.argv[1], progress=say):
        say("up")
        time.sleep(600)


if __name__ == "__main__":
    main()
