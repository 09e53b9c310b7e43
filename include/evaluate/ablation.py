"""What each group of features brings: the same recipe without it, judged on the same unseen rows.

What a group brings is what nothing else can say in its stead: of two groups that tell the same, each alone
brings little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import InsufficientData, NotPublished, SpecError
from include.features.build import training_set
from include.models import artifacts
from include.models.registry import Registry
from include.spec import UseCase
from include.spec.stages import Candidate
from include.stats.intervals import estimate_gain, partitions_needed
from include.stats.metrics import row_losses
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train.fit import fit_and_validate, fit_recipe, target
from include.train.record import PATH, TrainingRecord, attempt_key
from include.train.split import Split, partitions_of, split

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroupEffect:
    """What a group of features brings.

    Parameters
    ----------
    gain : of the objective's mean loss, which is so much higher without the group.
    low, high : one-sided bounds of it, each at the gate's alpha.
    """

    name: str
    columns: tuple[str, ...]
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Ablation:
    """A recipe's groups, those that bring most first; ``loss`` is its mean loss with all of them."""

    usecase: str
    partition: str
    recipe: str
    objective: str
    loss: float
    partitions: int
    rows: int
    level: float
    groups: tuple[GroupEffect, ...]
    run: str

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)

    def text(self) -> str:
        """Return it as a table."""
        head = f"{self.usecase} {self.partition}: {self.recipe}, {self.objective} {self.loss:.4f} "
        head += f"on {self.partitions} test partitions, {self.rows} rows"
        wide = max(len(group.name) for group in self.groups)
        lines = [
            f"{group.name:<{wide}}  {group.gain:+.5f} [{group.low:+.5f}, {group.high:+.5f}]  "
            + ", ".join(group.columns)
            for group in self.groups
        ]
        return "\n".join([head, f"gain of each group, {self.level:.0%} interval", *lines])


def ablate(lake: Lake, spec: UseCase, partition: str | None, *, registry: Registry) -> Ablation:
    """Fit a training's chosen recipe without each group, and compare losses on its test partitions.

    The partition's training run, where there is one, says which recipe that is, and keeps the figures.

    Parameters
    ----------
    partition : of the training; the newest that brought labels, unless given.

    Raises
    ------
    SpecError
        when a group leaves no feature to fit on.
    TooFew
        when the test partitions are too few for an interval.
    """
    partition = partition or _newest(lake, spec)
    without = {name: _without(spec, name, columns) for name, columns in spec.features.ablated.items()}
    rows = training_set(lake, spec, partition)
    parts = split(rows, spec, partition)
    _enough(spec, partition, parts.test)
    run = registry.settle(spec.name, attempt_key(spec, partition, digest_table(rows)))
    recipe = _chosen(spec, parts, registry, run)
    whole = _losses(spec, recipe, parts)
    groups = [_group(spec, name, whole, _losses(less, recipe, parts)) for name, less in without.items()]
    found = Ablation(
        usecase=spec.name,
        partition=partition,
        recipe=recipe.name,
        objective=spec.gate.objective,
        loss=float(np.concatenate(whole).mean()),
        partitions=len(whole),
        rows=parts.test.num_rows,
        level=1 - 2 * spec.gate.alpha,
        groups=tuple(sorted(groups, key=lambda group: -group.gain)),
        run=run,
    )
    if run:
        registry.log(run, at=int(spec.clock.moment(partition).timestamp() * 1000), metrics=_figures(found))
    return found


def _newest(lake: Lake, spec: UseCase) -> str:
    """Return the newest partition that brought labels."""
    source = spec.labels.source
    rows = lake.rows("partitions", {"product": source})
    brought = [str(row["partition"]) for row in rows if row["outcome"] == "published"]
    if not brought:
        where, remedy = f"{lake.uri}/tables/partitions", f"run ingest for {spec.name} first"
        raise NotPublished(f"{spec.name}: {source}", found="no partition", where=where, remedy=remedy)
    return max(brought)


def _without(spec: UseCase, name: str, columns: tuple[str, ...]) -> UseCase:
    """Return the declaration without a group of its features."""
    of = spec.features
    left = {
        kind: tuple(column for column in getattr(of, kind) if column not in columns)
        for kind in ("numeric", "categorical")
    }
    if not any(left.values()):
        raise SpecError(
            f"{spec.name}: ablation of {name}",
            required="another feature to fit on",
            found="a group of all of them",
            where=str(spec.folder / "usecase.yaml"),
            remedy="declare smaller groups under features.groups",
        )
    return spec.model_copy(update={"features": of.model_copy(update=left)})


def _enough(spec: UseCase, partition: str, test: pa.Table) -> None:
    partitions, needed = len(partitions_of(test)), partitions_needed(spec.gate.block_partitions)
    if partitions < needed:
        raise InsufficientData(
            f"{spec.name}: ablation on {partition}",
            required=f"{needed} labelled test partitions",
            found=str(partitions),
            remedy="take a later partition, or load the partitions whose labels are missing",
        )


def _chosen(spec: UseCase, parts: Split, registry: Registry, run: str) -> Candidate:
    """Return the recipe that a training chose, or would choose."""
    if run:
        name = TrainingRecord.from_json(registry.get(run, PATH)).challenger.name
        return next(recipe for recipe in spec.training.candidates if recipe.name == name)
    trials = [fit_and_validate(spec, candidate, parts) for candidate in spec.training.candidates]
    return min(trials, key=lambda trial: trial.loss).candidate


def _losses(spec: UseCase, recipe: Candidate, parts: Split) -> list[Array]:
    """Return the losses of the test rows, an array a partition."""
    estimator = fit_recipe(spec, recipe, pa.concat_tables([parts.train, parts.validation]))
    found = row_losses(
        spec.gate.objective, target(spec, parts.test), artifacts.predict(estimator, parts.test, spec)
    )
    of = np.asarray(parts.test["partition"].to_pylist(), dtype=object)
    return [found[of == partition] for partition in partitions_of(parts.test)]


def _group(spec: UseCase, name: str, whole: list[Array], less: list[Array]) -> GroupEffect:
    better, worse = ([float(losses.sum()) for losses in some] for some in (whole, less))
    rows, gate = [len(losses) for losses in whole], spec.gate
    shown = estimate_gain(worse, better, rows, gate.block_partitions, gate.alpha)
    other = estimate_gain(better, worse, rows, gate.block_partitions, gate.alpha)
    return GroupEffect(name, spec.features.ablated[name], shown.mean, shown.low, -other.low)


def _figures(found: Ablation) -> Mapping[str, float]:
    bounds = ("gain", "low", "high")
    return {f"ablation.{g.name}.{bound}": getattr(g, bound) for g in found.groups for bound in bounds}
