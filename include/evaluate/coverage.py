"""How much of what is to be scored lies outside of what was fitted on: there a model guesses."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from include.spec import UseCase


def measure(spec: UseCase, fitted: pa.Table, scored: pa.Table) -> dict[str, float]:
    """Return, by feature, the share of the rows to score whose value was never fitted on, in [0, 1].

    A category counts when it isn't among the fitted ones, a number when it is outside of their range, and a
    missing value when none was ever missing.

    Parameters
    ----------
    fitted : the rows that the model to serve was fitted on, shape (n, any).
    scored : the rows to score, labelled or not, shape (m, any); none of them give no shares.
    """
    if not scored.num_rows:
        return {}
    return {
        column: pc.mean(
            _strange(fitted[column], scored[column], numeric=column in spec.features.numeric)
        ).as_py()
        for column in spec.features.columns
    }


def _strange(fitted: pa.ChunkedArray, scored: pa.ChunkedArray, *, numeric: bool) -> pa.ChunkedArray:
    """Tell of each value whether it is none of the fitted ones; of a feature without any, all are."""
    there = pc.min_max(fitted).as_py() if numeric else None
    if there and there["min"] is not None:
        known = pc.and_(pc.greater_equal(scored, there["min"]), pc.less_equal(scored, there["max"]))
    else:
        known = pc.is_in(scored, value_set=pc.unique(fitted.drop_null()))
    return pc.invert(pc.if_else(pc.is_valid(scored), known, fitted.null_count > 0))
