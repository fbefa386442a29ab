"""hbshim's options of oslo.messaging: where they are listed, and beside oslo.messaging's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.child import clean_environment

OURS = (
    "heartbeat_in_pthread",
    "hbshim_worker",
    "hbshim_liveness_timeout",
    "hbshim_watch_socket",
)


def run(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_real_generator_lists_every_option_once() -> None:
    """Also beside oslo.messaging's own list, which has one of the same name until 18.0."""
    listed = run("-m", "oslo_config.generator", "--namespace", "hbshim.oslo")
    both = run(
        "-m", "oslo_config.generator", "--namespace", "oslo.messaging", "--namespace", "hbshim.oslo"
    )
    for text in (listed, both):
        assert text.count("[oslo_messaging_rabbit]\n") == 1
        section = text.partition("[oslo_messaging_rabbit]\n")[2].partition("\n[")[0].splitlines()
        for name in OURS:
            assert [line for line in section if line.startswith(f"#{name} = ")], name
        assert section.count("#heartbeat_in_pthread = auto") == 1
    assert "#rabbit_qos_prefetch_count = 0" in both
    for name in ("idle_timeout", "pre_settled", "cast_confirm"):
        assert f"#{name} =" in listed.partition("[oslo_messaging_amqp]\n")[2].partition("\n[")[0]


#: As 17.3 has it; 18.3 gets it back for these tests.
STOCK_OPTION = """
from oslo_config import cfg
from oslo_messaging._drivers import impl_rabbit
if "heartbeat_in_pthread" not in [each.name for each in impl_rabbit.rabbit_opts]:
    stock = cfg.BoolOpt("heartbeat_in_pthread", default=False, deprecated_for_removal=True)
    impl_rabbit.rabbit_opts.append(stock)
conf = cfg.ConfigOpts()
"""

ORDERS = {
    "ours first": "ours(); theirs()",
    "theirs first": "theirs(); ours()",
    "a copy of theirs first": (
        "import copy; conf.register_opts(copy.deepcopy(impl_rabbit.rabbit_opts), group=GROUP);"
        "ours(); theirs()"
    ),
}

REGISTER = """
GROUP = "oslo_messaging_rabbit"
def theirs():
    conf.register_opts(impl_rabbit.rabbit_opts, group=GROUP)
def ours():
    from hbshim.oslo import heartbeat_options
    heartbeat_options.register(conf)
"""

LOOK = """
conf([], default_config_files=[])
conf.set_override("heartbeat_in_pthread", "auto", GROUP)
value = conf[GROUP].heartbeat_in_pthread
print(value, bool(value))
conf.set_override("heartbeat_in_pthread", "true", GROUP)
print(conf[GROUP].heartbeat_in_pthread)
"""


@pytest.mark.parametrize("order", ORDERS)
def test_one_option_serves_both_drivers_in_a_process(order: str) -> None:
    """`auto` is not true: with it, oslo.messaging's driver does not replace its modules."""
    code = STOCK_OPTION + REGISTER + ORDERS[order] + LOOK
    assert run("-c", code) == "auto False\nTrue\n"


def test_without_that_oslo_config_refuses_two_options_of_one_name() -> None:
    code = (
        STOCK_OPTION
        + REGISTER
        + (
            "from hbshim.oslo.heartbeat_options import RABBIT_OPTIONS\n"
            "theirs()\n"
            "try:\n    conf.register_opts(RABBIT_OPTIONS, group=GROUP)\n"
            "except cfg.DuplicateOptError as error:\n    print('refused')"
        )
    )
    assert run("-c", code) == "refused\n"


def test_the_page_has_the_options_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "oslo.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- options:")[2].partition("<!-- end of options -->")[0]
    print_rows = (
        "from hbshim.oslo.heartbeat_options import RABBIT_OPTIONS\n"
        "for each in RABBIT_OPTIONS:\n"
        "    cells = [each.type.type_name.replace('|', '\\\\|'), each.sample_default, each.help]\n"
        "    print('| ' + ' | '.join([f'`{each.name}`', *cells]) + ' |')\n"
    )
    assert [row for row in listed.splitlines() if row.startswith("| `")] == run(
        "-c", print_rows
    ).splitlines()
