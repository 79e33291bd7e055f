"""The documentation builds without a warning, is complete, and asks nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
import pytest

import codd
import pcircuits as pc
from pcircuits import viz
from tests.support.site import Site

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = {
    "pcircuits": set(pc.__all__) - {"errors", "families", "operators", "queries", "viz"},
    "pcircuits.families": pc.families.__all__,
    "pcircuits.operators": pc.operators.__all__,
    "pcircuits.queries": pc.queries.__all__,
    "pcircuits.viz": viz.__all__,
    "codd": set(codd.__all__) - {"compat", "denoisers", "errors", "evaluation", "training", "viz"},
    "codd.compat.dream": codd.compat.dream.__all__,
    "codd.compat.llada": codd.compat.llada.__all__,
    "codd.denoisers": codd.denoisers.__all__,
    "codd.evaluation": codd.evaluation.__all__,
    "codd.training": codd.training.__all__,
    "codd.viz": codd.viz.__all__,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site").resolve()
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        # Of its makers, about the next version; not about this site.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return Site(folder)


def test_nothing_is_fetched_from_elsewhere(site: Site) -> None:
    assert list(site.external()) == []
    # Diagrams of this kind would be drawn by a script that the theme fetches.
    assert not any("mermaid" in page.classes for page in site.pages.values())


def test_every_link_leads_somewhere(site: Site) -> None:
    assert sum(len(page.links) for page in site.pages.values()) > 1000
    assert list(site.broken()) == []


def test_every_page_of_the_folder_is_there(site: Site) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        page = site.folder / source.relative_to(ROOT / "docs").with_suffix(".html")
        assert page in site.pages, f"{source.name} is not on the site"


@pytest.mark.parametrize("package", PUBLIC)
def test_the_reference_has_every_public_name(site: Site, package: str) -> None:
    missing = {f"{package}.{name}" for name in PUBLIC[package]} - site.anchors()
    assert sorted(missing) == []


def test_notebooks_are_shown_with_their_stored_outputs(site: Site) -> None:
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = site.pages[site.folder / "tutorials" / f"{notebook.stem}.html"]
        shown = [name for name in page.loaded if name.startswith(notebook.stem)]
        cells = nbformat.read(notebook, as_version=4).cells
        stored = [
            o for cell in cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", ())
        ]
        assert len(shown) == len(stored) > 0
        assert "output" in page.classes


def test_formulas_and_help_are_written_out(site: Site) -> None:
    for path, page in site.pages.items():
        assert "arithmatex" not in page.classes, path.name
        assert not re.search(r"<!-- (help|modules):", path.read_text(encoding="utf-8")), path.name
    usage = site.pages[site.folder / "reference/codd/command-line.html"].text
    assert "usage: codd train" in usage and "--lora-rank" in usage


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    """The site behind a server of its own."""
    handler = partial(QuietHandler, directory=str(site.folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Says nothing of what was asked for."""


PAGES = ("index", "explanation/couplings", "how-to/write-a-query", "reference/pcircuits/learning")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_telephone_and_a_desk(browser: Any, address: str, name: str) -> None:
    for width in (390, 1300):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(f"{address}/{name}.html")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert loaded and all(each.startswith(address) for each in loaded)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_the_search_finds_a_name(browser: Any, address: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}/index.html?q=leave_one_out")
    found = WebDriverWait(browser, 60).until(
        lambda page: page.find_elements("css selector", ".md-search-result__item a")
    )
    targets = [link.get_attribute("href") for link in found]
    assert any("reference/pcircuits/queries.html" in target for target in targets)


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there">b</a>')
    (tmp_path / "b.html").write_text('<a href="a.html#here">a</a><a href="c.html">c</a>')
    (tmp_path / "c.css").write_text("a { background: url(https://example.org/a.png) }")
    (tmp_path / "d.html").write_text('<script src="//example.org/x.js"></script>')
    site = Site(tmp_path)
    assert sorted(site.broken()) == ["a.html: b.html#there", "b.html: c.html"]
    assert sorted(site.external()) == ["c.css: url or import", "d.html: //example.org/x.js"]
