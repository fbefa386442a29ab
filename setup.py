"""Packaging of hbshim; tool settings live in pyproject.toml."""

import re
import shutil
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent

# The one place of the version. hbshim does not read it from its metadata instead: that import
# takes longer than hbshim's own, and a copy that was not installed has none.
INIT = (HERE / "hbshim" / "__init__.py").read_text(encoding="utf-8")
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)

#: The versions of Python that tox.ini, README.md and the classifiers below name.
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

# What a build generates goes where everything generated is.
BUILD = HERE / "build"
BUILD.mkdir(exist_ok=True)

# Read at each start of Python, where it lies in site-packages; see hbshim/activation.py.
PTH = HERE / "hbshim" / "bootstrap" / "hbshim.pth"


# The package in which Ansible looks for the collection hbshim.messaging.
COLLECTION = "ansible_collections.hbshim.messaging"


class BuildWithPth(build_py):
    """Puts hbshim.pth at the top of the wheel, from where pip installs it into site-packages.

    Not `data_files`: their place is relative to the prefix, and site-packages lies elsewhere
    under each version of Python.
    """

    def run(self) -> None:
        if not self.editable_mode:
            # What an earlier build of this checkout has left there would get into the wheel.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            shutil.copy(PTH, self.build_lib)


class EditableWithPth(editable_wheel):
    """The same for an editable installation, whose wheel holds no package.

    setuptools has no public way for it. Should this method go, hbshim.pth is missing there,
    and `hbshim run` reports it.
    """

    def finalize_options(self) -> None:
        # Ansible looks for collections in directories of sys.path, not through import hooks, which
        # setuptools would make for a package that lies elsewhere.
        self.distribution.packages.remove(COLLECTION)
        self.distribution.package_dir = None
        super().finalize_options()

    def _run_build_commands(self, dist_name: Any, unpacked_wheel: Any, *more: Any) -> Any:
        shutil.copy(PTH, unpacked_wheel)
        link = BUILD / "collections" / COLLECTION.replace(".", "/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(HERE / "hbshim" / "ansible")
        (Path(unpacked_wheel) / "hbshim_collection.pth").write_text(f"{BUILD / 'collections'}\n")
        return super()._run_build_commands(dist_name, unpacked_wheel, *more)


class SdistOfTheCheckout(sdist):
    """Puts the whole checkout into the sdist: `make regression` and `make test` work in it."""

    FOLDERS = ("containers", "docs", "examples", "hbshim", "tests", "wsgi_harness", ".ci")
    FILES = (".dockerignore", ".gitignore", "LICENSE", "Makefile", "tox.ini", "*.md")

    def make_distribution(self) -> None:
        for folder in self.FOLDERS:
            self.filelist.graft(folder)
        for pattern in self.FILES:
            self.filelist.include(pattern)
        for pattern in ("__pycache__/*", "*.py[co]", ".DS_Store"):
            self.filelist.global_exclude(pattern)
        super().make_distribution()


CLI = ["click>=8.1,<9", "rich>=13"]
TENACITY = ["tenacity>=8.2,<10"]
KOMBU = ["kombu>=5.3,<6", "amqp>=5.2,<6", *TENACITY]
CELERY = [*KOMBU, "celery>=5.3,<6"]
PIKA = ["pika>=1.3,<2", *TENACITY]
# It has no wheels: each installation needs a C compiler.
PROTON = ["python-qpid-proton>=0.37,<0.41"]
ZMQ = [*CLI, "pyzmq>=26.2,<28", "redis>=5,<9", *TENACITY]
EVENTLET = ["eventlet>=0.36,<1"]
GEVENT = ["gevent>=23.9"]
PROMETHEUS = ["prometheus_client>=0.17,<1"]
OTEL = ["opentelemetry-api>=1.20,<2"]
OSLO = [*KOMBU, *PIKA, "oslo.messaging>=17.3,<19"]
# Not an extra: a program that uses aio-pika has it.
ASYNCIO = ["aio-pika>=9.6,<11", "aiormq>=6.9,<8", "uvloop>=0.19,<1"]
# For the cells with an event loop, and the tests of its hosts.
ASGI = [*ASYNCIO, "uvicorn>=0.23,<1", "django>=4.2,<7", "tornado>=6.3,<7"]
# mkdocs-material is maintained until May 2027; its successor, Zensical, reads the same settings.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.30,<2"]
# Not an extra: wsgi_harness is no part of the wheel.
HARNESS = [*CLI, *KOMBU, *PIKA, "matplotlib>=3.8,<4", "requests>=2.31,<3"]
# Not `ansible`: it has all collections, and the roles need none but their own.
ANSIBLE = ["ansible-core>=2.17,<2.22"]
ROLES = ["ansible-lint>=25,<27", "molecule>=25,<27"]
COVERAGE = ["coverage>=7.10", "pytest-cov>=6"]
TEST = [
    *DOCS,
    *HARNESS,
    *CELERY,
    *EVENTLET,
    *GEVENT,
    *PROMETHEUS,
    *OTEL,
    *OSLO,
    *PROTON,
    *ZMQ,
    *ASGI,
    "build>=1",
    "gunicorn>=21,<28",
    "hypothesis>=6.100,<7",
    "import-linter>=2",
    "mypy>=1.11",
    "opentelemetry-sdk>=1.20,<2",
    "oslotest>=5,<7",
    "packaging>=22",
    "pifpaf>=3.2,<4",
    "pyngus>=2.3,<3",
    "pytest>=9",
    "pytest-xdist>=3.8,<4",
    "rabbitmq-amqp-python-client>=1.0,<2",
    "ruff>=0.6",
    "setuptools>=70",
    "testscenarios>=0.5,<1",
    "trustme>=1.1",
    "types-requests",
]

setup(
    name="hbshim",
    version=VERSION,
    description="Heartbeat and concurrency compatibility shim for AMQP clients",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["hbshim", "hbshim.*"]), COLLECTION],
    package_dir={COLLECTION: "hbshim/ansible"},
    package_data={
        "hbshim": ["py.typed", "bootstrap/sitecustomize.py", "bootstrap/hbshim.pth"],
        COLLECTION: ["*", "**/*"],
    },
    exclude_package_data={COLLECTION: ["**/__pycache__/*"]},
    include_package_data=False,
    cmdclass={
        "build_py": BuildWithPth,
        "editable_wheel": EditableWithPth,
        "sdist": SdistOfTheCheckout,
    },
    # Heartbeats need the client library alone, which the program has.
    install_requires=[],
    options={"egg_info": {"egg_base": "build"}},
    extras_require={
        "cli": CLI,
        "kombu": KOMBU,
        "celery": CELERY,
        "pika": PIKA,
        "proton": PROTON,
        "eventlet": EVENTLET,
        "gevent": GEVENT,
        "prometheus": PROMETHEUS,
        "otel": OTEL,
        "oslo": OSLO,
        "zmq": ZMQ,
        "amqp1": TENACITY,
        "ansible": ANSIBLE,
        "roles": [*ANSIBLE, *ROLES],
        "coverage": COVERAGE,
        "docs": DOCS,
        "test": TEST,
    },
    entry_points={
        "console_scripts": [
            "hbshim = hbshim.cli:main",
        ],
        "hbshim.drivers": [
            "hbkombu = hbshim.messaging.amqp.factory:KOMBU",
            "hbpika = hbshim.messaging.amqp.factory:PIKA",
            "hbzmq = hbshim.messaging.zmq.factory:ZMQ",
            "hbamqp = hbshim.messaging.amqp1.factory:PLAIN",
            "hbamqps = hbshim.messaging.amqp1.factory:TLS",
        ],
        "oslo.config.opts": ["hbshim.oslo = hbshim.oslo.options:list_opts"],
        "oslo.messaging.drivers": [
            "hbrabbit = hbshim.oslo.entry:hbrabbit",
            "hbkombu = hbshim.oslo.entry:hbkombu",
            "hbpika = hbshim.oslo.entry:hbpika",
            "hbzmq = hbshim.oslo.entry:hbzmq",
            "hbamqp = hbshim.oslo.entry:hbamqp",
            # Free since oslo.messaging 15; hbshim's gives way to an older one's.
            "amqp = hbshim.oslo.entry:amqp",
        ],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
        "Typing :: Typed",
    ],
)
