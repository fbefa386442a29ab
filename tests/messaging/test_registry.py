"""Which driver a URL's scheme names: hbshim's own ones, and those of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbshim.errors import DriverLoadError, HbshimError, MissingExtraError, OptionError
from hbshim.messaging import AmqpOptions, Capabilities, Client, Target, connect, require_store
from hbshim.messaging.registry import DriverFactory, factory
from hbshim.messaging.schemes import BUILT_IN, GROUP, schemes

#: Modules that a package of another author could have.
MODULES = """
import dataclasses

from hbshim.errors import MissingExtraError
from hbshim.messaging import Capabilities, MessagingOptions
from hbshim.messaging.options import driver_option

@dataclasses.dataclass(frozen=True)
class Options(MessagingOptions):
    linger: int = driver_option("linger", 1, int, "seconds", "Wait so long at the end.")

class Driver:
    rpc_timeout, payload_limit, capabilities = 5.0, 1000, Capabilities()

    def __init__(self, hosts, options):
        self.hosts, self.options = hosts, options

class Factory:
    options_class = Options

    def default_port(self, options):
        return 5555

    def open(self, hosts, options):
        return Driver(hosts, options)

factory = Factory()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Have a package installed that offers drivers."""

    def installed(**entry_points: str) -> None:
        (tmp_path / "other_drivers.py").write_text(MODULES)
        (tmp_path / "broken_driver.py").write_text("import no_such_library\n")
        (tmp_path / "bare_driver.py").write_text(
            "from hbshim.errors import MissingExtraError\nraise MissingExtraError('zmq', 'zmq')\n"
        )
        metadata = tmp_path / "other_drivers-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
        monkeypatch.syspath_prepend(str(tmp_path))

    yield installed
    for name in ("other_drivers", "broken_driver", "bare_driver"):
        sys.modules.pop(name, None)


def test_the_driver_of_another_package(install: Callable[..., None]) -> None:
    install(zmq="other_drivers:factory")
    driver: Any = connect("zmq://u:p@one,u:p@two:9/?rpc_timeout=3")
    assert [(host.hostname, host.port) for host in driver.hosts] == [("one", 5555), ("two", 9)]
    assert driver.options.rpc_timeout == 3
    assert schemes() == ("hbkombu", "hbpika", "hbzmq", "hbamqp", "hbamqps", "zmq")
    with pytest.raises(OptionError, match="or hbzmq:// or hbamqp:// or hbamqps:// or zmq://"):
        connect("amqp://host/")


def test_a_driver_that_stores_nothing_says_so(install: Callable[..., None]) -> None:
    install(zmq="other_drivers:factory")
    driver = connect("zmq://host/")
    client = Client(driver, Target("topic"))
    for use in (
        lambda: require_store(driver),
        lambda: client.submit("m"),
        lambda: client.attach("id"),
    ):
        with pytest.raises(OptionError, match="this driver does not store requests"):
            use()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken_driver:factory", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("no_such_module:factory", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("other_drivers:no_such_name", "no_such_name"),
        ("other_drivers:Factory", "it is not a DriverFactory"),
        ("other_drivers:Driver", "it is not a DriverFactory"),
    ],
)
def test_a_broken_entry_point_is_one_error_that_names_it(
    install: Callable[..., None], value: str, reason: str
) -> None:
    install(zmq=value)
    with pytest.raises(DriverLoadError) as caught:
        connect("zmq://user:s3cret@host/")
    assert isinstance(caught.value, HbshimError)
    said = str(caught.value)
    assert said.startswith(f"the messaging driver for zmq:// cannot be loaded from {value} (")
    assert reason in said
    assert "s3cret" not in said


def test_a_driver_whose_library_is_missing_names_its_extra(install: Callable[..., None]) -> None:
    install(zmq="bare_driver:factory")
    with pytest.raises(MissingExtraError, match=r"pip install 'hbshim\[zmq\]'"):
        connect("zmq://host/")


def test_a_broken_package_does_not_harm_the_others(install: Callable[..., None]) -> None:
    install(zmq="broken_driver:factory", hbpika="broken_driver:factory")
    connect("hbpika://host/").close()
    with pytest.raises(OptionError, match="begin it with hbkombu:// or hbpika://"):
        connect("host")


@pytest.mark.parametrize("scheme", ["hbkombu", "hbpika"])
def test_hbshims_own_drivers(scheme: str) -> None:
    found = factory(scheme)
    assert isinstance(found, DriverFactory)
    assert found.options_class is AmqpOptions
    driver = connect(f"{scheme}://host/")
    assert driver.capabilities == Capabilities(*[True] * 5)
    assert require_store(driver) is driver
    driver.close()


def test_they_are_declared_for_those_that_list_entry_points() -> None:
    source = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    assert f'"{GROUP}": [' in source
    for scheme, value in BUILT_IN.items():
        assert f'"{scheme} = {value}"' in source


def test_they_work_without_an_installation(tmp_path: Path) -> None:
    """From a checkout: no metadata can be found."""
    program = (
        "import importlib.metadata as metadata\n"
        "metadata.entry_points = lambda **_: ()\n"
        "from hbshim.messaging import connect\n"
        "for scheme in ('hbkombu', 'hbpika'):\n"
        "    connect(f'{scheme}://host/').close()\n"
        "    print(scheme)\n"
    )
    checkout = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": checkout},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.stdout.split() == ["hbkombu", "hbpika"], run.stderr


def test_drivers_share_a_configuration(install: Callable[..., None]) -> None:
    """Each ignores what belongs to another driver; what no driver has is refused."""
    install(zmq="other_drivers:factory")
    config = {"rpc_timeout": 7, "quorum_queues": True, "linger": 3}
    other: Any
    amqp: Any
    other, amqp = (connect(f"{scheme}://host/", config=config) for scheme in ("zmq", "hbpika"))
    assert (other.options.rpc_timeout, other.options.linger) == (7, 3)
    assert (amqp.options.rpc_timeout, amqp.options.quorum_queues) == (7, True)
    amqp.close()
    for scheme in ("zmq", "hbpika"):
        for wrong, meant in (("qourum_queues", "quorum_queues"), ("lingre", "linger")):
            with pytest.raises(OptionError, match=f"unknown option {wrong}; did you mean {meant}?"):
                connect(f"{scheme}://host/", config={wrong: 1})


def test_an_option_of_this_driver_is_meant_rather_than_one_of_another(
    install: Callable[..., None],
) -> None:
    """Another driver's would be refused in its turn."""
    install(zmq="other_drivers:factory")
    with pytest.raises(OptionError, match=r"unknown option inger; did you mean linger\?"):
        connect("zmq://host/?inger=4")
    with pytest.raises(
        OptionError, match=r"unknown option idle_timeout; did you mean rpc_timeout\?"
    ):
        connect("hbamqp://host/?idle_timeout=4")


def test_drivers_share_a_file(
    install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(zmq="other_drivers:factory")
    (tmp_path / "hbshim.ini").write_text("[hbshim_messaging]\nquorum_queues = yes\nlinger = 3\n")
    monkeypatch.setenv("HBSHIM_CONFIG", str(tmp_path / "hbshim.ini"))
    driver: Any = connect("zmq://host/")
    assert driver.options.linger == 3
    assert AmqpOptions.load().quorum_queues is True


@pytest.mark.parametrize("where", ["url", "keyword"])
def test_an_option_of_another_driver_is_refused_where_it_is_for_this_one(
    install: Callable[..., None], where: str
) -> None:
    install(zmq="other_drivers:factory")
    with pytest.raises(OptionError, match="quorum_queues is an option of hbkombu:// and hbpika://"):
        if where == "url":
            connect("zmq://host/?quorum_queues=true")
        else:
            connect("zmq://host/", quorum_queues=True)


def test_a_broken_driver_has_no_options(install: Callable[..., None]) -> None:
    install(zmq="broken_driver:factory")
    connect("hbpika://host/", config={"rpc_timeout": 7}).close()
    with pytest.raises(OptionError, match="unknown option linger"):
        connect("hbpika://host/", config={"linger": 3})
