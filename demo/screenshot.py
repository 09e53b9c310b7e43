"""Take the README's screenshot: the Evergreen page inside Airflow, of the running demo, in Chromium.

``python -m demo.screenshot FILE.png``, with Debian's chromium installed.
"""

from __future__ import annotations

import sys

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
    """Log in, open the page and save the screenshot."""
    home = Home()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OFFLINE)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(home.url("airflow") + "/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", home.secrets["airflow"])
        page.click("button[type=submit]")
        page.get_by_text("Evergreen").first.click()
        page.frame_locator("iframe").get_by_text("The last partitions").first.wait_for()
        page.screenshot(path=sys.argv[1])
        browser.close()


if __name__ == "__main__":
    main()
