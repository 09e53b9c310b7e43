"""Measure everything about a challenger that the gate needs besides losses: the facts of the evidence."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError, NotPublished, SpecError
from include.evaluate import fairness, leakage, robustness, serving, slices
from include.evaluate.robustness import sample_indices
from include.features.build import features
from include.judge.evidence import (
    BASELINE_PREFIX,
    CHALLENGER,
    CHAMPION,
    Facts,
    Fairness,
    Leakage,
    OnnxFile,
    ServingTest,
)
from include.models import artifacts, outputs
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake
from include.train.estimators import learns

Array = NDArray[np.float64]
PRIOR_LOSSES = f"{BASELINE_PREFIX}prior"
MAX_IMPORTANCE_ROWS = 3000
PERMUTATIONS = 3


@dataclass(frozen=True)
class EvaluationRows:
    """A challenger and the rows on which it is judged.

    Parameters
    ----------
    partition : of the training.
    recipe : the one that the challenger is a fit of.
    estimator, data, digest : the model as loaded from its stored bytes, these bytes, and their digest.
    fitted : the rows before the test rows.
    deployed_fit : the rows that the deployed model was fitted on, the test rows among them.
    champion_fit : the training rows until the champion's last fitted partition, None if that is unknown.
    rows, actual : the unseen test rows, shape (n, any), and their labels, shape (n,).
    partitions : of the test rows, ascending.
    walk_predictions : of the test rows by the walk of every model's recipe, from which the losses follow,
        each of shape (n,) or (n, k).
    deployed_predictions : the deployed model's own, which aren't the judged ones.
    """

    partition: str
    recipe: Recipe
    estimator: Pipeline
    data: bytes
    digest: str
    fitted: pa.Table
    deployed_fit: pa.Table
    champion_fit: pa.Table | None
    rows: pa.Table
    actual: Array
    partitions: Sequence[str]
    walk_predictions: Mapping[str, Array]
    deployed_predictions: Array

    def losses(self, spec: UseCase) -> dict[str, Array]:
        """Return the loss of every model's walk on each row."""
        objective = spec.objective
        return {
            name: row_losses(objective, self.actual, values) for name, values in self.walk_predictions.items()
        }

    def partition_indices(self) -> list[NDArray[np.intp]]:
        """Return the indices of each partition's rows."""
        partition = np.asarray(self.rows["partition"].to_pylist(), dtype=object)
        return [np.flatnonzero(partition == key) for key in self.partitions]

    def parquet(self) -> bytes:
        """Return partition, label and predictions of each row, as the report reads them."""
        predictions = {
            name: outputs.to_single_column(values) for name, values in self.walk_predictions.items()
        }
        table = pa.table({"partition": self.rows["partition"], "actual": self.actual, **predictions})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()


def gather_facts(lake: Lake, spec: UseCase, evaluation: EvaluationRows) -> Facts:
    """Measure the facts; without an unseen row there are none."""
    rows, actual, estimator = evaluation.rows, evaluation.actual, evaluation.estimator
    if not rows.num_rows:
        return Facts()
    losses = evaluation.losses(spec)
    rival = _rival(losses)
    slice_columns = columns_of_rows(lake, spec, rows, spec.gate.slices.columns)
    # every row to score since the first test partition, with a label or without
    scored = features(lake, spec, spec.clock.keys(evaluation.partitions[0], evaluation.partition))
    refit_loss = float(row_losses(spec.objective, actual, evaluation.deployed_predictions).mean())
    return Facts(
        rival=rival,
        slices=slices.measure_slices(spec, rows, slice_columns, losses, evaluation.partitions, rival),
        fairness=_fairness(lake, spec, evaluation),
        edge_cases=robustness.measure_robustness(estimator, spec, rows, actual, evaluation.fitted),
        serving=_serving(lake, spec, evaluation),
        leakage=_leakage(lake, spec, evaluation, losses),
        unseen_shares=unseen_shares(spec, evaluation.deployed_fit, scored),
        champion_unseen_shares=(
            {} if (fit := evaluation.champion_fit) is None else unseen_shares(spec, fit, scored)
        ),
        importance=permutation_importance(estimator, spec, rows, actual),
        refit_loss=refit_loss,
        onnx=_onnx(spec, evaluation) if spec.gate.onnx else None,
    )


def _rival(losses: Mapping[str, Array]) -> str:
    """Return the model to beat: the champion, or else the strongest baseline."""
    if CHAMPION in losses:
        return CHAMPION
    baselines = [name for name in losses if name.startswith(BASELINE_PREFIX)]
    return min(baselines, key=lambda name: float(losses[name].mean()))


def _fairness(lake: Lake, spec: UseCase, evaluation: EvaluationRows) -> tuple[Fairness, ...]:
    if spec.gate.fairness is None:
        return ()
    groups = columns_of_rows(lake, spec, evaluation.rows, spec.gate.fairness.columns)
    predicted = evaluation.walk_predictions[CHALLENGER]
    return fairness.measure_fairness(spec, groups, evaluation.rows["partition"], evaluation.actual, predicted)


def _serving(lake: Lake, spec: UseCase, evaluation: EvaluationRows) -> ServingTest:
    """Return the first serving measurement of this model, so that repeated evidence has the same bytes."""
    key = f"evaluations/serving/{evaluation.digest}.json"
    stored = lake.get(key)
    if stored is not None:
        return ServingTest(**json.loads(stored))
    # exactly one partition's batch: a linear model's last bits depend on the batch
    batch = evaluation.rows.filter(pc.equal(evaluation.rows["partition"], evaluation.partitions[-1]))
    predictions = artifacts.predict(evaluation.estimator, batch, spec)
    measured = serving.measure_serving(evaluation.data, evaluation.digest, spec, batch, predictions)
    if measured.identical and not lake.create(key, json.dumps(asdict(measured)).encode()):
        return ServingTest(**json.loads(lake.get(key) or b"{}"))  # a concurrent run stored its own first
    return measured


def _onnx(spec: UseCase, evaluation: EvaluationRows) -> OnnxFile:
    """Compare the deployed model's predictions of the test rows with those of its ONNX file."""
    from include.export.convert import largest_difference, predict_onnx, to_onnx  # an optional extra

    try:
        values = predict_onnx(to_onnx(evaluation.estimator, spec), evaluation.rows, spec)
    except ModelError as error:
        return OnnxFile(None, str(error))
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        return OnnxFile(None, f"{bad} of {values.size} predictions aren't finite")
    return OnnxFile(largest_difference(values, evaluation.deployed_predictions))


def _leakage(lake: Lake, spec: UseCase, evaluation: EvaluationRows, losses: Mapping[str, Array]) -> Leakage:
    fitted, rows = evaluation.fitted, evaluation.rows
    loss_reduction = None
    if PRIOR_LOSSES in losses:
        loss_reduction = leakage.loss_reduction(losses[CHALLENGER].tolist(), losses[PRIOR_LOSSES].tolist())
    constant_losses = leakage.constant_losses(spec, fitted, rows, evaluation.partitions)
    shuffled_losses = (
        constant_losses  # shuffled labels change nothing for a recipe that doesn't learn from them
    )
    if learns(spec, evaluation.recipe):
        shuffled_losses = leakage.shuffled_label_losses(
            spec, evaluation.recipe, fitted, rows, evaluation.partitions
        )
    walk = evaluation.walk_predictions[CHALLENGER]
    # an attempt before shares no test partition with this one
    refused_until = spec.clock.shift(evaluation.partition, -spec.training.test)
    all_features, revealing = leakage.all_feature_scores(spec, fitted, rows, walk)
    return Leakage(
        single_feature=leakage.single_feature_scores(spec, fitted, rows),
        all_features=all_features,
        revealing=revealing,
        newest=leakage.newest_scores(spec, rows, walk),
        shuffled_losses=shuffled_losses,
        constant_losses=constant_losses,
        loss_reduction=loss_reduction,
        past_loss_reductions=leakage.past_loss_reductions(
            lake, evaluation.partition, spec.gate.objective, refused_until
        ),
        too_few_rows=leakage.too_few_rows(spec, rows),
        objective=spec.gate.objective,
        copied_rows=leakage.copied_rows(spec, fitted, rows),
    )


def permutation_importance(
    estimator: Pipeline, spec: UseCase, rows: pa.Table, actual: Array
) -> dict[str, float]:
    """Return each feature's permutation importance (Breiman, Random Forests, 2001, section 10).

    Parameters
    ----------
    rows : unseen rows with the column ``partition``, shape (n, any).
    actual : their labels, shape (n,).

    Returns
    -------
    dict of str to float
        Mean increase of the gate's objective, in its unit, when the feature's values are permuted; 0.0 for a
        feature that the model ignores. A feature on whose permuted values the model fails is left out.

    Raises
    ------
    ModelError
        if the model can't predict the original rows.
    """
    sample = sample_indices(rows, MAX_IMPORTANCE_ROWS, spec.training.seed)
    rows, actual = rows.take(sample), actual[sample]
    if not rows.num_rows:
        return {}
    original = row_losses(spec.objective, actual, artifacts.predict(estimator, rows, spec))
    random = np.random.default_rng(spec.training.seed)
    # one table with all permutations, since one call of the model is faster than three
    repeated = rows.take(np.tile(np.arange(rows.num_rows), PERMUTATIONS))
    importance: dict[str, float] = {}
    for column in spec.features.columns:
        order = np.concatenate([random.permutation(rows.num_rows) for _ in range(PERMUTATIONS)])
        index = repeated.column_names.index(column)
        try:
            predictions = artifacts.predict(
                estimator, repeated.set_column(index, column, rows[column].take(order)), spec
            )
        except ModelError:
            continue
        losses = row_losses(spec.objective, np.tile(actual, PERMUTATIONS), predictions)
        # differences by row, so that a feature without effect gives exactly 0 and no rounding error
        importance[column] = float((losses - np.tile(original, PERMUTATIONS)).mean())
    return importance


def unseen_shares(spec: UseCase, fitted: pa.Table, scored: pa.Table) -> dict[str, float]:
    """Return by feature the share of the rows to score whose value wasn't seen in training, in [0, 1].

    A category counts if it isn't among the fitted ones, a number if it is outside of their range, and a
    missing value if none was missing in training.

    Parameters
    ----------
    fitted : the rows that the model was fitted on, shape (n, any).
    scored : the rows to score, labeled or not, shape (m, any); without rows there are no shares.
    """
    if not scored.num_rows:
        return {}
    numeric = spec.features.numeric
    return {
        column: pc.mean(_unseen(fitted[column], scored[column], numeric=column in numeric)).as_py()
        for column in spec.features.columns
    }


def _unseen(fitted: pa.ChunkedArray, scored: pa.ChunkedArray, *, numeric: bool) -> pa.ChunkedArray:
    """Tell of each value whether it wasn't seen in training; if there was no value at all, none was."""
    bounds = pc.min_max(fitted).as_py() if numeric else None
    if bounds and bounds["min"] is not None:
        covered = pc.and_(pc.greater_equal(scored, bounds["min"]), pc.less_equal(scored, bounds["max"]))
    else:
        covered = pc.is_in(scored, value_set=pc.unique(fitted.drop_null()))
    return pc.invert(pc.if_else(pc.is_valid(scored), covered, fitted.null_count > 0))


def columns_of_rows(lake: Lake, spec: UseCase, rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """Return columns for rows: features from the rows themselves, other columns from the spine's source.

    Parameters
    ----------
    rows : with the spine's key, ``partition`` and the features, shape (n, any).
    names : features or columns of the spine's source; repeated names are returned once.

    Returns
    -------
    pa.Table
        The columns in the order of ``names``, with one row for each of ``rows`` in the same order, shape
        (n, k). Source columns are point-in-time correct: they have the revision that was known at the row's
        decision time.

    Raises
    ------
    SpecError
        if a name is neither.
    NotPublished
        if the source was published without the column, or doesn't have the row.
    """
    names = list(dict.fromkeys(names))
    own_columns = {*spec.features.columns, *spec.key}
    source_columns = spec.sources[spec.features.spine].columns
    unknown = [name for name in names if name not in own_columns and name not in source_columns]
    if unknown:
        available = ", ".join(dict.fromkeys([*spec.features.columns, *source_columns]))
        raise SpecError(
            f"{spec.name}: columns for slices",
            required=available,
            found=", ".join(unknown),
            where=str(spec.folder / "usecase.yaml"),
            remedy="correct the columns of gate.slices and gate.fairness",
        )
    from_source = [name for name in names if name not in own_columns]
    if from_source:
        looked_up = _lookup_source_columns(lake, spec, rows, from_source)
        rows = rows.select([name for name in names if name in own_columns])
        for name in from_source:
            rows = rows.append_column(name, looked_up[name])
    return rows.select(names)


def _lookup_source_columns(lake: Lake, spec: UseCase, rows: pa.Table, names: list[str]) -> pa.Table:
    """Return columns of the spine's validated table, aligned with the rows."""
    moments = {
        partition: spec.clock.decision_time(partition) for partition in rows["partition"].unique().to_pylist()
    }
    table = lake.read(f"validated_{spec.features.spine}", {"partition": sorted(moments)})
    missing = [name for name in names if table is None or name not in table.column_names]
    if table is None or missing:
        raise _not_published(spec, lake, f"published with {', '.join(missing)}", "a table without")
    decided = pa.array([moments[partition] for partition in table["partition"].to_pylist()], schemas.TIME)
    available = table.filter(pc.less_equal(table["known_at"], decided)).sort_by("revision")
    index = {key: i for i, key in enumerate(_row_keys(spec, available))}  # the latest revision wins
    indices = [index.get(key) for key in _row_keys(spec, rows)]
    if missing_rows := indices.count(None):
        required = f"{', '.join(names)} for {rows.num_rows} rows"
        raise _not_published(spec, lake, required, f"{missing_rows} rows that aren't in the table")
    source = spec.sources[spec.features.spine]
    schema = pa.schema([(name, schemas.column_type(source.columns[name])) for name in names])
    return schemas.align_to_schema(available.take(pa.array(indices, pa.int64())), schema)


def _row_keys(spec: UseCase, rows: pa.Table) -> Iterator[tuple[object, ...]]:
    """Return the key of each row, its partition included."""
    return zip(*(rows[column].to_pylist() for column in ("partition", *spec.key)), strict=True)


def _not_published(spec: UseCase, lake: Lake, required: str, problem: str) -> NotPublished:
    return NotPublished(
        f"{spec.name}/{spec.features.spine}",
        required=required,
        found=problem,
        where=f"{lake.uri}/tables/validated_{spec.features.spine}",
        remedy="ingest the test partitions again with the source as it is declared now, or remove the column "
        "from gate.slices and gate.fairness",
    )
