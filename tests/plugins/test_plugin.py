"""Airflow finds the plugin, and nothing of ours that it shouldn't run; a task leads to what it made."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest

from evergreen.links import description_links
from tests.plugins.site import AIRFLOW, ATTEMPT, ROOT, SHIPPED, Site, environment

pytestmark = pytest.mark.airflow
NOTIFY = """
import sys
from airflow.models import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select
with create_session() as session:
    run = session.scalars(select(DagRun).where(DagRun.dag_id == sys.argv[1], DagRun.state == "failed")).one()
    run.notify_dagrun_state_changed("task_failure")
"""


def test_only_the_plugin_file_is_scanned(processes: dict[str, Any]) -> None:
    """Airflow runs one file below plugins/, so no module of ours takes another's name."""
    assert processes["scanned"] == [str(ROOT / "plugins" / "evergreen_plugin.py")]


def test_a_task_process_pays_for_no_page(processes: dict[str, Any]) -> None:
    """Loading the plugin, as each task does, brings neither the pages nor anything heavy."""
    assert processes["with_plugin"] == []


def test_the_api_server_starts_without_the_lake(processes: dict[str, Any]) -> None:
    """The pages bring pyarrow and deltalake at the first request and not before."""
    assert processes["with_pages"] == ["evergreen.view.app"]


def test_airflow_lists_the_plugin(site: Site) -> None:
    """Airflow knows the pages, the links and the item of its navigation, and has nothing to complain of."""
    [plugin] = [p for p in site.get("/api/v2/plugins", "boss").json()["plugins"] if p["name"] == "evergreen"]
    errors = site.get("/api/v2/plugins/importErrors", "boss").json()["import_errors"]

    assert [(a["name"], a["url_prefix"]) for a in plugin["fastapi_apps"]] == [("Evergreen", "/evergreen")]
    assert [(v["href"], v["url_route"]) for v in plugin["external_views"]] == [("/evergreen/", "evergreen")]
    assert len(plugin["operator_extra_links"]) == 4
    assert errors == []


def test_links_lead_to_what_the_task_made(site: Site, run: str) -> None:
    """The buttons of a task that went well open its partition's report.

    Its use case and its run in MLflow.
    """
    assert site.get(f"{run}/taskInstances/returns/links", "reader").json()["extra_links"] == {
        "Overview": "/plugin/evergreen/evergreen/usecase/weekly_sales",
        "Drift report": "/plugin/evergreen/evergreen/report/weekly_sales/monitor/2024-03-11.html",
        "MLflow run": "http://mlflow.example/#/runs/0a1b2c",
    }


def test_a_verdicts_page_is_linked_from_who_gave_it_and_who_acts_on_it(site: Site, run: str) -> None:
    """The judge's button and that of a skipped promotion open the same page, which says why."""
    for task in ("judges", "skips"):
        links = site.get(f"{run}/taskInstances/{task}/links", "reader").json()["extra_links"]
        place = f"verdict/2024-03-04-{ATTEMPT[:8]}.html"
        assert links["Verdict report"] == f"/plugin/evergreen/evergreen/report/weekly_sales/{place}", task
        framed = site.get(f"/evergreen/report/weekly_sales/{place}", "reader", by="cookie")
        assert framed.status_code == 200, task
        assert "drifted: price" in site.get(f"/evergreen/reports/weekly_sales/{place}", "reader").text


def test_the_log_has_the_address_of_each_link(site: Site, run: str) -> None:
    """Airflow shows the buttons under *Details* alone; the log names the whole address of the same pages."""
    log = (site.home / "tasks.log").read_text()
    evergreen = f"{site.url}/plugin/evergreen/evergreen"

    for line in (
        f"Overview: {evergreen}/usecase/weekly_sales",
        f"Drift report: {evergreen}/report/weekly_sales/monitor/2024-03-11.html",
        "MLflow run: http://mlflow.example/#/runs/0a1b2c",
        f"Verdict report: {evergreen}/report/weekly_sales/verdict/2024-03-04-{ATTEMPT[:8]}.html",
    ):
        assert line in log, line


def test_a_skipped_task_says_why_in_its_log(site: Site, run: str) -> None:
    """The reason and the verdict's page are plain lines before Airflow ends the task."""
    log = (site.home / "tasks.log").read_text()

    assert "Skipped: the champion is better" in log
    assert log.count(f"/verdict/2024-03-04-{ATTEMPT[:8]}.html") == 2  # the judge's line, and that of the skip


def test_no_task_skips_without_a_reason_in_its_log() -> None:
    """Airflow's UI doesn't show an exception's reason, so every skip goes through one method."""
    pages = (ROOT / "plugins" / "evergreen").rglob("*.py")

    assert [page.name for page in pages if "raise AirflowSkipException" in page.read_text()] == ["base.py"]


def test_a_failed_task_has_only_the_overview(site: Site, run: str) -> None:
    """Where nothing was made there is no button to it, and the log has the task's own error alone."""
    links = site.get(f"{run}/taskInstances/fails/links", "reader").json()["extra_links"]
    log = (site.home / "tasks.log").read_text()

    assert {name for name, link in links.items() if link} == {"Overview"}
    assert "RuntimeError: planted" in log
    assert "XCom not found" not in log


def test_a_link_opens(site: Site, run: str) -> None:
    """What a link names is there, behind the part of the address that is Airflow's frame."""
    links = site.get(f"{run}/taskInstances/returns/links", "reader").json()["extra_links"]

    for name in ("Overview", "Drift report"):
        page = site.get(links[name].removeprefix("/plugin/evergreen"), "reader", by="cookie")
        assert page.status_code == 200, name


@pytest.mark.full
def test_a_refused_action_is_the_note_of_its_run(site: Site, forms: list[str]) -> None:
    """The scheduler's listener copies the message, which the task left, to the note of the red run."""
    dag_id = "weekly_sales__operate"
    assert dag_id in forms
    env = environment(site.home, urlsplit(site.url).port or 0)
    command = [*AIRFLOW, "dags", "test", "--bundle-name", SHIPPED, dag_id, "-c", '{"action": "roll back"}']
    subprocess.run(command, env=env, capture_output=True, check=False)  # it fails, as the run does
    # `dags test` detaches the run from its session, which the scheduler doesn't
    subprocess.run([sys.executable, "-c", NOTIFY, dag_id], env=env, capture_output=True, check=True)
    (refused,) = site.get(f"/api/v2/dags/{dag_id}/dagRuns?state=failed", "boss").json()["dag_runs"]
    assert refused["note"] == (
        "roll back: expected Why, but found an empty field; trigger again and fill in Why"
    )


def test_a_description_outside_airflow_leads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The links have Airflow's configured address, whatever a run's id contains; without it, none."""
    arguments = ("weekly_sales", "2024-03-04", ATTEMPT, "weekly_sales__training", "manual__a+b/c")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team")
    assert description_links(*arguments) == [
        (
            "Verdict page",
            "https://airflow.example/team/plugin/evergreen/team/evergreen/report/weekly_sales/verdict/"
            f"2024-03-04-{ATTEMPT[:8]}.html",
        ),
        (
            "Airflow run",
            "https://airflow.example/team/dags/weekly_sales__training/runs/manual__a%2Bb%2Fc",
        ),
    ]
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    assert description_links(*arguments) == []


@pytest.mark.full
def test_the_asset_graph_leads_from_the_sources_to_the_predictions(site: Site, forms: list[str]) -> None:
    """Airflow's own graph of a source has the task that turns it into features and predictions."""
    assert "weekly_sales__batch" in forms
    assets = {
        asset["name"]: asset["id"] for asset in site.get("/api/v2/assets?limit=200", "boss").json()["assets"]
    }
    query = f"dependency_type=data&node_id=asset:{assets['weekly_sales.sales']}"
    graph = site.get(f"/ui/dependencies?{query}", "boss").json()
    labels = {node["id"]: node["label"] for node in graph["nodes"]}
    edges = {(labels[edge["source_id"]], labels[edge["target_id"]]) for edge in graph["edges"]}
    expected = {
        ("weekly_sales__batch.ingest.sales", "weekly_sales.sales"),
        ("weekly_sales.sales", "weekly_sales__batch.score.predict"),
        ("weekly_sales.sales", "weekly_sales__training.train.fit"),
        ("weekly_sales__batch.score.predict", "weekly_sales.features"),
        ("weekly_sales__batch.score.predict", "weekly_sales.predictions"),
        ("weekly_sales.features", "weekly_sales__batch.monitor.check"),
    }
    assert expected <= edges
    query = f"dependency_type=data&node_id=asset:{assets['weekly_sales.predictions']}"
    upstream = site.get(f"/ui/dependencies?{query}", "boss").json()["nodes"]
    assert "weekly_sales.sales" in {node["label"] for node in upstream}
