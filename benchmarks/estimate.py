"""What is estimated of a partition before its labels come, beside what came true, over the flights' year.

The champion of each of three partitions serves every later partition of the year. Its error is known as a
partition would know it: of the gate's test partitions first, then of the partitions whose labels have come.
Told apart are the partitions on which a tenth of a feature lies beyond what the champion learned from; the
finding `unseen`, which silences a partition, also knows the last weeks, and is rarer. The last rows are of a
regression, the minutes late.

    EVERGREEN_LAKE=file:///... python -m benchmarks.estimate    # a lake with the whole year
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.features.labels import join_labels, matured, training_set
from include.models import artifacts
from include.monitor.estimates import (
    Array,
    EstimatePair,
    HeldOutEstimates,
    LabeledPartition,
    estimate_row,
    expected_metrics,
    learn_held_out,
)
from include.spec import UseCase, load
from include.stats.metrics import metric_values
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, target
from include.train.split import partitions_of, split

TRAINED = ("2013-02-28", "2013-05-26", "2013-08-25")
SHOWN = {
    "binary": ("log_loss", "brier", "roc_auc", "average_precision", "recall@0.5", "precision_top@0.1"),
    "regression": ("mae", "rmse", "quantile_loss@0.9"),
}
Years = dict[str, list[Mapping[str, Any]]]


def minutes(spec: UseCase) -> UseCase:
    """Return the use case with the minutes late in place of whether they are many."""
    problem = spec.problem.model_copy(update={"kind": "regression"})
    labels = spec.labels.model_copy(update={"sql": "arr_delay"})
    gate, monitoring = (of.model_copy(update={"requirements": ()}) for of in (spec.gate, spec.monitoring))
    return spec.model_copy(
        update={"problem": problem, "labels": labels, "gate": gate, "monitoring": monitoring}
    )


def lived(spec: UseCase, rows: pa.Table, trained: str) -> Years:
    """Return by metric a row for each partition after a training: what was told, and what came true."""
    labeled = rows.filter(pc.less_equal(rows["partition"], spec.clock.shift(trained, -spec.labels.delay)))
    parts = split(labeled, spec, trained)
    fitted = parts.train
    after = spec.clock.shift(partitions_of(fitted)[-1], spec.labels.delay)
    test, later = (
        part.filter(pc.greater(part["partition"], last))
        for part, last in ((parts.test, after), (rows, trained))
    )
    model = fit_recipe(spec, spec.training.candidates[0], fitted)
    of = np.asarray(test["partition"].to_pylist(), dtype=object)
    held_out = learn_held_out(spec, of, target(spec, test), artifacts.predict(model, test, spec))
    return served(spec, held_out, later, artifacts.predict(model, later, spec), outside(spec, fitted, later))


def outside(spec: UseCase, fitted: pa.Table, later: pa.Table) -> set[str]:
    """Return the partitions on which a tenth of a numeric feature lies beyond what was fitted on."""
    of, found = np.asarray(later["partition"].to_pylist(), dtype=object), set()
    partitions, positions = np.unique(of, return_inverse=True)
    for name in spec.features.numeric:
        low, high = pc.min_max(fitted[name]).as_py().values()
        values = np.asarray(later[name].to_numpy(zero_copy_only=False), dtype=float)
        share = np.bincount(positions, (values < low) | (values > high)) / np.bincount(positions)
        found |= set(partitions[share > spec.monitoring.unseen].tolist())
    return found


def served(
    spec: UseCase, held_out: HeldOutEstimates, rows: pa.Table, predicted: Array, out: set[str]
) -> Years:
    """Estimate each partition by what was known of those before it."""
    of, actual = np.asarray(rows["partition"].to_pylist(), dtype=object), target(spec, rows)
    plain = replace(held_out.map, lines=((1.0, 0.0),) * len(held_out.map.lines))
    past = list(held_out.partitions)
    found: Years = {name: [] for name in SHOWN[spec.problem.kind]}
    waiting: list[LabeledPartition] = []
    for partition in sorted(set(of.tolist())):
        selected = of == partition
        realized = metric_values(tuple(found), actual[selected], predicted[selected])
        guess, raw = (expected_metrics(spec, one, predicted[selected]) for one in (held_out.map, plain))
        pairs = {
            n: EstimatePair(guess[n], realized[n], held_out.means[n])
            for n in found
            if n in guess and n in realized
        }
        waiting.append(LabeledPartition(partition, int(selected.sum()), pairs))
        past += waiting[: -spec.labels.delay]
        del waiting[: -spec.labels.delay]
        for name, pair in pairs.items():
            row = estimate_row(name, int(selected.sum()), guess[name], past)
            estimated = {"told": row["reason"] == "", "inside": partition not in out, "came": pair.realized}
            estimated |= {
                "guess": pair.estimate,
                "naive": pair.naive,
                "raw": raw[name],
                "error": row["error"],
            }
            found[name].append({**estimated, "low": row.get("low"), "high": row.get("high")})
    return found


def line(trained: str, metric: str, partitions: list[Mapping[str, Any]]) -> str:
    """Return a row of the table."""
    estimated = [one for one in partitions if one["told"] and one["inside"]]
    out = [one for one in partitions if not one["inside"]]

    def apart(subset: list[Mapping[str, Any]], of: str) -> str:
        return f"{np.sqrt(np.mean([(one[of] - one['came']) ** 2 for one in subset])):.3g}" if subset else "-"

    covered = (
        np.mean([one["low"] <= one["came"] <= one["high"] for one in estimated]) if estimated else np.nan
    )
    shown = f"{np.mean([one['error'] for one in estimated]):.3g}" if estimated else "-"
    cells = [
        trained,
        metric,
        str(len(partitions)),
        str(len(estimated)),
        apart(estimated, "guess"),
        shown,
        f"{covered:.0%}",
    ]
    cells += [
        apart(estimated, "naive"),
        apart(partitions, "guess"),
        apart(partitions, "raw"),
        apart(partitions, "naive"),
    ]
    return f"| {' | '.join([*cells, str(len(out)), apart(out, 'guess'), apart(out, 'naive')])} |"


def main() -> None:
    """Print a row for each champion and metric."""
    lake, late = Lake("flight_delay"), load("flight_delay")
    newest_known = matured(lake, late, None)[-1]
    print("| champion of | metric | partitions | told | error | error shown | within 90 % | naive "
          "| error, all partitions | without the line | naive | beyond | error there | naive |")  # fmt: skip
    print("|---" * 14 + "|")
    rows = training_set(lake, late, newest_known)
    for spec in (late, minutes(late)):
        of = rows if spec is late else join_labels(lake, spec, rows, newest_known)
        for trained in TRAINED:
            for metric, partitions in lived(spec, of, trained).items():
                print(line(trained, metric, partitions), flush=True)


if __name__ == "__main__":
    main()
