"""Anonymous, Viewer and User are each tried on every page, and on every form: the run that it triggers."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from include.spec.load import read
from tests.plugins.site import ROOT, Site

pytestmark = pytest.mark.airflow
VISITORS = {"anonymous": None, "viewer": "reader", "user": "clerk"}
PAGES = {"anonymous": 401, "viewer": 200, "user": 200}
FORMS = {"anonymous": 401, "viewer": 403, "user": 200}
# what is filled in, by the end of the DAG's name; a DAG with another form has to add it here
FILLED = {
    "batch": {"partition": "{partition}"},
    "training": {"partition": "{partition}"},
    "history": {"first": "{partition}", "last": "{partition}"},
    "operate": {"action": "verify"},
    "upkeep": {},
}


def first_partition(site: Site, usecase: str) -> str:
    """Return a partition that the schedule of a use case has, empty for a DAG of no use case."""
    for folder in (ROOT / "include/usecases", ROOT / "tests/usecases", site.home / "usecases"):
        if (file := folder / usecase / "usecase.yaml").is_file():
            spec = read(file)
            return spec.clock.around(spec.schedule.start)[1]
    return ""


@pytest.fixture(scope="module")
def headers(site: Site) -> dict[str, dict[str, str]]:
    """What each visitor sends along."""
    return {
        role: {"Authorization": f"Bearer {site.token(user)}"} if user else {}
        for role, user in VISITORS.items()
    }


@pytest.mark.full
def test_a_page_is_for_those_who_may_read(
    site: Site, routes: list[str], headers: dict[str, dict[str, str]]
) -> None:
    """Every route of the app asks an anonymous visitor to log in, and answers a Viewer and a User."""
    for path in routes:
        assert {role: site.ask(path, headers=sent).status_code for role, sent in headers.items()} == PAGES, (
            path
        )


@pytest.mark.full
def test_a_form_is_for_those_who_may_act(
    site: Site, forms: list[str], headers: dict[str, dict[str, str]]
) -> None:
    """A User may trigger each of our DAGs; a Viewer, whatever pages are shown to them, may trigger none."""
    assert {dag_id.rpartition("__")[2] for dag_id in forms} == set(FILLED)
    for dag_id in forms:
        usecase, _, clock = dag_id.rpartition("__")
        partition = first_partition(site, usecase)
        partition = partition[:10] if clock == "history" else partition  # a range of days
        conf = {name: value.format(partition=partition) for name, value in FILLED[clock].items()}
        body = {"logical_date": None, "conf": conf}
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        answers = {role: site.ask(path, method="POST", json=body, headers=s) for role, s in headers.items()}
        found = {role: answer.status_code for role, answer in answers.items()}
        assert found == FORMS, (dag_id, answers["user"].text)
        assert answers["user"].json()["triggering_user_name"] == "clerk", dag_id


@pytest.mark.full
def test_a_backfill_is_for_those_who_may_act(
    site: Site, forms: list[str], headers: dict[str, dict[str, str]]
) -> None:
    """The range that the *Trigger* dialog takes as well is refused to whom a single run is."""
    batch = [dag_id for dag_id in forms if dag_id.endswith("__batch")]
    for dag_id in batch:
        first = date.fromisoformat(first_partition(site, dag_id.removesuffix("__batch"))[:10])
        body = _range(dag_id, first, first + timedelta(days=1))
        found = {
            role: site.ask("/api/v2/backfills/dry_run", method="POST", json=body, headers=sent).status_code
            for role, sent in headers.items()
        }
        assert found == FORMS, dag_id


@pytest.mark.full
def test_a_backfill_outside_the_schedule_is_refused(
    site: Site, forms: list[str], headers: dict[str, dict[str, str]]
) -> None:
    """The preview and the backfill itself are refused with the nearest valid partition, and no run starts."""
    assert "flight_delay__batch" in forms
    body = _range("flight_delay__batch", date(2013, 12, 29), date(2014, 1, 2))
    for path in ("/api/v2/backfills/dry_run", "/api/v2/backfills"):
        answer = site.ask(path, method="POST", json=body, headers=headers["user"])
        assert answer.status_code == 422, path
        assert (
            "one after schedule.end; choose the next one that hasn't run, at most 2013-12-30"
            in answer.json()["detail"]
        )
    runs = site.ask("/api/v2/dags/flight_delay__batch/dagRuns", headers=headers["user"]).json()["dag_runs"]
    assert "backfill" not in {run["run_type"] for run in runs}


def _range(dag_id: str, first: date, last: date) -> dict[str, str]:
    return {"dag_id": dag_id, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"}


def test_a_swapped_range_of_a_history_is_refused_before_its_run_exists(site: Site, forms: list[str]) -> None:
    """The request that the form sends gets the sentence; with a range of the schedule there is a run."""
    dag = "weekly_sales__history"
    assert dag in forms
    headers = {"Authorization": f"Bearer {site.token('clerk')}"}
    answers = [
        site.ask(
            f"/api/v2/dags/{dag}/dagRuns",
            method="POST",
            json={"logical_date": None, "conf": {"first": first, "last": last}},
            headers=headers,
        )
        for first, last in (("2024-03-11", "2024-03-04"), ("2024-03-04", "2024-03-11"))
    ]
    assert [answer.status_code for answer in answers] == [400, 200], answers[1].text
    assert "choose 2024-03-04 as the first and 2024-03-11 as the last" in answers[0].json()["detail"]
    assert answers[1].json()["note"] == "Partitions 2024-03-04 to 2024-03-11"
