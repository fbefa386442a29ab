"""A built wheel holds everything, and runs outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    # A copy, so that nothing an earlier build left behind can slip in.
    source = tmp_path_factory.mktemp("source")
    for folder in ("hbshim", "wsgi_harness", "containers"):
        shutil.copytree(ROOT / folder, source / folder)
    for file in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, timeout=300)
    return target


def run(installed, tmp_path, *argv):
    return subprocess.run(
        [sys.executable, *argv],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_the_wheel_has_what_runs_and_not_what_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "hbshim/py.typed",
        "hbshim/bootstrap/sitecustomize.py",
        # At the top: pip puts it into site-packages itself, where Python reads it.
        "hbshim.pth",
        "wsgi_harness/cell/app.py",
        "wsgi_harness/containers/compose.yaml",
        "wsgi_harness/containers/rabbitmq/Dockerfile",
        "wsgi_harness/containers/apache/entrypoint.sh",
    ):
        assert wanted in names
    assert not [name for name in names if name.startswith("tests")]


def test_an_editable_installation_has_the_pth_too(source, tmp_path):
    code = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = tmp_path.glob("*.whl")
    assert "hbshim.pth" in zipfile.ZipFile(built).namelist()


def test_it_is_the_installed_copy_that_runs(installed, tmp_path):
    done = run(installed, tmp_path, "-c", "import hbshim; print(hbshim.__file__)")
    assert done.stdout.startswith(str(installed)), done.stderr


def test_both_commands_run_outside_the_checkout(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "hbshim", "detect")
    assert "Heartbeats come from: pthread." in done.stdout, done.stderr
    listed = run(installed, tmp_path, str(installed / "bin" / "hbshim-regression"), "--list")
    assert "hbshim-auto-kombu" in listed.stdout, listed.stderr


def test_hbshim_run_works_from_the_installed_copy(installed, tmp_path):
    code = "from hbshim import api; print(api.connection_options({}))"
    done = run(installed, tmp_path, "-m", "hbshim", "run", sys.executable, "-c", code)
    assert done.stdout.startswith("Options("), done.stderr


def test_the_containers_are_found_in_the_installed_copy(installed, tmp_path):
    code = "from wsgi_harness.paths import CONTAINERS as c; print((c / 'compose.yaml').is_file())"
    assert run(installed, tmp_path, "-c", code).stdout == "True\n"
