"""Ablation: measure what each group of features contributes, by fitting the same recipe without it.

The contribution is what no other feature can replace: of two groups with the same information, each
contributes little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import InsufficientData, NotPublished, SpecError
from include.features.labels import training_set
from include.models import artifacts
from include.models.registry import Registry
from include.promote import ledger
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.intervals import estimate_gain, partitions_needed
from include.stats.metrics import row_losses
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train import dask_engine
from include.train.estimators import learns
from include.train.fitting import fit_recipe, is_learnable, target
from include.train.recipes import recipes_by_name
from include.train.record import PATH, TrainingRecord, training_key
from include.train.split import Split, partitions_of, split

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroupEffect:
    """The contribution of a group of features.

    Parameters
    ----------
    gain : how much higher the objective's mean loss is without the group.
    low, high : one-sided bounds of the gain, each at the gate's alpha.
    """

    name: str
    columns: tuple[str, ...]
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Ablation:
    """The contributions of a recipe's feature groups, largest first; ``loss`` is with all of them."""

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
        """Return the ablation as JSON-serializable data."""
        return asdict(self)

    def text(self) -> str:
        """Return the ablation as a text table."""
        head = f"{self.usecase} {self.partition}: {self.recipe}, {self.objective} {self.loss:.4f} "
        head += f"on {self.partitions} test partitions, {self.rows:,} rows"
        width = max(len(group.name) for group in self.groups)
        lines = [
            f"{group.name:<{width}}  {group.gain:+.5f} [{group.low:+.5f}, {group.high:+.5f}]  "
            + ", ".join(group.columns)
            for group in self.groups
        ]
        return "\n".join([head, f"gain of each group, {self.level:.0%} interval", *lines])


@dask_engine.keep_started()
def ablate(lake: Lake, spec: UseCase, partition: str | None, *, registry: Registry) -> Ablation:
    """Fit a training's chosen recipe without each feature group, and compare losses on its test partitions.

    If the partition has a training run, that run defines the recipe, and the figures are logged to it.

    Parameters
    ----------
    partition : of the training; by default the newest partition with labels.

    Raises
    ------
    SpecError
        if a group leaves no feature to fit on.
    InsufficientData
        if there are too few test partitions for an interval, or nothing can be fitted on the rows before,
        or the training chose a rule of thumb.
    """
    partition = partition or _newest_labeled_partition(lake, spec)
    specs = {name: _without_group(spec, name, columns) for name, columns in spec.features.ablated.items()}
    rows = training_set(lake, spec, partition)
    parts = split(rows, spec, partition)
    _check_enough_partitions(spec, partition, parts.test)
    data = digest_table(rows)
    champion = ledger.champion_at_training(lake, spec, partition, data)
    run = registry.keep_first_finished_run(
        spec.name, training_key(spec, partition, data, champion["model"] if champion else "")
    )
    _check_learnable(spec, partition, parts.train)
    recipe = _chosen_recipe(spec, parts, registry, run)
    if not learns(spec, recipe):
        raise InsufficientData(
            f"{spec.name}: ablation on {partition}",
            required="a chosen recipe that is fitted on features",
            found=f"{recipe.name}, a rule of thumb that can't be fitted without its own",
            remedy="choose a partition whose training chose a recipe that learns",
        )
    losses = _losses_by_partition(spec, recipe, parts)
    effects = [
        _group_effect(spec, name, losses, _losses_by_partition(reduced_spec, recipe, parts))
        for name, reduced_spec in specs.items()
    ]
    ablation = Ablation(
        usecase=spec.name,
        partition=partition,
        recipe=recipe.name,
        objective=spec.gate.objective,
        loss=float(np.concatenate(losses).mean()),
        partitions=len(losses),
        rows=parts.test.num_rows,
        level=1 - 2 * spec.gate.alpha,
        groups=tuple(sorted(effects, key=lambda effect: -effect.gain)),
        run=run,
    )
    if run:
        at = int(spec.clock.decision_time(partition).timestamp() * 1000)
        registry.log(run, at=at, metrics=_run_metrics(ablation))
    return ablation


def _newest_labeled_partition(lake: Lake, spec: UseCase) -> str:
    source = spec.labels.source
    rows = lake.rows("partitions", {"product": source})
    published = [str(row["partition"]) for row in rows if row["outcome"] == "published"]
    if not published:
        where, remedy = f"{lake.uri}/tables/partitions", f"run ingest for {spec.name} first"
        raise NotPublished(f"{spec.name}: {source}", found="no partition", where=where, remedy=remedy)
    return max(published)


def _without_group(spec: UseCase, name: str, columns: tuple[str, ...]) -> UseCase:
    """Return the declaration without a group of its features."""
    features = spec.features
    remaining = {
        kind: tuple(column for column in getattr(features, kind) if column not in columns)
        for kind in ("numeric", "categorical")
    }
    if not any(remaining.values()):
        raise SpecError(
            f"{spec.name}: ablation of {name}",
            required="at least one feature outside the group",
            found="a group of all features",
            where=str(spec.folder / "usecase.yaml"),
            remedy="declare smaller groups under features.groups",
        )
    return spec.model_copy(update={"features": features.model_copy(update=remaining)})


def _check_enough_partitions(spec: UseCase, partition: str, test: pa.Table) -> None:
    partitions, needed = len(partitions_of(test)), partitions_needed(spec.gate.block_partitions)
    if partitions < needed:
        raise InsufficientData(
            f"{spec.name}: ablation on {partition}",
            required=f"{needed} labeled test partitions",
            found=str(partitions),
            remedy="choose a later partition, or ingest the partitions whose labels are missing",
        )


def _check_learnable(spec: UseCase, partition: str, train: pa.Table) -> None:
    if not is_learnable(spec, train):
        raise InsufficientData(
            f"{spec.name}: ablation on {partition}",
            required="rows of two classes before the test partitions",
            found=f"{train.num_rows} rows of one",
            remedy="choose a later partition, so that both classes occur before its test partitions",
        )


def _chosen_recipe(spec: UseCase, parts: Split, registry: Registry, run: str) -> Recipe:
    """Return the recipe that the training chose; without a run, the candidate with the lowest test loss."""
    if run:
        name = TrainingRecord.from_json(registry.get(run, PATH)).challenger.name
        return recipes_by_name(spec)[name]
    losses = {
        recipe.name: float(np.concatenate(_losses_by_partition(spec, recipe, parts)).mean())
        for recipe in spec.training.candidates
    }
    return min(spec.training.candidates, key=lambda recipe: losses[recipe.name])


def _losses_by_partition(spec: UseCase, recipe: Recipe, parts: Split) -> list[Array]:
    """Fit the recipe and return its losses on the test rows, one array per partition."""
    estimator = fit_recipe(spec, recipe, parts.train)
    predictions = artifacts.predict(estimator, parts.test, spec)
    losses = row_losses(spec.objective, target(spec, parts.test), predictions)
    partition_of_row = np.asarray(parts.test["partition"].to_pylist(), dtype=object)
    return [losses[partition_of_row == partition] for partition in partitions_of(parts.test)]


def _group_effect(spec: UseCase, name: str, complete: list[Array], reduced: list[Array]) -> GroupEffect:
    """Return the effect of a group from the losses with all features and without the group."""
    with_group, without_group = ([float(losses.sum()) for losses in arrays] for arrays in (complete, reduced))
    rows, gate = [len(losses) for losses in complete], spec.gate
    gain = estimate_gain(without_group, with_group, rows, gate.block_partitions, gate.alpha)
    loss = estimate_gain(with_group, without_group, rows, gate.block_partitions, gate.alpha)
    return GroupEffect(name, spec.features.ablated[name], gain.mean, gain.low, -loss.low)


def _run_metrics(ablation: Ablation) -> Mapping[str, float]:
    return {
        f"ablation.{group.name}.{bound}": getattr(group, bound)
        for group in ablation.groups
        for bound in ("gain", "low", "high")
    }
