"""A real browser in front of the stack that the tests of `e2e/` use as well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from demo.screenshot import OFFLINE
from tests.browser.person import PATIENCE, Person
from tests.house import House

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session", autouse=True)
def chromium() -> Path:
    """The browser, where it is installed; CI installs it."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{CHROMIUM} is missing, and .ci/run should have installed it")
        pytest.skip(f"{CHROMIUM} is missing: CI runs these tests; here, apt-get install chromium")
    return CHROMIUM


@pytest.fixture(scope="package")
def person(chromium: Path, house: House) -> Iterator[Person]:
    """The administrator, logged in; `__init__.py` lets the browser's event loop end with these tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OFFLINE)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield Person(page, house.home)
        browser.close()
