"""Robustness: measure how a model behaves on bad input, such as missing, noisy, unseen or mistyped values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

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

Array = NDArray[np.float64]
MAX_ROWS = 2000  # rows on which losses are compared
FEW_ROWS = 20  # rows where only the outcome matters
NOISE = 0.5  # standard deviations
EXTREME = 1e12
BATCH_VALUES = 5_000_000  # values of features that are predicted at once
# BLAS adds up a single row in another order than a batch, so a linear model differs in the last bits
ROUNDING = 1e-9
BETWEEN = "expect_column_values_to_be_between"


def measure_robustness(
    estimator: Pipeline, spec: UseCase, rows: pa.Table, actual: Array, fitted: pa.Table
) -> tuple[EdgeCase, ...]:
    """Return the outcome of every edge case; an exception of the model is an outcome and isn't raised.

    Parameters
    ----------
    rows : unseen rows with ``partition``, shape (n, any); of many rows, a sample is used.
    actual : their labels, shape (n,).
    fitted : the rows that the model was fitted on, which define the noise and the unseen values, shape
        (m, any).

    Returns
    -------
    tuple of EdgeCase
        A single failed case if the model can't even predict the original rows; none without rows.
    """
    if not rows.num_rows:
        return ()
    sample = sample_indices(rows, MAX_ROWS, spec.training.seed)
    rows, actual = rows.take(sample), actual[sample]
    original = _try_predict(estimator, rows, spec)
    if original.error:
        return (EdgeCase("original rows", "rows", passed=False, note=original.error),)
    bench = RobustnessBench(estimator, spec, rows, actual, original.values)
    return (
        *bench.compare_losses(_missing(bench)),
        _all_missing(bench),
        *bench.compare_losses(_distorted(bench, fitted)),
        *_invalid(bench, fitted),
        *_rearranged(bench),
    )


def sample_indices(rows: pa.Table, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of at most ``max_rows`` rows, ascending, spread evenly over the partitions.

    Parameters
    ----------
    rows : with the column ``partition``, shape (n, any); if they are few enough, all are chosen.
    seed : for the choice within a partition.
    """
    if rows.num_rows <= max_rows:
        return np.arange(rows.num_rows)
    partition = rows["partition"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    order = order[np.argsort(partition[order], kind="stable")]
    counts = np.bincount(partition)
    within = np.arange(rows.num_rows) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[within < max(1, max_rows // len(counts))][:max_rows])


@dataclass(frozen=True)
class PredictionAttempt:
    """Predictions, or the error instead; ``rejected`` if the error is a `ModelError` on invalid input."""

    values: Array
    error: str = ""
    rejected: bool = False


@dataclass(frozen=True)
class RobustnessBench:
    """A model, the original rows, and its predictions of them."""

    estimator: Pipeline
    spec: UseCase
    rows: pa.Table
    actual: Array
    original: Array

    def compare_losses(self, corrupted: Iterable[tuple[str, str, pa.Table]]) -> Iterator[EdgeCase]:
        """Predict corrupted rows and yield the relative increase of each loss, None if it was 0 before.

        Parameters
        ----------
        corrupted : name, kind and rows of each case.
        """
        names, kinds, tables = zip(*corrupted, strict=True)
        attempts = _try_predict_each(self.estimator, tables, self.spec)
        for name, kind, attempt in zip(names, kinds, attempts, strict=True):
            yield self._compare_loss(name, kind, attempt)

    def _compare_loss(self, name: str, kind: str, attempt: PredictionAttempt) -> EdgeCase:
        if attempt.error:
            return EdgeCase(name, kind, passed=False, note=attempt.error)
        before, after = (
            float(row_losses(self.spec.objective, self.actual, values).mean())
            for values in (self.original, attempt.values)
        )
        increase = (after - before) / before if before else None
        if increase is not None and not math.isfinite(increase):
            return EdgeCase(name, kind, passed=False, note=f"its loss is {after:g}")
        return EdgeCase(name, kind, passed=True, loss_increase=increase)

    def require_predictions(
        self, name: str, kind: str, variants: Mapping[str, pa.Table], *, may_reject: bool = False
    ) -> EdgeCase:
        """Predict several tables; the first that is neither predicted nor may be rejected fails the case."""
        tables = list(variants.values())
        attempts = (
            (_try_predict(self.estimator, rows, self.spec) for rows in tables)
            if may_reject
            else _try_predict_each(self.estimator, tables, self.spec)
        )
        for variant, attempt in zip(variants, attempts, strict=True):
            if attempt.error and not (may_reject and attempt.rejected):
                return EdgeCase(name, kind, passed=False, note=f"{variant}: {attempt.error}")
        return EdgeCase(name, kind, passed=True)


def _try_predict(estimator: Pipeline, rows: pa.Table, spec: UseCase) -> PredictionAttempt:
    nothing = np.empty(0)
    try:
        values = artifacts.predict(estimator, rows, spec)
    except ModelError as error:
        return PredictionAttempt(nothing, str(error), rejected=True)
    except (Exception, SystemExit) as error:
        # any exception of a model is a result of the measurement and must not stop it
        return PredictionAttempt(nothing, f"{type(error).__name__}: {error}")
    outside = values[(values < 0) | (values > 1)]
    if spec.problem.codes and len(outside):
        text, _ = figure_and_limit(outside[0], float(outside[0] > 1), 6)
        return PredictionAttempt(nothing, f"{text} as a probability")
    deviations = np.abs(values.sum(axis=-1) - 1) if spec.problem.classes else np.zeros(1)
    if (deviations > ROUNDING).any():
        worst = values.sum(axis=-1)[deviations.argmax()]
        return PredictionAttempt(nothing, f"{worst:.9g} as the sum of a row's probabilities")
    return PredictionAttempt(values)


def _try_predict_each(
    estimator: Pipeline, tables: Sequence[pa.Table], spec: UseCase
) -> Iterator[PredictionAttempt]:
    """Yield the outcome for each of several tables, of as many rows each.

    Many are predicted at once, since a call costs more than its rows. Where that fails they are predicted one
    by one, so that each gets its own error.
    """
    size = max(BATCH_VALUES // max(tables[0].num_rows * len(spec.features.columns), 1), 1)
    for start in range(0, len(tables), size):
        batch = tables[start : start + size]
        try:
            joined = pa.concat_tables(batch, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a text among numbers
            joined = None
        together = None if joined is None else _try_predict(estimator, joined, spec)
        if together is None or together.error:
            yield from (_try_predict(estimator, rows, spec) for rows in batch)
        else:
            yield from map(PredictionAttempt, np.split(together.values, len(batch)))


def _missing(bench: RobustnessBench) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield the cases without a value of one feature."""
    for column in bench.spec.features.columns:
        yield f"{column} missing", "missing", _without_values(bench.rows, column)


def _all_missing(bench: RobustnessBench) -> EdgeCase:
    rows = reduce(_without_values, bench.spec.features.columns, bench.rows)
    return bench.require_predictions("all features missing", "missing", {"no value": rows})


def _distorted(bench: RobustnessBench, fitted: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield the cases with a feature that is noisy, or of an unseen category."""
    rows, features = bench.rows, bench.spec.features
    random = np.random.default_rng(bench.spec.training.seed)
    for column in features.numeric:
        scale = NOISE * (pc.stddev(fitted[column]).as_py() or 0.0)
        noise = pa.array(random.normal(0, scale, rows.num_rows))
        noisy = pc.add(rows[column].cast(pa.float64()), noise)
        yield f"{column} with noise", "noise", _replace_column(rows, column, noisy)
    for column in features.categorical:
        unseen = pa.array([_unseen_category(fitted[column])] * rows.num_rows)
        yield f"{column} unseen", "unseen", _replace_column(rows, column, unseen)


def _invalid(bench: RobustnessBench, fitted: pa.Table) -> Iterator[EdgeCase]:
    """Yield the cases that must not crash the model: the ends of each range, and wrong types."""
    rows, features = bench.rows.slice(0, FEW_ROWS), bench.spec.features
    for column in features.numeric:
        values = [*_range_ends(bench.spec, column, fitted[column]), -EXTREME, EXTREME]
        variants = {
            f"at {value:g}": _replace_column(rows, column, pa.array([value] * rows.num_rows))
            for value in values
        }
        yield bench.require_predictions(f"{column} extreme", "extreme", variants)
    for column in features.numeric:
        texts = {"digits": rows[column].cast(pa.string()), "words": pa.array(["many"] * rows.num_rows)}
        variants = {variant: _replace_column(rows, column, values) for variant, values in texts.items()}
        yield bench.require_predictions(f"{column} as text", "dtype", variants, may_reject=True)
    for column in features.categorical:
        numbers = pa.array(np.arange(rows.num_rows) + 0.5)
        variants = {"numbers": _replace_column(rows, column, numbers)}
        yield bench.require_predictions(f"{column} as numbers", "dtype", variants, may_reject=True)


def _rearranged(bench: RobustnessBench) -> Iterator[EdgeCase]:
    """Yield the cases with the same rows in another form, whose predictions must be the same."""
    estimator, spec, rows, original = bench.estimator, bench.spec, bench.rows, bench.original
    indices = np.linspace(0, rows.num_rows - 1, FEW_ROWS).astype(int)
    single = [_try_predict(estimator, rows.slice(int(index), 1), spec) for index in indices]
    note = next((attempt.error for attempt in single if attempt.error), "")
    if not note:
        values = np.concatenate([attempt.values for attempt in single])
        note = _difference(values, original[indices], ROUNDING)
    yield EdgeCase("a single row", "rows", passed=not note, note=note)
    attempt = _try_predict(estimator, rows.slice(0, 0), spec)
    note = attempt.error or _difference(attempt.values, original[:0])
    yield EdgeCase("no rows", "rows", passed=not note, note=note)
    # `artifacts.model_input` puts columns into the spec's order, so another order takes another spec
    features = spec.features.model_copy(
        update={"numeric": spec.features.numeric[::-1], "categorical": spec.features.categorical[::-1]}
    )
    reversed_spec = spec.model_copy(update={"features": features})
    attempt = _try_predict(estimator, rows.select(rows.column_names[::-1]), reversed_spec)
    note = attempt.error or _difference(attempt.values, original)
    yield EdgeCase("columns in another order", "columns", passed=not note, note=note)


def _difference(values: Array, expected: Array, rounding: float = 0.0) -> str:
    """Return how many predictions differ by more than a relative rounding error, empty if none."""
    off = np.abs(values - expected) > rounding * np.abs(expected)
    count = int(np.count_nonzero(off.any(axis=1) if off.ndim > 1 else off))
    return f"{count} of {len(expected)} predictions differ" if count else ""


def _without_values(rows: pa.Table, column: str) -> pa.Table:
    return _replace_column(rows, column, pa.nulls(rows.num_rows, rows[column].type))


def _replace_column(rows: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(column), column, values)


def _unseen_category(fitted: pa.ChunkedArray) -> object:
    """Return a category that sorts after all fitted ones."""
    last = pc.max(fitted).as_py()
    return last + 1 if isinstance(last, int) else f"{last or ''}?"


def _range_ends(spec: UseCase, column: str, fitted: pa.ChunkedArray) -> list[float]:
    """Return the ends of a column's range: those of a contract, or else three times the fitted range."""
    sources = (source for source in spec.sources.values() if column in source.columns)
    rules = [rule for source in sources for rule in source.contract.expectations if rule.type == BETWEEN]
    bounds = [rule.kwargs for rule in rules if rule.kwargs.get("column") == column]
    low, high = (
        [bound for kwargs in bounds if isinstance(bound := kwargs.get(side), int | float)]
        for side in ("min_value", "max_value")
    )
    fitted_range = pc.min_max(fitted).as_py()
    if fitted_range["min"] is not None:
        width = fitted_range["max"] - fitted_range["min"]
        low, high = low or [fitted_range["min"] - width], high or [fitted_range["max"] + width]
    return [float(end) for end in (*low, *high)]
