"""Everything that is measured of a challenger beside its losses, gathered for the gate."""

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
from include.features import point_in_time
from include.features.build import features
from include.judge.evidence import BASELINE, CHALLENGER, CHAMPION, Facts, Fairness, Leak, Serving
from include.models import artifacts, outputs
from include.spec import UseCase
from include.spec.stages import Candidate
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake


def columns_of_rows(lake: Lake, spec: UseCase, rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """Return columns of rows: features as the model saw them, the others as the spine's source had them.

    Parameters
    ----------
    rows : with the spine's key, ``partition`` and the features, shape (n, any).
    names : features or columns of the spine's source; one that is named twice is given once.

    Returns
    -------
    pa.Table
        The columns in the order of their names, a row for each of ``rows`` in their order, shape (n, k). What
        comes from the source is the revision that was known at the row's decision time.

    Raises
    ------
    SpecError
        when a name is neither.
    NotPublished
        when the source was published without the column, or hasn't the row.
    """
    wanted = list(dict.fromkeys(names))
    held = {*spec.features.columns, *spec.key}
    given = spec.sources[spec.features.spine].columns
    unknown = [name for name in wanted if name not in held and name not in given]
    if unknown:
        there = ", ".join(dict.fromkeys([*spec.features.columns, *given]))
        raise SpecError(f"{spec.name}: columns beside the rows", required=there, found=", ".join(unknown))
    sought = [name for name in wanted if name not in held]
    if sought:
        came = _sought(lake, spec, rows, sought)
        rows = rows.select([name for name in wanted if name in held])
        for name in sought:
            rows = rows.append_column(name, came[name])
    return rows.select(wanted)


def _sought(lake: Lake, spec: UseCase, rows: pa.Table, names: list[str]) -> pa.Table:
    """Return columns of the spine's validated table, found for the rows in their order."""
    moments = {
        partition: spec.clock.moment(partition) for partition in rows["partition"].unique().to_pylist()
    }
    read = lake.read(f"validated_{spec.features.spine}", {"partition": sorted(moments)})
    without = [name for name in names if read is None or name not in read.column_names]
    if read is None or without:
        raise _missing(spec, lake, f"published with {', '.join(without)}", "a table without")
    decided = pa.array([moments[partition] for partition in read["partition"].to_pylist()], schemas.TIME)
    known = read.filter(pc.less_equal(read["known_at"], decided)).sort_by("revision")
    place = {key: i for i, key in enumerate(_keys(spec, known))}  # of two revisions the later one stays
    found = [place.get(key) for key in _keys(spec, rows)]
    if lost := found.count(None):
        raise _missing(spec, lake, f"{', '.join(names)} of {rows.num_rows} rows", f"{lost} that aren't there")
    source = spec.sources[spec.features.spine]
    shape = pa.schema([(name, schemas.column_type(source.columns[name])) for name in names])
    return point_in_time.conform(known.take(pa.array(found, pa.int64())), shape)


def _keys(spec: UseCase, rows: pa.Table) -> Iterator[tuple[object, ...]]:
    """Return what each row is told by."""
    return zip(*(rows[column].to_pylist() for column in ("partition", *spec.key)), strict=True)


def _missing(spec: UseCase, lake: Lake, required: str, found: str) -> NotPublished:
    """Return the error about a column that is declared and can't be had."""
    return NotPublished(
        f"{spec.name}/{spec.features.spine}",
        required=required,
        found=found,
        where=f"{lake.uri}/tables/validated_{spec.features.spine}",
        remedy="ingest the test partitions again with the source as it is declared now, or take the "
        "column out "
        "of gate.slices and gate.fairness",
    )


def uncovered_shares(spec: UseCase, fitted: pa.Table, scored: pa.Table) -> dict[str, float]:
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


Array = NDArray[np.float64]
MOST = 3000  # rows
REPEATS = 3


def permutation_importance(
    estimator: Pipeline, spec: UseCase, rows: pa.Table, actual: Array
) -> dict[str, float]:
    """Return each feature's permutation importance (Breiman, Random Forests, 2001, section 10).

    Parameters
    ----------
    rows : that the model wasn't fitted on, with the column ``partition``, shape (n, any).
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
    chosen = sample_indices(rows, MOST, spec.training.seed)
    rows, actual = rows.take(chosen), actual[chosen]
    if not rows.num_rows:
        return {}
    plain = row_losses(spec.gate.objective, actual, artifacts.predict(estimator, rows, spec))
    random = np.random.default_rng(spec.training.seed)
    # one table of all repeats, since asking once costs less than asking three times
    many = rows.take(np.tile(np.arange(rows.num_rows), REPEATS))
    found: dict[str, float] = {}
    for column in spec.features.columns:
        order = np.concatenate([random.permutation(rows.num_rows) for _ in range(REPEATS)])
        harmed = many.set_column(many.column_names.index(column), column, rows[column].take(order))
        try:
            predictions = artifacts.predict(estimator, harmed, spec)
        except ModelError:
            continue
        # row by row, so that a feature that changes nothing gives 0 and no rounding error
        rise = row_losses(spec.gate.objective, np.tile(actual, REPEATS), predictions) - np.tile(
            plain, REPEATS
        )
        found[column] = float(rise.mean())
    return found


PRIOR = f"{BASELINE}prior"


@dataclass(frozen=True)
class EvaluationRows:
    """A challenger and the rows that it is judged on.

    Parameters
    ----------
    partition : of the training.
    recipe : the candidate that it was fitted by.
    estimator, data, digest : the model as it would serve, read back, and its bytes.
    fitted : the rows that it was fitted and chosen on, all earlier than the test rows.
    deployed_fit : the rows that the model to serve was fitted on; of a walk forward the test rows as well.
    rows : the unseen test rows, shape (n, any), and ``actual``, their labels, shape (n,).
    partitions : of those rows, ascending.
    predictions : of every model on the rows, as the losses are of them, each of shape (n,) or (n, k).
    deployed : what the challenger itself predicts: of a walk forward that isn't what is judged.
    """

    partition: str
    recipe: Candidate
    estimator: Pipeline
    data: bytes
    digest: str
    fitted: pa.Table
    deployed_fit: pa.Table
    rows: pa.Table
    actual: Array
    partitions: Sequence[str]
    predictions: Mapping[str, Array]
    deployed: Array

    def losses(self, spec: UseCase) -> dict[str, Array]:
        """Return every model's loss on each row."""
        of = spec.gate.objective
        return {name: row_losses(of, self.actual, values) for name, values in self.predictions.items()}

    def places(self) -> list[NDArray[np.intp]]:
        """Return where the rows of each partition lie."""
        of = np.asarray(self.rows["partition"].to_pylist(), dtype=object)
        return [np.flatnonzero(of == partition) for partition in self.partitions]

    def parquet(self) -> bytes:
        """Return partition, label and predictions of each row, as the report reads them."""
        said = {name: outputs.to_single_column(values) for name, values in self.predictions.items()}
        table = pa.table({"partition": self.rows["partition"], "actual": self.actual, **said})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()


def gather_facts(lake: Lake, spec: UseCase, tested: EvaluationRows) -> Facts:
    """Return the facts; without an unseen row there are none."""
    if not tested.rows.num_rows:
        return Facts()
    losses = tested.losses(spec)
    rival = (
        CHAMPION
        if CHAMPION in losses
        else min(
            (name for name in losses if name.startswith(BASELINE)),
            key=lambda name: float(losses[name].mean()),
        )
    )
    parts = columns_of_rows(lake, spec, tested.rows, spec.gate.slices.columns)
    walked = spec.gate.evidence == "walk_forward"
    return Facts(
        rival=rival,
        slices=slices.measure_slices(spec, tested.rows, parts, losses, tested.partitions, rival),
        fairness=_fairness(lake, spec, tested),
        edge_cases=robustness.measure_robustness(
            tested.estimator, spec, tested.rows, tested.actual, tested.fitted
        ),
        serving=_serving(lake, spec, tested),
        leak=_leak(lake, spec, tested, losses),
        coverage=uncovered_shares(spec, tested.deployed_fit, _scored(lake, spec, tested)),
        importance=permutation_importance(tested.estimator, spec, tested.rows, tested.actual),
        refit=float(row_losses(spec.gate.objective, tested.actual, tested.deployed).mean())
        if walked
        else None,
    )


def _fairness(lake: Lake, spec: UseCase, tested: EvaluationRows) -> tuple[Fairness, ...]:
    if spec.gate.fairness is None:
        return ()
    groups = columns_of_rows(lake, spec, tested.rows, spec.gate.fairness.columns)
    return fairness.measure_fairness(spec, groups, tested.actual, tested.predictions[CHALLENGER])


def _serving(lake: Lake, spec: UseCase, tested: EvaluationRows) -> Serving:
    """Return how the model serves, as it was measured first: evidence made again has the same bytes."""
    key = f"evaluations/serving/{tested.digest}.json"
    kept = lake.get(key)
    if kept is not None:
        return Serving(**json.loads(kept))
    # a partition's batch by itself: a linear model's last bits depend on the batch
    batch = tested.rows.filter(pc.equal(tested.rows["partition"], tested.partitions[-1]))
    predictions = artifacts.predict(tested.estimator, batch, spec)
    found = serving.measure_serving(tested.data, tested.digest, spec, batch, predictions)
    if found.same and not lake.create(key, json.dumps(asdict(found)).encode()):
        return Serving(**json.loads(lake.get(key) or b"{}"))  # another was first
    return found


def _leak(lake: Lake, spec: UseCase, tested: EvaluationRows, losses: Mapping[str, Array]) -> Leak:
    return Leak(
        alone=leakage.single_feature_scores(spec, tested.fitted, tested.rows),
        shuffled=leakage.shuffled_label_losses(
            spec, tested.recipe, tested.fitted, tested.rows, tested.partitions
        ),
        saved=leakage.loss_reduction(losses[CHALLENGER].tolist(), losses[PRIOR].tolist())
        if PRIOR in losses
        else None,
        history=leakage.past_loss_reductions(lake, tested.partition),
        too_few=leakage.too_few(spec, tested.rows),
    )


def _scored(lake: Lake, spec: UseCase, tested: EvaluationRows) -> pa.Table:
    """Return every row to score since the first test partition, with a label or without."""
    return features(lake, spec, spec.clock.keys(tested.partitions[0], tested.partition))
