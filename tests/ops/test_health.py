"""Each thing that can be wrong with a use case gives its status, and the sentence names it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.ops.health import health, unscored
from include.spec import UseCase
from include.spec.load import read

MONDAYS = ["2024-03-04", "2024-03-11", "2024-03-18", "2024-03-25"]
NOW = datetime(2024, 3, 26, tzinfo=UTC)
AGES = timedelta(minutes=50), timedelta(hours=2)  # of predictions
SCORED = [
    {"partition": partition, "product": "predictions", "outcome": "published", "rows": 40, "note": ""}
    for partition in ("2024-03-04", "2024-03-18")
]
CHAMPION: dict[str, Any] = {
    "role": "champion", "version": "3", "model": "m3", "effective_from": MONDAYS[0],
    "judged_on": "2024-03-18", "kind": "promoted", "reason": "because",
    "recipe": "forest", "constant": 1.0, "class_shares": "", "switch": 1,
}  # fmt: skip
BASELINE = CHAMPION | {"role": "baseline", "version": "2"}
STAND_IN = CHAMPION | {"kind": "replaced", "recipe": "prior", "effective_from": MONDAYS[1]}
ALARM = {"check": "performance", "subject": "r2", "outcome": "alarm", "note": "0.1, required at least 0.3"}

OVERDUE = ALARM | {
    "check": "labels",
    "subject": "overdue",
    "note": "labels of 3 scored partitions are overdue",
}


@pytest.fixture
def weekly() -> UseCase:
    """The use case of Mondays, whose predictions are due on the same day."""
    return read(Path(__file__).parents[1] / "usecases" / "weekly_sales" / "usecase.yaml")


def rows(*absent: tuple[str, str]) -> list[dict[str, Any]]:
    """Return the status of every product on each Monday, without some."""
    return [
        {"partition": partition, "product": product, "outcome": "published", "rows": 40, "note": ""}
        for partition in MONDAYS
        for product in ("sales", "predictions", "monitor", "performance")
        if (product, partition) not in absent
    ]


def facts(**changed: Any) -> dict[str, Any]:
    """Return what `health` is told of a fresh use case, with changes."""
    fresh = {"partitions": rows(), "switches": [CHAMPION], "served_by": {"champion": 40}, "findings": []}
    return fresh | changed


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "fresh", "Version 3, trained on"),
        ({"partitions": []}, "blind", "No partition has been scored yet: backfill weekly_sales__batch"),
        ({"partitions": rows(("predictions", MONDAYS[-1]))}, "broken", "2024-03-25 should have been scored"),
        ({"served_by": {"champion": 30, "constant": 10}}, "broken", "A constant predicted 10 of 40 rows"),
        ({"switches": [], "served_by": {"constant": 40}}, "broken", "no model was promoted yet"),
        ({"partitions": rows(("monitor", MONDAYS[-1]))}, "blind", "2024-03-25 was scored, but isn't"),
        (
            {"partitions": rows(*(("performance", key) for key in MONDAYS))},
            "blind",
            "labels of 3 partitions, 2024-03-04 to 2024-03-18, are overdue",
        ),
        ({"findings": [OVERDUE]}, "blind", "The labels of 3 scored partitions are overdue."),
        ({"findings": [ALARM]}, "degraded", "r2: 0.1, required at least 0.3"),
        ({"findings": [ALARM | {"check": "drift"}]}, "fresh", "Version 3, trained on"),
        ({"partitions": rows(("sales", MONDAYS[-1]))}, "degraded", "2024-03-25 has no data of sales"),
        ({"served_by": {"champion": 30, "previous": 10}}, "degraded", "Fallbacks predicted 10 of 40 rows"),
        ({"switches": [BASELINE], "served_by": {"baseline": 40}}, "degraded", "Fallbacks predicted 40"),
        ({"switches": [CHAMPION | {"kind": "replaced"}]}, "degraded", "Version 3 stands in: because"),
        (
            {"switches": [STAND_IN, STAND_IN | {"kind": "refreshed", "effective_from": MONDAYS[-1]}]},
            "degraded",
            f"prior stands in since {MONDAYS[1]}, for a champion that lost more",
        ),
        ({"switches": [STAND_IN, CHAMPION | {"kind": "promoted"}]}, "fresh", "Version 3, trained on"),
        (
            {"switches": [CHAMPION | {"kind": "replaced"}, CHAMPION | {"kind": "refreshed"}]},
            "fresh",
            "Version 3, trained on",
        ),
        ({"switches": [CHAMPION | {"judged_on": "2023-10-30"}]}, "aging", "since that of 2023-10-30"),
    ],
)  # fmt: skip
def test_what_is_wrong_gives_the_status(
    weekly: UseCase, changed: dict[str, Any], status: str, words: str
) -> None:
    """One thing is wrong at a time."""
    result = health(weekly, NOW, **facts(**changed))
    assert result.status == status
    assert words in result.reason


def test_a_source_that_begins_later_is_not_missing(weekly: UseCase) -> None:
    """It has no partition before its own start, and is missing from then on."""
    sales = weekly.sources["sales"]
    for start, status in (("2024-04-01", "fresh"), (MONDAYS[-1], "degraded")):
        sources = {"sales": sales, "weather": sales.model_copy(update={"start": start})}
        later = weekly.model_copy(update={"sources": sources})
        assert health(later, NOW, **facts()).status == status


def test_labels_that_never_came_are_no_matter_once_later_ones_did(weekly: UseCase) -> None:
    """Three files that were lost in a lifetime leave the status as fresh as the newest labels make it."""
    lost = rows(*(("performance", key) for key in MONDAYS[:3]))
    assert health(weekly, NOW, **facts(partitions=lost)).status == "fresh"


def test_labels_of_holidays_are_not_overdue(weekly: UseCase) -> None:
    """A partition of the labels' source that was published without rows leaves nothing to wait for."""
    empty = [
        {**row, "rows": 0} if row["product"] == weekly.labels.source else row
        for row in rows(*(("performance", key) for key in MONDAYS))
    ]
    assert health(weekly, NOW, **facts(partitions=empty)).status == "fresh"


def test_a_partition_that_was_scored_just_now_isnt_blind(weekly: UseCase) -> None:
    """Its run is still at work; an hour later the sentence says since when it waits."""
    unmonitored = facts(partitions=rows(("monitor", MONDAYS[-1])))
    young, old = (health(weekly, NOW, **unmonitored, scored_at=NOW - age) for age in AGES)
    assert (young.status, old.status) == ("fresh", "blind")
    assert "2024-03-25 was scored at 2024-03-25 22:00 UTC, but isn't monitored: clear its" in old.reason


def test_the_most_urgent_status_is_given(weekly: UseCase) -> None:
    """Missing predictions come before a missed requirement, and the age is that of the model."""
    late = facts(partitions=rows(("predictions", MONDAYS[1])), findings=[ALARM])
    assert health(weekly, NOW, **late).status == "broken"
    assert health(weekly, NOW, **facts()).age == 1


@pytest.mark.parametrize(
    ("now", "end", "missing"),
    [
        (NOW, None, ["2024-03-11", "2024-03-25"]),
        (datetime(2024, 3, 25, 6, 1, tzinfo=UTC), None, ["2024-03-11"]),  # its deadline is still to come
        (NOW, "2024-03-18", ["2024-03-11"]),
        (datetime(2025, 3, 26, tzinfo=UTC), "2024-04-29", ["2024-03-11"]),  # the schedule is over
    ],
)
def test_due_partitions_without_predictions_are_named(
    weekly: UseCase, now: datetime, end: str | None, missing: list[str]
) -> None:
    """Up to the last one that is due or, after the end of the schedule, that is scored."""
    spec = weekly.model_copy(update={"schedule": weekly.schedule.model_copy(update={"end": end})})
    assert unscored(spec, SCORED, now) == missing


def test_before_the_first_scored_partition_none_is_missing(weekly: UseCase) -> None:
    """History that was only loaded to train on isn't reported."""
    loaded = [{**row, "product": "sales"} for row in SCORED]
    assert unscored(weekly, loaded, NOW) == []
