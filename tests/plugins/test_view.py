"""The pages show what the lake holds to those whom Airflow lets, and to nobody else."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import quote

import pytest

from tests.plugins.site import ATTEMPT, PARTITIONS, PARTS, PLANTED, Site

pytestmark = pytest.mark.airflow
PARTITION = PARTITIONS["weekly_sales"][1]
QUARANTINE = f"/evergreen/quarantine/weekly_sales/{PARTITION}"
REPORT = f"/evergreen/reports/weekly_sales/{PARTS['path']}"


def test_every_route_refuses_a_stranger(site: Site, routes: list[str]) -> None:
    """Without a login there is nothing to see, by no way of asking."""
    for path in routes:
        answers = [
            site.get(path),
            site.get(path, "nobody"),
            site.get(path, "nobody", by="cookie"),
            site.ask(path, cookies={"_token": "forged"}),
            site.ask(path, headers={"Authorization": "Bearer forged"}),
        ]
        assert [a.status_code for a in answers] == [401, 403, 403, 403, 403], path
        assert not any(said in a.text for a in answers for said in ("champion", "drifted", "between")), path


@pytest.mark.full
def test_every_route_answers_who_may_read(site: Site, routes: list[str]) -> None:
    """A viewer gets each page, by a token or with the cookie of a logged-in browser."""
    for path in routes:
        assert site.get(path, "reader").status_code == 200, path
        assert site.get(path, "reader", by="cookie").status_code == 200, path


def test_nothing_is_changed_through_a_page(site: Site, routes: list[str]) -> None:
    """A cookie comes along with requests that other sites forge, so a page answers none that could write."""
    token = site.token("boss")
    for path in routes:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert site.ask(path, method=method, cookies={"_token": token}).status_code == 405, (method, path)


def test_a_use_case_is_seen_by_those_who_may_read_its_dag(site: Site) -> None:
    """Whom Airflow lets see one use case's DAG sees that one, here and in the overview."""
    text = site.get("/evergreen/", "sales").text

    assert 'id="weekly_sales"' in text
    assert "flight_delay" not in text
    assert "mistyped" not in text
    assert site.get("/evergreen/usecase/flight_delay", "sales").status_code == 403
    assert site.get("/evergreen/quarantine/flight_delay/2013-03-02", "sales").status_code == 403
    assert site.get("/evergreen/reports/flight_delay/monitor/2013-03-02.html", "sales").status_code == 403
    assert site.get("/evergreen/report/flight_delay/monitor/2013-03-02.html", "sales").status_code == 403
    for page in ("partition/flight_delay/2013-03-02", "column/flight_delay/distance", "quality/flight_delay"):
        assert site.get(f"/evergreen/{page}", "sales").status_code == 403, page
    assert site.get("/evergreen/compare/flight_delay", "sales").status_code == 403


def test_the_overview_says_who_is_champion_and_how_the_partitions_went(site: Site) -> None:
    """Champion, outcomes, quarantined rows, fallbacks, realized metric, alarms, attempts: all on one page."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", site.get("/evergreen/usecase/weekly_sales", "reader").text))
    text = " ".join(text.split())

    for said in (
        "version 3",
        "promoted by gate",
        "serves from 2024-03-04 on",
        "blessed: squared_error 3.1",
        "refused 100 rows, 2 quarantined",
        "champion 75 %",
        "constant 25 %",
        "r2 0.432",
        "1 drift: price",
        "no labels yet",
    ):
        assert said in text, said


def test_a_use_case_page_says_what_is_outstanding(site: Site) -> None:
    """Labels that are outstanding stand beside the alarms, and partitions that were due are flagged."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", site.get("/evergreen/usecase/weekly_sales", "reader").text))
    text = " ".join(text.split())

    assert "1 alarm: drift of price; labels of 1 of the last 2 partitions are outstanding" in text
    assert re.search(r"broken \d+ partitions, 2024-03-18 to 20.+, should have been scored by now", text)


def test_the_overview_has_a_line_for_each_use_case(site: Site) -> None:
    """Its status and the reason, the model, the metric beside its requirement, alarms by partition."""
    page = site.get("/evergreen/", "reader").text
    (line,) = re.findall(r'<section id="weekly_sales".*?</section>', page, re.DOTALL)
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", line)).split())

    for part in ("weekly_sales broken", "should have been scored by now", "boosting version 3", "r2 0.432"):
        assert part in text, part
    assert re.findall(r'<a href="[^"]+" class="(\w*)" title="([^"]+)"', line) == [
        ("good", "2024-03-04: no alarm"),
        ("warn", "2024-03-11: drift of price"),
    ]


def test_drift_alerts_and_who_was_notified_are_told_apart(site: Site) -> None:
    """A partition drifted and raised an alert of which nobody was notified; of another's somebody was."""
    page = site.get("/evergreen/usecase/weekly_sales", "reader").text
    table = page.split("<h2>Monitoring</h2>")[1]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[:3]
    columns = re.findall(r"<th[^>]*>(.*?)</th>", head)
    cells = [
        dict(zip(columns, [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in found], strict=True))
        for found in (re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows)
    ]
    shown = [[cell[name] for name in ("Partition", "Detected", "Alert raised", "Notified")] for cell in cells]

    assert shown == [
        ["2024-03-11", "drift: price report", "data: sales", "nobody"],
        ["2024-03-04", "report", "data: sales", "chat: failed ops"],
    ]
    assert [cell["Action"] for cell in cells] == ["alert", "alert"]


def test_an_attempt_leads_to_its_report(site: Site) -> None:
    """The overview links each attempt to the page on what its verdict rests on, where there is one."""
    text = site.get("/evergreen/usecase/weekly_sales", "reader").text
    place = f"verdict/{PARTITIONS['weekly_sales'][0]}-{ATTEMPT[:8]}.html"

    assert f'<a href="/evergreen/report/weekly_sales/{place}">report</a>' in text


def test_the_overview_says_what_serves(site: Site) -> None:
    """The champion is named with its recipe; without one the page says in red that a constant serves."""
    text = " ".join(html.unescape(site.get("/evergreen/usecase/weekly_sales", "reader").text).split())
    assert "<b>version 3</b> <small>boosting, promoted by gate, serves from 2024-03-04 on" in text
    text = " ".join(html.unescape(site.get("/evergreen/usecase/untrained", "reader").text).split())
    assert '<span class="tag bad">no model</span> there is no champion' in text
    assert "and a constant serves instead" in text


def test_a_use_case_leads_to_the_page_on_its_year(site: Site) -> None:
    """The overview links the page, which is behind the same door as every report."""
    text = site.get("/evergreen/usecase/weekly_sales", "reader").text

    assert '<a href="/evergreen/report/weekly_sales/history.html">The year</a>' in text
    assert "weekly_sales · history" in site.get("/evergreen/reports/weekly_sales/history.html", "reader").text
    assert site.get("/evergreen/reports/weekly_sales/history.html", "nobody").status_code == 403


def test_what_cannot_be_shown_takes_nothing_else_down(site: Site) -> None:
    """A declaration with a mistyped key and a torn table each say so in their own place."""
    text = html.unescape(site.get("/evergreen/", "reader").text)

    assert "problem.ownr: unknown key" in text
    assert "The lake could not be read" in text
    assert 'id="weekly_sales"' in text
    assert "version 3" in text


def test_what_the_data_holds_is_shown_and_not_run(site: Site) -> None:
    """A script planted in a value, a note, a verdict and a kept row comes out as text."""
    pages = ("partition/weekly_sales/2024-03-11", "compare/weekly_sales?a=3&b=3", "quality/weekly_sales")
    for path in ("/evergreen/usecase/weekly_sales", QUARANTINE, *(f"/evergreen/{page}" for page in pages)):
        text = site.get(path, "reader").text
        assert PLANTED not in text, path
        assert "&lt;script&gt;alert(" in text, path


def test_quarantine_shows_the_first_rows_with_rule_and_value(site: Site) -> None:
    """The page is bounded, and says how many there are."""
    text = site.get(QUARANTINE, "reader").text

    assert text.count("<details>") == 200
    assert "250 violations, the first 200 are shown" in text
    assert "<td>between</td><td>price</td>" in text
    assert "<code>-199</code>" in text


def test_a_report_reaches_nothing(site: Site) -> None:
    """A report is served as stored, in an origin of its own, with no way to the network."""
    answer = site.get(REPORT, "reader", by="cookie")
    parts = answer.headers["content-security-policy"].split(";")
    policy = dict(part.strip().partition(" ")[::2] for part in parts)

    assert "drifted: price" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert policy["sandbox"] == "allow-scripts"  # without allow-same-origin: no cookie, no API
    assert policy["default-src"] == "'none'"
    assert not [name for name, value in policy.items() if "http" in value or "*" in value]
    assert policy["frame-ancestors"] == "'self'"


def test_pages_admit_no_script_but_their_own(site: Site, routes: list[str]) -> None:
    """Every other answer, refusals included, has a policy that runs two known scripts and loads nothing."""
    for path in [*routes, "/evergreen/nowhere"]:
        policy = site.get(path, "reader").headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        if "/reports/" not in path:
            assert re.search(r"script-src 'sha256-[^']{44}' 'sha256-[^']{44}';", policy), path


@pytest.mark.parametrize(
    "path",
    [
        "/evergreen/reports/weekly_sales/%2e%2e/tables/partitions/x.html",
        "/evergreen/reports/weekly_sales/..%2f..%2fflight_delay%2freports%2fmonitor%2f2013-03-02.html",
        "/evergreen/reports/weekly_sales/..%5cx.html",
        "/evergreen/reports/weekly_sales/%2fetc%2fpasswd.html",
        "/evergreen/reports/weekly_sales//etc/x.html",
        "/evergreen/reports/weekly_sales/monitor/..html%00",
        "/evergreen/reports/weekly_sales/monitor/2024-03-11.json",
        "/evergreen/reports/weekly_sales/monitor/1999-01-01.html",
        "/evergreen/reports/..%2fweekly_sales/monitor/2024-03-11.html",
        "/evergreen/reports/nowhere/monitor/2024-03-11.html",
        "/evergreen/quarantine/weekly_sales/latest",
        "/evergreen/quarantine/weekly_sales/2024-03-12",
        "/evergreen/quarantine/weekly_sales/2031-03-10",
        "/evergreen/quarantine/weekly_sales/2024-03-11'%20OR%20'1'='1",
        "/evergreen/openapi.json",
        "/evergreen/docs",
    ],
)
def test_a_name_that_is_none_is_not_found(site: Site, path: str) -> None:
    """What isn't a report, partition or use case is refused in a sentence.

    And the path leads nowhere else.
    """
    answer = site.get(path, "boss")

    assert answer.status_code == 404
    assert re.search(r"<p>.+</p>", answer.text)


NO_USECASES = ["%00", "weekly_sales%00", "weekly_sales%0a", "weekly_sales%20", "%ff", "%f0%9f", "a" * 5000]
NO_PARTITIONS = [
    f"{PARTITION}%00",
    f"{PARTITION}%0a",
    "%00",
    "20240311",
    "9999-99-99",
    "2024-W11-1",
    "1" * 5000,
]
NO_PATHS = [
    "%00.html",
    f"monitor/{PARTITION}.html%00",
    f"monitor/{PARTITION}.html/x.html",
    "a/" * 900 + "a.html",
]


def test_no_route_fails_on_a_malformed_part(site: Site, processes: dict[str, Any]) -> None:
    """NUL, a line's end, broken UTF-8 or a name too long is found nowhere, whichever part of a path it is."""
    bad = {
        "usecase": NO_USECASES,
        "partition": NO_PARTITIONS,
        "path": [*NO_PATHS, "a" * 300 + ".html"],
        "column": ["%00", "price%00", "Price", "1" * 5000, "%ff"],
    }
    token = {"Authorization": f"Bearer {site.token('reader')}"}
    answers = {}
    for route, _, _ in processes["routes"]:
        template = "/evergreen" + route.replace(":path}", "}")
        for name in [name for name in PARTS if f"{{{name}}}" in template]:
            for value in bad[name]:
                path = template.format(**{**PARTS, name: value})
                answers[path[:120]] = site.ask(path, headers=token).status_code

    assert len(answers) > 30
    assert {path: status for path, status in answers.items() if status != 404} == {}


def test_a_forged_host_is_repeated_nowhere(site: Site, routes: list[str]) -> None:
    """Neither the way to the login nor a redirect leads to a host that the request made up."""
    for path in [*routes, "/evergreen/usecase/weekly_sales/", "/evergreen/nowhere"]:
        for headers in ({}, {"Authorization": f"Bearer {site.token('reader')}"}):
            answer = site.ask(path, headers={**headers, "Host": "forged.example"})
            assert "forged.example" not in answer.text + str(answer.headers), path


def test_a_browser_is_shown_where_to_log_in(site: Site) -> None:
    """Who isn't logged in gets a page with a link to Airflow's login, and back."""
    answer = site.get(QUARANTINE)

    assert answer.status_code == 401
    assert f'"/auth/login?next={quote(QUARANTINE, safe="")}"' in answer.text
    assert "Log in" in answer.text
