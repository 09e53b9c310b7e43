"""What serves when the relation between features and label reverses overnight, against a weekly refit.

Sixty rows a night for a year, with labels three nights late. On a night between May and October every
coefficient changes its sign. The use case beside this file is decided by the replay's policy `declared`. The
weekly refit is boosting, fitted each Sunday on the last 90 nights, without a gate. Counted are the nights
after the reversal on which what served lost more than the prior.

    OMP_NUM_THREADS=1 python -m benchmarks.reversal [SEEDS]    # 100: an hour and more of two cores
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.reversal.simulation import simulate


def main() -> None:
    """Simulate and print."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    results = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for seed, result in enumerate(pool.map(simulate, range(seeds))):
            results.append(result)
            print(f"seed {seed} of {seeds}: {result}", file=sys.stderr, flush=True)
    own, other, loss, refit_loss = (np.array(column) for column in zip(*results, strict=True))
    print("| | declared | weekly refit on the last 90 nights |\n|---|---|---|")
    print(f"| nights worse than the prior, median | {np.median(own):.0f} | {np.median(other):.0f} |")
    print(f"| nights worse than the prior, most | {own.max()} | {other.max()} |")
    print(f"| log loss over the year, mean | {loss.mean():.4f} | {refit_loss.mean():.4f} |")
    print(f"\nat most 3 nights more than the weekly refit: {(own <= other + 3).sum()} of {seeds} seeds")
    print(f"log loss at most the weekly refit's: {(loss <= refit_loss).sum()} of {seeds} seeds")


if __name__ == "__main__":
    main()
