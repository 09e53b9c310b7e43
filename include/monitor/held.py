"""How well a champion's worth could be told on the gate's test nights, made once a champion and kept.

The nights are cut into folds of consecutive ones. Each fold is estimated by what the others say, so that the
error that is shown at first wasn't measured on the rows that it was learnt from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include import outputs
from include.evaluate.metrics import measured
from include.lake import Lake
from include.monitor.degraded import tested
from include.monitor.expect import Array, Map, expected, learn, told
from include.promote.evidence import CHALLENGER
from include.refs import digest_json
from include.spec import UseCase

FOLDS = 5


@dataclass(frozen=True)
class Pair:
    """A metric of a night with labels: what was estimated without them, what came true, and the naive guess.

    Parameters
    ----------
    naive : the mean of the metric over the gate's test nights, those of the night's own fold left out.
    """

    estimate: float
    realised: float
    naive: float


@dataclass(frozen=True)
class Night:
    """A night with labels.

    Parameters
    ----------
    rows : with a label.
    pairs : by metric, where the rows could give it.
    """

    night: str
    rows: int
    pairs: Mapping[str, Pair]


@dataclass(frozen=True)
class Held:
    """What the gate's test nights say.

    Parameters
    ----------
    means : each metric's mean over them: the naive guess for every later night.
    """

    map: Map
    means: Mapping[str, float]
    nights: tuple[Night, ...]


def held(lake: Lake, spec: UseCase, champion: Mapping[str, Any]) -> Held | None:
    """Return what the test nights say on which a champion was promoted, None where their rows are gone.

    Parameters
    ----------
    champion : its row of `deployments`.
    """
    attempt = str(champion["attempt"]).removesuffix("+forced")
    key = f"references/{digest_json([attempt, told(spec)])}.estimate.json"
    kept = lake.get(key)
    if kept is None:
        rows = tested(lake, champion)
        if rows is None or not rows.num_rows:
            return None
        of = np.asarray(rows["night"].to_pylist(), dtype=object)
        predicted = outputs.unpacked(rows[CHALLENGER])
        if predicted.shape[1:] != ((len(spec.problem.classes),) if spec.problem.classes else ()):
            return None  # the problem had other classes then
        made = learnt(spec, of, rows["actual"].to_numpy(), predicted)
        lake.create(key, json.dumps(asdict(made), sort_keys=True).encode())
        kept = lake.get(key)
        assert kept is not None
    return _read(json.loads(kept))


def learnt(spec: UseCase, of: NDArray[np.object_], actual: Array, predicted: Array) -> Held:
    """Return what rows with labels say, at least one of them.

    Parameters
    ----------
    of : each row's night, shape (n,), and its label and prediction.
    """
    keys = sorted(set(of.tolist()))
    realised = {key: _measured(spec, actual[of == key], predicted[of == key]) for key in keys}
    found = []
    for fold in np.array_split(np.array(keys, dtype=object), min(FOLDS, len(keys))):
        others = np.isin(of, fold, invert=True)
        if not others.any():
            continue  # of a single night nothing is left to learn from
        rest = learn(spec, actual[others], predicted[others])
        means = _means([one for key, one in realised.items() if key not in fold])
        for key in fold.tolist():
            mine = of == key
            guess = expected(spec, rest, predicted[mine])
            both = set(guess) & set(realised[key]) & set(means)
            pairs = {n: Pair(guess[n], realised[key][n], means[n]) for n in told(spec) if n in both}
            found.append(Night(key, int(mine.sum()), pairs))
    return Held(learn(spec, actual, predicted), _means(list(realised.values())), tuple(found))


def _measured(spec: UseCase, actual: Array, predicted: Array) -> dict[str, float]:
    return measured(told(spec), actual, predicted, spec.problem.classes)


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the nights that could give it."""
    values: dict[str, list[float]] = {}
    for one in found:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of)) for name, of in values.items()}


def _read(plain: Mapping[str, Any]) -> Held:
    nights = tuple(
        Night(one["night"], one["rows"], {name: Pair(**pair) for name, pair in one["pairs"].items()})
        for one in plain["nights"]
    )
    lines = tuple((slope, height) for slope, height in plain["map"]["lines"])
    made = Map(lines, tuple(plain["map"]["edges"]), plain["map"]["losses"])
    return Held(made, plain["means"], nights)
