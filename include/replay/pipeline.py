"""The replay: what serving would have cost over a past range of partitions, under several policies.

1. The rows of the past are read once (`include.replay.history`).
2. Every fit that a scheduled training needs is made on the available cores (`include.replay.fits`).
3. Each policy decides day by day, from what was known then (`include.replay.policies`). What it needs beyond
   those fits is made on demand.
4. What was served is compared on the labels that are known now.

Only ``replays/`` and the page are written, and nothing that serves reads them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count as count_from
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from include.errors import EvergreenError, NotPublished, SpecError
from include.features.labels import matured
from include.replay.fits import Fits, Job, workers
from include.replay.history import Array, Labels, PastRows
from include.replay.policies import BUILT_IN, Declared, Policy, Refusal, Served, job, learnable, origins
from include.spec import UseCase
from include.spec.load import read
from include.stats.intervals import gain_bounds, partitions_needed
from include.storage.lake import Lake
from include.train.fits import Fit
from include.train.recipes import recipes

ALPHA = 0.05  # on either side, so that intervals have 90 %
TOLERANCE = 1e-9  # relative difference up to which two losses are equal
# what is being done, how much of it is done, and how much there is
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Switch:
    """A change of the recipe that serves, or of its fit, at the first partition that it affects."""

    partition: str
    recipe: str
    fitted_on: str
    is_refresh: bool
    reason: str


@dataclass(frozen=True)
class PolicyResult:
    """What a policy served.

    Parameters
    ----------
    losses : sum of the row losses by partition, shape (n,).
    served : what served each partition, None for the constant, shape (n,).
    ages : partitions since the training of the model that served, NaN for the constant, shape (n,).
    switches : oldest first; the first model isn't one.
    refusals : the fits that the guards refused, oldest first.
    worse_than_prior : partitions on which what served lost more than the prior.
    difference : mean loss per row less that of the policy ``never``, and its 90 % interval; None without a
        difference, or with too few partitions.
    seconds : of CPU for the fits that it needed.
    """

    name: str
    losses: Array
    served: tuple[Served | None, ...]
    ages: Array
    switches: tuple[Switch, ...]
    refusals: tuple[Refusal, ...]
    worse_than_prior: int
    difference: tuple[float, float, float] | None
    seconds: float

    @property
    def changes(self) -> int:
        """How often another recipe began to serve."""
        return sum(not switch.is_refresh for switch in self.switches)

    @property
    def constant(self) -> int:
        """How many partitions the constant served."""
        return self.served.count(None)


@dataclass(frozen=True)
class Replay:
    """The results of all policies on the same rows.

    Parameters
    ----------
    partitions : the served ones with labels, shape (n,).
    rows : labeled rows by partition, at most ``training.walk_rows`` of them, shape (n,).
    prior : sums of the losses of the prior's newest fit by partition, shape (n,).
    """

    spec: UseCase
    partitions: tuple[str, ...]
    rows: Array
    prior: Array
    policies: tuple[PolicyResult, ...]

    def loss(self, policy: PolicyResult) -> float:
        """Return a policy's mean loss per row."""
        return float(policy.losses.sum() / self.rows.sum())


def replay(
    lake: Lake,
    spec: UseCase,
    overlays: Sequence[Path] = (),
    first: str = "",
    until: str = "",
    *,
    progress: Progress = lambda task, completed, total: None,
) -> Replay:
    """Replay a range of partitions under the built-in policies, and those of ``overlays``.

    Parameters
    ----------
    overlays : YAML files with changes of the declaration. Each is replayed as the declaration is.
    first : the partition of the first training. Default: the first scheduled training by which
        ``training.test`` partitions have labels.
    until : the last served partition. Default, and at most: the last one with labels.

    Raises
    ------
    NotPublished, InsufficientData
        when there are no labels, or no rows that were known at the decision.
    PartitionError, EvergreenError
        when the range isn't one of the schedule, or has no training.
    SpecError
        when an overlay is invalid, or has the name of another policy.
    """
    names = [*BUILT_IN, *(path.stem for path in overlays)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        found = f"{', '.join(twice)} more than once"
        remedy = "rename the file: a policy has the name of its file"
        raise SpecError(
            f"{spec.name}: replay", required="unique names of policies", found=found, remedy=remedy
        )
    declarations = {path.stem: read(spec.folder / "usecase.yaml", path, spec.horizon) for path in overlays}
    last = matured(lake, spec, None)[-1:]
    if not last:
        remedy = f"ingest {spec.labels.source} first"
        raise NotPublished(f"{spec.name}: replay", required="partitions with labels", remedy=remedy)
    past = PastRows.read(lake, spec, min(until or last[0], last[0]))
    until = min(until or last[0], max(past.newest, default=last[0]))
    first = first or _first_training(past, until)
    for key in (first, until):
        spec.clock.decision_time(key)
    partitions = spec.clock.keys(first, until)
    if not any(key > first for key in partitions if key in past.newest):
        found = f"none after {first}, up to {until}"
        remedy = "choose --from and --until so that partitions with labels follow the first training"
        raise EvergreenError(
            f"{spec.name}: replay", required="a labeled partition", found=found, remedy=remedy
        )
    trainings = _trainings(spec, first, until)
    count = os.cpu_count() or 1
    with workers(past, count) as pool:
        fits = Fits(lake, past, list(_chunks(spec, trainings, until)), pool)
        policies: list[Policy] = [kind(name, spec, fits) for name, kind in BUILT_IN.items()]
        policies += [Declared(name, own, fits) for name, own in declarations.items()]
        schedules = {policy.name: _trainings(policy.spec, first, until) for policy in policies}
        _fit_planned(fits, policies, schedules, count, progress)
        total = len(policies) * len(partitions)
        for number, policy in enumerate(policies):
            steps = count_from(number * len(partitions) + 1)
            report = partial(_report, progress, policy.name, steps, total)
            policy.run(partitions, schedules[policy.name], report)
        return _compare(fits, spec, partitions[1:], trainings, policies)


def _report(progress: Progress, task: str, steps: Iterator[int], total: int) -> None:
    progress(task, next(steps), total)


def _first_training(past: PastRows, until: str) -> str:
    spec = past.spec
    for key in _trainings(spec, spec.schedule.start, until):
        if len(past.labeled(key)) >= spec.training.test:
            return key
    raise EvergreenError(
        f"{spec.name}: replay",
        required=f"a scheduled training by which {spec.training.test} partitions have labels",
        found=f"none up to {until}",
        where=f"schedule.training = {spec.schedule.training!r}",
        remedy="load more history, or give --from",
    )


def _trainings(spec: UseCase, first: str, until: str) -> list[str]:
    """Return the partitions with a training: the first one, and those of the schedule after it."""
    scheduled = spec.trainings(first, until)
    return sorted({first, *scheduled} & {*spec.clock.keys(first, until)})


def _chunks(spec: UseCase, trainings: Sequence[str], until: str) -> Iterator[list[str]]:
    """Yield consecutive partitions that a model predicts at once: those between two trainings."""
    before = spec.clock.keys(spec.schedule.start, trainings[0])
    step = spec.walk_step
    yield from (before[max(end - step, 0) : end] for end in range(len(before), 0, -step))
    for training, following in pairwise([*trainings, until]):
        yield spec.clock.keys(training, following)[1:]


def _fit_planned(
    fits: Fits,
    policies: Sequence[Policy],
    schedules: Mapping[str, Sequence[str]],
    count: int,
    progress: Progress,
) -> None:
    """Make the fits of scheduled trainings, the largest first, so that the cores finish together."""
    planned: dict[tuple[str, str, str], tuple[Job, str]] = {}
    for policy in policies:
        for planned_job, until in _planned(fits.past, policy.spec, schedules[policy.name]):
            fit = planned_job.fit
            planned.setdefault((fit.recipe_key, fit.partition, fit.data), (planned_job, until))
    jobs = sorted(planned.values(), key=lambda pair: pair[0].partition, reverse=True)
    pending: deque[Callable[[], Fit]] = deque()
    if jobs:  # the first ones are the largest: until they are made, this says how many there are
        progress("fits", 0, len(jobs))
    for number, (planned_job, until) in enumerate(jobs):
        pending.append(fits.request(planned_job, until))
        if len(pending) > 2 * count:
            with suppress(EvergreenError):  # of a recipe that can't be fitted, which each policy leaves out
                pending.popleft()()
            progress("fits", number + 1 - len(pending), len(jobs))
    while pending:
        with suppress(EvergreenError):
            pending.popleft()()
        progress("fits", len(jobs) - len(pending), len(jobs))


def _planned(past: PastRows, spec: UseCase, trainings: Sequence[str]) -> Iterator[tuple[Job, str]]:
    """Yield the fits of a declaration's scheduled trainings, and up to which partition each predicts."""
    is_first = True
    for training in trainings:
        rows = past.training_set(spec, training)
        if not learnable(spec, rows):
            continue
        starts = origins(past, spec, training, rows) if is_first else []
        following = spec.clock.shift(training, 1)
        for key, until, own in [*starts, (training, following, rows)]:
            yield from ((job(spec, recipe, key, own), until) for recipe in recipes(spec))
        is_first = False


def _compare(
    fits: Fits, spec: UseCase, served: Sequence[str], trainings: Sequence[str], policies: Sequence[Policy]
) -> Replay:
    labels = {key: fits.past.newest[key] for key in served if key in fits.past.newest}
    rows = np.array([len(part.sampled) for part in labels.values()], dtype=float)
    objective = spec.objective
    losses = {
        policy.name: np.array([policy.served_loss(key, part, objective) for key, part in labels.items()])
        for policy in policies
    }
    prior = _prior_losses(fits, spec, labels, trainings)
    results = []
    for policy in policies:
        own = losses[policy.name]
        worse = own > prior * (1 + TOLERANCE)
        results.append(
            PolicyResult(
                name=policy.name,
                losses=own,
                served=tuple(map(policy.served.get, labels)),
                ages=np.array([_age(fits.past, policy, key) for key in labels]),
                switches=tuple(_switches(policy, served)),
                refusals=tuple(policy.refusals),
                worse_than_prior=int(worse.sum()),
                difference=_difference(spec, own - losses["never"], rows),
                seconds=policy.seconds,
            )
        )
    return Replay(spec, tuple(labels), rows, prior, tuple(results))


def _prior_losses(fits: Fits, spec: UseCase, labels: Mapping[str, Labels], trainings: Sequence[str]) -> Array:
    """Return what the prior of the newest scheduled training loses, NaN before the first."""
    recipe = next(recipe for recipe in recipes(spec) if recipe.estimator == "prior")
    newest: dict[str, Fit] = {}
    for training in trainings:
        rows = fits.past.training_set(spec, training)
        if learnable(spec, rows):
            own = job(spec, recipe, training, rows)
            newest[training] = fits.ensure([own], spec.clock.shift(training, 1))[0]
    return np.array([
        fits.loss(newest[max(earlier)], key, part, spec.objective)
        if (earlier := [training for training in newest if training < key])
        else np.nan
        for key, part in labels.items()
    ])  # fmt: skip


def _age(past: PastRows, policy: Policy, partition: str) -> float:
    serving = policy.served.get(partition)
    return past.positions[partition] - past.positions[serving.fit.partition] if serving else np.nan


def _switches(policy: Policy, served: Sequence[str]) -> Iterator[Switch]:
    """Yield the changes of the model that serves, after the first one."""
    serving = [(key, policy.served[key]) for key in served if key in policy.served]
    runs = [next(run) for _, run in groupby(serving, key=lambda pair: pair[1].fit)]
    for (_, before), (key, now) in pairwise(runs):
        is_refresh = now.fit.recipe == before.fit.recipe
        yield Switch(key, now.fit.recipe, now.fit.partition, is_refresh, now.reason)


def _difference(spec: UseCase, lost: Array, rows: Array) -> tuple[float, float, float] | None:
    block = spec.gate.block_partitions
    if len(rows) < partitions_needed(block) or not lost.any():
        return None
    mean, low = gain_bounds(lost, rows, block, np.asarray(ALPHA))
    return float(mean), float(low), -float(gain_bounds(-lost, rows, block, np.asarray(ALPHA))[1])
