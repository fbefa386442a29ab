"""`import hbshim` imports nothing heavy; its names are loaded when used."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hbshim
from hbshim import PUBLIC_MODULES
from hbshim.api import _VARIABLES
from hbshim.options import Options

HEAVY = {"kombu", "amqp", "pika", "eventlet", "gevent", "wrapt", "click", "rich", "ssl"}


def fresh(code: str, isolated: bool = False) -> str:
    """Run `code` in a process of its own; isolated, without what ``site`` imports."""
    command, environment = [sys.executable, "-c", code], dict(os.environ)
    if isolated:
        command[1:1] = ["-S"]
        environment["PYTHONPATH"] = str(Path(hbshim.__file__).parents[1])
        for name in _VARIABLES:
            environment.pop(name, None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_hbshim_imports_nothing_heavy() -> None:
    loaded = fresh("import hbshim, sys; print(*sys.modules)").split()
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


def test_installing_imports_no_messaging_or_green_library() -> None:
    loaded = fresh("import hbshim, sys; hbshim.install(); print(*sys.modules)").split()
    assert not {"kombu", "amqp", "pika", "eventlet", "gevent"} & set(loaded)


def test_every_public_name_can_be_had() -> None:
    fresh("import hbshim; [getattr(hbshim, name) for name in hbshim.__all__]")


def test_every_public_module_is_an_attribute_and_has_its_names() -> None:
    fresh(
        """
import hbshim, importlib, operator
for name in hbshim.PUBLIC_MODULES:
    module = importlib.import_module(f"hbshim.{name}")
    assert operator.attrgetter(name)(hbshim) is module
    assert module.__name__ == f"hbshim.{name}", module
"""
    )


@pytest.mark.parametrize("module", ["hbshim", *(f"hbshim.{name}" for name in PUBLIC_MODULES)])
def test_a_public_module_lists_its_names(module: str) -> None:
    """All that it defines, unless it has an underscore, and nothing that it has not."""
    fresh(
        f"""
import importlib, inspect
module = importlib.import_module({module!r})
listed = set(module.__all__)
assert len(listed) == len(module.__all__), "a name is listed twice"
assert not [name for name in listed if not hasattr(module, name)]
defined = {{
    name
    for name, value in vars(module).items()
    if not name.startswith("_")
    and (inspect.isclass(value) or inspect.isfunction(value))
    and value.__module__ == module.__name__
}}
assert defined <= listed, defined - listed
"""
    )


@pytest.mark.parametrize("module", ["", ".doctor", ".messaging", ".messaging.aio", ".observe"])
def test_dir_shows_the_public_names(module: str) -> None:
    code = f"import hbshim{module} as m; print(*(n for n in dir(m) if not n.startswith('__')))"
    expected = set(importlib.import_module(f"hbshim{module}").__all__) - {"__version__"}
    if not module:
        expected |= {name for name in PUBLIC_MODULES if "." not in name}
    assert set(fresh(code).split()) == expected


def test_no_module_changes_another_library_as_it_is_imported() -> None:
    """Only install(), an explicit register(), or a driver that oslo.messaging loads."""
    assert (
        fresh(
            """
import importlib, sys, types
import amqp, celery, kombu, kombu.transport.pyamqp, oslo_messaging, pika
from oslo_messaging._drivers import impl_rabbit

LIBRARIES = ("amqp", "celery", "kombu", "oslo_messaging", "pika")

def names():
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in LIBRARIES or type(module) is not types.ModuleType:
            continue
        for key, value in list(vars(module).items()):
            yield f"{name}.{key}", value if isinstance(value, types.FunctionType) else None
            if isinstance(value, type) and value.__module__ == name:
                for member, function in list(vars(value).items()):
                    yield f"{name}.{key}.{member}", function
            if isinstance(value, dict) and not key.startswith("__"):
                for entry, held in list(value.items()):
                    yield f"{name}.{key}[{entry!r}]", held

import hbshim, pkgutil
before = dict(names())
modules = set(sys.modules)
for found in pkgutil.walk_packages(hbshim.__path__, "hbshim."):
    if not found.name.endswith(("__main__", "sitecustomize")):
        importlib.import_module(found.name)
for name, value in names():
    loaded = name in before
    if not loaded and any(name.startswith(f"{m}.") for m in set(sys.modules) - modules):
        continue  # of a module that was not loaded before
    if loaded and before[name] is value:
        continue
    if "hbshim" in f"{name} {getattr(value, '__module__', '')} {value!r}":
        print(name, value)
"""
        )
        == ""
    )


def test_a_function_is_not_hidden_by_a_module_of_its_name() -> None:
    """`import hbshim.x` would put the module where the function is to be found."""
    fresh(
        """
import hbshim, importlib, pkgutil
for module in pkgutil.iter_modules(hbshim.__path__):
    assert module.name not in hbshim.__all__, module.name
import hbshim.prometheus
assert hbshim.status().links == []
"""
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert fresh("import hbshim; print(hasattr(hbshim, 'no_such_name'))") == "False"


def test_a_library_that_cannot_be_prepared_works_as_without_hbshim_and_says_so() -> None:
    printed = fresh(
        """
import sys, hbshim
sys.modules["hbshim.adapters.versions"] = None  # what the adapter needs is missing
hbshim.install()
import pika
from pika.connection import Connection
print(hasattr(Connection._create_heartbeat_checker, "__wrapped__"))
print(*(event.kind for event in hbshim.take_events()))
"""
    )
    assert printed.split() == ["False", "not-kept-alive"]


@pytest.mark.parametrize(
    "order", ["install first", pytest.param("install last", marks=pytest.mark.extended)]
)
def test_install_and_any_module_of_hbshim_may_come_in_any_order(order: str) -> None:
    command = [sys.executable, "-m", "tests.import_orders", order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *failures, last = done.stdout.splitlines()
    assert not failures, "\n".join(failures)
    assert int(last.removeprefix("done ")) > 20


#: Costly to import, and not needed before a client library is.
NOT_FOR_INSTALL = HEAVY | {"asyncio", "dataclasses", "inspect", "typing", "urllib", "logging"}


def test_install_costs_nothing_before_a_client_library_is_imported() -> None:
    code = "import sys; before = set(sys.modules); import hbshim; hbshim.install(); "
    loaded = fresh(code + "print(*sys.modules.keys() - before)", isolated=True).split()
    assert not NOT_FOR_INSTALL & {name.partition(".")[0] for name in loaded}
    assert sum(name.startswith("hbshim") for name in loaded) <= 4, loaded


def test_install_knows_every_variable_that_may_hold_an_option() -> None:
    named = {row["environment"] for row in Options.describe()} | {"HBSHIM_CONFIG"}
    assert set(_VARIABLES) == named


@pytest.mark.parametrize("variable", sorted({*_VARIABLES} - {"HBSHIM_WATCH_SOCKET"}))
def test_an_option_in_the_environment_is_checked_by_install(variable: str) -> None:
    code = f"import os, hbshim; os.environ[{variable!r}] = 'none/such'; hbshim.install()"
    with pytest.raises(AssertionError, match="OptionError"):
        fresh(code)


def test_install_with_options_imports_neither_asyncio_nor_a_client_library() -> None:
    code = "import hbshim, sys; hbshim.install(worker='pthread', heartbeat=30); print(*sys.modules)"
    loaded = fresh(code, isolated=True).split()
    costly = HEAVY | {"asyncio", "concurrent", "configparser", "socket", "logging"}
    assert not costly & {name.partition(".")[0] for name in loaded}


def test_an_import_hook_leaves_the_module_as_it_was() -> None:
    assert (
        fresh(
            """
import importlib.util, sys, hbshim
hbshim.install()
assert importlib.util.find_spec("pika").loader.is_package("pika")
import pika
assert type(pika.__loader__).__name__ == "SourceFileLoader", pika.__loader__
assert pika.__spec__.loader is pika.__loader__
from importlib import resources
print(resources.files("pika").joinpath("__init__.py").is_file())
"""
        )
        == "True"
    )


def test_a_library_whose_import_fails_is_prepared_when_it_succeeds() -> None:
    assert fresh(
        """
import sys, hbshim
hbshim.install()
sys.modules["pika.connection"] = None
try:
    import pika
except ImportError:
    print("failed")
for name in [name for name in sys.modules if name.partition(".")[0] == "pika"]:
    del sys.modules[name]
import pika
print(hasattr(pika.connection.Connection._create_heartbeat_checker, "__wrapped__"))
"""
    ).split() == ["failed", "True"]


def test_another_tools_import_hook_may_stand_before_or_behind() -> None:
    """As tracing agents have them: a finder that asks importlib and wraps the loader."""
    hook = """
import importlib.util, sys
class Chained:
    def __init__(self, loader): self.loader = loader
    def __getattr__(self, name): return getattr(self.loader, name)
    def create_module(self, spec): return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
        print("traced", module.__name__)
class Finder:
    busy = False
    def find_spec(self, name, path, target=None):
        if name != "pika" or self.busy: return None
        self.busy = True
        try: spec = importlib.util.find_spec(name)
        finally: self.busy = False
        spec.loader = Chained(spec.loader)
        return spec
"""
    check = """
import pika
print(hasattr(pika.connection.Connection._create_heartbeat_checker, "__wrapped__"))
"""
    first = "sys.meta_path.insert(0, Finder())\n"
    install = "import hbshim\nhbshim.install()\n"
    for order in (first + install, install + first):
        assert fresh(hook + order + check).split() == ["traced", "pika", "True"], order


def test_an_interrupt_during_the_preparation_leaves_nothing_unprotected() -> None:
    assert fresh(
        """
import hbshim, hbshim.api, sys
hbshim.install()
import importlib
real = importlib.import_module
def interrupted(name):
    raise KeyboardInterrupt
importlib.import_module = interrupted
try:
    import pika
except KeyboardInterrupt:
    print("interrupted")
importlib.import_module = real
import pika
from pika.connection import Connection
print(hasattr(Connection._create_heartbeat_checker, "__wrapped__"))
"""
    ).split() == ["interrupted", "True"]


#: A finder before all others: the import of one module waits until something has happened.
SLOW_IMPORT = """
import importlib, sys, threading, time
class Slow:
    def __init__(self, name, goes_on): self.name, self.goes_on = name, goes_on
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            begun.set()
            deadline = time.monotonic() + 30
            while not self.goes_on() and time.monotonic() < deadline: time.sleep(0.01)
begun, entered = threading.Event(), threading.Event()
def prepared():
    from pika.connection import Connection
    return hasattr(Connection._create_heartbeat_checker, "__wrapped__")
"""


@pytest.mark.parametrize(
    ("first", "slow"),
    [
        ("hbshim.install()", "hbshim.adapters.pika.heartbeat"),
        ("import pika", "pika"),
        ("import pika", "pika.exceptions"),
    ],
)
def test_install_returns_when_what_other_threads_import_is_prepared(first: str, slow: str) -> None:
    """Also if another thread has called it, or began an import before; both have to wait."""
    printed = fresh(
        SLOW_IMPORT
        + f"""
import hbshim, hbshim.api
if {first!r} == "hbshim.install()": import pika
sys.meta_path.insert(0, Slow({slow!r}, lambda: entered.is_set()))
found = []
def again():
    hbshim.install()
    found.append("pika" in sys.modules and prepared())
def begin(): {first}
threads = [threading.Thread(target=begin), threading.Thread(target=again)]
threads[0].start()
begun.wait(30)
threads[1].start()
threads[1].join(0.3)  # it has to wait for the other one; where it does not, it has returned
entered.set()
for thread in threads: thread.join(30)
print(*found, prepared(), *(event.kind for event in hbshim.take_events()))
"""
    )
    assert printed.split() == ["True", "True"]


@pytest.mark.extended
def test_imports_that_wait_for_each_other_leave_nothing_unprepared() -> None:
    """One thread imports the library, the other what hbshim has for it."""
    printed = fresh(
        SLOW_IMPORT
        + """
import hbshim
hbshim.install()
waiting = lambda: "hbshim.adapters.pika.heartbeat" in sys.modules and time.monotonic() > until
until = time.monotonic() + 0.5
sys.meta_path.insert(0, Slow("pika.exceptions", waiting))
threads = [
    threading.Thread(target=importlib.import_module, args=(name,))
    for name in ("pika", "hbshim.adapters.pika.heartbeat")
]
threads[0].start()
begun.wait(30)
threads[1].start()
for thread in threads: thread.join(30)
print(prepared(), *(event.kind for event in hbshim.take_events()))
"""
    )
    assert printed.split() == ["True"]


def test_an_install_that_was_interrupted_is_completed_by_the_next_one() -> None:
    assert (
        fresh(
            """
import pika, kombu.connection, amqp, hbshim
from tests.interrupts import interrupt_everywhere
hbshim.install()
hbshim.uninstall()
kinds = {
    pika.connection.Connection: "_create_heartbeat_checker",
    amqp.connection.Connection: "connect",
    kombu.connection.Connection: "_establish_connection",
}
def layers(function):
    return 1 + layers(function.__wrapped__) if hasattr(function, "__wrapped__") else 0
from hbshim.adapters import replacing
def restore():
    for kind, name in kinds.items():
        function = getattr(kind, name)
        setattr(kind, name, getattr(function, "__wrapped__", function))
    replacing._agreed.clear()
def check():
    hbshim.install()
    assert [layers(getattr(*each)) for each in kinds.items()] == [1, 1, 1]
    restore()
restore()
print(interrupt_everywhere(hbshim.install, check) > 20)
"""
        )
        == "True"
    )
