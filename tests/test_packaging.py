"""What is published: the wheel has hbshim alone, the sdist everything.

Both are built once, the wheel from the sdist, and installed in new virtual environments that hold
nothing else, or only the libraries that a test names.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import hbshim
from hbshim.adapters.versions import is_within
from hbshim.doctor import examination

ROOT = Path(__file__).parents[1]

#: What importing click and rich needs, all of it.
CLI = ("click", "rich", "markdown_it", "mdurl", "pygments")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that nothing an earlier build left behind can slip in."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    generated = shutil.ignore_patterns("build", "dist", "report")
    hidden = shutil.ignore_patterns(
        ".git", ".venv", ".tox", "__pycache__", "*.egg-info", ".*_cache"
    )

    def ignored(directory: str, names: list[str]) -> set[str]:
        at_the_top = generated(directory, names) if Path(directory) == ROOT else set()
        return at_the_top | hidden(directory, names)

    shutil.copytree(ROOT, source, ignore=ignored, symlinks=True)
    return source


@pytest.fixture(scope="module")
def published(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(published: Path) -> Path:
    """The wheel."""
    (built,) = published.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the sdist."""
    (built,) = published.glob("*.tar.gz")
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built) as archive:
        if sys.version_info >= (3, 12):
            archive.extractall(directory, filter="data")
        else:
            archive.extractall(directory)
    (inside,) = directory.iterdir()
    return inside


class Environment:
    """A virtual environment with the wheel, and `libraries` of the environment of the tests."""

    def __init__(self, path: Path, wheel: Path, libraries: tuple[str, ...] = ()) -> None:
        venv.create(path, symlinks=True)
        self.bin = path / "bin"
        self.python = str(self.bin / "python")
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, timeout=300)
        (packages,) = path.glob("lib/python*/site-packages")
        for name in libraries:
            spec = importlib.util.find_spec(name)
            assert spec is not None, name
            assert spec.origin is not None, name
            module = Path(spec.origin)
            module = module.parent if module.name == "__init__.py" else module
            (packages / module.name).symlink_to(module)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment outside the checkout."""
        kept = {k: v for k, v in os.environ.items() if "HBSHIM" not in k and k != "PYTHONPATH"}
        program = [str(self.bin / argv[0]), *argv[1:]]
        return subprocess.run(
            program, cwd=self.bin, env=kept, capture_output=True, text=True, timeout=180
        )

    def execute(self, code: str) -> str:
        """Return what Python code prints."""
        done = self.run("python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """hbshim and nothing else: what `pip install hbshim` gives."""
    return Environment(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def with_cli(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What the extra `cli` gives."""
    return Environment(tmp_path_factory.mktemp("cli"), wheel, CLI)


@pytest.fixture(scope="module")
def with_pika(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What the extra `pika` gives."""
    return Environment(tmp_path_factory.mktemp("pika"), wheel, ("pika", "tenacity"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_has_hbshim_its_collection_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    # The .pth lies at the top: pip puts it into site-packages itself, where Python reads it.
    info = f"hbshim-{hbshim.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {
        "ansible_collections",
        "hbshim",
        "hbshim.pth",
        info,
    }
    collection = {name for name in names if name.startswith("ansible_collections/")}
    assert {name.removeprefix("ansible_collections/hbshim/messaging/") for name in collection} == {
        str(path.relative_to(ROOT / "hbshim" / "ansible"))
        for path in (ROOT / "hbshim" / "ansible").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for wanted in ("hbshim/py.typed", "hbshim/bootstrap/sitecustomize.py", "hbshim/__main__.py"):
        assert wanted in names


def test_the_wheel_has_every_module_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    # The collection is in a package of its own; the test above compares it.
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "hbshim").rglob("*.py")}
    modules = {name for name in modules if not name.startswith("hbshim/ansible/")}
    assert {name for name in packed if not name.startswith("ansible_collections/")} == modules


def test_the_sdist_runs_the_regression(unpacked: Path) -> None:
    for wanted in ("Makefile", "tox.ini", "tests/conftest.py", "containers/rabbitmq/Dockerfile"):
        assert (unpacked / wanted).is_file(), wanted
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "wsgi_harness", "--list"]
    listed = subprocess.run(
        command, cwd=unpacked, env=kept, capture_output=True, text=True, timeout=180
    )
    assert "hbshim-auto-kombu" in listed.stdout, listed.stderr
    code = (
        "from wsgi_harness.paths import CONTAINERS as c; print((c / 'compose.yaml').is_file(), c)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=unpacked, env=kept, capture_output=True, text=True
    )
    assert found.stdout == f"True {unpacked / 'containers'}\n", found.stderr


def test_an_editable_installation_has_the_pth_too(source: Path, tmp_path: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        assert "hbshim.pth" in archive.namelist()


def test_the_base_installation_requires_nothing(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist") or []
    assert [line for line in required if "extra ==" not in line] == []
    cli = [line for line in required if re.search(r"extra == .cli\b", line)]
    assert sorted(re.split(r"[<>= (]", line)[0] for line in cli) == ["click", "rich"]


def test_the_doctor_reads_the_ranges_of_the_libraries(
    metadata: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = metadata.get_all("Requires-Dist") or []
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: lines)
    ranges = examination._supported()
    assert {"amqp", "pika", "kombu", "celery", "eventlet", "gevent", "oslo.messaging"} <= {*ranges}
    assert not {"click", "rich", "pytest", "pytest-cov", "mkdocs"} & {*ranges}
    for library, supported in ranges.items():
        assert not is_within("0", supported), library


def test_one_version_and_one_list_of_pythons(metadata: Message) -> None:
    assert metadata["Version"] == hbshim.__version__
    prefix = "Programming Language :: Python :: 3."
    minors = [
        int(line.removeprefix(prefix))
        for line in metadata.get_all("Classifier") or []
        if line.startswith(prefix)
    ]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert metadata["Requires-Python"] == f">=3.{minors[0]}"

    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    (named,) = re.findall(r"^envlist = py\{([\d,]+)\}-", tox, re.MULTILINE)
    assert named.split(",") == [f"3{minor}" for minor in minors]

    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    spoken = set(re.findall(r"Python (3\.\d+ to\s3\.\d+)", text))
    assert {" ".join(each.split()) for each in spoken} == {f"3.{minors[0]} to 3.{minors[-1]}"}


def test_it_is_the_installed_copy_that_runs(bare: Environment) -> None:
    printed = bare.execute("import hbshim; print(hbshim.__file__)")
    assert printed.startswith(str(bare.bin.parent))


def test_a_bare_installation_installs_detects_and_examines(bare: Environment) -> None:
    code = (
        "import hbshim, hbshim.doctor; hbshim.install(); print(hbshim.detect().choice.worker); "
        "print(hbshim.doctor.examine().finding('libraries').remedy)"
    )
    worker, remedy = bare.execute(code).splitlines()
    assert worker == "pthread"
    assert "pip install 'hbshim[kombu]'" in remedy


@pytest.mark.parametrize("program", [("hbshim",), ("python", "-m", "hbshim")])
def test_hbshim_run_needs_no_library(bare: Environment, program: tuple[str, ...]) -> None:
    code = "from hbshim import api; print(api.connection_options({}))"
    command = (*program, "run", "--worker", "pthread", "--", bare.python, "-c", code)
    done = bare.run(*command)
    assert done.stdout.startswith("Options("), done.stderr
    assert "worker='pthread'" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        ("hbshim", "doctor"),
        ("hbshim", "--help"),
        ("hbshim",),
        ("python", "-m", "hbshim", "watch"),
        ("python", "-m", "hbshim.doctor"),
    ],
)
def test_every_other_command_names_the_extra(bare: Environment, command: tuple[str, ...]) -> None:
    done = bare.run(*command)
    assert done.returncode == 2
    assert done.stderr == (
        "hbshim: click is not installed; install it with: pip install 'hbshim[cli]'\n"
    )


@pytest.mark.parametrize(
    ("scheme", "library", "extra"),
    [
        ("hbkombu", "tenacity", "kombu"),
        ("hbpika", "tenacity", "pika"),
        ("hbzmq", "zmq", "zmq"),
        ("hbamqp", "tenacity", "amqp1"),
        ("hbamqps", "tenacity", "amqp1"),
    ],
)
def test_messaging_without_a_client_library_names_the_extra(
    bare: Environment, scheme: str, library: str, extra: str
) -> None:
    code = f"""
from hbshim import messaging
from hbshim.errors import MissingExtraError
try:
    messaging.connect("{scheme}://user:password@host/")
except MissingExtraError as error:
    print(error)
"""
    assert bare.execute(code) == (
        f"{library} is not installed; install it with: pip install 'hbshim[{extra}]'\n"
    )


def test_the_drivers_of_an_extra_work_and_the_others_name_theirs(with_pika: Environment) -> None:
    code = """
from hbshim import messaging
print(type(messaging.connect("hbpika://user:password@host/")).__name__)
try:
    messaging.connect("hbkombu://user:password@host/")
except ImportError as error:
    print(type(error).__name__, error)
"""
    driver, other = with_pika.execute(code).splitlines()
    assert driver.endswith("Driver")
    assert other.startswith("MissingExtraError ")
    assert other.endswith(" is not installed; install it with: pip install 'hbshim[kombu]'")


def test_heartbeats_need_the_client_library_alone(with_pika: Environment) -> None:
    code = """
import sys, hbshim
hbshim.install()
from pika.connection import Connection
print(hasattr(Connection._create_heartbeat_checker, "__wrapped__"), len(hbshim.take_events()))
"""
    assert with_pika.execute(code) == "True 0\n"


def test_hbshim_run_starts_a_program_where_its_own_output_is_closed(bare: Environment) -> None:
    command = [f"{bare.bin}/hbshim", "run", "--", bare.python, "-c", "raise SystemExit(7)"]
    done = bare.run(
        "python",
        "-c",
        f"""
import os, subprocess
os.close(1), os.close(2)
raise SystemExit(subprocess.run({command}, close_fds=False).returncode)
""",
    )
    assert done.returncode == 7
    nothing = bare.run("hbshim", "--", "run", "")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("hbshim: cannot run :")


@pytest.mark.parametrize("benchmark", ["memory", "lateness", "engine", "throughput", "rpc", "zmq"])
def test_a_benchmark_names_the_extra_that_it_needs(with_cli: Environment, benchmark: str) -> None:
    done = with_cli.run("hbshim", "bench", benchmark)
    assert done.returncode == 2
    assert done.stderr.startswith("hbshim: ")
    assert "is not installed; install it with: pip install 'hbshim[" in done.stderr


def test_the_harness_names_what_it_needs(bare: Environment, unpacked: Path) -> None:
    for module in ("wsgi_harness", "wsgi_harness.with_broker"):
        code = f"import sys, runpy; sys.path.insert(0, {str(unpacked)!r}); "
        code += f"sys.argv[1:] = ['--help']; runpy.run_module({module!r}, run_name='__main__')"
        done = bare.run("python", "-c", code)
        assert done.returncode == 3, done.stderr
        assert "pip install -e '.[test]'" in done.stderr


def test_what_an_earlier_build_has_left_is_not_packed(source: Path, tmp_path: Path) -> None:
    stale = source / "build" / "lib" / "hbshim" / "gone.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    assert "hbshim/api.py" in names
    assert "hbshim/gone.py" not in names


def test_the_commands_work_with_the_extra(with_cli: Environment) -> None:
    assert "Heartbeats come from: pthread." in with_cli.run("hbshim", "detect").stdout
    assert "HBSHIM_MESSAGING_" in with_cli.run("hbshim", "options").stdout
    assert with_cli.run("hbshim", "--version").stdout.split()[-1] == hbshim.__version__
    assert "run  " in with_cli.run("hbshim", "--help").stdout
    examined = with_cli.run("hbshim", "doctor")
    assert "Neither py-amqp nor pika is installed here" in examined.stdout, examined.stderr
