"""`make demo`: two months of flights become a champion, then a week of partitions is scored and summed up.

Each step goes through Airflow's REST API and is skipped when it is done: after an interruption or a failure,
the same command goes on from there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime

from demo.airflow_api import LOOK, AirflowApi, AirflowError, Json
from demo.home import REPOSITORY
from demo.process import until
from demo.stack import Stack, StackError, show

USECASE = "flight_delay"
HISTORY = {"first": "2012-12-31", "last": "2013-02-28"}
WEEK = (date(2013, 3, 1), date(2013, 3, 7))
CLOCKS = ("history", "training", "batch")

FEW = 8  # lines of a failed task's log
READ = 60.0  # seconds for Airflow to read the DAG files
STEP = 1800.0  # seconds for a step, on a machine far slower than the one it was measured on


class DemoError(RuntimeError):
    """A step failed; the message says which task, its last log lines, where to look and what to do."""


class Story:
    """The steps, told on the terminal while Airflow works; `check` raises when a server has died."""

    def __init__(self, api: AirflowApi, check: Callable[[], None]) -> None:
        self.api, self.check = api, check
        self.took: dict[str, float] = {}  # seconds by step, from Airflow's own clock
        self._told = ""

    def play(self) -> None:
        """Run what has not been run yet."""
        for clock in CLOCKS:
            self.api.wait_dag(f"{USECASE}__{clock}", timeout=READ)
            self.api.unpause(f"{USECASE}__{clock}")
        last_of_history, last_of_week = HISTORY["last"], WEEK[1].isoformat()
        self.run("January and February as history", "history", "demo__history", HISTORY)
        self.run("the first champion", "training", f"demo__{last_of_history}", partition=last_of_history)
        self.partitions("the partitions of 1-7 March")
        self.run("the weekly challenger", "training", f"demo__{last_of_week}", partition=last_of_week)

    def run(
        self, title: str, clock: str, run_id: str, conf: Json | None = None, *, partition: str | None = None
    ) -> None:
        """Bring one run to its success: start it, wait for one under way, or repeat what failed in it."""
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
                timeout=STEP,
                watch=lambda runs: self._tell(title, self._tasks(dag_id, run_id)),
            )
        self._end(title, [run])

    def partitions(self, title: str) -> None:
        """Backfill the week with Airflow's own backfill; partitions that have succeeded are left alone."""
        dag_id = f"{USECASE}__batch"

        def all_there() -> bool:
            runs = self.api.partition_runs(dag_id, *WEEK)
            return len(runs) == (WEEK[1] - WEEK[0]).days + 1 and all(r["state"] != "failed" for r in runs)

        if not all_there():
            # Airflow closes a backfill up to half a minute after its last run, and takes no second before.
            free = until(lambda: all_there() or self.api.active_backfill(dag_id) is None, STEP, LOOK)
            if not free:
                page = f"{self.api.url}/dags/{dag_id}/backfills"
                raise DemoError(f"{dag_id}: a backfill is still open after {STEP:.0f} s; look at {page}")
            if not all_there():
                self.api.backfill(dag_id, *WEEK, max_active_runs=2, reprocess_behavior="failed")
        runs = self.api.wait_backfill(
            dag_id, *WEEK, timeout=STEP, watch=lambda runs: self._tell(title, _states(runs))
        )
        self._end(title, runs)

    def _tasks(self, dag_id: str, run_id: str) -> str:
        return _states(self.api.task_instances(dag_id, run_id))

    def _tell(self, title: str, states: str) -> None:
        """A line when something has changed; and a server that died ends the waiting."""
        self.check()
        if states and states != self._told:
            print(f"    {time.strftime('%H:%M:%S')}  {states}", flush=True)
            self._told = states

    def _end(self, title: str, runs: list[Json]) -> None:
        failed = [run for run in runs if run["state"] != "success"]
        if failed:
            raise DemoError("\n\n".join(self._why(run) for run in failed))
        begin = min(datetime.fromisoformat(run["start_date"]) for run in runs)
        end = max(datetime.fromisoformat(run["end_date"]) for run in runs)
        self.took[title] = (end - begin).total_seconds()
        self._told = ""
        print(f"  {title:<34} {self.took[title]:6.1f} s", flush=True)

    def _why(self, run: Json) -> str:
        """Which tasks failed, the end of their logs, the page to look at and what to do."""
        dag_id, run_id = run["dag_id"], run["dag_run_id"]
        page = f"{self.api.url}/dags/{dag_id}/runs/{run_id}"
        lines = [f"{dag_id}, run {run_id}: {run['state']}"]
        for task in self.api.task_instances(dag_id, run_id):
            if task["state"] == "failed":
                lines.append(f"  task {task['task_id']}, after try {task['try_number']}; the end of its log:")
                said = [line for line in self.api.log(task) if line and not line.startswith("::")]
                lines += [f"    {line}" for line in said[-FEW:]]
        lines.append(f"  Look at {page}")
        lines.append("  Put right what it says; `make demo` then repeats only what failed.")
        return "\n".join(lines)


def _states(found: list[Json]) -> str:
    """How many runs or tasks are in which state, as `3 success, 1 running`."""
    counted = Counter(one["state"] or "waiting" for one in found)
    return ", ".join(
        f"{count} {state}" for state, count in sorted(counted.items(), key=lambda c: c[0] != "success")
    )


def summary(stack: Stack) -> str:
    """What `python -m include status` says of the use case, read with the tasks' own environment."""
    command = [sys.executable, "-m", "include", "status", USECASE]
    done = subprocess.run(
        command, env=stack.environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoError(f"`{' '.join(command[1:])}` failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def addresses(stack: Stack) -> str:
    """Where to look, and as whom."""
    home = stack.home
    secrets = home.root / "secrets" / "secrets.json"
    return "\n".join(
        [
            f"  Airflow  {home.url('airflow')}   user admin, password {home.secrets['airflow']}",
            f"  MLflow   {home.url('mlflow')}   user admin, password {home.secrets['mlflow']}",
            f"  S3       {home.url('s3')}   buckets lake, landing, mlflow",
            f"  All passwords: {secrets}",
            "  `make down` stops the servers; `make clean` also removes what they hold.",
        ]
    )


def main() -> None:
    """Play the whole story."""
    begin = time.monotonic()
    stack = Stack()
    try:
        print("Servers, on 127.0.0.1 only:")
        stack.up(progress=show)
        booted = time.monotonic() - begin
        print(f"\n{USECASE}, by Airflow ({stack.home.url('airflow')}):")
        story = Story(AirflowApi.of(stack.home), stack.check)
        try:
            story.play()
        except AirflowError:
            stack.check()  # a dead server is the cause, and is named instead
            raise
        print(f"\n{summary(stack)}")
    except (StackError, DemoError, AirflowError) as error:
        sys.exit(f"\n{error}")
    print("\nMeasured:")
    for title, seconds in {"servers up": booted, **story.took}.items():
        print(f"  {title:<34} {seconds:6.1f} s")
    print(f"  {'this command':<34} {time.monotonic() - begin:6.1f} s\n\nOpen:\n{addresses(stack)}")


if __name__ == "__main__":
    main()
