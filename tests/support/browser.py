"""A real headless browser, for tests of pages.

It needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium. Without them the
tests are skipped, unless CODD_BROWSER=required says that they have to run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def missing() -> str | None:
    """What is missing for a browser, or None."""
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "selenium is not installed"
    if not any(map(shutil.which, BROWSERS)):
        return f"none of {', '.join(BROWSERS)} is installed"
    return None if shutil.which("chromedriver") else "chromedriver is not installed"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser, 1400 by 1000, with a log of what goes wrong in a page."""
    reason = missing()
    if reason is not None and os.environ.get("CODD_BROWSER") == "required":
        pytest.fail(f"a browser is required here, but {reason}")
    if reason is not None:
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    yield driver
    driver.quit()
