"""The policies of a replay: each decides on every partition, from what was known then, which model serves.

`Declared` takes its decisions by the functions that production calls, on a ledger of its own. Of the gate's
checks it has those of `GUARDS`, and a person's approval counts as given at once.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise, takewhile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import EvergreenError
from include.evaluate.leakage import all_feature_scores, newest_scores, single_feature_scores, too_few_rows
from include.evaluate.refit import (
    accepted_before,
    growth,
    measure_movement,
    refused_before,
    seen_partitions,
    twin_partitions,
    walk_losses,
)
from include.judge import checks
from include.judge.context import CheckContext
from include.judge.evidence import CHALLENGER, Evidence, Facts, Leakage, Losses, Refit
from include.judge.judge import BLESSED, NOT_BLESSED, NOT_ENOUGH
from include.models import outputs
from include.monitor.policy import PartitionState, decide, policy_window, requests_since
from include.promote import ledger, verdicts
from include.promote.ledger import CANARY, ROLLED_BACK, WATCH, Trial
from include.promote.promotion import (
    LedgerSnapshot,
    baseline_rows,
    promotion_blocker,
    switch_kind,
    switch_rows,
    switched_roles,
)
from include.promote.rollback import restored_rows
from include.references import digest_json
from include.replay.fits import FitKey, Fits, Job, key_of
from include.replay.history import Labels, PastRows
from include.rollout.pipeline import (
    AUTOMATIC,
    WAIT,
    RolloutStep,
    TrialLosses,
    next_step,
    replacement_rows,
    step_rows,
    with_live_losses,
)
from include.score.fallback import canary_entities
from include.spec import UseCase
from include.spec.metrics import Objective
from include.spec.stages import Recipe
from include.stats.metrics import all_metric_values, row_losses
from include.storage.lake import Row
from include.train.fits import Fit, FitId, distance, recipes_without_walk
from include.train.fitting import is_learnable, target
from include.train.recipes import recipe_names, recipes, recipes_by_name
from include.train.record import Selection
from include.train.selection import (
    best_baseline,
    choose_recipe,
    choose_replacement,
    recipes_to_fit,
    refresh_instead,
)
from include.train.split import first_test_partition, walk_origins
from include.train.walks import Walks, walk_window

GUARDS = (  # beside `enough_partitions`
    *(checks.requirements, checks.single_feature, checks.all_features),
    *(checks.recipe, checks.refit, checks.movement, checks.twin),
)
WORSE = 0.01  # relative increase of the loss with which a new fit still counts as not worse
COMPARED = 28  # newest labeled partitions on which `NotWorse` compares


@dataclass(frozen=True)
class Served:
    """What serves a partition.

    Parameters
    ----------
    fit : of the model.
    canary : the model on trial that serves some of the rows, and which of those that a walk predicts.
    reason : why it serves.
    """

    fit: Fit
    canary: tuple[Fit, NDArray[np.bool_]] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Refusal:
    """A fit that the guards refused: its training's partition, its recipe, and why."""

    partition: str
    recipe: str
    reason: str


@dataclass
class Policy:
    """A policy, and what it has fitted and served so far.

    Parameters
    ----------
    served : by partition; one without is served by the constant.
    own : the fits, oldest first.
    refused : the fits that the guards refused.
    refusals : the same as a reader sees them, oldest first.
    used : every fit that the policy needed.
    """

    name: str
    spec: UseCase
    fits: Fits
    served: dict[str, Served] = field(default_factory=dict)
    own: list[Fit] = field(default_factory=list)
    refused: set[FitId] = field(default_factory=set)
    refusals: list[Refusal] = field(default_factory=list)
    used: dict[FitKey, Fit] = field(default_factory=dict)

    def run(self, partitions: Sequence[str], trainings: Sequence[str], step: Callable[[], None]) -> None:
        """Decide on each partition; the first has a training and isn't served.

        Parameters
        ----------
        trainings : the partitions with a scheduled training.
        step : is called after each partition.
        """
        for partition in partitions:
            is_served = partition > partitions[0] and partition in self.past.row_positions
            if is_served and (serving := self.serving(partition)):
                self.served[partition] = serving
            requested = self.advance(partition)
            if partition in trainings or requested:
                rows = self.past.training_set(self.spec, partition)
                if learnable(self.spec, rows):
                    self.train(partition, rows)
            step()

    def serving(self, partition: str) -> Served | None:
        """Return what serves a partition, None before the first model."""
        raise NotImplementedError

    def advance(self, partition: str) -> bool:
        """Take the decisions that follow a served partition, and return whether a training is requested."""
        return False

    def train(self, partition: str, rows: Mapping[str, Labels]) -> None:
        """Fit what the policy compares on a training's rows, and decide what serves next."""
        raise NotImplementedError

    @property
    def past(self) -> PastRows:
        """The rows of the past."""
        return self.fits.past

    @property
    def seconds(self) -> float:
        """CPU seconds of the fits that the policy needed."""
        return sum(map(self.fits.seconds, self.used.values()))

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of the recipes by their keys, those with a short memory included."""
        return recipe_names(self.spec)

    def fit_recipes(
        self, partition: str, rows: Mapping[str, Labels], needed: Sequence[Recipe]
    ) -> dict[str, Fit]:
        """Return the fits of recipes in a training by name; a new recipe is fitted as of its origins too."""
        earlier = [fit for fit in self.own if fit.partition < partition]
        first = walk_origins(list(rows), self.spec, partition)[:1]
        new = recipes_without_walk(self.spec, needed, earlier, first)
        for origin, following, own in origins(self.past, self.spec, partition, rows) if new else ():
            self._fit(new, origin, own, following, rows)
        return self._fit(needed, partition, rows, self.spec.clock.shift(partition, 1), rows)

    def _fit(
        self,
        needed: Sequence[Recipe],
        partition: str,
        rows: Mapping[str, Labels],
        until: str,
        labeled: Mapping[str, Labels],
    ) -> dict[str, Fit]:
        """Return the fits as of a partition by name, and add them to the policy's.

        A recipe that can't be fitted is left out, unless it is the prior.

        Parameters
        ----------
        until : the fits predict the partitions up to this one.
        labeled : the rows of the training.
        """
        finish = [self.fits.request(job(self.spec, recipe, partition, rows), until) for recipe in needed]
        result = {}
        for recipe, finish_fit in zip(needed, finish, strict=True):
            try:
                fit = finish_fit()
            except EvergreenError:
                if recipe.estimator == "prior":
                    raise
                continue
            self.used[key_of(fit)] = fit
            previous = [f for f in self._accepted(fit.recipe_key) if f.partition < partition][-1:]
            moved = self._movement(fit, previous[0], partition, labeled) if previous else None
            result[recipe.name] = replace(fit, recipe=recipe.name, moved=moved)
        self.own = sorted([*self.own, *result.values()], key=lambda fit: fit.partition)
        return result

    def _accepted(self, recipe_key: str) -> list[Fit]:
        return [fit for fit in self.own if fit.recipe_key == recipe_key and fit.id not in self.refused]

    def _movement(
        self, fit: Fit, previous: Fit, partition: str, labeled: Mapping[str, Labels]
    ) -> float | None:
        """Return how far a fit's predictions are from those of an earlier one, see `Fit`.

        Of a partition that the training has labels of, its labeled rows count.
        """
        newest = max(labeled)
        keys = [key for key in self.past.row_positions if fit.last_fitted < key <= partition]
        chosen = {
            key: slice(None) if key > newest else labeled[key].sampled
            for key in keys
            if key > newest or key in labeled
        }
        now, before = (
            [
                part[chosen[key]]
                for key, part in zip(chosen, self.fits.predictions(f, list(chosen)), strict=True)
            ]
            for f in (fit, previous)
        )
        if not any(map(len, now)):
            return None
        moved = distance(np.concatenate(now), np.concatenate(before))
        return moved if np.isfinite(moved) else None  # a fit that can't predict moved nowhere

    def walks(self, until: str) -> Walks:
        """Return the recipes' walks as known on a partition, as `include.train.walks.read` does."""
        objective, counts, oldest = self.spec.objective, self.past.counts, walk_window(self.spec)
        accepted = {key: self._accepted(key) for key in self.names}
        accepted = {key: fits for key, fits in accepted.items() if fits}
        starts = {key: [fit.partition for fit in fits] for key, fits in accepted.items()}
        partitions, rows, losses = [], [], []
        for key, part in self.past.labeled(until).items():
            newest = {own: bisect_left(starts[own], key) - 1 for own in accepted}
            is_old = counts[until] - counts[key] >= oldest
            if is_old or not len(part.sampled) or max(newest.values(), default=-1) < 0:
                continue
            partitions.append(key)
            rows.append(float(len(part.sampled)))
            sums = [
                self.fits.loss(accepted[own][index], key, part, objective) if index >= 0 else np.nan
                for own, index in newest.items()
            ]
            losses.append(np.array(sums) / rows[-1])
        values = np.array(losses).reshape(len(partitions), len(accepted))
        present = [column for column in range(values.shape[1]) if not np.isnan(values[:, column]).all()]
        names = [self.names[own] for own in accepted] if partitions else []
        return Walks(tuple(partitions), tuple(names[c] for c in present), np.array(rows), values[:, present])

    def served_loss(self, partition: str, part: Labels, objective: Objective) -> float:
        """Return the sum of the losses on a partition's labeled rows of what served it.

        Where no model did, or it can't predict the partition, that is the declared constant.
        """
        serving = self.served.get(partition)
        if serving is None:
            return self._constant_loss(part, objective)
        loss = self.fits.loss(serving.fit, partition, part, objective)
        if serving.canary is not None:
            fit, chosen = serving.canary
            own, others = (self.fits.row_losses(f, partition, part, objective) for f in (fit, serving.fit))
            loss = float(np.where(chosen[part.sampled], own, others).sum())
        return loss if np.isfinite(loss) else self._constant_loss(part, objective)

    def _constant_loss(self, part: Labels, objective: Objective) -> float:
        constant = outputs.repeat_constant(self.spec.constant, len(part.sampled))
        return float(row_losses(objective, part.sampled_actual, constant).sum())


@dataclass
class Newest(Policy):
    """After each training the candidate that lost least on the newest step serves, without a gate."""

    current: Served | None = None

    def serving(self, partition: str) -> Served | None:
        """Return what the last training chose."""
        return self.current

    def train(self, partition: str, rows: Mapping[str, Labels]) -> None:
        """Let the newest fit of the candidate serve whose walk lost least on the newest partitions."""
        fits = self.fit_recipes(partition, rows, self.spec.training.candidates)
        walks = self.walks(partition)
        recent = walks.newest(self.spec.walk_step)
        means = {name: recent.mean(name) if name in recent.recipes else np.inf for name in fits}
        if not fits:
            return
        best = min(fits, key=lambda name: (not np.isfinite(means[name]), means[name]))
        if self.replaces(walks, best, partition):
            text = f"{best} lost {means[best]:.4g} a row on the newest {len(recent.partitions)} partitions"
            self.current = Served(fits[best], reason=text)

    def replaces(self, walks: Walks, recipe: str, partition: str) -> bool:
        """Return whether a recipe's new fit serves."""
        return True


class NotWorse(Newest):
    """As `Newest`, but the new fit serves only if its recipe isn't worse than what serves."""

    def replaces(self, walks: Walks, recipe: str, partition: str) -> bool:
        """Return whether the recipe's walk lost at most `WORSE` more than what served the same partitions."""
        recent = walks.newest(COMPARED)
        if recipe not in recent.recipes:
            return True
        labeled, objective = self.past.labeled(partition), self.spec.objective
        walk_loss = served_loss = 0.0
        for key, loss, rows in zip(recent.partitions, recent.of(recipe), recent.rows, strict=True):
            if key in self.served and np.isfinite(loss):
                walk_loss += loss * rows
                served_loss += self.served_loss(key, labeled[key], objective)
        return walk_loss <= (1 + WORSE) * served_loss


@dataclass
class Declared(Policy):
    """Production's decisions: the recipe with the best walk serves, a refit of it is a guarded refresh.

    Parameters
    ----------
    rows : of the policy's own ledger, as the table `switches` has them.
    attempts : the evidence of each training, by partition.
    states : the partitions as monitoring's policy sees them.
    """

    rows: list[Row] = field(default_factory=list)
    attempts: dict[str, Evidence] = field(default_factory=dict)
    states: list[PartitionState] = field(default_factory=list)

    def serving(self, partition: str) -> Served | None:
        """Return the champion in effect, and the canary beside it."""
        serving = ledger.serving_of(self.rows, partition)
        champion = serving.champion or serving.baseline
        if champion is None:
            return None
        fit, canary = self._fit_of(champion), None
        for trial in ledger.trials_on(self.rows, self.spec, partition):
            if trial.kind == CANARY:
                rows = self.past.table.take(pa.array(self.past.row_positions[partition]))
                chosen = canary_entities(self.spec, rows, str(trial.candidate["model"]))
                canary = (self._fit_of(trial.candidate), np.array(chosen, dtype=bool))
        return Served(fit, canary, self._why_recipe(partition))

    def _why_recipe(self, partition: str) -> str:
        """Return why the recipe that serves began to; a training may have refitted it before it served."""
        in_effect = ledger.in_effect(ledger.champions(self.rows) or self.rows, partition)
        *_, began = takewhile(lambda row: row["recipe"] == in_effect[-1]["recipe"], reversed(in_effect))
        return str(began["reason"])

    def advance(self, partition: str) -> bool:
        """Take due steps of trials, replace a champion that a baseline beats; maybe request a training."""
        for trial in ledger.trials_on(self.rows, self.spec, partition):
            since = [
                key
                for key, rows in self.past.row_positions.items()
                if trial.since <= key <= partition and len(rows)
            ]
            decision = next_step(trial.kind, self._live_losses(trial, partition), len(since), self.spec.gate)
            if decision.step != WAIT:
                self._take_step(trial, decision, partition)
        self._replace_broken(partition)
        return self._requests_training(partition)

    def train(self, partition: str, rows: Mapping[str, Labels]) -> None:
        """Fit the recipes, choose one by the walks, and switch to its fit unless a guard refuses it."""
        spec = self.spec
        champion = ledger.live_champion(self.rows)
        serving_recipe = str(champion["recipe"] or "") if champion else ""
        fits = self.fit_recipes(partition, rows, recipes_to_fit(spec, self.walks(partition), serving_recipe))
        walks = self.walks(partition).only([*fits, serving_recipe])
        choice = choose_recipe(spec, walks, serving_recipe)
        if serving_recipe in fits and (declined := self._declined_change(partition, serving_recipe)):
            choice = refresh_instead(choice, serving_recipe, declined)
        if choice.recipe not in fits:
            return
        unfit = [recipe.name for recipe in recipes(spec) if recipe.name not in fits]
        baseline = best_baseline(spec, walks, choice, unfit)
        challenger = fits[choice.recipe]
        losses = self._walk_losses(walks, rows, partition, [choice.recipe, serving_recipe, baseline])
        metrics, leakage = self._measure(challenger, rows, partition, losses.partitions)
        evidence = Evidence(
            usecase=spec.name,
            partition=partition,
            spec=spec.digest,
            data=digest_json([part.digest for part in rows.values()]),
            code="",
            version=str(len(self.attempts) + 1),
            model=challenger.model,
            constant=outputs.label_constant(spec, np.concatenate([part.actual for part in rows.values()])),
            baseline_model=fits[baseline].model,
            metrics={CHALLENGER: metrics},
            losses=losses,
            champion=str(champion["model"]) if champion else "",
            last_fitted=challenger.last_fitted,
            fitted=challenger.last_fitted,
            recipe=choice.recipe,
            facts=Facts(
                leakage=leakage,
                refit=self._refit(challenger, champion, partition, rows) if champion else None,
                labeled=len(rows),
            ),
            selection=asdict(
                Selection.from_walks(
                    spec, walks, choice, fits, serving_recipe=serving_recipe, baseline=baseline
                )
            ),
        )
        self.attempts[partition] = evidence
        context = CheckContext(evidence, spec.gate, champion is not None)
        missing = [check for check in checks.enough_partitions(context) if not check.passed]
        refused = [c for guard in GUARDS for c in guard(context) if c.blocking and not c.passed]
        reason = "; ".join(check.sentence() for check in missing or refused)
        if refused and not missing:
            self.refused.add(challenger.id)
            self.refusals.append(Refusal(partition, choice.recipe, reason))
        attempt = {
            "key": evidence.key,
            "partition": partition,
            "verdict": NOT_ENOUGH if missing else NOT_BLESSED if refused else BLESSED,
            "evidence": evidence.to_json(),
            "checks": json.dumps([asdict(check) for check in missing or refused]),
            "sentence": reason,
        }
        effective_from = spec.clock.shift(partition, 1)
        if promotion_blocker(LedgerSnapshot(self.rows, "none", [], []), attempt):
            self._record(baseline_rows(spec, self.rows, attempt, effective_from) or [])
            return
        kind = switch_kind(spec, evidence, self.rows)
        why = {
            "kind": kind,
            "by": "",
            "reason": choice.reason,
            "attempt": evidence.key,
            "request": evidence.key,
        }
        self._record(switch_rows(evidence, switched_roles(kind), effective_from=effective_from, **why))

    def _walk_losses(
        self, walks: Walks, rows: Mapping[str, Labels], partition: str, recipes: Sequence[str]
    ) -> Losses:
        """Return the losses on the test partitions that the challenger's walk and its rivals' predict."""
        first = first_test_partition(list(rows), self.spec, partition)
        own = walks.only(recipes)
        positions = [
            index
            for index, key in enumerate(own.partitions)
            if key >= first and recipes[0] in own.recipes and np.isfinite(own.losses[index]).all()
        ]
        sums = own.of(recipes[0])[positions] * own.rows[positions] if positions else ()
        return Losses(
            tuple(own.partitions[index] for index in positions),
            tuple(int(own.rows[index]) for index in positions),
            {CHALLENGER: tuple(sums)},
        )

    def _measure(
        self, challenger: Fit, rows: Mapping[str, Labels], partition: str, test: Sequence[str]
    ) -> tuple[dict[str, float], Leakage]:
        """Return the metrics of the challenger's walk on test partitions and the signs of a leak in them."""
        spec, past = self.spec, self.past
        if not test:
            return {}, Leakage()
        first = first_test_partition(list(rows), spec, partition)
        fitted = [part for key, part in rows.items() if key < first]
        judged = {key: rows[key] for key in test}
        fitted_rows = past.labeled_rows(
            [part.row_positions for part in fitted], [part.actual for part in fitted]
        )
        test_rows = past.labeled_rows(
            [past.row_positions[key][part.sampled] for key, part in judged.items()],
            [part.sampled_actual for part in judged.values()],
        )
        fits = self._accepted(challenger.recipe_key)
        starts = [fit.partition for fit in fits]
        walk = np.concatenate(
            [
                self.fits.predictions(fits[bisect_left(starts, key) - 1], [key])[0][part.sampled]
                for key, part in judged.items()
            ]
        )
        all_features, revealing = all_feature_scores(spec, fitted_rows, test_rows, walk)
        return all_metric_values(spec, target(spec, test_rows), walk), Leakage(
            single_feature=single_feature_scores(spec, fitted_rows, test_rows),
            all_features=all_features,
            revealing=revealing,
            newest=newest_scores(spec, test_rows, walk),
            too_few_rows=too_few_rows(spec, test_rows),
        )

    def _declined_change(self, partition: str, serving_recipe: str) -> str:
        """Return the other recipe that the training before proposed, if it doesn't serve; or empty."""
        earlier = max((key for key in self.attempts if key < partition), default="")
        return verdicts.declined_recipe(self.attempts[earlier], self.rows, serving_recipe) if earlier else ""

    def _refit(self, challenger: Fit, champion: Row, partition: str, rows: Mapping[str, Labels]) -> Refit:
        """Compare a challenger's fit with those before it and with the champion, as evaluation does."""
        fits = [fit for fit in self.own if fit.recipe_key == challenger.recipe_key]
        moved = measure_movement(fits, self.refused)
        serving = self._fit_of(champion)
        newest = twin_partitions(self.spec, list(rows), serving.last_fitted)
        recipe = recipes_by_name(self.spec)[challenger.recipe]
        earlier = {key: part for key, part in rows.items() if newest and key < newest[0]}
        twin_job = job(self.spec, recipe, partition, earlier)
        if not learnable(self.spec, twin_job.rows):
            return moved
        same = [fit for fit in fits if fit.data == twin_job.fit.data]
        twin = same[-1] if same else self.fits.ensure([twin_job], partition)[0]
        self.used[key_of(twin)] = twin
        rejected = refused_before(fits, newest, self.refused)
        before = accepted_before(fits, self.refused)
        first = first_test_partition(list(rows), self.spec, partition)
        test = [key for key in rows if key >= first]
        both_fitted = seen_partitions(self.spec, recipe, challenger, before, test) if before else []
        seen_rows = tuple(len(rows[key].sampled) for key in both_fitted)
        objective = self.spec.objective

        def losses(fit: Fit, partitions: Sequence[str] = newest) -> tuple[float, ...]:
            self.fits.predictions(fit, partitions)  # those that are missing at once
            return tuple(self.fits.loss(fit, key, rows[key], objective) for key in partitions)

        return replace(
            moved,
            seen_rows=seen_rows,
            seen_now=losses(challenger, both_fitted),
            seen_before=losses(before, both_fitted) if before else (),
            seen_walk=walk_losses(self.walks(partition), recipe.name, both_fitted, seen_rows),
            growth=growth(self.spec, recipe, challenger, before) if before else 0.0,
            rows=tuple(len(rows[key].sampled) for key in newest),
            twin=losses(twin),
            serving=losses(serving),
            refused=losses(rejected, twin_partitions(self.spec, newest, rejected.last_fitted))
            if rejected
            else (),
        )

    def _fit_of(self, row: Row) -> Fit:
        fits = (fit for fit in reversed(self.own) if fit.model == row["model"])
        return next(fit for fit in fits if fit.recipe == row["recipe"])  # equal rows give equal models

    def _record(self, rows: list[Row]) -> None:
        self.rows += ledger.number_switch(self.rows, rows)

    def _live_losses(self, trial: Trial, partition: str) -> TrialLosses:
        """Return the losses of a trial's candidate and incumbent by partition, as known on ``partition``."""
        labeled = self.past.labeled(partition)
        parts = {key: part for key, part in labeled.items() if key >= trial.since and len(part.sampled)}
        fits = [self._fit_of(row) for row in (trial.candidate, trial.incumbent)]
        losses = {
            key: [self.fits.loss(fit, key, part, self.spec.objective) for fit in fits]
            for key, part in parts.items()
        }
        # as in production, where one of them can't predict a partition, none of both has a loss
        keys = tuple(key for key, pair in losses.items() if all(map(math.isfinite, pair)))
        candidate, incumbent = (tuple(losses[key][index] for key in keys) for index in range(2))
        return TrialLosses(keys, tuple(len(parts[key].sampled) for key in keys), candidate, incumbent)

    def _take_step(self, trial: Trial, decision: RolloutStep, partition: str) -> None:
        effective_from = self.spec.clock.shift(partition, 1)
        if trial.kind != WATCH:
            newest = [row for row in self.rows if row["role"] != "baseline"][-1]
            if newest["switch"] != trial.candidate["switch"]:
                return  # the watch's rollback has ended the trial
            evidence = self.attempts[str(trial.candidate["judged_on"])]
            self._record(step_rows(self.spec, trial, decision, evidence, effective_from))
            return
        target = ledger.champion_history(self.rows)[-2]
        why = {"kind": ROLLED_BACK, "by": AUTOMATIC, "reason": decision.reason, "request": ""}
        self._record(restored_rows(self.rows, target, effective_from, why))

    def _replace_broken(self, partition: str) -> None:
        """Replace a champion that is worse than a baseline by the best recipe's newest fit."""
        champion = ledger.live_champion(self.rows)
        if champion is None:
            return
        objective, fit = self.spec.objective, self._fit_of(champion)
        live = {
            key: self.fits.loss(fit, key, part, objective) / len(part.sampled)
            for key, part in self.past.labeled(partition).items()
            if key >= champion["effective_from"] and len(part.sampled)
        }
        walks, serving_recipe = with_live_losses(self.walks(partition), str(champion["recipe"] or ""), live)
        is_stand_in = bool(ledger.replaced_since(ledger.champions(self.rows)))
        choice = choose_replacement(self.spec, walks, serving_recipe, is_stand_in=is_stand_in)
        if choice is None:
            return
        key = next(key for key, name in self.names.items() if name == choice.recipe)
        judged = [fit for fit in self._accepted(key) if fit.partition in self.attempts]
        if judged:
            newest, evidence = judged[-1], self.attempts[judged[-1].partition]
            effective_from = self.spec.clock.shift(partition, 1)
            self._record(
                replacement_rows(
                    self.rows, champion, evidence, newest, choice.recipe, effective_from, choice.reason
                )
            )

    def _requests_training(self, partition: str) -> bool:
        """Return whether monitoring requests a training, after the champion was replaced."""
        in_effect = ledger.in_effect(ledger.champions(self.rows), partition)
        since = requests_since(self.spec, in_effect, partition)
        state = PartitionState(
            partition, str(in_effect[-1]["model"]) if in_effect else "", requests_since=since
        )
        history = [*self.states[-policy_window(self.spec) :], state]
        decision = decide(history, self.spec)
        self.states.append(replace(state, decision=decision))
        requested = {earlier.decision.cause for earlier in history[:-1] if earlier.decision}
        return bool(decision.cause) and decision.cause not in requested


class Never(Declared):
    """The first model that is promoted serves for ever."""

    def advance(self, partition: str) -> bool:
        """Decide nothing."""
        return False

    def train(self, partition: str, rows: Mapping[str, Labels]) -> None:
        """Train until a model is promoted."""
        if ledger.live_champion(self.rows) is None:
            super().train(partition, rows)


BUILT_IN: dict[str, type[Policy]] = {
    "declared": Declared,
    "never": Never,
    "newest": Newest,
    "new-not-worse": NotWorse,
}


def job(spec: UseCase, recipe: Recipe, partition: str, rows: Mapping[str, Labels]) -> Job:
    """Return the fit of a recipe in a training on a partition, whose rows these are."""
    if recipe.window and spec.sparse:
        return Job(spec, recipe, partition, dict(list(rows.items())[-recipe.window :]))
    first = spec.clock.shift(partition, -recipe.window) if recipe.window else ""
    return Job(spec, recipe, partition, {key: part for key, part in rows.items() if key > first})


def origins(
    past: PastRows, spec: UseCase, partition: str, rows: Mapping[str, Labels]
) -> list[tuple[str, str, dict[str, Labels]]]:
    """Return where a new recipe is fitted first: an earlier partition, the next one, the rows then."""
    earlier = walk_origins(list(rows), spec, partition)
    result = []
    for origin, following in pairwise([*earlier, partition]):
        own = past.training_set(spec, origin)
        if not spec.training.window:  # otherwise it reached further back than this training's
            own = {key: part for key, part in own.items() if key in rows}
        if learnable(spec, own):
            result.append((origin, following, own))
    return result


def learnable(spec: UseCase, rows: Mapping[str, Labels]) -> bool:
    """Return whether a model can be fitted on a training's rows."""
    values = np.concatenate([np.empty(0), *(part.actual for part in rows.values())])
    return is_learnable(spec, pa.table({spec.problem.target: np.unique(values)}))
