"""The demo itself: two months of real flights, a champion, a week of partitions, and a source that dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import process
from demo.airflow_api import AirflowApi
from demo.home import Home
from demo.servers import pid_file
from demo.stack import Stack
from include.storage.lake import Lake
from tests.house import ROOT

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(900)]
USECASE = "flight_delay"


class Demo:
    """A home in which `python -m demo` has run once."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.stack = Stack(self.home)
        self.first = self.play()

    def play(self) -> str:
        """Run the demo's command and return what it printed."""
        env = {**os.environ, "EVERGREEN_HOME": str(self.home.root)}
        done = subprocess.run(
            [sys.executable, "-m", "demo"], env=env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The demo, played once, its servers up."""
    folder = Path(tempfile.mkdtemp(prefix="evergreen-demo-"))  # pytest's own is closed to PostgreSQL's user
    before = dict(os.environ)
    try:
        made = Demo(folder)
        os.environ.update(made.stack.environment())
        yield made
    finally:
        os.environ.clear()
        os.environ.update(before)
        Stack(Home(folder / "home")).down()
        shutil.rmtree(folder)


def test_a_champion_serves_a_week_of_real_flights(demo: Demo) -> None:
    """The demo ends with a champion that served each flight of seven partitions.

    And says what came of them.
    """
    lake = Lake(USECASE)
    rows = lake.rows("predictions")
    assert {row["partition"] for row in rows} == {f"2013-03-0{day}" for day in range(1, 8)}
    assert {row["served_by"] for row in rows} == {"champion"}
    assert all(0 < row["prediction"] < 1 for row in rows)
    scheduled = lake.rows("validated_schedule", {"partition": sorted({row["partition"] for row in rows})})
    assert len(rows) == len(scheduled)
    for told in (
        "champion v2",
        "previous: v1",
        "rubber-stamped",
        "realized",
        "most frequent reasons for quarantine",
        "this command",
    ):
        assert told in demo.first
    assert {row["partition"] for row in lake.rows("attempts")} == {"2013-02-28", "2013-03-07"}


def test_playing_again_does_nothing_anew(demo: Demo) -> None:
    """A second `make demo` finds everything done: the same runs, the same versions of the tables."""
    lake, api = Lake(USECASE), AirflowApi.of(demo.home)
    tables = ("predictions", "attempts", "switches", "partitions", "findings")
    before = {name: lake.version(name) for name in tables}
    demo.play()
    assert {name: lake.version(name) for name in tables} == before
    runs = api.call("GET", f"/dags/{USECASE}__training/dagRuns")["total_entries"]
    assert runs == 2


def test_a_source_that_is_down_costs_the_partition_its_champion_and_no_prediction(demo: Demo) -> None:
    """Without weather the baseline serves each flight and says why.

    The ingest is red, the partition goes on.
    """
    api, partition = AirflowApi.of(demo.home), "2013-03-08"
    server = process.running(pid_file(demo.home, "weather"))
    assert server is not None
    server.kill()
    api.trigger_run(f"{USECASE}__batch", {"partition": partition}, run_id="no_weather")
    assert api.wait_run(f"{USECASE}__batch", "no_weather", timeout=180)["state"] == "success"
    states = {t["task_id"]: t["state"] for t in api.task_instances(f"{USECASE}__batch", "no_weather")}
    assert (states["ingest.weather"], states["score.predict"]) == ("failed", "success")
    rows = Lake(USECASE).rows("predictions", {"partition": partition})
    assert len(rows) == len(Lake(USECASE).rows("validated_schedule", {"partition": partition}))
    assert {row["served_by"] for row in rows} == {"baseline"}
    assert all("weather" in row["reason"] for row in rows)
