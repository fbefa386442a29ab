"""``python -m hbshim.doctor``: the command, in an interpreter that others have prepared."""

from hbshim.doctor.command import doctor

doctor(prog_name="python -m hbshim.doctor")
