"""``python -m hbshim.doctor``: the command, for interpreters that a `sitecustomize` prepares."""

import sys

from hbshim.errors import MissingExtraError
from hbshim.extras import needs

try:
    with needs(("click", "rich"), "cli"):
        from hbshim.doctor.command import doctor

        doctor(prog_name="python -m hbshim.doctor")
except MissingExtraError as error:
    # As for other bad input; 1 would mean that the doctor has found something.
    sys.stderr.write(f"hbshim: {error}\n")
    sys.exit(2)
