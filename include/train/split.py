"""Training, validation and test follow each other in time: nothing is chosen or judged on what came before.

The test partitions are counted back from the training partition. The newest of them have no labels yet and
simply bring no rows; how many did mature is the gate's question.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import EvergreenError
from include.spec import UseCase


@dataclass(frozen=True)
class Split:
    """Three tables, each earlier than the next; ``test`` may be empty.

    Parameters
    ----------
    tested : partitions from the first test partition to the training's.
    """

    train: pa.Table
    validation: pa.Table
    test: pa.Table
    tested: int = 0

    def partitions(self) -> dict[str, list[str]]:
        """Return the partitions that each part has rows of, ascending."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: partitions_of(rows) for name, rows in parts.items()}


def partitions_of(rows: pa.Table) -> list[str]:
    """Return the partitions of which there are rows, ascending."""
    return sorted(str(partition) for partition in pc.unique(rows["partition"]).to_pylist())


def test_size(rows: pa.Table, spec: UseCase, partition: str) -> int:
    """Return how many test partitions a training has: as declared, or more where a longer history allows.

    Parameters
    ----------
    rows : the labelled rows that it knows, with the column ``partition``.
    """
    least, most = spec.training.test, spec.training.max_test
    if most is None or not rows.num_rows:
        return least
    known = len(spec.clock.keys(str(pc.min(rows["partition"]).as_py()), partition))
    # with a long validation half of a short history would leave no partition to fit on
    return max(least, min(most, known // 2, known - spec.training.validation - 1))


def split(rows: pa.Table, spec: UseCase, partition: str) -> Split:
    """Cut a training set by its partitions.

    Parameters
    ----------
    rows : a training set with the column ``partition``, shape (n, any).
    partition : of the training; the last of the test partitions.

    Raises
    ------
    EvergreenError
        when partitions to fit on, or to choose on, are missing; it says how many there are.
    """
    training, clock, partitions = spec.training, spec.clock, test_size(rows, spec, partition)
    test = clock.shift(partition, 1 - partitions)
    validation = clock.shift(partition, 1 - partitions - training.validation)
    column = rows["partition"]
    parts = Split(
        train=rows.filter(pc.less(column, validation)),
        validation=rows.filter(pc.and_(pc.greater_equal(column, validation), pc.less(column, test))),
        test=rows.filter(pc.and_(pc.greater_equal(column, test), pc.less_equal(column, partition))),
        tested=partitions,
    )
    found = parts.partitions()
    if not found["train"] or not found["validation"]:
        raise EvergreenError(
            f"{spec.name}: training on {partition}",
            required=(
                f"labelled partitions before {validation} to fit on, and from there to {test} to choose on"
            ),
            found=", ".join(f"{len(partitions)} of {name}" for name, partitions in found.items()),
            where=f"training.validation = {training.validation} partitions, {partitions} test partitions",
            remedy=(
                "load more history, train on a later partition, or declare shorter windows in usecase.yaml"
            ),
        )
    return parts
