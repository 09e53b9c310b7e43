"""The status names the partitions whose predictions were due and don't exist."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from include.ops.status import unscored
from include.spec import UseCase
from include.spec.load import read

SCORED = [
    {"partition": partition, "product": "predictions", "outcome": "published"}
    for partition in ("2024-03-04", "2024-03-18")
]


@pytest.fixture
def weekly() -> UseCase:
    """The use case of Mondays, whose predictions are due on the same day."""
    return read(Path(__file__).parents[1] / "usecases" / "weekly_sales" / "usecase.yaml")


@pytest.mark.parametrize(
    ("now", "end", "missing"),
    [
        (datetime(2024, 3, 26, tzinfo=UTC), None, ["2024-03-11", "2024-03-25"]),
        (datetime(2024, 3, 25, 6, 1, tzinfo=UTC), None, ["2024-03-11"]),  # its deadline is still to come
        (datetime(2024, 3, 26, tzinfo=UTC), "2024-03-18", ["2024-03-11"]),
    ],
)
def test_due_partitions_without_predictions_are_named(
    weekly: UseCase, now: datetime, end: str | None, missing: list[str]
) -> None:
    """From the first scored one to the last whose deadline has passed, within the schedule."""
    spec = weekly.model_copy(update={"schedule": weekly.schedule.model_copy(update={"end": end})})
    assert unscored(spec, SCORED, now) == missing


def test_before_the_first_scored_partition_none_is_missing(weekly: UseCase) -> None:
    """History that was only loaded to train on isn't reported."""
    loaded = [{**row, "product": "sales"} for row in SCORED]
    assert unscored(weekly, loaded, datetime(2024, 3, 26, tzinfo=UTC)) == []
