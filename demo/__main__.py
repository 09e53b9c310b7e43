"""`make demo`: train a champion on two months of flights, score a week of partitions, and show the result.

Each step uses Airflow's REST API and is skipped if it has succeeded before. So after an interruption or a
failure the same command continues.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

from demo.airflow_api import POLL, AirflowApi, AirflowError, Json
from demo.home import REPOSITORY
from demo.process import until
from demo.stack import Stack, StackError, show

USECASE = "flight_delay"
HISTORY = {"first": "2012-12-31", "last": "2013-02-28"}
WEEK = (date(2013, 3, 1), date(2013, 3, 7))
CLOCKS = ("history", "training", "batch")

LOG_LINES = 8  # of a failed task
DAG_TIMEOUT = 60.0  # seconds for Airflow to parse the DAG files
STEP_TIMEOUT = 1800.0  # seconds, enough for a much slower machine


class DemoError(RuntimeError):
    """A step failed; the message has the task, its last log lines, where to look and what to do."""


class Story:
    """The steps, with their progress on the terminal; `check` raises if a server has died."""

    def __init__(self, api: AirflowApi, check: Callable[[], None]) -> None:
        self.api, self.check = api, check
        self.seconds: dict[str, float] = {}  # by step, as measured by Airflow
        self._last_states = ""

    def play(self) -> None:
        """Run the steps that haven't succeeded yet."""
        for clock in CLOCKS:
            self.api.wait_dag(f"{USECASE}__{clock}", timeout=DAG_TIMEOUT)
            self.api.unpause(f"{USECASE}__{clock}")
        last_of_history, last_of_week = HISTORY["last"], WEEK[1].isoformat()
        self.run("January and February as history", "history", "demo__history", HISTORY)
        self.run("the first champion", "training", f"demo__{last_of_history}", partition=last_of_history)
        self.partitions("the partitions of 1-7 March")
        self.run("the weekly challenger", "training", f"demo__{last_of_week}", partition=last_of_week)

    def run(
        self, title: str, clock: str, run_id: str, conf: Json | None = None, *, partition: str | None = None
    ) -> None:
        """Complete one run: start it, wait for a running one, or repeat its failed tasks."""
        dag_id = f"{USECASE}__{clock}"
        run = self.api.get_run(dag_id, run_id)
        if run is None:
            conf = conf or {"partition": partition}
            self.api.trigger_run(dag_id, conf, run_id=run_id, partition_key=partition)
        elif run["state"] == "failed":
            self.api.clear_run(dag_id, run_id)
        if run is None or run["state"] != "success":
            run = self.api.wait_run(
                dag_id,
                run_id,
                timeout=STEP_TIMEOUT,
                watch=lambda runs: self._print_progress(self._tasks(dag_id, run_id)),
            )
        self._end(title, [run])

    def partitions(self, title: str) -> None:
        """Backfill the week with Airflow's own backfill; succeeded partitions are skipped."""
        dag_id = f"{USECASE}__batch"

        def all_there() -> bool:
            runs = self.api.partition_runs(dag_id, *WEEK)
            return len(runs) == (WEEK[1] - WEEK[0]).days + 1 and all(r["state"] != "failed" for r in runs)

        if not all_there():
            # Airflow closes a backfill up to 30 s after its last run, and refuses another one until then
            closed = until(
                lambda: all_there() or self.api.active_backfill(dag_id) is None, STEP_TIMEOUT, POLL
            )
            if not closed:
                page = f"{self.api.url}/dags/{dag_id}/backfills"
                raise DemoError(f"{dag_id}: a backfill is still open after {STEP_TIMEOUT:.0f} s; see {page}")
            if not all_there():
                self.api.backfill(dag_id, *WEEK, max_active_runs=2, reprocess_behavior="failed")
        runs = self.api.wait_backfill(
            dag_id, *WEEK, timeout=STEP_TIMEOUT, watch=lambda runs: self._print_progress(_states(runs))
        )
        self._end(title, runs)

    def _tasks(self, dag_id: str, run_id: str) -> str:
        return _states(self.api.task_instances(dag_id, run_id))

    def _print_progress(self, states: str) -> None:
        """Print the states if they have changed; raise if a server has died."""
        self.check()
        if states and states != self._last_states:
            print(f"    {time.strftime('%H:%M:%S')}  {states}", flush=True)
            self._last_states = states

    def _end(self, title: str, runs: list[Json]) -> None:
        failed = [run for run in runs if run["state"] != "success"]
        if failed:
            raise DemoError("\n\n".join(self._failure_text(run) for run in failed))
        begin = min(datetime.fromisoformat(run["start_date"]) for run in runs)
        end = max(datetime.fromisoformat(run["end_date"]) for run in runs)
        self.seconds[title] = (end - begin).total_seconds()
        self._last_states = ""
        print(f"  {title:<34} {self.seconds[title]:6.1f} s", flush=True)

    def _failure_text(self, run: Json) -> str:
        """Return which tasks failed, the end of their logs, where to look and what to do."""
        dag_id, run_id = run["dag_id"], run["dag_run_id"]
        page = f"{self.api.url}/dags/{dag_id}/runs/{run_id}"
        lines = [f"{dag_id}, run {run_id}: {run['state']}"]
        for task in self.api.task_instances(dag_id, run_id):
            if task["state"] == "failed":
                lines.append(f"  task {task['task_id']}, after try {task['try_number']}; the end of its log:")
                log = [line for line in self.api.log(task) if line and not line.startswith("::")]
                lines += [f"    {line}" for line in log[-LOG_LINES:]]
        lines.append(f"  See {page}")
        lines.append("  Correct the cause; `make demo` then repeats only the failed tasks.")
        return "\n".join(lines)


def _states(instances: list[Json]) -> str:
    """Return how many runs or tasks are in each state, such as `3 success, 1 running`."""
    counts = Counter(instance["state"] or "waiting" for instance in instances)
    return ", ".join(
        f"{count} {state}" for state, count in sorted(counts.items(), key=lambda c: c[0] != "success")
    )


def summary(stack: Stack) -> str:
    """Return the output of `python -m include status`, run with the tasks' own environment."""
    command = [sys.executable, "-m", "include", "status", USECASE]
    process = subprocess.run(
        command, env=stack.environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise DemoError(f"`{' '.join(command[1:])}` failed:\n{process.stderr.strip()[-2000:]}")
    return process.stdout


def _secrets(stack: Stack) -> Path:
    return stack.home.root / "secrets" / "secrets.json"


def addresses(stack: Stack) -> str:
    """Return the servers' addresses and logins."""
    home = stack.home
    return "\n".join(
        [
            f"  Airflow  {home.url('airflow')}   user admin, password {home.secrets['airflow']}",
            f"  MLflow   {home.url('mlflow')}   user admin, password {home.secrets['mlflow']}",
            f"  S3       {home.url('s3')}   buckets lake, landing, mlflow",
            f"  All passwords: {_secrets(stack)}",
            "  `make down` stops the servers; `make clean` also removes their data.",
        ]
    )


def main() -> None:
    """Start the servers, run all steps, and print the result."""
    begin = time.monotonic()
    stack = Stack()
    try:
        print("Servers, on 127.0.0.1 only:")
        stack.up(progress=show)
        booted = time.monotonic() - begin
        login = f"user admin, password in {_secrets(stack)}"
        print(f"\n{USECASE}, by Airflow ({stack.home.url('airflow')}, {login}):")
        story = Story(AirflowApi.of(stack.home), stack.check)
        try:
            story.play()
        except AirflowError:
            stack.check()  # if a server has died, that is the cause
            raise
        print(f"\n{summary(stack)}")
    except (StackError, DemoError, AirflowError) as error:
        sys.exit(f"\n{error}")
    print("\nMeasured:")
    for title, seconds in {"servers up": booted, **story.seconds}.items():
        print(f"  {title:<34} {seconds:6.1f} s")
    print(f"  {'this command':<34} {time.monotonic() - begin:6.1f} s\n\nOpen:\n{addresses(stack)}")


if __name__ == "__main__":
    main()
