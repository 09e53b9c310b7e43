"""What a person sees of the pages in a real browser: they render, follow light and dark, and fit a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from demo.screenshot import OFFLINE
from tests.plugins.site import PARTITIONS, PARTS, Site

pytestmark = [pytest.mark.airflow, pytest.mark.full]
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, where it is missing the tests are skipped, and in CI they fail."""
    if not CHROMIUM.exists() and os.environ.get("CI") != "true":
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


@pytest.fixture
def page(site: Site, browser: Browser) -> Iterator[Page]:
    """A Viewer's page, logged in as Airflow's login leaves a browser."""
    context = browser.new_context()
    context.add_cookies([{"name": "_token", "value": site.token("reader"), "url": site.url}])
    yield context.new_page()
    context.close()


def listen(site: Site, page: Page) -> list[str]:
    """Return the list to which errors, what the page's policy blocks, and requests elsewhere are added."""
    complaints: list[str] = []
    page.on("request", lambda request: complaints.append(request.url) if _leaves(site, request.url) else None)
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


def _leaves(site: Site, url: str) -> bool:
    return not url.startswith((site.url, "data:", "blob:", "about:"))


def test_each_page_renders_without_an_error(site: Site, routes: list[str], page: Page) -> None:
    """No script fails, no request leaves the machine, and the page's policy blocks nothing it needs."""
    complaints = listen(site, page)
    for path in routes:
        answer = page.goto(site.url + path, wait_until="load")
        assert answer is not None
        assert answer.status == 200, path
        assert page.locator("body").inner_text().strip() or page.locator("iframe").count(), path
    page.goto(f"{site.url}/evergreen/report/{PARTS['usecase']}/{PARTS['path']}")
    page.frame_locator("iframe").get_by_text("drifted: price").wait_for()

    assert complaints == []


def test_the_overview_is_shown_inside_airflow(site: Site, page: Page) -> None:
    """The item of Airflow's navigation leads to the overview, in a frame beside that navigation."""
    page.goto(site.url)
    page.get_by_text("Evergreen").first.click()
    frame = page.frame_locator("iframe")
    frame.get_by_text("The last 2 partitions").first.wait_for()

    assert frame.locator("#weekly_sales").count() == 1


def test_each_page_follows_light_and_dark_and_fits_a_phone(site: Site, routes: list[str], page: Page) -> None:
    """A page is light or dark as the person wants it, and a phone scrolls it down but not sideways."""
    backgrounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 18)"}
    for path in [path for path in routes if "/reports/" not in path and not path.endswith("/metrics")]:
        for scheme, width in (("light", 1280), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(site.url + path, wait_until="load")
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == backgrounds[scheme], (path, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)


def test_the_way_to_the_login_leads_back(site: Site, browser: Browser) -> None:
    """Who isn't logged in follows the link, logs in, and arrives at the page that was wanted."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site.url}/evergreen/usecase/weekly_sales")
    page.get_by_role("link", name="Log in").click()
    page.fill("input[name=username]", "reader")
    page.fill("input[name=password]", "reader-password")
    page.click("button[type=submit]")
    page.get_by_text("The last partitions").first.wait_for()

    assert page.url == f"{site.url}/evergreen/usecase/weekly_sales"
    context.close()


@pytest.mark.parametrize(
    "path",
    [
        "partition/year/2024-11-30",
        "partition/weekly_sales/2024-03-11",
        "column/year/number_0",
        "column/year/category_0",
        "quality/year",
        "compare/year",
        "compare/year?a=10&b=10-linear",
    ],
)
def test_a_page_follows_light_and_dark_and_fits_a_phone(site: Site, page: Page, path: str) -> None:
    """Each page has the colors that the person wants, scrolls no phone sideways, and draws its charts."""
    complaints, backgrounds = listen(site, page), set()
    for scheme, width in (("light", 1280), ("dark", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"{site.url}/evergreen/{path}", wait_until="load")
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (scheme, width)
        for chart in page.locator("figure svg").all():
            box = chart.bounding_box()
            assert box is not None
            assert box["width"] > 250, (scheme, width)

    assert backgrounds == {"rgb(255, 255, 255)", "rgb(15, 20, 18)"}
    assert complaints == []


@pytest.mark.parametrize(
    "path", ["usecase/year", "partition/year/2024-11-30", "compare/year?a=10&b=10-linear"]
)
def test_on_a_phone_each_cell_is_a_line_behind_its_heading(site: Site, page: Page, path: str) -> None:
    """No table is scrolled sideways, no heading is cut off its cells, and a long text has the row's width."""
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{site.url}/evergreen/{path}", wait_until="load")
    tables = page.locator(".scroll")
    assert tables.count()
    assert tables.evaluate_all("all => all.filter(box => box.scrollWidth > box.clientWidth).length") == 0
    why = page.locator("td[data-label=Why], td[data-label=Finding]").first
    assert why.evaluate("cell => getComputedStyle(cell, '::before').content") in ('"Why"', '"Finding"')
    box = why.bounding_box()
    assert box is not None
    assert box["width"] > 300
    page.set_viewport_size({"width": 1280, "height": 800})
    assert why.evaluate("cell => getComputedStyle(cell, '::before').content") == "none"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_live_charts_are_shown_down_to_the_last(site: Site, page: Page, width: int) -> None:
    """Their frame is as high as they are, also where they are scrolled sideways."""
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{site.url}/evergreen/usecase/year")
    page.locator("iframe.live").scroll_into_view_if_needed()
    charts = page.frame_locator("iframe.live").locator("figure svg")
    assert charts.evaluate("svg => svg.getBoundingClientRect().bottom < innerHeight + 1")


def test_a_report_in_its_frame_has_the_colors_of_airflow(site: Site, page: Page) -> None:
    """Airflow's theme wins over the system's, although the frame can't read it."""
    page.emulate_media(color_scheme="light")
    page.goto(f"{site.url}/evergreen/report/weekly_sales/history.html")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.reload()
    report = page.frame_locator("iframe").locator("body")
    report.locator("h1").wait_for()

    assert report.evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(15, 20, 18)"


def test_a_choice_of_versions_is_sent_to_the_page_itself(site: Site, page: Page) -> None:
    """The form works under the page's own policy, inside Airflow's frame as well as outside of it."""
    page.goto(f"{site.url}/evergreen/compare/year")
    page.select_option("select[name=a]", "10")
    page.select_option("select[name=b]", "10-linear")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("10-linear loses").wait_for()

    assert page.url == f"{site.url}/evergreen/compare/year?a=10&b=10-linear"


def test_the_runs_of_a_partition_are_listed_by_airflow(site: Site, forms: list[str], page: Page) -> None:
    """The link opens Airflow's own list with the runs of that partition and of no other."""
    assert "weekly_sales__batch" in forms
    headers = {"Authorization": f"Bearer {site.token('clerk')}"}
    for partition in PARTITIONS["weekly_sales"]:
        body = {"logical_date": None, "conf": {"partition": partition}}
        path = "/api/v2/dags/weekly_sales__batch/dagRuns"
        assert site.ask(path, method="POST", json=body, headers=headers).status_code == 200
    page.goto(f"{site.url}/evergreen/partition/weekly_sales/{PARTITIONS['weekly_sales'][1]}")
    page.get_by_role("link", name="Runs in Airflow").click()
    page.get_by_text(f"manual__{PARTITIONS['weekly_sales'][1]}").first.wait_for()

    assert page.get_by_text(f"manual__{PARTITIONS['weekly_sales'][0]}").count() == 0
