"""How many bad fits the gate lets serve, and how many sound ones it refuses, on the flights' year.

On each of twenty Sundays, training data is damaged in ten ways of five kinds, and the recipe that serves is
fitted on it. The gate's own checks of a new fit judge each one: `refit`, `movement`, `twin`,
`unseen_values` and `single_feature`. A fit is harmful if it loses over 2 % more than the honest fit over the
following four weeks. The honest fits are made with ten seeds.

    EVERGREEN_LAKE=file:///... python -m benchmarks.bad_fits RESULTS.jsonl    # a lake with the whole year

Each judged fit is a line of RESULTS.jsonl. A run that was stopped goes on from there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.pipeline import Pipeline

from include.evaluate.leakage import single_feature_scores
from include.evaluate.measure import unseen_shares
from include.features.build import features
from include.features.labels import join_labels, matured
from include.judge import checks
from include.judge.context import CheckContext
from include.judge.evidence import CHALLENGER, Evidence, Facts, Leakage, Losses, Refit
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase, load
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, target
from include.train.split import partitions_of

RECIPE, WEEKS, VARIANTS, HARM = "boosting", 20, 10, 0.02
FIRST, LAST = "2013-01-27", "2013-12-30"
KINDS = ("honest", "flipped labels", "previous day's labels", "changed unit", "missing rows", "leak")
# a feature and the factor of its unit
UNITS = {
    "temp": 1.8, "distance": 0.6214, "departs_minute": 1 / 60, "wind_speed": 1.944, "origin_late_2": 100.0,
    "carrier_late_28": 100.0, "pressure": 0.1, "visib": 0.6214, "duration_scheduled": 1 / 60, "precip":
    0.03937,
}  # fmt: skip
LEAK_NOISE = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
CHECKS = ("refit", "movement", "twin", "unseen_values", "single_feature")
Array = NDArray[np.float64]


def with_column(rows: pa.Table, name: str, values: Array) -> pa.Table:
    """Return the rows with other values of a numeric column, NaN as null."""
    column = pa.array(values, pa.float64(), from_pandas=True).cast(rows.schema.field(name).type)
    return rows.set_column(rows.column_names.index(name), name, column)


def damage(spec: UseCase, rows: pa.Table, kind: str, variant: int) -> pa.Table:
    """Return labeled rows, damaged in one of the ways of a kind."""
    random, actual, name = np.random.default_rng(variant), target(spec, rows), spec.problem.target
    if kind == "flipped labels":
        return with_column(rows, name, np.where(random.random(len(actual)) < 0.2, 1 - actual, actual))
    if kind == "previous day's labels":
        table = rows.select([*spec.key, "partition", name]).to_pandas()
        following = {key: spec.clock.shift(key, 1) for key in partitions_of(rows)}
        before = table.assign(partition=table["partition"].map(following))
        labels = table.merge(before, "left", [*spec.key, "partition"], suffixes=("", "_before"))
        values = labels[f"{name}_before"].to_numpy(np.float64)
        return with_column(rows, name, values).filter(pa.array(np.isfinite(values)))
    if kind == "changed unit":
        feature = list(UNITS)[variant]
        values = rows[feature].to_numpy(zero_copy_only=False).astype(np.float64) * UNITS[feature]
        return with_column(rows, feature, values + 32 if feature == "temp" else values)
    if kind == "missing rows":
        airport = ("EWR", "JFK", "LGA")[variant % 3]
        lost = np.asarray(rows["origin"].to_pylist()) == airport
        return rows.filter(pa.array(~(lost & (random.random(len(lost)) < 0.5))))
    if kind == "leak":
        noise = random.random(len(actual)) < LEAK_NOISE[variant]
        return with_column(rows, "flight_late_28", np.where(noise, 1 - actual, actual))
    return rows


class Year:
    """The year's rows, and the honest fits of the recipe on each Sunday."""

    def __init__(self) -> None:
        self.spec = load("flight_delay")
        self.lake = Lake(self.spec.name)
        self.recipe = next(r for r in self.spec.training.candidates if r.name == RECIPE)
        self.features = features(self.lake, self.spec, matured(self.lake, self.spec, LAST))
        self.labeled = join_labels(self.lake, self.spec, self.features, LAST)
        self.sundays = self.spec.clock.keys(FIRST, LAST)[::7][: WEEKS + 5]

    def known(self, sunday: str) -> pa.Table:
        """Return the labeled rows that a training knows."""
        return join_labels(self.lake, self.spec, self.between(self.features, "", sunday), sunday)

    def between(self, rows: pa.Table, after: str, until: str) -> pa.Table:
        """Return the rows after a partition, up to another."""
        partition = rows["partition"]
        return rows.filter(pc.and_(pc.greater(partition, after), pc.less_equal(partition, until)))

    def fit(self, rows: pa.Table, seed: int = 0) -> Pipeline:
        """Return the recipe, fitted with another seed than declared."""
        training = self.spec.training.model_copy(update={"seed": self.spec.training.seed + seed})
        return fit_recipe(self.spec.model_copy(update={"training": training}), self.recipe, rows)

    def losses(self, model: Pipeline, rows: pa.Table) -> dict[str, tuple[float, int]]:
        """Return sum and number of the losses by partition."""
        lost = row_losses(self.spec.objective, target(self.spec, rows), self.predict(model, rows))
        partition = np.asarray(rows["partition"].to_pylist())
        return {
            key: (float(lost[partition == key].sum()), int((partition == key).sum()))
            for key in partitions_of(rows)
        }

    def predict(self, model: Pipeline, rows: pa.Table) -> Array:
        """Return the predictions of rows."""
        return artifacts.predict(model, rows, self.spec)

    def unlabeled(self, sunday: str) -> pa.Table:
        """Return the rows that have no label yet on a Sunday."""
        return self.between(self.features, self.spec.clock.shift(sunday, -self.spec.labels.delay), sunday)

    def unseen(self, fitted: pa.Table, sunday: str, first_test: str) -> dict[str, float]:
        """Return the shares of the values to score that a fit didn't see in training."""
        scored = self.between(self.features, self.spec.clock.shift(first_test, -1), sunday)
        return unseen_shares(self.spec, fitted, scored)

    def moved(self, model: Pipeline, before: Pipeline, sunday: str) -> float:
        """Return the distance of two models' predictions on the rows without a label."""
        rows = self.unlabeled(sunday)
        return float(np.sqrt(np.square(self.predict(model, rows) - self.predict(before, rows)).mean()))


@cache
def year() -> Year:
    """Return the year, read once in each process."""
    return Year()


def load_model(data: bytes) -> Pipeline:
    """Return a model from its bytes."""
    return artifacts.deserialize(data, digest_bytes(data))


def honest(sunday: str) -> tuple[bytes, dict[str, tuple[float, int]]]:
    """Return the honest fit of a Sunday, and what it lost until the next Sunday."""
    data = year()
    model = data.fit(data.known(sunday))
    week = data.between(data.labeled, sunday, data.spec.clock.shift(sunday, 7))
    return artifacts.serialize(model), data.losses(model, week)


def judge(
    sunday: str, kind: str, variant: int, serving: bytes, moves: list[float], walk: dict[str, Any]
) -> dict[str, Any]:
    """Return how a damaged fit was judged, and its loss over the following four weeks."""
    data = year()
    spec, clock = data.spec, data.spec.clock
    rows, champion = data.known(sunday), load_model(serving)
    damaged = damage(spec, rows, kind, variant)
    model = data.fit(damaged, variant if kind in ("honest", KINDS[2]) else 0)
    test = [key for key in partitions_of(rows) if key in walk][-spec.training.test :]
    both = [key for key in test if key <= clock.shift(sunday, -7 - spec.labels.delay)]
    rows_seen = rows.filter(pc.is_in(rows["partition"], pa.array(both)))
    seen, seen_before = data.losses(model, rows_seen), data.losses(champion, rows_seen)
    refit = Refit(
        data.moved(model, champion, sunday),
        tuple(moves),
        seen_rows=tuple(count for _, count in seen.values()),
        seen_now=tuple(lost for lost, _ in seen.values()),
        seen_before=tuple(lost for lost, _ in seen_before.values()),
        seen_walk=tuple(walk[key][0] for key in both),
        growth=max(1 - data.known(clock.shift(sunday, -7)).num_rows / damaged.num_rows, 0.0),
    )
    leakage = Leakage()
    if kind == "leak":
        before = pc.less(damaged["partition"], test[0])
        leakage = Leakage(
            single_feature_scores(spec, damaged.filter(before), damaged.filter(pc.invert(before)))
        )
    shares = [
        data.unseen(fitted, sunday, test[0]) for fitted in (damaged, data.known(clock.shift(sunday, -7)))
    ]
    facts = Facts(leakage=leakage, refit=refit, unseen_shares=shares[0], champion_unseen_shares=shares[1])
    refused = _refused(spec, facts, walk, test)
    if not refused and kind != "honest":  # of honest data, the previous fit is the twin
        newest = clock.shift(sunday, -7 - spec.labels.delay)
        week = data.between(rows, newest, sunday)
        twin = data.losses(data.fit(damaged.filter(pc.less_equal(damaged["partition"], newest))), week)
        lost = data.losses(champion, week)
        sums = [tuple(value[0] for value in losses.values()) for losses in (twin, lost)]
        refit = replace(refit, rows=tuple(count for _, count in lost.values()), twin=sums[0], serving=sums[1])
        refused = _refused(spec, replace(facts, refit=refit), walk, test)
    later = data.losses(model, data.between(data.labeled, sunday, clock.shift(sunday, 28)))
    loss = sum(lost for lost, _ in later.values()) / sum(count for _, count in later.values())
    return {
        "sunday": sunday,
        "kind": kind,
        "variant": variant,
        "refused": refused,
        "loss": loss,
        "moved": refit.moved,
    }


def _refused(spec: UseCase, facts: Facts, walk: dict[str, Any], test: list[str]) -> list[str]:
    """Return the checks that refuse a fit."""
    sums, rows = zip(*(walk[key] for key in test), strict=True)
    losses = Losses(tuple(test), rows, {CHALLENGER: sums})
    evidence = Evidence(
        spec.name, "", "", "", "", "", "", 0.0, "", {}, losses, "", "", "", RECIPE, facts=facts
    )  # fmt: skip
    context = CheckContext(evidence, spec.gate, True)
    names = [name for name in CHECKS if name != "single_feature" or facts.leakage.single_feature]
    return [name for name in names if any(not check.passed for check in checks.CHECKS[name](context))]


def main() -> None:
    """Fit, judge and print."""
    results, sundays = Path(sys.argv[1]), year().sundays
    lines = results.read_text().splitlines() if results.exists() else []
    judged = [json.loads(line) for line in lines]
    done = {(one["sunday"], one["kind"], one["variant"]) for one in judged}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        fits = dict(zip(sundays, pool.map(honest, sundays), strict=True))
        walk = {key: lost for sunday in sundays for key, lost in fits[sunday][1].items()}
        models = {sunday: load_model(data) for sunday, (data, _) in fits.items()}
        moved = {now: year().moved(models[now], models[past], now) for past, now in pairwise(sundays)}
        moves = {sunday: [distance for key, distance in moved.items() if key < sunday] for sunday in sundays}
        todo = [
            (sunday, kind, variant)
            for index, sunday in enumerate(sundays)
            if index >= len(sundays) - WEEKS
            for kind in KINDS
            for variant in range(VARIANTS)
            if (sunday, kind, variant) not in done
        ]
        before = dict(zip(sundays[1:], sundays, strict=False))
        pending = [pool.submit(judge, *case, fits[before[case[0]]][0], moves[case[0]], walk) for case in todo]
        with results.open("a") as file:
            for number, future in enumerate(pending):
                judged.append(future.result())
                file.write(json.dumps(judged[-1]) + "\n")
                file.flush()
                print(f"\r{number + 1} of {len(pending)}", end="", file=sys.stderr, flush=True)
    print("\n".join(table(judged)))


def table(judged: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a row for each kind."""
    first = [one for one in judged if one["kind"] == "honest" and not one["variant"]]
    honest_loss = {one["sunday"]: one["loss"] for one in first}
    by_kind = defaultdict(list)
    for one in judged:
        harm = one["loss"] / honest_loss[one["sunday"]] - 1 > HARM
        by_kind[one["kind"]].append((harm, bool(one["refused"])))
    yield "| kind | fits | harmful | harmful ones that serve | refused of the others |"
    yield "|---|---|---|---|---|"
    for kind in KINDS:
        harmful = [refused for harm, refused in by_kind[kind] if harm]
        others = [refused for harm, refused in by_kind[kind] if not harm]
        served = _share(harmful.count(False), len(harmful))
        refused = _share(others.count(True), len(others))
        yield f"| {kind} | {len(by_kind[kind])} | {len(harmful)} | {served} | {refused} |"


def _share(count: int, of: int) -> str:
    if not of:
        return "—"
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return f"{100 * count / of:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


if __name__ == "__main__":
    main()
