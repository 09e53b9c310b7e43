"""What a partition's predictions are worth before their labels come, or why that can't be told.

The estimate is as good as it proved to be: beside it stands its error over the newest partitions with labels,
the gate's test partitions at first and then the champion's own. Nothing is decided by it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit, stdtrit

from include.judge.evidence import CHALLENGER
from include.models import outputs
from include.monitor.checks.degradation import promotion_test_rows
from include.monitor.findings import Finding
from include.monitor.performance import completion_row
from include.monitor.state import REALISED, State
from include.promote.ledger import Row
from include.references import digest_json
from include.spec import UseCase
from include.spec.metrics import find_metric, metric_names
from include.stats.formatting import figure_and_limit
from include.stats.metrics import metric_row_losses, metric_values
from include.storage import schemas
from include.storage.lake import Lake

Array = NDArray[np.float64]
DRAWS = 50
MOST = 2000  # rows of a partition that labels are drawn for; a metric's expected value needs no more
TENTHS = 10
SURE = 1e-6  # a probability isn't taken for nearer to 0 or 1
DEFINED = 0.9  # of the draws must give a metric


@dataclass(frozen=True)
class CalibrationMap:
    """What held-out rows say of a model's predictions, as plain numbers.

    Parameters
    ----------
    lines : of a classifier slope and height of the logit, one pair for 1 or for each class.
    edges : of a regression between the tenths of the predictions, ascending, shape (m - 1,).
    losses : by metric the mean loss in each tenth, shape (m,).
    """

    lines: tuple[tuple[float, float], ...] = ()
    edges: tuple[float, ...] = ()
    losses: Mapping[str, tuple[float, ...]] | None = None


def estimated_metrics(spec: UseCase) -> tuple[str, ...]:
    """Return the metrics that are estimated: all that are measured and can be estimated without labels."""
    return tuple(name for name in metric_names(spec) if find_metric(name).can_be_estimated)


def learn_calibration(spec: UseCase, actual: Array, predicted: Array) -> CalibrationMap:
    """Return what held-out rows say, at least one of them.

    Parameters
    ----------
    actual, predicted : labels and predictions, shape (n,), predictions of several classes (n, k).
    """
    if spec.problem.kind != "regression":
        columns = predicted.T if predicted.ndim == 2 else [predicted]
        codes = spec.problem.codes if predicted.ndim == 2 else (1.0,)
        return CalibrationMap(tuple(_line(p, actual == code) for p, code in zip(columns, codes, strict=True)))
    edges = np.unique(np.quantile(predicted, np.arange(1, TENTHS) / TENTHS))
    tenth = np.searchsorted(edges, predicted)
    rows = np.bincount(tenth, minlength=len(edges) + 1)
    found = {}
    for name in estimated_metrics(spec):
        lost = metric_row_losses(name, actual, predicted)
        sums = np.bincount(tenth, lost, minlength=len(rows))
        # ties may leave a tenth empty
        found[name] = tuple(np.where(rows, sums / np.maximum(rows, 1), lost.mean()).tolist())
    return CalibrationMap(edges=tuple(edges.tolist()), losses=found)


def expected_metrics(spec: UseCase, learnt: CalibrationMap, predicted: Array) -> dict[str, float]:
    """Return each metric's expected value on rows without labels; one that they can't give isn't there."""
    if not len(predicted):
        return {}
    if learnt.losses is not None:
        tenth = np.searchsorted(np.array(learnt.edges), predicted)
        means = {name: float(np.array(of)[tenth].mean()) for name, of in learnt.losses.items()}
        return {name: mean**0.5 if find_metric(name).root else mean for name, mean in means.items()}
    random = np.random.default_rng(spec.training.seed)
    if len(predicted) > MOST:
        predicted = predicted[np.sort(random.choice(len(predicted), MOST, replace=False))]
    chances, found = calibrate(learnt, predicted), []
    for _ in range(DRAWS):
        labels = _drawn(chances, random.random(len(chances)))
        found.append(metric_values(estimated_metrics(spec), labels, predicted, spec.problem.classes))
    return _expected_means(estimated_metrics(spec), found)


def _expected_means(metrics: Sequence[str], found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values = {name: [one[name] for one in found if name in one] for name in metrics}
    return {name: float(np.mean(of)) for name, of in values.items() if len(of) >= DEFINED * len(found)}


def calibrate(learnt: CalibrationMap, predicted: Array) -> Array:
    """Return what probabilities were worth on the held-out rows, shape (n,), or (n, k) that adds up to 1.

    Notes
    -----
    A line through the logits (J. C. Platt, Probabilistic outputs for support vector machines, 1999), for each
    class on its own; `benchmarks/estimate.py` holds it to no line and to isotonic regression.
    """
    columns = predicted.T if predicted.ndim == 2 else [predicted]
    lines = zip(learnt.lines, columns, strict=True)
    found = [expit(slope * _logit(of) + height) for (slope, height), of in lines]
    if predicted.ndim == 1:
        return np.asarray(found[0])
    stacked = np.stack(found, axis=1)
    return np.asarray(stacked / stacked.sum(axis=1, keepdims=True))


def _line(predicted: Array, came: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and height that fit best, with a little weight on leaving probabilities as they are."""
    at, same = _logit(predicted), np.array([1.0, 0.0])

    def cost(line: Array) -> tuple[float, Array]:
        score = line[0] * at + line[1]
        apart, miss = line - same, expit(score) - came
        value = np.logaddexp(0, score).sum() - score[came].sum() + apart @ apart
        return float(value), np.array([miss @ at, miss.sum()]) + 2 * apart

    slope, height = minimize(cost, same, jac=True, method="L-BFGS-B").x
    return float(slope), float(height)


def _logit(chance: Array) -> Array:
    return np.asarray(logit(np.clip(chance, SURE, 1 - SURE)))


def _drawn(chances: Array, random: Array) -> Array:
    """Return a label for each row: 1 or 0, or the class's place."""
    if chances.ndim == 1:
        return np.asarray(random < chances, dtype=np.float64)
    places = (random[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    return np.asarray(np.minimum(places, chances.shape[1] - 1), dtype=np.float64)


FOLDS = 5


@dataclass(frozen=True)
class EstimatePair:
    """A metric of a partition with labels.

    What was estimated without them, what came true, and the naive guess.

    Parameters
    ----------
    naive : the mean of the metric over the gate's test partitions, those of the partition's own fold left
        out.
    """

    estimate: float
    realised: float
    naive: float


@dataclass(frozen=True)
class LabelledPartition:
    """A partition with labels.

    Parameters
    ----------
    rows : with a label.
    pairs : by metric, where the rows could give it.
    """

    partition: str
    rows: int
    pairs: Mapping[str, EstimatePair]


@dataclass(frozen=True)
class HeldOutEstimates:
    """What the gate's test partitions say.

    Parameters
    ----------
    means : each metric's mean over them: the naive guess for every later partition.
    """

    map: CalibrationMap
    means: Mapping[str, float]
    partitions: tuple[LabelledPartition, ...]


def held_out_estimates(lake: Lake, spec: UseCase, champion: Mapping[str, Any]) -> HeldOutEstimates | None:
    """Return what the test partitions say on which a champion was promoted, None where their rows are gone.

    Parameters
    ----------
    champion : its row of `deployments`.
    """
    attempt = str(champion["attempt"]).removesuffix("+forced")
    key = f"references/{digest_json([attempt, estimated_metrics(spec)])}.estimate.json"
    kept = lake.get(key)
    if kept is None:
        rows = promotion_test_rows(lake, champion)
        if rows is None or not rows.num_rows:
            return None
        of = np.asarray(rows["partition"].to_pylist(), dtype=object)
        predicted = outputs.from_single_column(rows[CHALLENGER])
        if predicted.shape[1:] != ((len(spec.problem.classes),) if spec.problem.classes else ()):
            return None  # the problem had other classes then
        made = learn_held_out(spec, of, rows["actual"].to_numpy(), predicted)
        lake.create(key, json.dumps(asdict(made), sort_keys=True).encode())
        kept = lake.get(key)
        assert kept is not None
    return _read(json.loads(kept))


def learn_held_out(
    spec: UseCase, of: NDArray[np.object_], actual: Array, predicted: Array
) -> HeldOutEstimates:
    """Return what rows with labels say, at least one of them.

    Parameters
    ----------
    of : each row's partition, shape (n,), and its label and prediction.
    """
    keys = sorted(set(of.tolist()))
    realised = {key: _measured(spec, actual[of == key], predicted[of == key]) for key in keys}
    found = []
    for fold in np.array_split(np.array(keys, dtype=object), min(FOLDS, len(keys))):
        others = np.isin(of, fold, invert=True)
        if not others.any():
            continue  # of a single partition nothing is left to learn from
        rest = learn_calibration(spec, actual[others], predicted[others])
        means = _means([one for key, one in realised.items() if key not in fold])
        for key in fold.tolist():
            mine = of == key
            guess = expected_metrics(spec, rest, predicted[mine])
            both = set(guess) & set(realised[key]) & set(means)
            pairs = {
                n: EstimatePair(guess[n], realised[key][n], means[n])
                for n in estimated_metrics(spec)
                if n in both
            }
            found.append(LabelledPartition(key, int(mine.sum()), pairs))
    return HeldOutEstimates(
        learn_calibration(spec, actual, predicted), _means(list(realised.values())), tuple(found)
    )


def _measured(spec: UseCase, actual: Array, predicted: Array) -> dict[str, float]:
    return metric_values(estimated_metrics(spec), actual, predicted, spec.problem.classes)


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the partitions that could give it."""
    values: dict[str, list[float]] = {}
    for one in found:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of)) for name, of in values.items()}


def _read(plain: Mapping[str, Any]) -> HeldOutEstimates:
    partitions = tuple(
        LabelledPartition(
            one["partition"], one["rows"], {name: EstimatePair(**pair) for name, pair in one["pairs"].items()}
        )
        for one in plain["partitions"]
    )
    lines = tuple((slope, height) for slope, height in plain["map"]["lines"])
    made = CalibrationMap(lines, tuple(plain["map"]["edges"]), plain["map"]["losses"])
    return HeldOutEstimates(made, plain["means"], partitions)


PRODUCT = "estimates"
NEWEST = 28  # partitions with labels that the error is measured on
LEAST = 7  # of them, or there is no error
CHANCE = 0.05  # on either side of the interval
OUTSIDE = ("unseen", "missing")  # checks of a feature whose alarm says that the held-out rows tell nothing


def publish_estimates(
    lake: Lake,
    spec: UseCase,
    partition: str,
    state: State,
    found: Sequence[Finding],
    inputs: Mapping[str, Any],
) -> None:
    """Publish the partition's rows of `estimates`, one a metric, and then the row in `partitions`.

    Parameters
    ----------
    found : the partition's other findings.
    inputs : what they, and so the estimates, depend on.
    """
    rows = _rows(lake, spec, partition, state, found) if state.champion(partition) else []
    made = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["metric"])), schema=schemas.ESTIMATES)
    lake.publish(PRODUCT, made, {"partition": partition})
    given = sum("value" in row for row in rows)
    note = f"{given} of {len(rows)} metrics estimated" if rows else "no model was promoted yet"
    done = pa.Table.from_pylist(
        [completion_row(spec, PRODUCT, partition, made, inputs, note)], schema=schemas.PARTITIONS
    )
    lake.publish("partitions", done, {"product": PRODUCT, "partition": partition})


def _rows(
    lake: Lake, spec: UseCase, partition: str, state: State, found: Sequence[Finding]
) -> list[dict[str, Any]]:
    champion = state.champion(partition)
    assert champion is not None
    learnt = held_out_estimates(lake, spec, champion)
    served = _served(lake, spec, [partition]).get(partition)
    why = _outside(learnt, served, str(champion["model"]), found)
    guess = _guess(spec, learnt, served, str(champion["model"]))
    same = {"partition": partition, "model": champion["model"], "version": champion["version"]}
    size = 0 if served is None else served.num_rows
    if learnt is None:
        return [{**same, "metric": name, "rows": size, "reason": why} for name in estimated_metrics(spec)]
    partitions = [*learnt.partitions, *_lived(lake, spec, partition, state, learnt)]
    return [
        {**same, **estimate_row(name, size, guess.get(name), partitions, why)}
        for name in estimated_metrics(spec)
    ]


def estimate_row(
    metric: str, rows: int, guess: float | None, partitions: Sequence[LabelledPartition], why: str = ""
) -> dict[str, Any]:
    """Return an estimate beside its error, as columns of `estimates`; or no value, and the reason.

    Parameters
    ----------
    rows : of the partition that is estimated.
    guess : what is expected of it, None where they can't give it.
    partitions : those with labels, oldest first.
    why : a reason that there is already.
    """
    known = [one for one in partitions if metric in one.pairs][-NEWEST:]
    row = {"metric": metric, "rows": rows, "unchecked": guess, **_error(known, metric)}
    why = why or _poor(row, known)
    if why or guess is None:
        return {**row, "reason": why}
    reach = float(stdtrit(len(known) - 1, 1 - CHANCE)) * row["error"]
    low, high = max(guess - reach, 0.0), min(guess + reach, find_metric(metric).highest)
    return {**row, "value": guess, "low": low, "high": high, "reason": ""}


def _outside(
    learnt: HeldOutEstimates | None, served: pa.Table | None, champion: str, found: Sequence[Finding]
) -> str:
    """Return why no metric of the partition can be told, empty where that isn't so."""
    if served is None:
        return "nothing was predicted for this partition"
    if other := served.num_rows - pc.sum(pc.equal(served["model"], champion)).as_py():
        return f"{other} of {served.num_rows} rows weren't served by the champion"
    if learnt is None:
        return "the rows of the gate's test partitions are gone, or it was promoted without a gate"
    alarms = [f for f in found if f.outcome == "alarm"]
    if columns := sorted({f.subject for f in alarms if f.check in OUTSIDE}):
        return f"values that the champion didn't learn from, or none: {', '.join(columns)}"
    if concept := sorted({f.subject for f in alarms if f.check == "concept"}):
        return f"labels follow another rule by now: {', '.join(concept)}"
    return ""


def _poor(row: Mapping[str, Any], known: Sequence[LabelledPartition]) -> str:
    """Return why one metric can't be told, empty where that isn't so."""
    if row["unchecked"] is None:
        return f"{row['rows']} rows can't give it"
    if len(known) < LEAST:
        return f"its error is known of {len(known)} partitions, and {LEAST} are needed"
    usual = float(np.median([one.rows for one in known]))
    if 2 * row["rows"] < usual:
        return f"{row['rows']} rows, and its error was measured on partitions of {usual:g}"
    if row["error"] >= row["naive"]:
        error, naive = figure_and_limit(row["error"], row["naive"], 3)
        return f"its error, {error}, isn't below that of the gate's figure, {naive}"
    return ""


def _error(known: Sequence[LabelledPartition], metric: str) -> dict[str, Any]:
    """Return the root mean square of estimate less realised, and that of the naive guess."""
    pairs = [one.pairs[metric] for one in known]
    if len(pairs) < LEAST:
        return {"partitions": len(pairs)}
    apart = {
        "error": [one.estimate - one.realised for one in pairs],
        "naive": [one.naive - one.realised for one in pairs],
    }
    return {
        "partitions": len(pairs),
        **{name: math.sqrt(np.mean(np.square(of))) for name, of in apart.items()},
    }


def _served(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> dict[str, pa.Table]:
    """Return the predictions of each partition that has some, in one order."""
    columns = ["partition", *spec.key, *spec.problem.outputs, "model"]
    read = lake.read("predictions", {"partition": list(partitions)}, columns) if partitions else None
    if read is None:
        return {}
    read = read.sort_by([(name, "ascending") for name in spec.key])
    parts = {key: read.filter(pc.equal(read["partition"], key)) for key in partitions}
    return {key: part for key, part in parts.items() if part.num_rows}


def _guess(
    spec: UseCase, learnt: HeldOutEstimates | None, served: pa.Table | None, champion: str
) -> dict[str, float]:
    """Return what is expected of a partition, nothing where the champion didn't serve all of it."""
    if learnt is None or served is None or served["model"].unique().to_pylist() != [champion]:
        return {}
    return expected_metrics(spec, learnt.map, outputs.from_columns(spec, served))


def _lived(
    lake: Lake, spec: UseCase, partition: str, state: State, learnt: HeldOutEstimates
) -> list[LabelledPartition]:
    """Return the champion's newest partitions whose labels were known by a partition.

    And the estimates of them.

    A partition that nobody watched then is estimated now: it would have been the same.
    """
    champion = state.champion(partition)
    assert champion is not None
    since = [key for key in sorted(state.ever[REALISED]) if champion["effective"] <= key < partition]
    partitions = [key for key in since if state.known(key)[0] <= partition][-NEWEST:]
    if not partitions:
        return []
    mine = {"partition": partitions, "model": str(champion["model"])}
    said: dict[str, dict[str, float | None]] = {}
    for row in lake.rows(PRODUCT, mine):
        said.setdefault(row["partition"], {})[row["metric"]] = row["unchecked"]
    for key, served in _served(lake, spec, [key for key in partitions if key not in said]).items():
        said[key] = {**_guess(spec, learnt, served, str(champion["model"]))}
    came: dict[str, dict[str, Row]] = {}
    for row in sorted(lake.rows(REALISED, {"partition": partitions}), key=lambda row: str(row["known"])):
        if row["known"] <= partition:
            came.setdefault(row["partition"], {})[row["metric"]] = row
    return [_paired(key, said.get(key, {}), came[key], learnt.means) for key in partitions if key in came]


def _paired(
    partition: str, said: Mapping[str, float | None], came: Mapping[str, Row], means: Mapping[str, float]
) -> LabelledPartition:
    pairs = {}
    for name, guess in said.items():
        realised = came[name]["value"] if name in came else None
        if guess is not None and realised is not None and name in means:
            pairs[name] = EstimatePair(guess, float(realised), means[name])
    return LabelledPartition(partition, int(next(iter(came.values()))["rows"]), pairs)


MAX_PARTITIONS = 14  # estimated partitions, at most, unless a range is asked for


def pending_estimates(
    lake: Lake, *, known: str | None = None, first: str = "", last: str = ""
) -> list[dict[str, Any]]:
    """Return a row for each partition without labels and metric, oldest first.

    Parameters
    ----------
    known : the partition as of which labels count; None for what is known now.
    first, last : the range of partitions; without ``first`` the newest `MAX_PARTITIONS`.

    Returns
    -------
    list of dict
        ``partition``, ``version``, ``metric``, ``estimate`` (None where it can't be told), its ``error``,
        ``low`` and ``high`` at 90 % by that, ``partitions`` that the error was measured on, and ``reason``.
    """
    until = min(known or "~", last or "~")
    read = lake.read("partitions", {"product": PRODUCT}, ["partition"])
    there = sorted(
        {} if read is None else {key for key in read["partition"].to_pylist() if first <= key <= until}
    )
    partitions = there if first else there[-MAX_PARTITIONS:]
    came = lake.read(REALISED, {"partition": partitions}, ["partition", "known"]) if partitions else None
    for row in [] if came is None else came.to_pylist():
        if row["partition"] in partitions and (known is None or row["known"] <= known):
            partitions.remove(row["partition"])
    rows = lake.rows(PRODUCT, {"partition": partitions}) if partitions else []
    names = ("partition", "version", "metric", "value", "error", "low", "high", "partitions", "reason")
    found = [{("estimate" if name == "value" else name): row[name] for name in names} for row in rows]
    return sorted(found, key=lambda row: (row["partition"], row["metric"]))
