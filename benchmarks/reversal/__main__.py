"""What serves when the relation between features and label reverses overnight, against a weekly refit.

Sixty rows a day for a year, with labels three days late. On a day between May and October every
coefficient changes its sign. The use case beside this file is decided by the replay's policy `declared`. The
weekly refit is boosting, fitted each Sunday on the last 90 days, without a gate. Counted are the days
after the reversal on which what served lost more than the prior.

    OMP_NUM_THREADS=1 python -m benchmarks.reversal RESULTS.jsonl [SEEDS]   # 100: 65 minutes of two cores

Each seed is a line of RESULTS.jsonl. A run that was stopped goes on from there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from benchmarks.reversal.simulation import simulate


def main(path: Path, seeds: int) -> None:
    """Simulate the seeds that have no line yet, and print what all of them came to."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = {int(seed): result for seed, *result in map(json.loads, lines)}
    missing = [seed for seed in range(seeds) if seed not in results]
    with (
        path.open("a") as file,
        ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool,
    ):
        runs = {pool.submit(simulate, seed): seed for seed in missing}
        for run in as_completed(runs):
            results[runs[run]] = run.result()
            print(json.dumps([runs[run], *run.result()]), file=file, flush=True)
            print(f"{len(results)} of {seeds} seeds", file=sys.stderr, flush=True)
    results = {seed: results[seed] for seed in range(seeds)}
    own, other, loss, refit_loss = (np.array(column) for column in zip(*results.values(), strict=True))
    print("| | declared | weekly refit on the last 90 days |\n|---|---|---|")
    print(f"| days worse than the prior, median | {np.median(own):.0f} | {np.median(other):.0f} |")
    print(f"| days worse than the prior, most | {own.max()} | {other.max()} |")
    print(f"| log loss over the year, mean | {loss.mean():.4f} | {refit_loss.mean():.4f} |")
    print(f"\nat most 3 days more than the weekly refit: {(own <= other + 3).sum()} of {seeds} seeds")
    print(f"log loss at most the weekly refit's: {(loss <= refit_loss).sum()} of {seeds} seeds")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
