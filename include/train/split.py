"""Training, validation and test follow each other in time: nothing is chosen or judged on what came before.

The test nights are counted back from the training night. The newest of them have no labels yet and simply
bring no rows; how many did mature is the gate's question.
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
    tested : nights from the first test night to the training's.
    """

    train: pa.Table
    validation: pa.Table
    test: pa.Table
    tested: int = 0

    def nights(self) -> dict[str, list[str]]:
        """Return the nights that each part has rows of, ascending."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: nights_of(rows) for name, rows in parts.items()}


def nights_of(rows: pa.Table) -> list[str]:
    """Return the nights of which there are rows, ascending."""
    return sorted(str(night) for night in pc.unique(rows["night"]).to_pylist())


def test_size(rows: pa.Table, spec: UseCase, night: str) -> int:
    """Return how many test nights a training has: as declared, or more where a longer history allows.

    Parameters
    ----------
    rows : the labelled rows that it knows, with the column ``night``.
    """
    least, most = spec.training.test, spec.training.test_up_to
    if most is None or not rows.num_rows:
        return least
    known = len(spec.clock.keys(str(pc.min(rows["night"]).as_py()), night))
    # with a long validation half of a short history would leave no night to fit on
    return max(least, min(most, known // 2, known - spec.training.validation - 1))


def split(rows: pa.Table, spec: UseCase, night: str) -> Split:
    """Cut a training set by its nights.

    Parameters
    ----------
    rows : a training set with the column ``night``, shape (n, any).
    night : of the training; the last of the test nights.

    Raises
    ------
    EvergreenError
        when nights to fit on, or to choose on, are missing; it says how many there are.
    """
    training, clock, nights = spec.training, spec.clock, test_size(rows, spec, night)
    test = clock.shift(night, 1 - nights)
    validation = clock.shift(night, 1 - nights - training.validation)
    column = rows["night"]
    parts = Split(
        train=rows.filter(pc.less(column, validation)),
        validation=rows.filter(pc.and_(pc.greater_equal(column, validation), pc.less(column, test))),
        test=rows.filter(pc.and_(pc.greater_equal(column, test), pc.less_equal(column, night))),
        tested=nights,
    )
    found = parts.nights()
    if not found["train"] or not found["validation"]:
        raise EvergreenError(
            f"{spec.name}: training on {night}",
            required=f"labelled nights before {validation} to fit on, and from there to {test} to choose on",
            found=", ".join(f"{len(nights)} of {name}" for name, nights in found.items()),
            where=f"training.validation = {training.validation} nights, {nights} test nights",
            remedy="load more history, train on a later night, or declare shorter windows in usecase.yaml",
        )
    return parts
