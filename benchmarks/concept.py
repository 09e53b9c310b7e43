"""How soon the tests of live losses find labels that turn round, and how often they cry in a year without.

A model of January and February serves the rest of the flights' year; the first 26 partitions stand for the
gate's. The findings are asked for on each matured partition, with the labels as they were and turned round.

    EVERGREEN_LAKE=file:///... python -m benchmarks.concept [NIGHT]    # a lake with the whole year
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.features.build import matured, training_set
from include.judge.evidence import CHALLENGER, Losses
from include.models import artifacts
from include.monitor.checks import concept, degradation
from include.monitor.losses import LossSeries, expected_own_loss
from include.spec import UseCase, load
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fit import fit_recipe, target
from include.train.split import partitions_of

LAST, TURNED = "2013-02-28", sys.argv[1] if len(sys.argv) > 1 else "2013-07-01"
GATE = 26  # partitions


def served(spec: UseCase, rows: pa.Table, predicted: np.ndarray, turned: str) -> LossSeries:
    """Return the sums of each partition, its labels turned round from one on."""
    partition, actual = np.array(rows["partition"].to_pylist()), target(spec, rows)
    actual = np.where(partition >= turned, 1 - actual, actual)
    lost, partitions = row_losses(spec.gate.objective, actual, predicted), partitions_of(rows)
    places = [np.flatnonzero(partition == key) for key in partitions]
    sizes = np.array([float(len(place)) for place in places])
    own = np.array([expected_own_loss(spec, predicted[place]) for place in places], dtype=float)
    lost, observed, expected = (np.array([of[p].sum() for p in places]) for of in (lost, actual, predicted))
    return LossSeries(
        tuple(partitions), sizes, lost, lost, own, observed, expected, ("none",) * len(partitions)
    )


def part(of: LossSeries, first: int, last: int) -> LossSeries:
    """Return some of the partitions."""
    return LossSeries(*(getattr(of, name)[first:last] for name in LossSeries.__dataclass_fields__))


def alarms(spec: UseCase, of: LossSeries) -> dict[str, list[str]]:
    """Return each finding's partitions of alarm."""
    gate = part(of, 0, GATE)
    found: dict[str, list[str]] = {}
    rows = tuple(int(size) for size in gate.rows)
    promised = Losses(gate.partitions, rows, {CHALLENGER: tuple(gate.loss.tolist())})
    for last in range(GATE + 1, len(of.partitions) + 1):
        live = part(of, GATE, last)
        findings = [
            concept.check_lasting_loss(spec, live, (gate.loss, gate.expected)),
            concept.check_calibration(spec, live),
        ]
        for finding in [*findings, degradation.above_gate(spec, live, promised)]:
            found.setdefault(finding.subject, [])
            if finding.outcome == "alarm":
                found[finding.subject].append(of.partitions[last - 1])
    return found


def main() -> None:
    """Print a table: each finding's partitions of alarm without a change, and partitions until it saw one."""
    lake, spec = Lake("flight_delay"), load("flight_delay")
    rows = training_set(lake, spec, matured(lake, spec, None)[-1])
    model = fit_recipe(spec, spec.training.candidates[0], rows.filter(pc.less_equal(rows["partition"], LAST)))
    rows = rows.filter(pc.greater(rows["partition"], LAST))
    predicted = artifacts.predict(model, rows, spec)
    still, turned = (alarms(spec, served(spec, rows, predicted, key)) for key in ("9", TURNED))
    print(
        f"| finding | alarms, {len(partitions_of(rows)) - GATE} partitions | partitions from {TURNED} "
        "until found |"
    )
    print("|---|---|---|")
    for name, partitions in still.items():
        first = next((key for key in turned[name] if key >= TURNED), "")
        print(f"| {name} | {len(partitions)} | {len(spec.clock.keys(TURNED, first)) if first else '-'} |")


if __name__ == "__main__":
    main()
