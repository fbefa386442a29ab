"""The report: complete, self-contained, and honest about what was not expected."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.wsgi_harness.cell_stories import BEGAN, HEARTBEAT, alive, closed, several, warned
from wsgi_harness.matrix.run import Results
from wsgi_harness.matrix.scenarios import DEPLOYMENTS, SCENARIOS, Scenario, select
from wsgi_harness.matrix.verdict import evaluate
from wsgi_harness.observe.observation import Observation
from wsgi_harness.report import plots, record, report
from wsgi_harness.report.report import ReportError
from wsgi_harness.report.table import print_scenarios, print_verdicts, summary


def results(scenarios: Sequence[Scenario] = SCENARIOS, **changed: Observation) -> Results:
    """A run of `scenarios` in which everything went as expected, but for `changed`."""
    observations = []
    for scenario in scenarios:
        story = alive if scenario.expected == "alive" else closed
        seen = story(scenario.name)
        if scenario.is_control:
            seen = replace(seen, shim=None)
        elif scenario.warns:
            seen = warned(seen)
        observations.append(changed.get(scenario.name.replace("-", "_"), seen))
    return Results(
        began=BEGAN,
        heartbeat=HEARTBEAT,
        broker="RabbitMQ 3.10.8",
        engine="docker 20.10.24",
        durations={"start": 30.0, "silence": 24.0},
        scenarios=tuple(scenarios),
        observations=tuple(observations),
        verdicts=tuple(
            evaluate(scenario, seen, HEARTBEAT)
            for scenario, seen in zip(scenarios, observations, strict=True)
        ),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all cells, with its files beside it."""
    return report.write(results(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return written.read_text(encoding="utf-8")


def test_every_cell_has_its_section_and_its_timeline(page: str) -> None:
    for scenario in SCENARIOS:
        assert page.count(f'id="{scenario.name}"') == 1
        assert f'href="#{scenario.name}"' in page
        assert f'aria-label="Timeline of {scenario.name}"' in page
    picture_of_all = 1
    assert page.count("<svg") == len(SCENARIOS) + picture_of_all + page.count("<li><svg")


def test_each_mark_of_a_timeline_has_its_picture_and_its_meaning_as_text(page: str) -> None:
    """A picture of all would be too small to be read on a narrow screen."""
    _, _, rest = page.partition('<ul class="legend">')
    entries = rest.partition("</ul>")[0].split("<li>")[1:]
    meanings = [entry.rpartition("</svg>")[2].removesuffix("</li>\n").strip() for entry in entries]
    assert all(entry.startswith("<svg") for entry in entries)
    assert meanings == [
        "HTTP request, answered",
        "HTTP request, failed",
        "connection closed",
        "heartbeat, cell to broker",
        "heartbeat, broker to cell",
        "probe of a green thread",
        "probe of a native thread",
        "connection open",
        "no byte for 2 to 3 T",
    ]


def test_oslo_messagings_drivers_and_amqp_1_0_are_groups_of_their_own(page: str) -> None:
    tables = re.findall(r"<table>.*?</table>", page, re.DOTALL)
    assert len(tables) == 3

    for scenario in SCENARIOS:
        over_amqp1 = scenario.deployment.protocol == "1.0"
        group = 2 if over_amqp1 else int(bool(scenario.deployment.oslo))
        found = [table.count(f'href="#{scenario.name}"') for table in tables]
        assert found == [int(number == group) for number in range(3)]


def test_each_of_several_connections_has_its_bar_and_its_cross() -> None:
    one = closed("stock-rabbit-oslo")
    three = several(one, ends=(BEGAN + 11, BEGAN + 12, None))

    def crosses(seen: Observation) -> int:
        # Each marker is a <use> of one path; the legend's own is not in a timeline.
        return plots.timeline(seen, HEARTBEAT).count(f"fill: {plots.VERMILLION.lower()}")

    assert crosses(one) > 0
    assert crosses(three) == 2 * crosses(one)


def test_the_page_needs_nothing_else(page: str) -> None:
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"(src|href)=\"https?:", page)
    assert not re.search(r"url\(\s*['\"]?https?:", page)


def test_the_page_says_what_was_expected_and_why(page: str) -> None:
    for scenario in SCENARIOS:
        assert scenario.reason.replace("'", "&#x27;") in page


def test_a_good_run_has_a_good_headline_and_no_findings(page: str) -> None:
    assert "Every expectation was met" in page
    assert "UNEXPECTED" not in page
    assert "FAIL" not in page


def test_a_finding_is_at_the_top_and_in_the_grid_and_at_its_cell() -> None:
    survived = replace(alive("green-kombu"), shim=None)

    page = report.render(results(select(["green-*"]), green_kombu=survived))

    assert "1 of 6 expectations were not met" in page
    before_grid = page[: page.index("<table>")]
    assert "the connection survived although it was expected to be closed" in before_grid
    assert '<td class="alive unmet"><a href="#green-kombu">' in page


def test_a_cell_that_was_not_measured_is_shown_without_a_timeline() -> None:
    unmeasured = Observation(
        "none-kombu", problems=("it did not open its connection: <no answer>",), log=("AH00161",)
    )

    page = report.render(results(select(["none-kombu"]), none_kombu=unmeasured))

    assert "INCONCLUSIVE" in page
    assert "&lt;no answer&gt;" in page
    assert "<no answer>" not in page
    assert "AH00161" in page


def test_hbshim_reports_its_choice_and_its_warnings(page: str) -> None:
    assert "detect(): pthread: The hub is parked." in page
    assert "event choice-warning: The host parks the hub." in page


def test_both_files_are_written_and_agree(tmp_path: Path) -> None:
    some = select(["*-kombu-daemon"])

    path = report.write(results(some), tmp_path / "new" / "report")

    data = json.loads((path.parent / "results.json").read_text(encoding="utf-8"))
    assert path.name == "index.html"
    assert data == json.loads(json.dumps(record.as_data(results(some))))
    assert data["ok"] is True
    assert data["exit_code"] == 0
    assert [cell["name"] for cell in data["cells"]] == [each.name for each in some]


def test_the_picture_to_show_has_a_lane_for_each_cell_of_the_first_deployment(
    written: Path,
) -> None:
    picture = (written.parent / "overview.svg").read_text(encoding="utf-8")
    for scenario in [each for each in SCENARIOS if each.deployment is DEPLOYMENTS[0]]:
        lane = f"{scenario.method.title}, {scenario.library}"
        assert picture.count(f">{lane}<") == 1
    assert DEPLOYMENTS[0].title in picture
    assert DEPLOYMENTS[1].title not in picture


def test_the_data_of_a_cell_is_complete() -> None:
    data = record.as_data(results(none_kombu=replace(alive("none-kombu"), shim=None)))

    by_name = {cell["name"]: cell for cell in data["cells"]}
    assert data["exit_code"] == 1
    assert by_name["none-kombu"]["outcome"] == "unexpected"
    assert by_name["none-kombu"]["why"]
    fix = by_name["hbshim-auto-kombu"]
    assert (fix["failed_requests"], fix["lost_messages"], fix["ok"]) == (0, 0, True)
    assert fix["broker"]["heartbeat"] == HEARTBEAT
    assert len(fix["wire"]["client_heartbeats"]) == 12
    assert fix["native"]["worst"] < fix["green"]["worst"]


def test_a_place_that_cannot_be_written_to_is_reported_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ReportError, match="--report"):
        report.prepare(tmp_path / "file" / "report")


def printed(run: Results, width: int = 120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        print_verdicts(console, run)
    return capture.get()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_shows_each_cell_on_one_line(width: int) -> None:
    lines = printed(results(), width=width).splitlines()

    for scenario in SCENARIOS:
        shown = [line for line in lines if line.strip().startswith(f"{scenario.name} ")]
        assert len(shown) == 1
        assert ("open after" if scenario.expected == "alive" else "closed after") in shown[0]
        assert "…" not in shown[0]


def test_the_terminal_reports_what_was_not_expected() -> None:
    broke = replace(closed("hbshim-auto-pika"), shim={"events": []})

    text = printed(results(hbshim_auto_pika=broke))

    assert "FAIL: hbshim-auto-pika: the connection was closed: missed heartbeats" in text
    assert "FAIL: hbshim-auto-pika: lost messages: 20 of 20" in text


def test_the_summary_counts_only_what_must_fail_and_what_must_hold() -> None:
    must_fail = sum(each.is_control and each.expected == "closed" for each in SCENARIOS)
    must_hold = sum(each.is_fix for each in SCENARIOS)

    text = summary(results())

    assert f"Without hbshim, connections were lost in {must_fail} cells" in text
    assert f"was lost in {must_hold} cells" in text
    assert "With hbshim" not in summary(results(select(["none-*"])))


def test_the_summary_of_one_cell_is_in_the_singular() -> None:
    assert "was lost in 1 cell." in summary(results(select(["hbshim-auto-kombu"])))


def test_the_list_has_every_scenario_with_its_reason() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        print_scenarios(console)

    listed = " ".join(capture.get().split())
    assert all(scenario.name in listed for scenario in SCENARIOS)
