"""What a candidate with `recent_intercept` is worth where the level of the labels moves, and elsewhere.

The intercept of a made-up year, see `benchmarks.simulated`, moves in one of several ways. The year is decided
by the replay's policy `declared`, without and with the candidate that `init` proposes: boosting whose
intercept is fitted again on the newest 14 partitions.

    OMP_NUM_THREADS=1 python -m benchmarks.level RESULTS.jsonl [SEEDS]   # 3: 12 minutes of two cores

Each year is a line of RESULTS.jsonl. A run that was stopped goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.simulated import PARTITIONS, Array, past_rows, run_all, served_losses, use_case
from include.replay.policies import Declared

DAY = np.arange(PARTITIONS)


def levels(random: np.random.Generator) -> dict[str, Array]:
    """Return by what moves it the intercept on each partition, shape (PARTITIONS,)."""
    begin = random.uniform(0, 2 * np.pi)
    return {
        "a season of a year": np.sin(begin + 2 * np.pi * DAY / 365) - 0.3,
        "a season of 180 days": np.sin(begin + 2 * np.pi * DAY / 180) - 0.3,
        "a trend": 3.0 * DAY / PARTITIONS - 2.3,
        "a step of one day": np.where(random.integers(120, 300) > DAY, -1.3, 0.2),
        "steps each day, as a random walk": random.normal(scale=0.1, size=PARTITIONS).cumsum() - 0.3,
        "noise from day to day": random.normal(scale=0.6, size=PARTITIONS) - 0.3,
        "nothing": np.full(PARTITIONS, -0.3),
    }


def simulate(course: str, seed: int) -> tuple[float, float]:
    """Return the log loss without the candidate and with it."""
    spec = use_case()
    random = np.random.default_rng(seed)
    past = past_rows(spec, np.ones(PARTITIONS), levels(random)[course], random)
    (boosting,) = spec.training.candidates
    recent = boosting.model_copy(update={"name": "boosting_level", "recent_intercept": 14})
    training = spec.training.model_copy(update={"candidates": (boosting, recent)})
    more = spec.model_copy(update={"training": training})
    without, with_it = served_losses(
        past, lambda fits: Declared("without", spec, fits), lambda fits: Declared("with", more, fits)
    )
    return float(without.mean()), float(with_it.mean())


def main(path: Path, seeds: int) -> None:
    """Simulate the years that have no line yet, and print what all of them came to."""
    courses = list(levels(np.random.default_rng(0)))
    cases = [(course, seed) for seed in range(seeds) for course in courses]
    results = dict(zip(cases, run_all(simulate, cases, path), strict=True))
    print("| what moves the level | log loss without | with the candidate | lower with it |")
    print("|---|---|---|---|")
    for course in courses:
        losses = np.array([results[course, seed] for seed in range(seeds)])
        lower = (losses[:, 1] < losses[:, 0]).sum()
        without, with_it = losses.mean(axis=0)
        print(f"| {course} | {without:.4f} | {with_it:.4f} | {lower} of {seeds} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
