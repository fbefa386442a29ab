"""A launcher as others have them: it starts a program, with its own folder first on PYTHONPATH.

    python launch.py FOLDER exec|child|clean PROGRAM [ARGUMENT ...]

"exec" replaces this process, "child" starts another and waits for it; "clean" does as "exec",
with nothing on PYTHONPATH but that folder.
"""

import os
import subprocess
import sys

folder, how, *program = sys.argv[1:]
rest = [] if how == "clean" else filter(None, [os.environ.get("PYTHONPATH")])
os.environ["PYTHONPATH"] = os.pathsep.join([folder, *rest])
if how == "child":
    sys.exit(subprocess.run(program, env=dict(os.environ), check=False).returncode)
os.execvp(program[0], program)
