"""`hbshim run` beside other launchers that work through sitecustomize, in an installed environment.

The environment is a virtual one, so that hbshim.pth lies where a wheel puts it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import site
import subprocess
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
LAUNCHERS = Path(__file__).with_name("launchers")
PTH = CHECKOUT / "hbshim" / "bootstrap" / "hbshim.pth"

SEEN = (
    "import builtins; from hbshim import api; "
    "print(api.installed_options() is not None, hasattr(builtins, 'launcher_active'))"
)
BOTH = "True True\n"
SAYS_WHETHER_ACTIVE = (
    "import sys; api = sys.modules.get('hbshim.api'); "
    "print('active' if api and api.installed_options() is not None else 'not active')"
)


def environment_at(path: Path, *, pth: bool) -> str:
    venv.create(path, symlinks=True)
    (packages,) = path.glob("lib/python*/site-packages")
    # Paths alone: what lies there as *.pth is not read.
    outer = [str(CHECKOUT), *site.getsitepackages()]
    (packages / "a-test.pth").write_text("\n".join(outer))
    if pth:
        shutil.copy(PTH, packages)
    return str(path / "bin" / "python")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter of an environment that hbshim is installed in."""
    return environment_at(tmp_path_factory.mktemp("env") / "env", pth=True)


@pytest.fixture(scope="module")
def python_without_pth(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same without hbshim.pth, as `pip install --target` or a checkout leaves it."""
    return environment_at(tmp_path_factory.mktemp("env") / "env", pth=False)


def call(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if "HBSHIM" not in k and k != "PYTHONPATH"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**kept, **environment}
    )


def hbshim_run(python: str) -> tuple[str, str, str, str, str]:
    return (python, "-m", "hbshim", "run", "--")


def launch(python: str, kind: str, how: str = "exec") -> tuple[str, str, str, str]:
    return (python, str(LAUNCHERS / "launch.py"), str(LAUNCHERS / kind), how)


def in_turn(*commands: tuple[str, ...]) -> tuple[str, str, str]:
    """A command that runs each of `commands`; one start of `hbshim run` is enough for them."""
    return ("sh", "-c", "; ".join(shlex.join(command) for command in commands))


def test_hbshim_run_in_front_of_another_launcher(python: str) -> None:
    commands = [
        (*launch(python, kind, how), python, "-c", SEEN)
        for kind in ("chaining", "hiding")
        for how in ("exec", "child", "clean")
    ]
    done = call(*hbshim_run(python), *in_turn(*commands))
    assert (done.stdout, done.stderr) == (BOTH * len(commands), "")


@pytest.mark.parametrize("kind", ["chaining", "hiding"])
def test_hbshim_run_behind_another_launcher(python: str, kind: str) -> None:
    done = call(*launch(python, kind), *hbshim_run(python), python, "-c", SEEN)
    assert (done.stdout, done.stderr) == (BOTH, "")


def test_the_flags_of_the_interpreter_do_not_matter(python: str) -> None:
    flags = [("-E",), ("-I",), ("-s",), ("-X", "dev", "-u"), ("-Wignore", "-O")]
    done = call(*hbshim_run(python), *in_turn(*((python, *each, "-c", SEEN) for each in flags)))
    assert (done.stdout, done.stderr) == ("True False\n" * len(flags), "")


def test_a_module_is_run_as_a_program(python: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SEEN)
    done = call(*hbshim_run(python), "env", "-C", str(tmp_path), python, "-m", "program")
    assert (done.stdout, done.stderr) == ("True False\n", "")


def test_without_hbshim_run_the_pth_does_nothing(python: str) -> None:
    code = "import sys; print([name for name in sys.modules if 'hbshim' in name])"
    assert call(python, "-c", code).stdout == "[]\n"


def test_what_a_sitecustomize_of_the_programs_own_installs_is_kept(
    python: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import hbshim; hbshim.install(heartbeat=7)")
    code = "from hbshim import api; print(api.installed_options())"
    done = call(*hbshim_run(python), python, "-c", code, PYTHONPATH=str(tmp_path))
    assert "'heartbeat': 7" in done.stdout, done.stderr


def test_options_that_cannot_be_used_are_one_line_and_the_program_runs(python: str) -> None:
    inside = ("env", "HBSHIM_WORKER=fiber", python, "-c", SEEN)
    done = call(*hbshim_run(python), *inside)
    assert done.stdout == "False False\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("hbshim: not active in ")


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("way", ["pth", "sitecustomize", "sitecustomize without hbshim"])
def test_a_program_without_a_stderr_runs_when_hbshim_cannot_say_why_it_is_not_active(
    python: str, python_without_pth: str, tmp_path: Path, way: str, stderr: str
) -> None:
    venv.create(tmp_path, symlinks=True)
    bootstrap = f"PYTHONPATH={CHECKOUT / 'hbshim' / 'bootstrap'}"
    command = {
        "pth": ("HBSHIM_RUN=1", python),
        "sitecustomize": (bootstrap, python_without_pth),
        "sitecustomize without hbshim": (bootstrap, f"{tmp_path}/bin/python"),
    }[way]
    script = shlex.join(("env", "HBSHIM_WORKER=fiber", *command, "-c", SAYS_WHETHER_ACTIVE))
    done = call("sh", "-c", f"{script} {stderr}")
    assert (done.returncode, done.stdout) == (0, "not active\n")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("-S",), "started with -S"),
        (("-X", "dev", "-uS"), "started with -S"),
        (("-I",), "started with -E or -I"),
        ((), "another launcher's sitecustomize may keep"),
    ],
)
def test_what_keeps_hbshim_out_is_said(
    python_without_pth: str, flags: tuple[str, ...], wanted: str
) -> None:
    python = python_without_pth
    done = call(*hbshim_run(python), python, *flags, "-c", "print('runs')")
    assert done.stdout == "runs\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("hbshim: ")
    assert wanted in line


def test_a_program_that_is_not_there_is_the_only_line(python_without_pth: str) -> None:
    done = call(*hbshim_run(python_without_pth), "no-such-program")
    assert len(done.stderr.splitlines()) == 1


LOOK = (
    "from hbshim.doctor import examine; import amqp; found = examine().finding('installed'); "
    "print(found.verdict, found.sentence)"
)


def test_inside_the_program_the_doctor_names_what_hid_hbshim(python_without_pth: str) -> None:
    python = python_without_pth
    done = call(*hbshim_run(python), *launch(python, "hiding"), python, "-c", LOOK)
    assert done.stdout.startswith("problem ")
    assert str(LAUNCHERS / "hiding" / "sitecustomize.py") in done.stdout


def test_inside_a_program_whose_environment_was_cleared_the_doctor_warns(python: str) -> None:
    done = call(*hbshim_run(python), "env", "-i", python, "-c", LOOK)
    assert done.stdout.startswith("warning "), done.stderr
    assert "hbshim is not installed" in done.stdout
