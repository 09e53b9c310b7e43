"""Which evidence serves better over the flights' year, and what the gate costs.

By test partitions and cadence.

Each recipe is fitted on each Sunday, on what that Sunday knew, and predicts the partitions after it. From
these losses any way to decide is replayed: a held-out challenger is the model of an earlier Sunday, a walk
forward is judged by the models of several. The interval and the spending of alpha are the gate's own, and ask
what its checks ask of baseline and champion; its other checks can only refuse more, and are left out. Two
references stand beside: the first model for the whole year, and the newest one each Sunday.

    EVERGREEN_LAKE=file:///... python -m benchmarks.evidence    # a lake with the whole year
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.features.build import features, join_labels, matured
from include.judge.context import attempt_alpha
from include.models import artifacts
from include.spec import UseCase, load
from include.stats.intervals import gain_bounds
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fit import fit_recipe, target

Array = NDArray[np.float64]
SUNDAYS = ("2013-01-27", "2013-12-29")
FIRST = "2013-03-03"  # whose model serves first
BASELINE = "logistic"
WEEK = 7


@dataclass(frozen=True)
class Pool:
    """What each recipe of each Sunday loses, partition by partition.

    Parameters
    ----------
    losses : sums by recipe, Sunday and partition, NaN where that Sunday knew the labels, shape (partitions,).
    seconds : of CPU for each fit.
    """

    spec: UseCase
    sundays: list[str]
    partitions: list[str]
    rows: Array
    losses: dict[tuple[str, str], Array]
    seconds: dict[tuple[str, str], float]

    def between(self, after: str, until: str) -> NDArray[np.intp]:
        """Return the places of the partitions after one, up to another."""
        return np.flatnonzero([after < partition <= until for partition in self.partitions])

    def mean(self, recipe: str, sunday: str, places: NDArray[np.intp]) -> float:
        """Return a model's mean loss over some partitions."""
        return float(self.losses[recipe, sunday][places].sum() / self.rows[places].sum())


def pool(lake: Lake, spec: UseCase) -> Pool:
    """Fit each recipe but the prior on each Sunday."""
    all_features = features(lake, spec, matured(lake, spec, "2013-12-31"))
    rows = join_labels(lake, spec, all_features, "2013-12-31")
    partitions, of = np.unique(rows["partition"].to_numpy(), return_inverse=True)
    actual, sundays = target(spec, rows), spec.clock.keys(*SUNDAYS)[::WEEK]
    losses, seconds = {}, {}
    for sunday in sundays:
        labelled = join_labels(
            lake, spec, all_features.filter(all_features["partition"].to_numpy() <= sunday), sunday
        )
        later = np.flatnonzero(partitions[of] > spec.clock.shift(sunday, -spec.labels.delay))
        for recipe in (*spec.training.baselines, *spec.training.candidates):
            if recipe.estimator == "prior":
                continue
            began = time.process_time()
            fits = fit_recipe(spec, recipe, labelled)
            seconds[recipe.name, sunday] = time.process_time() - began
            model_losses = row_losses(
                spec.gate.objective, actual[later], artifacts.predict(fits, rows.take(later), spec)
            )
            sums = np.bincount(of[later], model_losses, len(partitions))
            losses[recipe.name, sunday] = np.where(
                np.bincount(of[later], minlength=len(partitions)), sums, np.nan
            )
        print(f"{sunday}: {labelled.num_rows} rows", flush=True)
    counted = np.bincount(of, minlength=len(partitions)).astype(float)
    return Pool(spec, sundays, [str(partition) for partition in partitions], counted, losses, seconds)


@dataclass
class Replay:
    """A year under one way to decide."""

    fits: Pool
    evidence: str
    weeks: int  # of test partitions, at most; a walk forward has fewer while the history is short
    every: int  # weeks between two trainings

    def run(self) -> tuple[Array, list[str], list[int], list[float]]:
        """Return the losses by partition, the promotions, the champion's ages and the seconds of fitting."""
        fits, first = self.fits, self.fits.sundays.index(FIRST)
        served, promoted, ages, seconds = np.full(len(fits.partitions), np.nan), [], [], []
        champion, attempt = (self._chosen(first, 0), FIRST), 0
        for place in range(first, len(fits.sundays) - 1):
            sunday, following = fits.sundays[place], fits.sundays[place + 1]
            if (place - first) % self.every == 0:
                challenger, places, model_losses, base, took = self._trained(place, champion)
                seconds.append(took)
                if len(places) >= fits.spec.gate.min_partitions:
                    attempt += 1
                    if self._passes(fits.losses[champion], model_losses, base, places, attempt):
                        champion, attempt = challenger, 0
                        promoted.append(sunday)
            week = fits.between(sunday, following)
            served[week] = fits.losses[champion][week]
            ages.append(WEEK * (place - fits.sundays.index(champion[1])) + fits.spec.labels.delay)
        return served, promoted, ages, seconds

    def _trained(self, place: int, champion: tuple[str, str]) -> tuple[Any, ...]:
        """Return challenger, the test partitions that nobody saw, its and the baseline's losses.

        And seconds.
        """
        fits, weeks = self.fits, min(self.weeks, place - 1)
        recipe, start = self._chosen(place, weeks), fits.sundays[place - weeks]
        model_losses, base = np.full((2, len(fits.partitions)), np.nan)
        origins = range(place - weeks, place)
        for origin in origins:
            of = fits.sundays[place - weeks if self.evidence == "held_out" else origin]
            week = fits.between(fits.sundays[origin], fits.sundays[origin + 1])
            model_losses[week], base[week] = fits.losses[recipe, of][week], fits.losses[BASELINE, of][week]
        newest = start if self.evidence == "held_out" else fits.sundays[place]
        fitted = (
            {start, newest} if self.evidence == "held_out" else {fits.sundays[o] for o in origins} | {newest}
        )
        took = sum(fits.seconds[name, of] for name in (recipe, BASELINE) for of in fitted)
        matured = fits.spec.clock.shift(fits.sundays[place], -fits.spec.labels.delay)
        places = fits.between(max(start, champion[1]), matured)
        return (recipe, newest), places, model_losses, base, took

    def _chosen(self, place: int, weeks: int) -> str:
        """Return the candidate that loses least in the week before the test partitions."""
        fits = self.fits
        trial, start = fits.sundays[place - weeks - 1], fits.sundays[place - weeks]
        week = fits.between(trial, start)
        return min((c.name for c in fits.spec.training.candidates), key=lambda n: fits.mean(n, trial, week))

    def _passes(
        self, champion: Array, model_losses: Array, base: Array, places: NDArray[np.intp], attempt: int
    ) -> bool:
        """Tell whether the challenger is shown to beat baseline and champion."""
        gate, rows = self.fits.spec.gate, self.fits.rows[places]
        share = np.asarray(attempt_alpha(gate.alpha, attempt))
        over_base = gain_bounds(
            (base - model_losses)[places], rows, gate.block_partitions, np.asarray(gate.alpha)
        )[1]
        over_champion = gain_bounds((champion - model_losses)[places], rows, gate.block_partitions, share)[1]
        return bool(over_base > 0 and over_champion > 0)


def newest(fits: Pool) -> Array:
    """Return the losses by partition where each Sunday's model serves at once."""
    one, served = Replay(fits, "walk_forward", 1, 1), np.full(len(fits.partitions), np.nan)
    for place in range(fits.sundays.index(FIRST), len(fits.sundays) - 1):
        week = fits.between(fits.sundays[place], fits.sundays[place + 1])
        served[week] = fits.losses[one._chosen(place, 0), fits.sundays[place]][week]
    return served


def show(fits: Pool) -> None:
    """Print a row for each way to decide."""
    places, first = fits.between(FIRST, fits.sundays[-1]), fits.sundays.index(FIRST)
    rows, block = fits.rows[places], fits.spec.gate.block_partitions
    never = fits.losses[Replay(fits, "held_out", 1, 1)._chosen(first, 0), FIRST]

    def line(name: str, served: Array, *rest: str) -> None:
        saved = (never - served)[places]
        mean, low = gain_bounds(saved, rows, block, np.asarray(0.05))
        high = -gain_bounds(-saved, rows, block, np.asarray(0.05))[1]
        lost = served[places].sum() / rows.sum()
        print(f"| {name} | {' | '.join(rest)} | {lost:.4f} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] |")

    print(
        "\n| evidence | test partitions | weeks between | promotions | mean age | CPU s | log loss | gain |"
    )
    print("|---|---|---|---|---|---|---|---|")
    line("never retrained", never, "-", "-", "-", "-", "-")
    line("newest, no gate", newest(fits), "-", "1", "-", "-", "-")
    for evidence, weeks, every in product(("held_out", "walk_forward"), (4, 8, 12), (1, 2, 4)):
        served, promoted, ages, seconds = Replay(fits, evidence, weeks, every).run()
        figures = (len(promoted), f"{np.mean(ages):.0f}", f"{np.mean(seconds):.0f}")
        line(evidence, served, str(WEEK * weeks), str(every), *map(str, figures))
    print(f"\n{len(places)} partitions, {int(rows.sum())} rows; gain over never retrained, 90 % interval")


def main() -> None:
    """Fit, replay and print."""
    spec = load("flight_delay")
    show(pool(Lake(spec.name), spec))


if __name__ == "__main__":
    main()
