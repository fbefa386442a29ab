"""The documentation's site: built without a warning, complete, and usable in a real browser."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hbshim import PUBLIC_MODULES
from tests.browser import Browser
from tests.concurrency import MODEL
from tests.conftest import broker_is_required
from wsgi_harness.engine.engine import Engine
from wsgi_harness.engine.images import Images, ensure_browser_image, has_browser_image
from wsgi_harness.paths import set_up_lock
from wsgi_harness.stack.stack import project_name

pytestmark = pytest.mark.skipif(MODEL != "native", reason="the site is the same everywhere")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by `make docs`."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--config-file", "docs/site/mkdocs.yml", "--site-dir", str(target)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def browser(engine: Engine, images: Images, site: Path) -> Browser:
    """A browser in which the site can be opened."""
    if not broker_is_required() and not has_browser_image(engine):
        pytest.skip("the browser's image is not built here; HBSHIM_REQUIRE_BROKER=1 builds it")
    with set_up_lock(lambda _: None):
        image = ensure_browser_image(engine)
    return Browser(engine, image, project_name("browser"), site)


@pytest.mark.parametrize("module", ["hbshim", *(f"hbshim.{name}" for name in PUBLIC_MODULES)])
def test_the_reference_has_every_public_name(site: Path, module: str) -> None:
    listed = importlib.import_module(module).__all__
    names = [name for name in listed if not name.startswith("_")]
    pages = (site / "reference").glob("*.html")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert names
    assert [name for name in names if f'id="{module}.{name}"' not in text] == []


@pytest.mark.parametrize("module", ["hbshim", *(f"hbshim.{name}" for name in PUBLIC_MODULES)])
def test_the_reference_describes_every_public_name(site: Path, module: str) -> None:
    pages = (site / "reference").glob("*.html")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    entries = re.findall(rf'<h\d id="{module}\.(\w+)"(.+?)(?=<h\d id=|$)', text, re.DOTALL)
    assert entries
    assert [name for name, entry in entries if "<p>" not in entry] == []


def test_the_reference_shows_no_markup_of_another_tool(site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        assert re.findall(r":(?:class|func|meth|data|mod|attr):", page.read_text("utf-8")) == []


def test_no_page_loads_anything_from_another_site(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text("utf-8")
        )
        assert loaded == [], page.name


def test_a_reader_searches_and_navigates(browser: Browser) -> None:
    with browser:
        browser.picture(1400, 900)
        browser.open("index.html")
        assert browser.evaluate("document.querySelector('h1').textContent").startswith("hbshim")

        browser.click(".md-nav--primary a[href='options.html']")
        browser.wait_for(
            "location.pathname == '/options.html' && document.title == 'Options - hbshim'"
        )

        browser.click("input.md-search__input")
        # The page says so once its script listens; what is typed before that is not searched for.
        browser.wait_for(
            "document.querySelector('.md-search-result__meta')?.innerText.startsWith('Type to')"
        )
        browser.type("liveness_timeout")
        browser.click(".md-search-result__link[href*='options.html']")
        browser.wait_for("location.search.startsWith('?h=liveness')")
        browser.wait_for("document.querySelectorAll('article mark').length > 0")

        browser.open("reference/messaging.html")
        browser.click(".md-sidebar--secondary a[href='#hbshim.messaging.Client']")
        browser.wait_for("location.hash == '#hbshim.messaging.Client'")
        assert browser.problems == []
