"""Prometheus gets its gauges from the api-server, as a user of Airflow's, and nobody else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.prometheus.servers import DEPLOY, needs_servers, prometheus, soon
from tests.plugins.site import Site

pytestmark = pytest.mark.airflow
PATH = "/evergreen/metrics"


def test_a_stranger_gets_no_gauge(site: Site) -> None:
    """Without a token, with a forged one, or without a role there is nothing to scrape."""
    answers = [
        site.get(PATH),
        site.ask(PATH, headers={"Authorization": "Bearer forged"}),
        site.get(PATH, "nobody"),
    ]

    assert [answer.status_code for answer in answers] == [401, 403, 403]
    assert not [answer for answer in answers if "evergreen_" in answer.text]


def test_the_gauges_are_those_of_the_use_cases_that_the_user_may_read(site: Site) -> None:
    """Who may read one use case's DAG gets its gauges and no word of another."""
    answer = site.get(PATH, "sales")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'evergreen_partition{outcome="refused",product="sales",usecase="weekly_sales"} 1.0' in answer.text
    assert 'evergreen_served_by_share{served_by="constant",usecase="weekly_sales"} 0.25' in answer.text
    assert 'evergreen_alarm{check="drift",subject="price",usecase="weekly_sales"} 1.0' in answer.text
    assert "flight_delay" not in answer.text


def test_what_cannot_be_read_is_told_so(site: Site) -> None:
    """A declaration with a mistyped key and a torn table are gauges of 0, and the others are there."""
    text = site.get(PATH, "reader").text

    for usecase, readable in (("mistyped", 0), ("torn", 0), ("weekly_sales", 1), ("flight_delay", 1)):
        assert f'evergreen_readable{{usecase="{usecase}"}} {readable}.0' in text


@pytest.mark.full
@needs_servers
def test_prometheus_scrapes_with_a_token_and_tells_when_it_ends(site: Site, tmp_path: Path) -> None:
    """As shipped, it reads the token's file at each scrape: a token that ended is a target that is down."""
    with prometheus(tmp_path, site.url, site.token("reader")) as server:
        soon(lambda: server.query('evergreen_readable{usecase="weekly_sales"} == 1'), "gauge")
        assert [one["value"][1] for one in server.query('up{job="evergreen"}')] == ["1"]
        (tmp_path / "token").write_text("ended")
        soon(lambda: server.query('up{job="evergreen"} == 0'), "target that is down")
        assert renewed(site, tmp_path, "reader-password").returncode == 0
        soon(lambda: server.query('up{job="evergreen"} == 1'), "target that is up again")


def test_a_token_that_cannot_be_renewed_stays(site: Site, tmp_path: Path) -> None:
    """A wrong password ends with 1 and a line that doesn't hold it; the token before is left alone."""
    (tmp_path / "token").write_text("before")
    done = renewed(site, tmp_path, "wrong-password")

    assert done.returncode == 1
    assert "isn't renewed: HTTPError: HTTP Error 401" in done.stderr
    assert "wrong-password" not in done.stderr
    assert (tmp_path / "token").read_text() == "before"


def renewed(site: Site, folder: Path, password: str) -> subprocess.CompletedProcess[str]:
    """Run what keeps the token, once."""
    (folder / "password").write_text(f"{password}\n")
    script = DEPLOY / "prometheus" / "airflow_token.py"
    command = [sys.executable, script, site.url, "reader", folder / "password", folder / "token"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
