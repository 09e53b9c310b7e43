"""The time-ordered split into training, validation and test partitions, each later than the one before.

Test partitions are counted back from the training's partition. The newest of them may have no labels yet, so
they contribute no rows. Whether enough test partitions have matured is for the gate to decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import InsufficientData
from include.spec import UseCase


@dataclass(frozen=True)
class Split:
    """Three tables, each later than the one before; ``test`` may be empty.

    Parameters
    ----------
    test_window : the number of partitions from the first test partition to the training's.
    """

    train: pa.Table
    validation: pa.Table
    test: pa.Table
    test_window: int = 0

    def partitions(self) -> dict[str, list[str]]:
        """Return the partitions that each part has rows of, ascending."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: partitions_of(rows) for name, rows in parts.items()}


def partitions_of(rows: pa.Table) -> list[str]:
    """Return the partitions that have rows, ascending."""
    return sorted(str(partition) for partition in pc.unique(rows["partition"]).to_pylist())


def test_size(rows: pa.Table, spec: UseCase, partition: str) -> int:
    """Return the number of test partitions: as declared, or more where a longer history allows it.

    Parameters
    ----------
    rows : the labelled rows known by ``partition``, with the column ``partition``.
    """
    least, most = spec.training.test, spec.training.max_test
    if most is None or not rows.num_rows:
        return least
    history = len(spec.clock.keys(str(pc.min(rows["partition"]).as_py()), partition))
    # beside a long validation, half of a short history would leave no partition to fit on
    return max(least, min(most, history // 2, history - spec.training.validation - 1))


def split(rows: pa.Table, spec: UseCase, partition: str) -> Split:
    """Split a training set by its partitions.

    Parameters
    ----------
    rows : a training set with the column ``partition``, shape (n, any).
    partition : the training's, which is the last of the test partitions.

    Raises
    ------
    InsufficientData
        when there are no training or no validation partitions, with how many there are of each part.
    """
    training, clock, test_window = spec.training, spec.clock, test_size(rows, spec, partition)
    first_test = clock.shift(partition, 1 - test_window)
    first_validation = clock.shift(partition, 1 - test_window - training.validation)
    column = rows["partition"]
    parts = Split(
        train=rows.filter(pc.less(column, first_validation)),
        validation=rows.filter(
            pc.and_(pc.greater_equal(column, first_validation), pc.less(column, first_test))
        ),
        test=rows.filter(pc.and_(pc.greater_equal(column, first_test), pc.less_equal(column, partition))),
        test_window=test_window,
    )
    partitions = parts.partitions()
    if not partitions["train"] or not partitions["validation"]:
        raise InsufficientData(
            f"{spec.name}: training on {partition}",
            required=f"labelled partitions before {first_validation} to fit on, and between it and "
            f"{first_test} to validate on",
            found=", ".join(f"{len(keys)} of {name}" for name, keys in partitions.items()),
            where=f"training.validation = {training.validation} partitions, {test_window} test partitions",
            remedy="load more history, train on a later partition, or declare shorter windows in "
            "usecase.yaml",
        )
    return parts
