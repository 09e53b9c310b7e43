"""Airflow through its own REST API, as a person's script would drive it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any
from urllib.parse import quote

import requests

from demo.home import Home

Json = dict[str, Any]
Watch = Callable[[list[Json]], None]  # called with the runs at every look; what it raises ends the waiting

FINAL = frozenset({"success", "failed"})
LOOK = 0.5  # seconds between two looks at a run
PAGE = 100  # the most that Airflow gives at once


class AirflowError(RuntimeError):
    """A request was refused or not answered; the message holds it and why, `status` is the answer's code."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowTimeoutError(AirflowError):
    """What was waited for did not happen in time."""


class AirflowApi:
    """A client of `/api/v2` that logs in by itself.

    Parameters
    ----------
    url, user, password : str
        The API server's address and a user of SimpleAuthManager.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc stands between us and the server

    @classmethod
    def of(cls, home: Home) -> AirflowApi:
        """A client of the home's Airflow, as its admin."""
        return cls(home.url("airflow"), "admin", home.secrets["airflow"])

    def call(self, method: str, path: str, **arguments: Any) -> Json:
        """The JSON answer to a request; see `requests.request` for the arguments.

        Raises
        ------
        AirflowError
            There is no answer, or not one of success.
        """
        try:
            answer = self._session.request(method, f"{self.url}/api/v2{path}", timeout=60, **arguments)
            if answer.status_code == requests.codes.unauthorized:  # the first one, or a token of yesterday
                token = self._session.post(f"{self.url}/auth/token", json=self._login, timeout=60)
                _must_be_ok(token, "POST /auth/token")
                self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
                answer = self._session.request(method, f"{self.url}/api/v2{path}", timeout=60, **arguments)
            _must_be_ok(answer, f"{method} {path}")
            content: Json = answer.json() if answer.content else {}
        except requests.RequestException as error:
            raise AirflowError(f"{method} {path}: no answer from {self.url}: {error}") from error
        return content

    def trigger_run(
        self,
        dag_id: str,
        conf: Json | None = None,
        *,
        partition_key: str | None = None,
        run_id: str | None = None,
        logical_date: str | None = None,
    ) -> Json:
        """Start a run by hand and return it.

        Parameters
        ----------
        dag_id, conf
            Which DAG, and the form's fields.
        partition_key : str, optional
            For a DAG with a partitioned timetable; a run by hand has none unless it is given.
        run_id : str, optional
            Airflow refuses a second run of the same id.
        logical_date : str, optional
            ISO 8601; none when left out, as for a partitioned run.
        """
        body = {"conf": conf or {}, "logical_date": logical_date, "partition_key": partition_key}
        return self.call(
            "POST", f"/dags/{dag_id}/dagRuns", json=body | ({"dag_run_id": run_id} if run_id else {})
        )

    def get_run(self, dag_id: str, run_id: str) -> Json | None:
        """The run, or None when there is none of this id."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns", params={"run_id_pattern": run_id, "limit": PAGE})
        return next((run for run in found["dag_runs"] if run["dag_run_id"] == run_id), None)

    def wait_run(self, dag_id: str, run_id: str, *, timeout: float, watch: Watch = lambda runs: None) -> Json:
        """Wait until the run has succeeded or failed, and return it."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
        return _wait(lambda: [self.call("GET", path)], f"{dag_id} {run_id}", timeout, watch)[0]

    def clear_run(self, dag_id: str, run_id: str, *, only_failed: bool = True) -> None:
        """Have the run's tasks run again, or only those that failed and what comes after them."""
        body = {"dry_run": False, "only_failed": only_failed}
        self.call("POST", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/clear", json=body)

    def backfill(
        self,
        dag_id: str,
        from_date: date,
        to_date: date,
        *,
        max_active_runs: int = 1,
        reprocess_behavior: str = "none",
        run_backwards: bool = False,
    ) -> Json:
        """Start Airflow's own backfill of a partitioned DAG over whole days, both included.

        Airflow reads the bounds' wall clock in the timetable's time zone, so `Z` here is no UTC. The last
        bound is the end of its day, or a cron at 18:00 would end with the day before.
        """
        body = {
            "dag_id": dag_id,
            "from_date": f"{from_date.isoformat()}T00:00:00Z",
            "to_date": f"{to_date.isoformat()}T23:59:59Z",
            "max_active_runs": max_active_runs,
            "reprocess_behavior": reprocess_behavior,
            "run_backwards": run_backwards,
        }
        return self.call("POST", "/backfills", json=body)

    def active_backfill(self, dag_id: str) -> Json | None:
        """The DAG's backfill that Airflow has not closed yet; it refuses a second one until then."""
        found = self.call("GET", "/backfills", params={"dag_id": dag_id, "limit": PAGE})["backfills"]
        return next((backfill for backfill in found if backfill["completed_at"] is None), None)

    def partition_runs(self, dag_id: str, from_date: date, to_date: date) -> list[Json]:
        """The newest run of each partition in these days, in order; a retried one has several."""
        window = {"partition_date_gte": from_date.isoformat(), "partition_date_lte": to_date.isoformat()}
        newest: dict[str, Json] = {}
        offset = 0
        while True:
            page = {**window, "order_by": "id", "limit": PAGE, "offset": offset}
            found = self.call("GET", f"/dags/{dag_id}/dagRuns", params=page)["dag_runs"]
            newest |= {run["partition_key"]: run for run in found}
            offset += len(found)
            if len(found) < PAGE:
                return [newest[key] for key in sorted(newest)]

    def wait_backfill(
        self, dag_id: str, from_date: date, to_date: date, *, timeout: float, watch: Watch = lambda runs: None
    ) -> list[Json]:
        """Wait until each partition's newest run is final, and return those runs.

        A backfill makes all its runs when it is created; its own `completed_at` comes from a timer of 30 s.
        """
        name = f"backfill of {dag_id} {from_date} to {to_date}"
        return _wait(lambda: self.partition_runs(dag_id, from_date, to_date), name, timeout, watch)

    def wait_dag(self, dag_id: str, *, timeout: float) -> Json:
        """Wait until Airflow has read the DAG; the import errors are in the message when it hasn't."""
        end = time.monotonic() + timeout
        while True:
            found = self.call("GET", "/dags", params={"dag_id_pattern": dag_id, "limit": PAGE})["dags"]
            if dag := next((dag for dag in found if dag["dag_id"] == dag_id), None):
                return dict(dag)
            if time.monotonic() > end:
                errors = "".join(f"\n{e['filename']}: {e['stack_trace']}" for e in self.import_errors())
                raise AirflowTimeoutError(
                    f"{dag_id} was not read after {timeout:.0f} s. Import errors: {errors or 'none'}"
                )
            time.sleep(LOOK)

    def unpause(self, dag_id: str) -> None:
        """Let the DAG's runs be scheduled; a backfill's and a triggered run's too wait for it."""
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def import_errors(self) -> list[Json]:
        """What keeps DAG files from being read: `filename` and `stack_trace` of each."""
        return list(self.call("GET", "/importErrors", params={"limit": PAGE})["import_errors"])

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """The task instances of a run, mapped ones included."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        found: list[Json] = []
        while True:
            page = self.call("GET", path, params={"limit": PAGE, "offset": len(found)})
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def wait_question(self, dag_id: str, run_id: str, task_id: str, *, timeout: float) -> Json:
        """Wait until a task asks a person, and return what it shows; an answered question is none.

        Raises
        ------
        AirflowTimeoutError
            It doesn't ask in time.
        """
        end = time.monotonic() + timeout
        while True:
            path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/hitlDetails"
            found = self.call("GET", path, params={"task_id": task_id, "state": "awaiting_input"})
            if asked := next((one for one in found["hitl_details"] if not one["response_received"]), None):
                return dict(asked)
            if time.monotonic() > end:
                raise AirflowTimeoutError(f"{dag_id} {run_id}: {task_id} did not ask after {timeout:.0f} s")
            time.sleep(LOOK)

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, **form: str) -> Json:
        """Answer a task that asks a person, as the user who is logged in; ``form`` has its fields."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/-1/hitlDetails"
        return self.call("PATCH", path, json={"chosen_options": [option], "params_input": form})

    def log(self, task: Json) -> list[str]:
        """The lines of the last try of a task instance, as `task_instances` gave it."""
        run_id, task_id = quote(task["dag_run_id"], safe=""), task["task_id"]
        attempt = max(task["try_number"], 1)
        path = f"/dags/{task['dag_id']}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        params = {"map_index": task["map_index"], "full_content": "true"}
        content = self.call("GET", path, params=params, headers={"Accept": "application/json"})["content"]
        return [line for event in content for line in _lines(event)]


def _lines(event: Json | str) -> Iterable[str]:
    """A log event's text, and the errors that it carries as structure."""
    if isinstance(event, str):
        yield event
        return
    yield str(event.get("event", ""))
    for error in event.get("error_detail") or []:
        yield f"{error.get('exc_type')}: {error.get('exc_value')}"


def _must_be_ok(answer: requests.Response, request: str) -> None:
    if not answer.ok:
        raise AirflowError(f"{request}: {answer.status_code} {answer.text[:500]}", answer.status_code)


def _wait(look: Callable[[], list[Json]], name: str, timeout: float, watch: Watch) -> list[Json]:
    end = time.monotonic() + timeout
    while True:
        runs = look()
        watch(runs)
        if runs and all(run["state"] in FINAL for run in runs):
            return runs
        if time.monotonic() > end:
            states = ", ".join(f"{run['dag_run_id']} {run['state']}" for run in runs) or "no run"
            raise AirflowTimeoutError(f"{name} is not through after {timeout:.0f} s: {states}")
        time.sleep(LOOK)
