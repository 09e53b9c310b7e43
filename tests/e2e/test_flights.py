"""The demo itself: two months of real flights, a champion, partitions, a source and a scheduler that die.

Of its seven partitions three are played, or no label would have come: what another four do is the same.
"""

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
from tests.demo.processes import alive, members, started_in
from tests.house import ROOT

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(900)]
USECASE = "flight_delay"
WEEK = ("2013-03-05", "2013-03-06", "2013-03-07")
DEMO = """
from datetime import date
from demo import __main__ as demo
demo.WEEK = (date(2013, 3, 5), date(2013, 3, 7))
demo.main()
"""


class Demo:
    """A home in which the demo's command has run once."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.stack = Stack(self.home)
        self.first = self.play()

    def play(self) -> str:
        """Run the demo's command and return what it printed."""
        env = {**os.environ, "EVERGREEN_HOME": str(self.home.root)}
        done = subprocess.run(
            [sys.executable, "-c", DEMO], env=env, cwd=ROOT, capture_output=True, text=True, check=False
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


def test_a_champion_serves_real_flights(demo: Demo) -> None:
    """The demo ends with a champion that served each flight of its partitions.

    And says what came of them.
    """
    lake = Lake(USECASE)
    rows = lake.rows("predictions")
    assert {row["partition"] for row in rows} == {*WEEK}
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
    assert {row["partition"] for row in lake.rows("attempts")} == {"2013-02-28", WEEK[-1]}


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


def test_a_killed_scheduler_comes_back_and_down_leaves_no_process(demo: Demo) -> None:
    """The workers that a killed scheduler leaves are not there any more when the next one is."""
    stack, pids = Stack(demo.home, warm=False), pid_file(demo.home, "scheduler")  # it comes back sooner
    leader = process.running(pids)
    assert leader is not None
    leader.kill()
    process.until(lambda: process.running(pids) is None, 5)
    orphans = process.family(pids, demo.home.root)

    stack.up(["scheduler"])

    assert len(orphans) >= 8  # the workers
    assert not [orphan for orphan in orphans if alive(orphan)]
    everything = members(stack)
    stack.down()
    assert set(stack.status().values()) == {"down"}
    assert not [one for one in (*everything, *started_in(demo.home.root)) if alive(one)]
