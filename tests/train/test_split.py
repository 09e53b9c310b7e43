"""The newest partitions are those on which a recipe is judged, by fits that came before each of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.spec import UseCase
from include.train.split import first_test_partition, split, walk_origins
from tests.train import visits


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """A declaration with 8 test partitions, labels two partitions late, and a training every third day."""
    changes = {'training: "0 20 * * 0"': 'training: "0 20 */3 * *"'}
    return visits.usecase(tmp_path_factory.mktemp("shape"), **changes)


def labeled(*partitions: str) -> pa.Table:
    """Return a row for each partition."""
    return pa.table({"partition": pa.array(partitions, pa.string())})


@given(partitions=st.lists(st.integers(1, 28), min_size=1, max_size=40), delay=st.integers(0, 3))
def test_parts_follow_each_other_in_time(shape: UseCase, partitions: list[int], delay: int) -> None:
    """Each row is in one part, and test is later than train and no longer than declared."""
    keys = [f"2024-02-{day:02}" for day in partitions]
    training = shape.clock.shift(max(keys), delay)
    rows = pa.table({"partition": keys, "row": range(len(keys))})
    parts = split(rows, shape, training)
    train, test = parts.partitions()["train"], parts.partitions()["test"]
    assert sorted(parts.train["row"].to_pylist() + parts.test["row"].to_pylist()) == list(range(len(keys)))
    assert not train or not test or train[-1] < test[0]
    assert all(key > shape.clock.shift(training, -8) for key in test)
    assert (
        len(train) >= len(test) or len(set(keys)) == 1
    )  # at least half of the partitions are left to fit on


def test_windows_are_counted_in_partitions_of_the_clock(tmp_path: Path) -> None:
    """Where the partitions are Mondays, eight test partitions are eight weeks."""
    weekly = visits.usecase(tmp_path, **{'batch: "0 18 * * *"': 'batch: "0 18 * * 1"'})
    mondays = weekly.clock.keys("2024-01-01", "2024-05-27")
    parts = split(labeled(*mondays), weekly, mondays[-1]).partitions()
    assert parts == {"train": mondays[:-8], "test": mondays[-8:]}


def test_partitions_without_labels_have_no_rows(shape: UseCase) -> None:
    """The newest test partitions, of which nothing is known yet, are counted and empty."""
    partitions = shape.clock.keys("2024-03-01", "2024-03-28")
    parts = split(labeled(*partitions), shape, "2024-03-30").partitions()
    assert parts["test"] == partitions[-6:]


@pytest.mark.parametrize(("days", "tested"), [(1, 0), (2, 1), (3, 1), (5, 2), (10, 5), (16, 6), (28, 6)])
def test_a_short_history_is_judged_on_at_most_half_of_it(shape: UseCase, days: int, tested: int) -> None:
    """A first training has something to fit on before its test partitions, however early it is."""
    partitions = shape.clock.keys("2024-03-01", "2024-03-28")[:days]
    training = shape.clock.shift(partitions[-1], 2)
    parts = split(labeled(*partitions), shape, training).partitions()
    assert (len(parts["train"]), len(parts["test"])) == (days - tested, tested)


def test_walk_origins_reach_from_the_first_test_partition_to_the_training(shape: UseCase) -> None:
    """The first is the last partition before the test partitions, and the training itself is none."""
    partitions = shape.clock.keys("2024-03-01", "2024-03-28")
    origins = walk_origins(partitions, shape, "2024-03-30")
    assert origins == ["2024-03-22", "2024-03-25", "2024-03-28"]
    assert shape.clock.shift(origins[0], 1) == first_test_partition(partitions, shape, "2024-03-30")


@pytest.mark.parametrize("days", [1, 2, 3])
def test_a_history_without_labels_before_the_test_partitions_has_no_origin(shape: UseCase, days: int) -> None:
    """No recipe is fitted on a partition by which no label had come."""
    partitions = shape.clock.keys("2024-03-01", "2024-03-28")[:days]
    assert walk_origins(partitions, shape, shape.clock.shift(partitions[-1], 2)) == []
