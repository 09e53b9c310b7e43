"""Partitions of an hour go through the same stages as those of a day, also where the clocks change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.cli.stages import run_stage
from include.features.checks import point_in_time_violations
from include.monitor.alerts import deadline_text
from include.monitor.performance import performance_by
from include.ops.health import unscored
from include.ops.prometheus import gauges
from include.ops.status import status
from include.reports.history import draw_history
from include.spec import UseCase, load
from include.storage.lake import Lake
from tests.usecases.hourly_rides import world

pytestmark = pytest.mark.full  # thirty hours through all stages; each rule has tests of its own
TRAINED, HOURS = 260, 30  # the first 23 of the hours that follow are before the clocks go forward
KEYS = world.partitions(TRAINED + HOURS)
SCORED = KEYS[TRAINED:]


@pytest.fixture(scope="module")
def rides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lake, UseCase]]:
    """Return the taxis after a training and the hours that followed it, each run by itself."""
    folder = tmp_path_factory.mktemp("rides")
    world.write(folder, len(KEYS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(Path(world.__file__).parents[1]))
        patch.setenv("AIRFLOW_CONN_TAXIS", world.connection(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        spec, lake = load("hourly_rides"), Lake("hourly_rides", str(folder / "lake"))
        run_stage("ingest", lake, spec, KEYS[:TRAINED], now=spec.clock.decision_time(KEYS[TRAINED - 1]))
        run_stage("train", lake, spec, [KEYS[TRAINED - 1]], now=spec.clock.decision_time(KEYS[TRAINED - 1]))
        for key in SCORED:
            for stage in ("ingest", "score", "monitor", "rollout"):
                run_stage(stage, lake, spec, [key], now=spec.clock.decision_time(key))
        yield lake, spec


def test_each_hour_is_scored_by_the_champion_and_alarms_nobody(rides: tuple[Lake, UseCase]) -> None:
    """Six zones an hour, across the hour that the clocks skip, and no alert."""
    lake, _ = rides
    rows = lake.rows("predictions", {"partition": SCORED})
    assert len(rows) == 6 * HOURS
    assert {row["served_by"] for row in rows} == {"champion"}
    decisions = lake.rows("decisions")
    assert sorted(row["partition"] for row in decisions) == SCORED
    assert {row["decision"] for row in decisions} == {"nothing"}, decisions


def test_what_is_known_of_an_hour_is_known_before_its_decision(rides: tuple[Lake, UseCase]) -> None:
    """Its rows are known three minutes before it, and no feature depends on what came later."""
    lake, spec = rides
    (known,) = {row["known_at"] for row in lake.rows("validated_counts", {"partition": SCORED[0]})}
    assert known == spec.clock.decision_time(SCORED[0]) - timedelta(minutes=3)
    assert point_in_time_violations(lake, spec, SCORED[0]) == []


def test_realized_performance_is_pooled_by_the_local_day_and_week(rides: tuple[Lake, UseCase]) -> None:
    """A day has its hours with labels; the newest hour's rides aren't known yet."""
    lake, spec = rides
    by_day = performance_by(lake, spec, "day")
    days = [str(spec.clock.date_of(key)) for key in SCORED[:-1]]
    assert {row["day"]: row["partitions"] for row in by_day} == {day: days.count(day) for day in days}
    weeks = {row["week"]: row["partitions"] for row in performance_by(lake, spec, "week")}
    assert weeks == {"2024-W10": days.count("2024-03-09") + 23, "2024-W11": days.count("2024-03-11")}
    first = spec.clock.start_of("2024-03-10")
    (sunday,) = performance_by(lake, spec, "day", first=first, last=spec.clock.end_of("2024-03-10"))
    assert sunday["day"] == "2024-03-10"


def test_status_gauges_and_pages_name_hours(rides: tuple[Lake, UseCase]) -> None:
    """An hour is overdue from its own deadline on, not before, and the pages are drawn."""
    lake, spec = rides
    following = spec.clock.shift(KEYS[-1], 1)
    due = spec.clock.decision_time(following) + timedelta(minutes=20)
    rows = lake.rows("partitions")
    assert unscored(spec, rows, due) == [following]
    assert unscored(spec, rows, due - timedelta(microseconds=1)) == []
    gauge = {one.name: one.value for one in gauges(lake, spec)}["evergreen_next_partition_timestamp_seconds"]
    assert datetime.fromtimestamp(gauge, UTC) == due
    assert deadline_text(spec, following) == f"{due:%Y-%m-%d %H:%M} UTC"
    assert "per row, by day" in draw_history(lake, spec)[1]
    assert status(lake, spec)["stale"] == []
