"""What recipes that differ only in their seed cost: needless switches, and the loss that these add.

The flights' candidate *boosting* is declared five times, each with another seed. The replay decides the year
with all five as candidates, and with each of them as the only one.

    EVERGREEN_LAKE=file:///... OMP_NUM_THREADS=1 python -m benchmarks.equal    # a lake with the whole year
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from include.replay.pipeline import replay
from include.spec import load
from include.storage.lake import Lake

SEEDS, FIRST, UNTIL = 5, "2013-03-03", "2013-12-29"
TOGETHER = "together"


class Boosting(HistGradientBoostingClassifier):
    """The flights' candidate, with a number that is added to the declared seed."""

    takes_raw = True  # one-hot columns would take ten times as long

    def __init__(self, number: int = 0, random_state: int = 0) -> None:
        super().__init__(
            learning_rate=0.05,
            max_iter=80,
            max_leaf_nodes=15,
            min_samples_leaf=100,
            l2_regularization=1.0,
            max_features=0.3,
            early_stopping=False,  # it would hold out random rows, across time
            random_state=random_state,
        )
        self.number = number

    def fit(self, rows: pd.DataFrame, actual: Any) -> Self:
        """Fit with the recipe's own seed; categories are numbered."""
        texts = rows.select_dtypes(object)
        self.categories_ = {str(name): sorted(texts[name].dropna().unique().tolist()) for name in texts}
        declared: int = self.random_state  # type: ignore[has-type]
        self.random_state = declared + self.number
        try:
            return super().fit(self._numbers(rows), actual)
        finally:
            self.random_state = declared

    def predict_proba(self, rows: pd.DataFrame) -> Any:
        """Return the probabilities of both classes, shape (n, 2)."""
        return super().predict_proba(self._numbers(rows))

    def _numbers(self, rows: pd.DataFrame) -> np.ndarray:
        codes = {
            name: pd.Categorical(rows[name], categories=texts).codes
            for name, texts in self.categories_.items()
        }
        return rows.assign(**codes).to_numpy(dtype=float)


def candidate(number: int) -> dict[str, Any]:
    """Return the declaration of the recipe with a seed."""
    return {"name": f"seed{number}", "estimator": "benchmarks.equal:Boosting", "params": {"number": number}}


def main() -> None:
    """Replay and print."""
    spec = load("flight_delay")
    declared = {TOGETHER: [candidate(number) for number in range(SEEDS)]}
    declared |= {f"seed{number}": [candidate(number)] for number in range(SEEDS)}
    with TemporaryDirectory(prefix="evergreen-equal-") as folder:
        overlays = [Path(folder, f"{name}.yaml") for name in declared]
        for overlay, candidates in zip(overlays, declared.values(), strict=True):
            overlay.write_text(json.dumps({"training": {"candidates": candidates}}))
        result = replay(Lake(spec.name), spec, overlays, FIRST, UNTIL, progress=_report)
    policies = {policy.name: policy for policy in result.policies}
    alone = [result.loss(policies[name]) for name in declared if name != TOGETHER]
    together = policies[TOGETHER]
    changes = [switch for switch in together.switches if not switch.is_refresh]
    print("\n| candidates | loss | switches | partitions |\n|---|---|---|---|")
    loss, partitions = result.loss(together), len(result.partitions)
    print(f"| all {SEEDS} | {loss:.5f} | {len(changes)} | {partitions} |")
    print(f"| one alone, mean | {np.mean(alone):.5f} | | {partitions} |")
    print(f"| one alone, best and worst | {min(alone):.5f} to {max(alone):.5f} | | {partitions} |")
    print(f"\nadded loss: {loss - np.mean(alone):.5f}")
    for switch in changes:
        print(f"{switch.partition}: {switch.recipe}, fitted on {switch.fitted_on}: {switch.reason}")


def _report(task: str, completed: int, total: int) -> None:
    print(f"\r{task}: {completed} of {total} ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
