"""What serves when the relation between features and label reverses overnight, against a weekly refit.

On a day between May and October of a made-up year, see `benchmarks.simulated`, every coefficient changes
its sign. The year is decided by the replay's policy `declared`. The weekly refit is boosting, fitted each
Sunday on the last 90 days, without a gate. Counted are the days after the reversal on which what served lost
more than the prior.

    OMP_NUM_THREADS=1 python -m benchmarks.reversal RESULTS.jsonl [SEEDS]   # 100: 65 minutes of two cores

Each seed is a line of RESULTS.jsonl. A run that was stopped goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.simulated import PARTITIONS, judged, past_rows, run_all, served_losses, use_case
from include.replay.history import PastRows
from include.replay.policies import Declared, Newest

REVERSED = (120, 300)  # from and to
LEVEL = -0.3


def simulate(seed: int) -> tuple[int, int, float, float]:
    """Return the bad partitions of the declared policy and of the weekly refit, and the log loss of each."""
    spec = use_case()
    random = np.random.default_rng(seed)
    turn = int(random.integers(*REVERSED))
    sign = np.where(np.arange(PARTITIONS) < turn, 1.0, -1.0)
    past = past_rows(spec, sign, np.full(PARTITIONS, LEVEL), random)
    boosting = spec.training.candidates[0].model_copy(update={"window": 90})
    training = spec.training.model_copy(update={"candidates": (boosting,)})
    refit = spec.model_copy(update={"training": training})
    own, other = served_losses(
        past,
        lambda fits: Declared("declared", spec, fits),
        lambda fits: Newest("weekly refit", refit, fits),
    )
    prior = np.array([_prior_loss(past, key) for key in judged(past)])
    after = np.array([key >= past.calendar[turn] for key in judged(past)])
    return (
        int((own > prior)[after].sum()),
        int((other > prior)[after].sum()),
        float(own.mean()),
        float(other.mean()),
    )


def _prior_loss(past: PastRows, partition: str) -> float:
    """Return what the mean of all labels known on a partition loses there, per row."""
    share = np.mean([part.actual.mean() for part in past.labeled(partition).values()])
    actual = past.labels[partition][-1].actual
    return float(-np.mean(np.where(actual == 1, np.log(share), np.log(1 - share))))


def main(path: Path, seeds: int) -> None:
    """Simulate the seeds that have no line yet, and print what all of them came to."""
    results = run_all(simulate, [(seed,) for seed in range(seeds)], path)
    own, other, loss, refit_loss = (np.array(column) for column in zip(*results, strict=True))
    print("| | declared | weekly refit on the last 90 days |\n|---|---|---|")
    print(f"| days worse than the prior, median | {np.median(own):.0f} | {np.median(other):.0f} |")
    print(f"| days worse than the prior, most | {own.max()} | {other.max()} |")
    print(f"| log loss over the year, mean | {loss.mean():.4f} | {refit_loss.mean():.4f} |")
    print(f"\nat most 3 days more than the weekly refit: {(own <= other + 3).sum()} of {seeds} seeds")
    print(f"log loss at most the weekly refit's: {(loss <= refit_loss).sum()} of {seeds} seeds")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
