"""Features that can't be computed are tried again until the deadline; then a constant serves every row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from evergreen.operators import base
from evergreen.operators import score as operators
from evergreen.operators.score import ScoreOperator
from include.cli import stages
from include.errors import SpecError
from include.monitor.pipeline import monitor
from include.ops.verify import verify
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from tests.faults import clocks
from tests.usecases.weekly_sales import world

# valid SQL that fails on the data
FAILS = "CAST(nullif(spine.store, 'north') AS INTEGER) AS price"
At = Callable[[str], None]


@pytest.fixture
def weekly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lake, UseCase, str]:
    """Return the weekly use case and its third partition, whose features fail."""
    file, keys = world.install(tmp_path, 3, monkeypatch)
    lake, spec = Lake("weekly_sales"), read(file)
    stages.run_stage("ingest", lake, spec, keys, now=clocks.NOW)
    stages.run_stage("score", lake, spec, keys[:2], now=clocks.NOW)
    edit(file.parent, "spine.price,", f"{FAILS},")
    return lake, read(file), keys[2]


def edit(folder: Path, old: str, new: str) -> None:
    """Change the SQL of the features."""
    file = folder / "features.sql"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Set the time of the partition's day at which the task runs; its decision is at 06:00."""

    def act(time: str) -> None:
        now = datetime.fromisoformat(f"2024-01-15 {time}").replace(tzinfo=UTC)
        clock = SimpleNamespace(now=lambda zone: now)
        monkeypatch.setattr(base, "datetime", clock)
        monkeypatch.setattr(operators, "datetime", clock)

    return act


def run(partition: str, run_type: str = "scheduled", event: Any = None) -> dict[str, Any]:
    """Execute the task of a run."""
    context: Any = {
        "dag_run": SimpleNamespace(partition_key=partition, run_type=run_type),
        "params": {},
        "outlet_events": {},
    }
    return ScoreOperator(task_id="predict", usecase="weekly_sales").execute(context, event)


def served_by(lake: Lake, partition: str) -> set[str]:
    """Return which steps served the rows of a partition."""
    return {row["served_by"] for row in lake.rows("predictions", {"partition": partition})}


def test_a_scheduled_partition_waits_for_the_deadline_and_gets_the_prior(
    weekly: tuple[Lake, UseCase, str], at: At
) -> None:
    """Until 09:00 the task is deferred; then all rows are served, with the error as the reason."""
    lake, spec, partition = weekly
    at("06:01")
    with pytest.raises(TaskDeferred) as deferred:
        run(partition)
    assert deferred.value.trigger.moment == datetime(2024, 1, 15, 6, 6, tzinfo=UTC)
    at("08:56")
    ref = run(partition, event="2024-01-15 08:56")
    assert ref["rows"] == 40
    assert ref["note"].startswith("40 rows by constant: weekly_sales: features: expected one SELECT")
    rows = lake.rows("predictions", {"partition": partition})
    assert {row["prediction"] for row in rows} == {spec.constant}
    monitor(lake, spec, partition)
    assert verify(lake, spec).differences == ()


def test_corrected_features_before_the_deadline_are_served(weekly: tuple[Lake, UseCase, str], at: At) -> None:
    """The next attempt reads the declaration anew."""
    _, spec, partition = weekly
    at("06:01")
    with pytest.raises(TaskDeferred):
        run(partition)
    edit(spec.folder, f"{FAILS},", "spine.price,")
    at("06:06")
    assert "features" not in run(partition, event="2024-01-15 06:06")["note"]


@pytest.mark.parametrize(("time", "run_type"), [("09:00", "scheduled"), ("06:01", "manual")])
def test_a_backfill_fails_and_publishes_nothing(
    weekly: tuple[Lake, UseCase, str], at: At, time: str, run_type: str
) -> None:
    """A mistake in the SQL doesn't fill a range of partitions with the prior for good."""
    lake, _, partition = weekly
    at(time)
    with pytest.raises(AirflowFailException, match="weekly_sales: features: expected one SELECT"):
        run(partition, run_type)
    assert served_by(lake, partition) == set()


def test_predictions_stay_when_features_fail_or_are_corrected(weekly: tuple[Lake, UseCase, str]) -> None:
    """A rerun never replaces what was served: it fails, or says that the predictions would differ now."""
    lake, spec, partition = weekly
    score(lake, spec, partition, requires_features=False)
    served = lake.rows("predictions", {"partition": partition})
    with pytest.raises(SpecError, match="features: expected one SELECT"):
        score(lake, spec, partition, requires_features=False)
    edit(spec.folder, f"{FAILS},", "spine.price,")
    note = score(lake, read(spec.folder / "usecase.yaml"), partition).note
    assert "the predictions would differ now, see the table restated" in note
    assert lake.rows("predictions", {"partition": partition}) == served
