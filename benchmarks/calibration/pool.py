"""Models that differ by chance, and their losses on partitions that none of them was fitted on.

The earliest third of the labelled partitions is fitted on, and the rest is kept by partition: sums of the
gate's objective, which is all that the gate compares. What the attempts draw from is here; nothing is fitted
later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import EvergreenError, NotPublished
from include.features.build import training_set
from include.spec import UseCase
from include.spec.stages import Candidate
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fit import fit_and_validate, target
from include.train.split import Split, partitions_of

Array = NDArray[np.float64]
ATTEMPTS = 20
ALIKE = 24  # models that differ by their seed: a champion and its challengers, and some to choose from
UNLIKE = 6  # champions of each other kind
SEEDS, OLDER, RECIPE = "other seeds", "an older champion", "another recipe"


@dataclass(frozen=True)
class Pairs:
    """Champions and challengers, and their losses on the same n partitions.

    Parameters
    ----------
    name : how a champion differs from its challengers.
    champions, challengers : sums of the per-row loss by partition, shape (models, n).
    alike : whether the champions are the challengers; then nobody meets itself.
    """

    name: str
    champions: Array
    challengers: Array
    alike: bool


@dataclass(frozen=True)
class Pool:
    """What was fitted, on which partitions, and the losses on the others.

    Parameters
    ----------
    recipe : the candidate that was fitted with many seeds.
    models : how many were fitted in all.
    window : matured test partitions of one attempt.
    fitted, partitions : those that were fitted on, and those that the losses are of, ascending.
    rows : labelled rows of each of ``partitions``, shape (n,).
    """

    recipe: str
    models: int
    window: int
    fitted: tuple[str, ...]
    partitions: tuple[str, ...]
    rows: Array
    pairs: tuple[Pairs, ...]


def pool(lake: Lake, spec: UseCase) -> Pool:
    """Fit the first candidate whose fit depends on the seed with many seeds, and what it is compared with.

    Raises
    ------
    EvergreenError
        when the lake has too few labelled partitions, the gate could never find enough evidence, or no
        candidate depends on the seed.
    """
    window = _window(spec)
    rows = training_set(lake, _whole(spec), _last(lake, spec))
    partitions = partitions_of(rows)
    _enough(spec, window, len(partitions))
    third = len(partitions) // 3
    back = spec.training.window or third
    given = _Given(spec, rows, partitions[max(third - back, 0) : third], partitions[third:])
    recipe, first = _random(given)
    alike = np.stack([*first, *(given.losses(recipe, seed) for seed in range(len(first), ALIKE))])
    pairs = [Pairs(SEEDS, alike, alike, True)]
    for name, candidate, less in _others(spec, recipe):
        champions = np.stack([given.losses(candidate, ALIKE + seed, less) for seed in range(UNLIKE)])
        pairs.append(Pairs(name, champions, alike, False))
    return Pool(
        recipe=recipe.name,
        models=ALIKE + UNLIKE * (len(pairs) - 1),
        window=window,
        fitted=tuple(given.fitted),
        partitions=tuple(given.held),
        rows=given.counts,
        pairs=tuple(pairs),
    )


class _Given:
    """The rows, cut once, and the losses of whatever is fitted on the earlier ones."""

    def __init__(self, spec: UseCase, rows: pa.Table, fitted: list[str], held: list[str]) -> None:
        self.spec, self.rows, self.fitted, self.held = spec, rows, fitted, held
        self.rest = rows.filter(pc.greater_equal(rows["partition"], held[0]))
        self.actual = target(spec, self.rest)
        self.place = np.searchsorted(held, self.rest["partition"].to_pylist())
        self.counts = np.bincount(self.place).astype(float)

    def losses(self, candidate: Candidate, seed: int, less: int = 0) -> Array:
        """Return a model's sums by held-out partition, fitted without the last ``less`` partitions.

        Shape (n,).
        """
        # where training.window is short, half of it is left
        fitted = self.fitted[: max(len(self.fitted) - less, len(self.fitted) // 2)]
        partition = self.rows["partition"]
        train = self.rows.filter(
            pc.and_(pc.greater_equal(partition, fitted[0]), pc.less_equal(partition, fitted[-1]))
        )
        seeded = self.spec.training.model_copy(update={"seed": seed})
        spec = self.spec.model_copy(update={"training": seeded})
        trial = fit_and_validate(spec, candidate, Split(train, self.rest, self.rest.slice(0, 0)))
        rows = row_losses(spec.gate.objective, self.actual, trial.predictions)
        return np.bincount(self.place, weights=rows).astype(float)


def _random(given: _Given) -> tuple[Candidate, list[Array]]:
    """Return the first candidate that two seeds make two models of, and their losses."""
    candidates = given.spec.training.candidates
    for candidate in candidates:
        first = [given.losses(candidate, seed) for seed in (0, 1)]
        if not np.array_equal(first[0], first[1]):
            return candidate, first
    raise EvergreenError(
        f"{given.spec.name}: calibration",
        required="a candidate whose fit depends on the seed",
        found=", ".join(candidate.name for candidate in candidates) + ", all the same with any seed",
        where=str(given.spec.folder / "usecase.yaml"),
        remedy="a forest does, and boosting with max_features below 1",
    )


def _others(spec: UseCase, recipe: Candidate) -> Iterator[tuple[str, Candidate, int]]:
    """Yield the kinds of champion that differ by more than the seed.

    And the partitions that each knows less.
    """
    yield OLDER, recipe, spec.training.test
    for other in spec.training.candidates:
        if other.name != recipe.name:
            yield RECIPE, other, 0
            return


def _window(spec: UseCase) -> int:
    """Return the partitions that judge an attempt: the newest have no labels yet, the oldest are left out."""
    return spec.training.test - 2 * spec.labels.delay


def _enough(spec: UseCase, window: int, found: int) -> None:
    """Refuse a lake whose later partitions don't hold a sequence twice, or whose earlier ones are too few."""
    length = window + ATTEMPTS - 1
    needed = 3 * max(length, spec.training.test + 1)
    if found < needed:
        raise EvergreenError(
            f"{spec.name}: calibration",
            required=f"{needed} labelled partitions: a third to fit on, and the rest twice the {length} "
            "partitions "
            f"that {ATTEMPTS} attempts see",
            found=str(found),
            remedy=f"load more history: python -m include run ingest {spec.name} --first … --last …",
        )


def _whole(spec: UseCase) -> UseCase:
    """Return the declaration without a bound on the history that is read."""
    return spec.model_copy(update={"training": spec.training.model_copy(update={"window": None})})


def _last(lake: Lake, spec: UseCase) -> str:
    """Return the last partition that brought labels."""
    rows = lake.rows("partitions", {"product": spec.labels.source})
    brought = [str(row["partition"]) for row in rows if row["outcome"] == "published"]
    if not brought:
        raise NotPublished(
            f"{spec.name}: calibration",
            required=f"published partitions of {spec.labels.source}",
            found="none",
            where=f"{lake.uri}/tables/partitions",
            remedy=f"python -m include run ingest {spec.name} --first … --last …",
        )
    return max(brought)
