"""A lake belongs to the schedule that it was built for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.base import CheckPartitionOperator
from include.cli.stages import run_stage
from include.environment import Connect, Endpoint
from include.errors import SpecError
from include.ingest.pipeline import ingest
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schedule import KEY, changed_schedule, require_schedule
from include.validate.stored import data_problems
from tests.usecases.edited import read_edited
from tests.usecases.weekly_sales import world

DECLARED = Path(world.__file__).parent
MONDAYS, LATER = "0 6 * * 1", datetime(2024, 7, 1, tzinfo=UTC)
OTHER = r"weekly_sales: schedule: expected the partitions that are stored, those of '0 6 \* \* 1' \(UTC\)"


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., UseCase]:
    """Return the use case with another schedule."""

    def declared(batch: str = MONDAYS, timezone: str = "UTC") -> UseCase:
        def edit(raw: dict[str, Any]) -> None:
            raw["schedule"].update(batch=batch, timezone=timezone, training=f"0 8 {batch.split(' ', 2)[2]}")

        return read_edited(DECLARED, tmp_path / "usecases", edit)

    return declared


@pytest.fixture
def lake(tmp_path: Path, declare: Callable[..., UseCase]) -> Lake:
    """Return a lake with a Monday."""
    world.write(tmp_path / "shop", 2)
    lake = Lake("weekly_sales", str(tmp_path / "lake"))
    connect: Connect = lambda name: Endpoint(name, (tmp_path / "shop").as_uri())  # noqa: E731 (a fake)
    ingest(lake, declare(), "sales", world.partitions(1), connect)
    return lake


@pytest.mark.parametrize("batch", ["0 6 * * 2", "0 6 * * *", "0 6 * * 1,4", "0 6 1 * *"])
def test_other_days_are_refused(lake: Lake, declare: Callable[..., UseCase], batch: str) -> None:
    """Labels and windows would join other partitions without a sign of it; each stage says so first."""
    changed = declare(batch)
    newest = changed.clock.newest(LATER)
    for stage in ("ingest", "score", "monitor"):
        with pytest.raises(SpecError, match=OTHER):
            run_stage(stage, lake, changed, [newest], now=LATER)
    (problem,) = data_problems(lake, changed)
    assert "declare the earlier schedule again, or give the use case another name" in problem.sentence


@pytest.mark.parametrize(
    ("batch", "timezone"), [("0 7 * * 1", "UTC"), ("0 6 * * MON", "UTC"), (MONDAYS, "Europe/Berlin")]
)
def test_another_time_of_the_same_days_is_not(
    lake: Lake, declare: Callable[..., UseCase], batch: str, timezone: str
) -> None:
    """The partitions stay the same days."""
    require_schedule(lake, declare(batch, timezone))
    assert data_problems(lake, declare(batch, timezone)) == data_problems(lake, declare())


def test_a_lake_without_a_partition_takes_any_schedule(
    declare: Callable[..., UseCase], tmp_path: Path
) -> None:
    """Who corrects the schedule before anything is published needs no other lake."""
    empty = Lake("weekly_sales", str(tmp_path / "empty"))
    connect: Connect = lambda name: Endpoint(name, (tmp_path / "nowhere").as_uri())  # noqa: E731 (a fake)
    (outcome,) = ingest(empty, declare(), "sales", world.partitions(1), connect)
    assert outcome.outcome == "unavailable"
    require_schedule(empty, declare("0 6 * * *"))
    assert empty.get(KEY) is None


def test_a_lake_without_the_record_is_known_by_its_partitions(
    lake: Lake, declare: Callable[..., UseCase]
) -> None:
    """As one that was restored from an older backup; a schedule that has its newest partition may be used."""
    lake.remove([KEY])
    with pytest.raises(
        SpecError, match="schedule: expected a schedule with the partition 2024-01-01, which is"
    ):
        require_schedule(lake, declare("0 6 * * 2"))
    require_schedule(lake, declare())


@pytest.mark.parametrize(
    ("cron", "timezone", "other", "same"),
    [
        ("0 * * * *", "UTC", ("0 * * * *", "Europe/Berlin"), True),
        ("*/15 * * * *", "UTC", ("*/15 * * * *", "America/New_York"), True),
        ("0 */6 * * *", "UTC", ("0 */6 * * *", "Europe/Berlin"), False),
        ("5 * * * *", "UTC", ("10 * * * *", "UTC"), False),
        ("0 6 * 1 1", "UTC", ("0 6 1,8,15,22,29 1 *", "UTC"), False),  # the Mondays of January 2024
    ],
)
def test_schedules_are_the_same_if_their_partitions_are(
    lake: Lake, declare: Callable[..., UseCase], cron: str, timezone: str, other: tuple[str, str], same: bool
) -> None:
    """Whatever their crons and time zones say, and over years."""
    spec = declare()
    schedule = spec.schedule.model_copy(update={"batch": cron, "timezone": timezone})
    lake.replace(KEY, json.dumps({"cron": other[0], "timezone": other[1]}).encode())
    changed = changed_schedule(lake, spec.model_copy(update={"schedule": schedule}))
    assert (changed is None) == same


def test_a_run_fails_before_its_first_task(
    lake: Lake, declare: Callable[..., UseCase], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a retry, with both schedules."""
    declare("0 6 * * 2")
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    run = SimpleNamespace(partition_key="2024-01-09", run_type="scheduled")
    with pytest.raises(AirflowFailException, match=r"but found '0 6 \* \* 2' \(UTC\)"):
        CheckPartitionOperator(task_id="check", usecase="weekly_sales").execute(
            {"dag_run": run, "params": {}}  # type: ignore[typeddict-item]  # all that it reads
        )
