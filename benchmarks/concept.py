"""How soon the tests of live losses find labels that turn round, and how often they cry in a year without.

A model of January and February serves the rest of the flights' year; the first 26 nights stand for the
gate's. The findings are asked for on each matured night, with the labels as they were and turned round.

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
from include.train.split import nights_of

LAST, TURNED = "2013-02-28", sys.argv[1] if len(sys.argv) > 1 else "2013-07-01"
GATE = 26  # nights


def served(spec: UseCase, rows: pa.Table, predicted: np.ndarray, turned: str) -> LossSeries:
    """Return the sums of each night, its labels turned round from one on."""
    night, actual = np.array(rows["night"].to_pylist()), target(spec, rows)
    actual = np.where(night >= turned, 1 - actual, actual)
    lost, nights = row_losses(spec.gate.objective, actual, predicted), nights_of(rows)
    places = [np.flatnonzero(night == key) for key in nights]
    sizes = np.array([float(len(place)) for place in places])
    own = np.array([expected_own_loss(spec, predicted[place]) for place in places], dtype=float)
    lost, one, said = (np.array([of[p].sum() for p in places]) for of in (lost, actual, predicted))
    return LossSeries(tuple(nights), sizes, lost, lost, own, one, said, ("none",) * len(nights))


def part(of: LossSeries, first: int, last: int) -> LossSeries:
    """Return some of the nights."""
    return LossSeries(*(getattr(of, name)[first:last] for name in LossSeries.__dataclass_fields__))


def alarms(spec: UseCase, of: LossSeries) -> dict[str, list[str]]:
    """Return each finding's nights of alarm."""
    gate = part(of, 0, GATE)
    found: dict[str, list[str]] = {}
    rows = tuple(int(size) for size in gate.rows)
    promised = Losses(gate.nights, rows, {CHALLENGER: tuple(gate.loss.tolist())})
    for last in range(GATE + 1, len(of.nights) + 1):
        live = part(of, GATE, last)
        said = [
            concept.check_lasting_loss(spec, live, (gate.loss, gate.expected)),
            concept.check_calibration(spec, live),
        ]
        for finding in [*said, degradation.above_gate(spec, live, promised)]:
            found.setdefault(finding.subject, [])
            if finding.outcome == "alarm":
                found[finding.subject].append(of.nights[last - 1])
    return found


def main() -> None:
    """Print a table: each finding's nights of alarm without a change, and nights until it saw one."""
    lake, spec = Lake("flight_delay"), load("flight_delay")
    rows = training_set(lake, spec, matured(lake, spec, None)[-1])
    model = fit_recipe(spec, spec.training.candidates[0], rows.filter(pc.less_equal(rows["night"], LAST)))
    rows = rows.filter(pc.greater(rows["night"], LAST))
    predicted = artifacts.predict(model, rows, spec)
    still, turned = (alarms(spec, served(spec, rows, predicted, key)) for key in ("9", TURNED))
    print(f"| finding | alarms, {len(nights_of(rows)) - GATE} nights | nights from {TURNED} until found |")
    print("|---|---|---|")
    for name, nights in still.items():
        first = next((key for key in turned[name] if key >= TURNED), "")
        print(f"| {name} | {len(nights)} | {len(spec.clock.keys(TURNED, first)) if first else '-'} |")


if __name__ == "__main__":
    main()
