"""What a model makes of rows as they come on a bad partition.

Incomplete, noisy, strange, of the wrong type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.judge.evidence import EdgeCase
from include.models import artifacts
from include.spec import UseCase
from include.stats.formatting import figure_and_limit
from include.stats.metrics import row_losses


def sample_indices(rows: pa.Table, most: int, seed: int) -> NDArray[np.int64]:
    """Return the places of at most ``most`` rows, ascending, as many from each partition as fit in evenly.

    Parameters
    ----------
    rows : with the column ``partition``, shape (n, any); all of them are chosen where they are few enough.
    seed : of the choice within a partition.
    """
    if rows.num_rows <= most:
        return np.arange(rows.num_rows)
    partition = rows["partition"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    order = order[np.argsort(partition[order], kind="stable")]
    counts = np.bincount(partition)
    within = np.arange(rows.num_rows) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[within < max(1, most // len(counts))][:most])


Array = NDArray[np.float64]
MOST = 2000  # rows of which the loss is measured
FEW = 20  # rows where it is only asked whether it holds
NOISE = 0.5  # standard deviations
FAR = 1e12
# BLAS sums a row alone in another order than a row among others, so a linear model differs in the last bits
ROUNDING = 1e-9
BETWEEN = "expect_column_values_to_be_between"


def measure_robustness(
    estimator: Pipeline, spec: UseCase, rows: pa.Table, actual: Array, fitted: pa.Table
) -> tuple[EdgeCase, ...]:
    """Harm the rows in each way, and return what became of it; nothing that the model raises gets out.

    Parameters
    ----------
    rows : that the model wasn't fitted on, with ``partition``, shape (n, any); of many a part is used.
    actual : their labels, shape (n,).
    fitted : the rows that it was fitted on: how much noise is much, and what is unseen, shape (m, any).

    Returns
    -------
    tuple of EdgeCase
        One that doesn't hold, when the model can't even predict the rows as they are; none without rows.
    """
    if not rows.num_rows:
        return ()
    chosen = sample_indices(rows, MOST, spec.training.seed)
    rows, actual = rows.take(chosen), actual[chosen]
    plain = _asked(estimator, rows, spec)
    if plain.reason:
        return (EdgeCase("rows as they are", "rows", held=False, note=plain.reason),)
    bench = RobustnessBench(estimator, spec, rows, actual, plain.values)
    return (*_harmed(bench, fitted), *_strange(bench, fitted), *_arranged(bench))


@dataclass(frozen=True)
class HarmedPredictions:
    """The predictions, or the reason why not; ``refused`` when it is a sentence of ours."""

    values: Array
    reason: str = ""
    refused: bool = False


@dataclass(frozen=True)
class RobustnessBench:
    """A model, the unharmed rows, and what it predicts of them."""

    estimator: Pipeline
    spec: UseCase
    rows: pa.Table
    actual: Array
    plain: Array

    def losing(self, name: str, kind: str, rows: pa.Table) -> EdgeCase:
        """Ask for harmed rows, and by how much the loss rose; None where there was none to rise from."""
        answer = _asked(self.estimator, rows, self.spec)
        if answer.reason:
            return EdgeCase(name, kind, held=False, note=answer.reason)
        before, after = (
            float(row_losses(self.spec.gate.objective, self.actual, values).mean())
            for values in (self.plain, answer.values)
        )
        rise = (after - before) / before if before else None
        if rise is not None and not math.isfinite(rise):
            return EdgeCase(name, kind, held=False, note=f"its loss is {after:g}")
        return EdgeCase(name, kind, held=True, rise=rise)

    def holding(
        self, name: str, kind: str, tries: Mapping[str, pa.Table], *, refusable: bool = False
    ) -> EdgeCase:
        """Ask for tables, and note the first that neither is predicted nor may be refused."""
        for what, rows in tries.items():
            answer = _asked(self.estimator, rows, self.spec)
            if answer.reason and not (refusable and answer.refused):
                return EdgeCase(name, kind, held=False, note=f"{what}: {answer.reason}")
        return EdgeCase(name, kind, held=True)


def _asked(estimator: Pipeline, rows: pa.Table, spec: UseCase) -> HarmedPredictions:
    none = np.empty(0)
    try:
        values = artifacts.predict(estimator, rows, spec)
    except ModelError as error:
        return HarmedPredictions(none, str(error), refused=True)
    except (Exception, SystemExit) as error:
        # whatever comes out of a model is a finding, and stops nothing
        return HarmedPredictions(none, f"{type(error).__name__}: {error}")
    outside = values[(values < 0) | (values > 1)]
    if spec.problem.codes and len(outside):
        return HarmedPredictions(
            none, f"{figure_and_limit(outside[0], float(outside[0] > 1), 6)[0]} as a probability"
        )
    sums = values.sum(axis=-1) if spec.problem.classes else np.ones(0)
    if (np.abs(sums - 1) > ROUNDING).any():
        return HarmedPredictions(
            none, f"{sums[np.abs(sums - 1).argmax()]:.9g} as the sum of a row's probabilities"
        )
    return HarmedPredictions(values)


def _harmed(bench: RobustnessBench, fitted: pa.Table) -> Iterator[EdgeCase]:
    """Harm that costs something: features missing, noisy, of a category that was never seen."""
    rows, features = bench.rows, bench.spec.features
    random = np.random.default_rng(bench.spec.training.seed)
    empty = rows
    for column in features.columns:
        gone = pa.nulls(rows.num_rows, rows[column].type)
        empty = _with(empty, column, gone)
        yield bench.losing(f"{column} missing", "missing", _with(rows, column, gone))
    yield bench.holding("all features missing", "missing", {"no value": empty})
    for column in features.numeric:
        scale = NOISE * (pc.stddev(fitted[column]).as_py() or 0.0)
        noise = pa.array(random.normal(0, scale, rows.num_rows))
        noisy = pc.add(rows[column].cast(pa.float64()), noise)
        yield bench.losing(f"{column} with noise", "noise", _with(rows, column, noisy))
    for column in features.categorical:
        strange = pa.array([_unseen(fitted[column])] * rows.num_rows)
        yield bench.losing(f"{column} unseen", "unseen", _with(rows, column, strange))


def _strange(bench: RobustnessBench, fitted: pa.Table) -> Iterator[EdgeCase]:
    """Values that must not crash it: the ends of each range, and types that can't be."""
    rows, features = bench.rows.slice(0, FEW), bench.spec.features
    for column in features.numeric:
        ends = [*_ends(bench.spec, column, fitted[column]), -FAR, FAR]
        tries = {f"at {end:g}": _with(rows, column, pa.array([end] * rows.num_rows)) for end in ends}
        yield bench.holding(f"{column} extreme", "extreme", tries)
    for column in features.numeric:
        texts = {"digits": rows[column].cast(pa.string()), "words": pa.array(["many"] * rows.num_rows)}
        tries = {what: _with(rows, column, values) for what, values in texts.items()}
        yield bench.holding(f"{column} as text", "dtype", tries, refusable=True)
    for column in features.categorical:
        tries = {"numbers": _with(rows, column, pa.array(np.arange(rows.num_rows) + 0.5))}
        yield bench.holding(f"{column} as numbers", "dtype", tries, refusable=True)


def _arranged(bench: RobustnessBench) -> Iterator[EdgeCase]:
    """The same rows in another form, of which it must say the same."""
    estimator, spec, rows, plain = bench.estimator, bench.spec, bench.rows, bench.plain
    places = np.linspace(0, rows.num_rows - 1, FEW).astype(int)
    alone = [_asked(estimator, rows.slice(int(place), 1), spec) for place in places]
    reason = next((answer.reason for answer in alone if answer.reason), "")
    if not reason:
        reason = _differs(np.concatenate([answer.values for answer in alone]), plain[places], ROUNDING)
    yield EdgeCase("a row alone", "rows", held=not reason, note=reason)
    answer = _asked(estimator, rows.slice(0, 0), spec)
    reason = answer.reason or _differs(answer.values, plain[:0])
    yield EdgeCase("no rows", "rows", held=not reason, note=reason)
    # `models.frame` puts columns into the spec's order: another order is a spec with another one
    features = spec.features.model_copy(
        update={"numeric": spec.features.numeric[::-1], "categorical": spec.features.categorical[::-1]}
    )
    turned = spec.model_copy(update={"features": features})
    answer = _asked(estimator, rows.select(rows.column_names[::-1]), turned)
    reason = answer.reason or _differs(answer.values, plain)
    yield EdgeCase("columns in another order", "columns", held=not reason, note=reason)


def _differs(found: Array, expected: Array, rounding: float = 0.0) -> str:
    """Return how many predictions aren't the same, to the bit or but for rounding, or nothing."""
    off = np.abs(found - expected) > rounding * np.abs(expected)
    differ = int(np.count_nonzero(off.any(axis=1) if off.ndim > 1 else off))
    return f"{differ} of {len(expected)} predictions differ" if differ else ""


def _with(rows: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(column), column, values)


def _unseen(fitted: pa.ChunkedArray) -> object:
    """Return a category that comes after all that were fitted on."""
    last = pc.max(fitted).as_py()
    return last + 1 if isinstance(last, int) else f"{last or ''}?"


def _ends(spec: UseCase, column: str, fitted: pa.ChunkedArray) -> list[float]:
    """Return the ends of what may come: those of a contract, else the fitted range, three times as wide."""
    sources = (source for source in spec.sources.values() if column in source.columns)
    rules = [rule for source in sources for rule in source.contract.expectations if rule.type == BETWEEN]
    admitted = [rule.kwargs for rule in rules if rule.kwargs.get("column") == column]
    low, high = (
        [bound for given in admitted if isinstance(bound := given.get(side), int | float)]
        for side in ("min_value", "max_value")
    )
    seen = pc.min_max(fitted).as_py()
    if seen["min"] is not None:
        width = seen["max"] - seen["min"]
        low, high = low or [seen["min"] - width], high or [seen["max"] + width]
    return [float(end) for end in (*low, *high)]
