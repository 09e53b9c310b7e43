"""Take the README's pictures of the running demo: the pages inside Airflow, in Chromium.

``python -m demo.screenshot FOLDER`` writes ``overview.png`` and ``usecase.png``, with Debian's chromium
installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from demo.home import Home

OFFLINE = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]


def main() -> None:
    """Log in, open the pages and save a screenshot of each."""
    home, folder = Home(), Path(sys.argv[1])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OFFLINE)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(home.url("airflow") + "/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", home.secrets["airflow"])
        page.click("button[type=submit]")
        page.get_by_text("Evergreen").first.click()
        frame = page.frame_locator("iframe").first
        frame.get_by_text("What the statuses mean").wait_for()
        page.screenshot(path=folder / "overview.png", clip={"x": 0, "y": 0, "width": 1280, "height": 360})
        frame.get_by_role("link", name="flight_delay").click()
        frame.get_by_text("Live performance").wait_for()
        frame.frame_locator("iframe.live").locator("figure svg").wait_for()
        page.screenshot(path=folder / "usecase.png")
        browser.close()


if __name__ == "__main__":
    main()
