"""A feature that turns constant is an alarm, and one that ordinarily has one value per partition is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from include.monitor.checks.constant import MIN_PARTITIONS, MIN_VALUES, check_constant
from include.monitor.pipeline import monitor
from include.monitor.reference import ReferenceColumn
from include.score.pipeline import score
from include.spec import UseCase
from include.stats.drift_measures import Binning
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.machines import partition, profiled

VARIED, ZERO = [0.0, 1.0] * 50, [0.0] * 100


def learned(values: list[list[Any]]) -> ReferenceColumn:
    """Return a reference of these partitions' values."""
    profile = profiled([value for one in values for value in one])
    counts = np.array([[len(one), 0] for one in values], dtype=float)
    distinct = np.array([len(set(one)) for one in values])
    return ReferenceColumn(profile, Binning.of(profile), partitions=counts, distinct=distinct)


def outcome(reference: list[list[Any]], earlier: list[list[Any]], newest: list[Any]) -> str:
    """Return the outcome of a partition after a reference and the last weeks' partitions."""
    rows = [partition(values, f"{place:02}") for place, values in enumerate(earlier)]
    return check_constant("c", learned(reference), profiled(newest), rows).outcome


@pytest.mark.parametrize(("varied", "constant"), [(VARIED, ZERO), (["a", "b"] * 50, ["a"] * 100)])
def test_a_feature_that_turns_constant_stays_an_alarm_also_in_a_later_reference(
    varied: list[Any], constant: list[Any]
) -> None:
    """The partitions that are constant up to this one make it no more ordinary."""
    reference = [varied] * MIN_PARTITIONS
    assert outcome(reference, [], varied) == "ok"
    assert outcome(reference, [], constant) == "alarm"
    assert outcome(reference, [varied] * 20 + [constant] * 8, constant) == "alarm"
    assert outcome(reference + [constant] * 5, [constant] * 28, constant) == "alarm"


def test_a_feature_that_was_constant_before_is_no_alarm() -> None:
    """One earlier partition with one value, or no other kind of partition, makes one value ordinary."""
    assert outcome([ZERO] * 20, [], ZERO) == "ok"
    assert outcome([VARIED] * 5 + [ZERO] + [VARIED] * 14, [], ZERO) == "ok"
    assert outcome([VARIED] * 20, [ZERO, VARIED], ZERO) == "ok"


def test_few_values_and_few_partitions_are_not_enough() -> None:
    """One row less, or one partition less, than a judgment needs isn't an alarm, nor evidence against one."""
    few = [0.0] * (MIN_VALUES - 1)
    assert outcome([VARIED] * 20, [], few) == "not enough"
    assert outcome([VARIED] * 20, [few, VARIED], ZERO) == "alarm"
    nearly_enough = [VARIED] * (MIN_PARTITIONS - 1)
    assert outcome(nearly_enough, nearly_enough, ZERO) == "not enough"


def test_a_partition_of_zeros_alerts_on_its_day(lake: Lake, use: UseCase, week: list[str]) -> None:
    """A load of 0 in all rows, within the reference's range, notifies; one weekday per partition doesn't."""
    machines.readings(lake, use, week[0], lambda row: {**row, "load": 0.0})
    score(lake, use, week[0])
    monitor(lake, use, week[0])
    rows = lake.rows("findings", {"partition": week[0], "check": "constant"})
    assert {row["subject"]: row["outcome"] for row in rows} == {
        **dict.fromkeys(("temp", "kind", "weekday"), "ok"),
        "load": "alarm",
    }
    (decision,) = lake.rows("decisions", {"partition": week[0]})
    assert '"check": "constant", "subject": "load"' in decision["alerts"]
