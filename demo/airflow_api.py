"""A client of Airflow's REST API, for the demo and the end-to-end tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any
from urllib.parse import quote

import requests

from demo.home import Home

Json = dict[str, Any]
Watch = Callable[[list[Json]], None]  # called with the runs at every poll; an exception ends the wait

FINAL = frozenset({"success", "failed"})
POLL = 0.5  # seconds between two polls of a run
PAGE = 100  # Airflow's maximal page size


class AirflowError(RuntimeError):
    """A request was refused or not answered; `status` is the code of the response."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowTimeoutError(AirflowError):
    """An expected state was not reached in time."""


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
        self._session.trust_env = False  # no proxy and no .netrc

    @classmethod
    def of(cls, home: Home) -> AirflowApi:
        """Return a client of the home's Airflow, as its admin."""
        return cls(home.url("airflow"), "admin", home.secrets["airflow"])

    def call(self, method: str, path: str, **arguments: Any) -> Json:
        """Return the JSON response to a request; see `requests.request` for the arguments.

        Raises
        ------
        AirflowError
            There is no response, or not a success.
        """
        try:
            answer = self._session.request(method, f"{self.url}/api/v2{path}", timeout=60, **arguments)
            if (
                answer.status_code == requests.codes.unauthorized
            ):  # the first request, or the token has expired
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
    ) -> Json:
        """Start a run by hand, which has no logical date, and return it.

        Parameters
        ----------
        dag_id, conf
            The DAG, and the form's fields.
        partition_key : str, optional
            For a DAG with a partitioned timetable.
        run_id : str, optional
            Airflow refuses a second run of the same id.
        """
        body = {"conf": conf or {}, "logical_date": None, "partition_key": partition_key}
        return self.call(
            "POST", f"/dags/{dag_id}/dagRuns", json=body | ({"dag_run_id": run_id} if run_id else {})
        )

    def get_run(self, dag_id: str, run_id: str) -> Json | None:
        """Return the run, or None if there is none with this id."""
        page = self.call("GET", f"/dags/{dag_id}/dagRuns", params={"run_id_pattern": run_id, "limit": PAGE})
        return next((run for run in page["dag_runs"] if run["dag_run_id"] == run_id), None)

    def wait_run(self, dag_id: str, run_id: str, *, timeout: float, watch: Watch = lambda runs: None) -> Json:
        """Wait until the run has succeeded or failed, and return it."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
        return _wait(lambda: [self.call("GET", path)], f"{dag_id} {run_id}", timeout, watch)[0]

    def clear_run(self, dag_id: str, run_id: str) -> None:
        """Clear the run's failed tasks and those after them."""
        body = {"dry_run": False, "only_failed": True}
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
        """Start Airflow's own backfill of a partitioned DAG over whole days, both inclusive.

        Airflow reads the bounds as local times in the timetable's time zone, despite the `Z`. The last bound
        is the end of its day, or a cron at 18:00 would end with the day before.
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
        """Return the DAG's open backfill, if any; Airflow refuses a second one until it is closed."""
        backfills = self.call("GET", "/backfills", params={"dag_id": dag_id, "limit": PAGE})["backfills"]
        return next((backfill for backfill in backfills if backfill["completed_at"] is None), None)

    def partition_runs(self, dag_id: str, from_date: date, to_date: date) -> list[Json]:
        """Return the newest run of each partition in these days, in order."""
        window = {"partition_date_gte": from_date.isoformat(), "partition_date_lte": to_date.isoformat()}
        newest: dict[str, Json] = {}
        offset = 0
        while True:
            page = {**window, "order_by": "id", "limit": PAGE, "offset": offset}
            runs = self.call("GET", f"/dags/{dag_id}/dagRuns", params=page)["dag_runs"]
            newest |= {run["partition_key"]: run for run in runs}
            offset += len(runs)
            if len(runs) < PAGE:
                return [newest[key] for key in sorted(newest)]

    def wait_backfill(
        self, dag_id: str, from_date: date, to_date: date, *, timeout: float, watch: Watch = lambda runs: None
    ) -> list[Json]:
        """Wait until each partition's newest run is final, and return those runs.

        A backfill creates all its runs at once; its own `completed_at` is set by a timer of 30 s.
        """
        name = f"backfill of {dag_id} {from_date} to {to_date}"
        return _wait(lambda: self.partition_runs(dag_id, from_date, to_date), name, timeout, watch)

    def wait_dag(self, dag_id: str, *, timeout: float) -> Json:
        """Wait until Airflow has parsed the DAG; on a timeout the message has the import errors."""
        end = time.monotonic() + timeout
        while True:
            dags = self.call("GET", "/dags", params={"dag_id_pattern": dag_id, "limit": PAGE})["dags"]
            if dag := next((dag for dag in dags if dag["dag_id"] == dag_id), None):
                return dict(dag)
            if time.monotonic() > end:
                errors = "".join(f"\n{e['filename']}: {e['stack_trace']}" for e in self.import_errors())
                raise AirflowTimeoutError(
                    f"{dag_id} was not parsed after {timeout:.0f} s. Import errors: {errors or 'none'}"
                )
            time.sleep(POLL)

    def unpause(self, dag_id: str) -> None:
        """Unpause the DAG; backfills and triggered runs also wait for that."""
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def import_errors(self) -> list[Json]:
        """Return the import errors of DAG files, with `filename` and `stack_trace`."""
        return list(self.call("GET", "/importErrors", params={"limit": PAGE})["import_errors"])

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Return the task instances of a run, including mapped ones."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        instances: list[Json] = []
        while True:
            page = self.call("GET", path, params={"limit": PAGE, "offset": len(instances)})
            instances += page["task_instances"]
            if len(instances) >= page["total_entries"] or not page["task_instances"]:
                return instances

    def wait_question(self, dag_id: str, run_id: str, task_id: str, *, timeout: float) -> Json:
        """Wait until a task asks a person, and return the unanswered question.

        Raises
        ------
        AirflowTimeoutError
            There is no question in time.
        """
        end = time.monotonic() + timeout
        while True:
            path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/hitlDetails"
            page = self.call("GET", path, params={"task_id": task_id, "state": "awaiting_input"})
            questions = [detail for detail in page["hitl_details"] if not detail["response_received"]]
            if questions:
                return dict(questions[0])
            if time.monotonic() > end:
                raise AirflowTimeoutError(f"{dag_id} {run_id}: {task_id} did not ask after {timeout:.0f} s")
            time.sleep(POLL)

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str, **form: str) -> Json:
        """Answer the question of a task, as the logged-in user; ``form`` has its fields."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/-1/hitlDetails"
        return self.call("PATCH", path, json={"chosen_options": [option], "params_input": form})

    def log(self, task: Json) -> list[str]:
        """Return the log lines of the last try of a task instance from `task_instances`."""
        run_id, task_id = quote(task["dag_run_id"], safe=""), task["task_id"]
        attempt = max(task["try_number"], 1)
        path = f"/dags/{task['dag_id']}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        params = {"map_index": task["map_index"], "full_content": "true"}
        content = self.call("GET", path, params=params, headers={"Accept": "application/json"})["content"]
        return [line for event in content for line in _lines(event)]


def _lines(event: Json | str) -> Iterable[str]:
    """Yield a log event's text and its structured errors."""
    if isinstance(event, str):
        yield event
        return
    yield str(event.get("event", ""))
    for error in event.get("error_detail") or []:
        yield f"{error.get('exc_type')}: {error.get('exc_value')}"


def _must_be_ok(answer: requests.Response, request: str) -> None:
    if not answer.ok:
        raise AirflowError(f"{request}: {answer.status_code} {answer.text[:500]}", answer.status_code)


def _wait(get_runs: Callable[[], list[Json]], name: str, timeout: float, watch: Watch) -> list[Json]:
    end = time.monotonic() + timeout
    while True:
        runs = get_runs()
        watch(runs)
        if runs and all(run["state"] in FINAL for run in runs):
            return runs
        if time.monotonic() > end:
            states = ", ".join(f"{run['dag_run_id']} {run['state']}" for run in runs) or "no run"
            raise AirflowTimeoutError(f"{name} did not end within {timeout:.0f} s: {states}")
        time.sleep(POLL)
