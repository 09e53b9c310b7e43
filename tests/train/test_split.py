"""Nothing is chosen or judged on a partition that isn't later than what was fitted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import EvergreenError
from include.spec import UseCase
from include.train.split import split
from tests.train import visits


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """A declaration with 4 validation and 8 test partitions."""
    return visits.usecase(tmp_path_factory.mktemp("shape"))


@given(partitions=st.lists(st.integers(1, 28), min_size=1, max_size=40), partition=st.integers(14, 28))
def test_parts_follow_each_other_in_time(shape: UseCase, partitions: list[int], partition: int) -> None:
    """Each row until the training partition is in one part, and each part is later than the one before."""
    rows = pa.table({"partition": [f"2024-02-{day:02}" for day in partitions], "row": range(len(partitions))})
    key = f"2024-02-{partition:02}"
    try:
        parts = split(rows, shape, key)
    except EvergreenError:
        before = {day for day in partitions if day <= partition - 8}
        assert not any(day <= partition - 12 for day in before) or not any(
            day > partition - 12 for day in before
        )
        return
    found = parts.partitions()
    assert found["train"][-1] < found["validation"][0] <= found["validation"][-1] < shape.clock.shift(key, -7)
    assert all(shape.clock.shift(key, -7) <= n <= key for n in found["test"])
    kept = [row for part in (parts.train, parts.validation, parts.test) for row in part["row"].to_pylist()]
    assert sorted(kept) == [i for i, day in enumerate(partitions) if day <= partition]


def test_windows_are_counted_in_partitions_of_the_clock(tmp_path: Path) -> None:
    """Where the partitions are Mondays, eight test partitions are eight weeks."""
    weekly = visits.usecase(tmp_path, **{'batch: "0 18 * * *"': 'batch: "0 18 * * 1"'})
    mondays = weekly.clock.keys("2024-01-01", "2024-05-27")
    parts = split(pa.table({"partition": mondays}), weekly, mondays[-1]).partitions()
    assert (parts["test"], parts["validation"]) == (mondays[-8:], mondays[-12:-8])


def test_partitions_without_labels_have_no_rows(shape: UseCase) -> None:
    """The newest test partitions, of which nothing is known yet, are counted and empty."""
    partitions = shape.clock.keys("2024-03-01", "2024-03-28")
    assert (
        split(pa.table({"partition": partitions}), shape, "2024-03-30").partitions()["test"]
        == partitions[-6:]
    )


@pytest.mark.parametrize(("known", "tested"), [(10, 8), (16, 8), (20, 10), (40, 20), (60, 20)])
def test_a_walk_forward_is_judged_on_more_partitions_as_the_history_grows(
    tmp_path: Path, known: int, tested: int
) -> None:
    """At most half of the partitions that have labels are test partitions, never fewer than declared.

    Nor more.
    """
    walking = {
        "min_partitions: 3": "min_partitions: 3, evidence: walk_forward",
        "test: 8": "test: 8\n  max_test: 20",
    }
    longer = visits.usecase(tmp_path, **walking)
    partitions = longer.clock.keys("2024-01-01", longer.clock.shift("2024-01-01", known + 5))[:known]
    rows = pa.table({"partition": partitions})
    try:
        parts = split(rows, longer, partitions[-1])
    except EvergreenError:
        assert known < 8 + 4 + 1
        return
    assert parts.test_window == tested == len(parts.partitions()["test"])


def test_more_test_partitions_leave_one_to_fit_on(tmp_path: Path) -> None:
    """Beside long validation partitions half of a short history is too much.

    Where the declared least isn't.
    """
    longer = visits.usecase(
        tmp_path,
        **{
            "min_partitions: 3": "min_partitions: 3, evidence: walk_forward",
            "test: 8": "test: 8\n  max_test: 20",
            "validation: 4": "validation: 12",
        },
    )
    partitions = longer.clock.keys("2024-01-01", "2024-01-22")
    parts = split(pa.table({"partition": partitions}), longer, partitions[-1]).partitions()
    assert {name: len(some) for name, some in parts.items()} == {"train": 1, "validation": 12, "test": 9}


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ("max_test: 20", "only for gate.evidence = walk_forward"),
        ("max_test: 8", "more than test = 8, found 8"),
    ],
)
def test_a_longer_test_that_cannot_be_is_refused(tmp_path: Path, declared: str, why: str) -> None:
    """What is held out ages, so it is for a walk forward alone, and it is longer than the least."""
    with pytest.raises(EvergreenError, match=why):
        visits.usecase(tmp_path, **{"test: 8": f"test: 8\n  {declared}"})
