"""Whether columns hang together as they did: a classifier that is asked which side a row is of.

What a single column shows is judged by the column, and rows of a night share its weather. So each column is
taken by its rank within its own night, ties by lot: every night is then spread evenly in every column, and
only how the columns of a night's rows go together is left. The classifier predicts nights that it wasn't
fitted on, so it can't win by knowing a night again; the interval is over those nights. (D. Lopez-Paz and M.
Oquab, Revisiting classifier two-sample tests, ICLR 2017; the ranks are the empirical copula's.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from include.monitor.drift import CHANCE, JOINT
from include.monitor.findings import Finding

FOLDS = 5
FEWEST_NIGHTS = 3  # of the window, below which there is no interval
LEAST = 0.05  # above one half: less can't matter

Floats = NDArray[np.float64]


def ranks(rows: pa.Table, columns: Sequence[str], random: np.random.Generator) -> Floats:
    """Return each value's rank within its night, ties and missing values by lot.

    Parameters
    ----------
    rows : the columns, numbers or strings, and ``night``.

    Returns
    -------
    array
        shape (rows, columns), in (0, 1).
    """
    night = np.unique(rows["night"].to_numpy(), return_inverse=True)[1]
    size = np.bincount(night)
    first = np.cumsum(size) - size
    found = np.empty((rows.num_rows, len(columns)))
    for place, name in enumerate(columns):
        order = np.lexsort((random.random(rows.num_rows), _codes(rows[name]), night))
        at = night[order]
        # a draw between two ranks: their own grid would tell how many rows a night has
        found[order, place] = (np.arange(len(order)) - first[at] + random.random(len(order))) / size[at]
    return found


def _codes(column: pa.ChunkedArray) -> Floats:
    """Return numbers in the order of the values, missing ones first."""
    if pa.types.is_string(column.type):
        return np.unique(pc.fill_null(column, "").to_numpy(), return_inverse=True)[1].astype(float)
    values = column.cast(pa.float64()).to_numpy()
    return np.where(np.isnan(values), -np.inf, values)


def aucs(reference: pa.Table, window: pa.Table, columns: Sequence[str], seed: int) -> Floats:
    """Return for each night of the window how well its rows are told from the reference's: 0.5 is not at all.

    Parameters
    ----------
    reference, window : the columns, and ``night``; two or more nights each.

    Returns
    -------
    array
        ROC-AUC by night of the window, sorted, by a model that was fitted on other nights of both sides.
    """
    random = np.random.default_rng(seed)
    sides = (reference, window)
    given = np.concatenate([ranks(side, columns, random) for side in sides])
    target = np.repeat([0, 1], [side.num_rows for side in sides])
    nights = [np.unique(side["night"].to_numpy(), return_inverse=True) for side in sides]
    folds = min(FOLDS, *(len(names) for names, _ in nights))
    of = np.concatenate([random.permutation(len(names))[places] % folds for names, places in nights])
    night = np.concatenate([np.full(reference.num_rows, -1), nights[1][1]])
    found = np.full(len(nights[1][0]), np.nan)
    for fold in range(folds):
        model = HistGradientBoostingClassifier(
            max_iter=40, learning_rate=0.2, max_leaf_nodes=8, early_stopping=False, random_state=seed
        )
        model.fit(given[of != fold], target[of != fold])
        held = of == fold
        score, held_night = model.predict_proba(given[held])[:, 1], night[held]
        for place in np.unique(held_night[held_night >= 0]):
            some = (held_night == place) | (held_night < 0)
            found[place] = roc_auc_score(held_night[some] == place, score[some])
    return found


def judge(reference: pa.Table | None, window: pa.Table, columns: Sequence[str], seed: int) -> Finding:
    """Judge by samples whether the window's rows can be told from the reference's."""
    why = ""
    if reference is None or not {"night", *columns} <= {*reference.column_names}:
        why = "the reference's sample is gone, or was kept without its nights or a feature"
    else:
        nights = [len(pc.unique(side["night"])) for side in (reference, window)]
        if min(nights) < FEWEST_NIGHTS or len(columns) < 2:
            why = f"{nights[1]} nights beside {nights[0]} of the reference, and {len(columns)} columns; "
            why += f"{FEWEST_NIGHTS} nights a side and two columns are needed"
    if why or reference is None:
        return Finding("drift", JOINT, None, None, "not enough", f"{JOINT}: {why}")
    found = aucs(reference, window, columns, seed)
    value, many = float(found.mean()), len(found)
    error = float(found.std(ddof=1)) / many**0.5
    limit = 0.5 + max(LEAST, float(stats.t.isf(CHANCE, many - 1)) * error)
    said = f"{JOINT}: rows of the window are told from the reference's with an AUC of {value:.3f} on nights "
    said += f"not fitted on, {many} of them; up to {limit:.3f} is chance or doesn't matter"
    return Finding("drift", JOINT, value, limit, "alarm" if value > limit else "ok", said)
