"""Which features a model leans on, for people: what its loss rises by when one of them says nothing.

Not by `sklearn.inspection`: it would ask the estimator, and what serves is `include.models.predict`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include import models
from include.errors import ModelError
from include.evaluate.metrics import loss
from include.evaluate.sample import spread
from include.spec import UseCase

Array = NDArray[np.float64]
MOST = 3000  # rows
REPEATS = 3


def measure(estimator: Pipeline, spec: UseCase, rows: pa.Table, actual: Array) -> dict[str, float]:
    """Return each feature's permutation importance (Breiman, Random Forests, 2001, section 10).

    Parameters
    ----------
    rows : that the model wasn't fitted on, with the column ``night``, shape (n, any).
    actual : their labels, shape (n,).

    Returns
    -------
    dict of str to float
        Mean rise of the gate's objective, in its unit, when the feature's values are permuted; 0.0 for one
        that the model ignores. One on whose permuted values the model fails is left out.

    Raises
    ------
    ModelError
        when the model can't predict the rows as they are.
    """
    chosen = spread(rows, MOST, spec.training.seed)
    rows, actual = rows.take(chosen), actual[chosen]
    if not rows.num_rows:
        return {}
    plain = loss(spec.gate.objective, actual, models.predict(estimator, rows, spec))
    random = np.random.default_rng(spec.training.seed)
    # one table of all repeats, since asking once costs less than asking three times
    many = rows.take(np.tile(np.arange(rows.num_rows), REPEATS))
    found: dict[str, float] = {}
    for column in spec.features.columns:
        order = np.concatenate([random.permutation(rows.num_rows) for _ in range(REPEATS)])
        harmed = many.set_column(many.column_names.index(column), column, rows[column].take(order))
        try:
            predictions = models.predict(estimator, harmed, spec)
        except ModelError:
            continue
        # row by row, so that a feature that changes nothing gives 0 and no rounding error
        rise = loss(spec.gate.objective, np.tile(actual, REPEATS), predictions) - np.tile(plain, REPEATS)
        found[column] = float(rise.mean())
    return found
