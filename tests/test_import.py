"""`import hbshim` imports nothing heavy; its names are loaded when used."""

import subprocess
import sys

HEAVY = {"kombu", "amqp", "pika", "eventlet", "gevent", "wrapt", "click", "rich", "ssl"}


def fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_hbshim_imports_nothing_heavy():
    loaded = fresh("import hbshim, sys; print(*sys.modules)").split()
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


def test_installing_imports_no_messaging_or_green_library():
    loaded = fresh("import hbshim, sys; hbshim.install(); print(*sys.modules)").split()
    assert not {"kombu", "amqp", "pika", "eventlet", "gevent"} & set(loaded)


def test_every_public_name_can_be_had():
    fresh("import hbshim; [getattr(hbshim, name) for name in hbshim.__all__]")


def test_a_function_is_not_hidden_by_a_module_of_its_name():
    """`import hbshim.x` would put the module where the function is to be found."""
    fresh(
        """
import hbshim, importlib, pkgutil
for module in pkgutil.iter_modules(hbshim.__path__):
    assert module.name not in hbshim.__all__, module.name
import hbshim.prometheus
assert hbshim.status()["links"] == []
"""
    )


def test_an_unknown_name_is_an_attribute_error():
    assert fresh("import hbshim; print(hasattr(hbshim, 'no_such_name'))") == "False"


def test_a_library_that_cannot_be_prepared_is_never_imported_unprotected():
    printed = fresh(
        """
import sys, hbshim
sys.modules["packaging.specifiers"] = None  # what the adapter needs is missing
hbshim.install()
for _ in range(3):
    try:
        import pika
        print("unprotected")
    except ImportError as error:
        print(error.name)
del sys.modules["packaging.specifiers"]
import pika
from pika.connection import Connection
print("prepared" if hasattr(Connection._create_heartbeat_checker, "__wrapped__")
      else "unprotected")
"""
    )
    assert printed.split() == ["packaging.specifiers"] * 3 + ["prepared"]
