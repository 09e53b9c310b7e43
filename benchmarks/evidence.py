"""Held out or walked forward: which evidence serves better over the flights' year, and what each costs.

Each Sunday, or every so many weeks, trains, and the gate's own checks (figures, baselines, champion, refit)
decide; what serves is then measured on every night until the next. Two references stand beside the gates:
the first model for the whole year, and the newest one each time whatever it is worth. Compute is in CPU
seconds of fitting, so that a busy machine doesn't count.

    EVERGREEN_LAKE=file:///... python -m benchmarks.evidence [WEEKS]    # a lake with the whole year
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include import models
from include.evaluate.metrics import loss, measured
from include.features.build import features, labelled, matured
from include.lake import Lake
from include.promote import checks
from include.promote.case import Case, Check
from include.promote.evidence import BASELINE, CHALLENGER, CHAMPION, Evidence, Losses
from include.promote.facts import Facts
from include.promote.interval import gain
from include.spec import UseCase, load
from include.spec.metrics import METRICS
from include.spec.stages import Candidate
from include.train.fit import fit, target
from include.train.split import Split, nights_of, split
from include.train.walk import origins

Array = NDArray[np.float64]
WEEKS = int(sys.argv[1]) if len(sys.argv) > 1 else 1  # between two trainings
TRAININGS = ("2013-03-03", "2013-12-22")  # Sundays
LAST = "2013-12-28"  # night whose labels are in the data
RULES = ("requirements", "refit", "baselines", "champion")
KEEP = 40  # nights for which a fitted model may be asked for again


@dataclass(frozen=True)
class Model:
    """A fitted recipe, the last night that it saw, and the CPU seconds that it took."""

    estimator: Pipeline
    fitted: str
    seconds: float


@dataclass
class Year:
    """The year's rows, and the models that were fitted on their beginnings, each once."""

    lake: Lake
    spec: UseCase
    fits: dict[tuple[str, str], Model] = field(default_factory=dict)

    @cached_property
    def rows(self) -> pa.Table:
        """Every night's features, as that night saw them."""
        return features(self.lake, self.spec, matured(self.lake, self.spec, "2013-12-31"))

    def known(self, night: str) -> pa.Table:
        """Return the labelled rows as a night knew them."""
        return labelled(self.lake, self.spec, until(self.rows, night), night)

    def model(self, recipe: Candidate, rows: pa.Table) -> Model:
        """Return a recipe fitted on the year until the last of the rows' nights."""
        key = (recipe.name, nights_of(rows)[-1])
        if key not in self.fits:
            began = time.process_time()
            made = fit(self.spec, recipe, rows)
            self.fits[key] = Model(made, key[1], time.process_time() - began)
        return self.fits[key]

    def forget(self, night: str) -> None:
        """Let go of models that no later training asks for."""
        old = self.spec.clock.shift(night, -KEEP)
        self.fits = {key: made for key, made in self.fits.items() if key[1] >= old}


@dataclass(frozen=True)
class Training:
    """What a Sunday has to decide on: predictions of the test rows, and the model that would serve."""

    test: pa.Table
    predictions: dict[str, Array]
    last: str  # the last night before the test nights
    serves: Model
    seconds: float
    again: Array | None = None  # of a walk: what the refitted model says of them


@dataclass
class Policy:
    """A way to decide, who serves by it, and what came of it."""

    name: str
    champion: Model | None = None
    attempts: int = 0
    promoted: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    nights: list[str] = field(default_factory=list)
    predictions: list[Array] = field(default_factory=list)
    actual: list[Array] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)

    def take(self, model: Model, night: str) -> None:
        """Let a model serve from the next night on."""
        self.champion, self.attempts = model, 0
        self.promoted.append(night)

    def serve(self, spec: UseCase, night: str, rows: pa.Table) -> None:
        """Predict a night's rows with whoever serves."""
        if self.champion is None:
            values = np.full(rows.num_rows, spec.scoring.fallback)
        else:
            values = models.predict(self.champion.estimator, rows, spec)
            self.ages.append((date.fromisoformat(night) - date.fromisoformat(self.champion.fitted)).days)
        self.nights.append(night)
        self.predictions.append(values)
        self.actual.append(target(spec, rows))

    def losses(self, spec: UseCase) -> list[float]:
        """Return each night's sum of losses."""
        pairs = zip(self.actual, self.predictions, strict=True)
        return [float(loss(spec.gate.objective, a, p).sum()) for a, p in pairs]


def until(rows: pa.Table, night: str) -> pa.Table:
    """Return the rows of the nights up to one."""
    return rows.filter(pc.less_equal(rows["night"], night))


def chosen(year: Year, parts: Split) -> tuple[Candidate, float]:
    """Return the candidate with the least loss on the validation nights, and the seconds of all trials."""
    spec, actual = year.spec, target(year.spec, parts.validation)
    trials = {}
    seconds = 0.0
    for recipe in (*spec.training.baselines, *spec.training.candidates):
        made = year.model(recipe, parts.train)
        seconds += made.seconds
        said = models.predict(made.estimator, parts.validation, spec)
        trials[recipe.name] = float(loss(spec.gate.objective, actual, said).mean())
    return min(spec.training.candidates, key=lambda recipe: trials[recipe.name]), seconds


def held_out(year: Year, night: str) -> Training:
    """Train as a gate on held-out evidence does."""
    spec, parts = year.spec, split(year.known(night), year.spec, night)
    best, seconds = chosen(year, parts)
    both = pa.concat_tables([parts.train, parts.validation])
    made = {name: year.model(recipe, both) for name, recipe in _recipes(spec, best).items()}
    said = {name: models.predict(model.estimator, parts.test, spec) for name, model in made.items()}
    seconds += sum(model.seconds for model in made.values())
    return Training(parts.test, said, nights_of(both)[-1], made[CHALLENGER], seconds)


def walk_forward(year: Year, night: str) -> Training:
    """Train as a gate on walk-forward evidence does; a fit that an earlier Sunday made is paid for again."""
    spec, every = year.spec, year.known(night)
    parts = split(every, spec, night)
    best, seconds = chosen(year, parts)
    recipes = _recipes(spec, best)
    of = np.asarray(parts.test["night"].to_pylist(), dtype=object)
    said = {name: np.empty(len(of)) for name in recipes}
    starts = origins(spec, night)
    for origin, end in zip(starts, [*starts[1:], night], strict=True):
        places = np.flatnonzero((of > origin) & (of <= end))
        rows, asked = year.known(origin), parts.test.take(places)
        for name, recipe in recipes.items():
            made = year.model(recipe, rows)
            seconds += made.seconds
            said[name][places] = models.predict(made.estimator, asked, spec)
    final = {name: year.model(recipe, every) for name, recipe in recipes.items()}
    seconds += sum(model.seconds for model in final.values())
    again = models.predict(final[CHALLENGER].estimator, parts.test, spec)
    last = nights_of(parts.validation)[-1]
    return Training(parts.test, said, last, final[CHALLENGER], seconds, again)


def _recipes(spec: UseCase, best: Candidate) -> dict[str, Candidate]:
    return {CHALLENGER: best} | {f"{BASELINE}{c.name}": c for c in spec.training.baselines}


def judged(spec: UseCase, policy: Policy, night: str, training: Training) -> list[Check]:
    """Return what the gate's checks find, with the champion on those nights alone that it never saw."""
    case = Case(
        _evidence(spec, policy.champion, night, training),
        spec.gate,
        policy.attempts + 1,
        policy.champion is not None,
    )
    thin = [check for rule in checks.THIN.values() for check in rule(case)]
    if not all(check.passed for check in thin):
        return thin
    policy.attempts += 1
    return [check for name in RULES for check in checks.RULES[name](case)]


def _evidence(spec: UseCase, champion: Model | None, night: str, training: Training) -> Evidence:
    said, last, test = dict(training.predictions), training.last, training.test
    if champion is not None:
        said[CHAMPION] = models.predict(champion.estimator, test, spec)
        last = max(last, champion.fitted)
    of, actual = np.asarray(test["night"].to_pylist(), dtype=object), target(spec, test)
    nights, unseen = [key for key in nights_of(test) if key > last], of > last
    losses = {name: loss(spec.gate.objective, actual, values) for name, values in said.items()}
    refit = None
    if training.again is not None and nights:
        refit = float(loss(spec.gate.objective, actual, training.again)[unseen].mean())
    places = [np.flatnonzero(of == key) for key in nights]
    sums = {name: tuple(float(v[place].sum()) for place in places) for name, v in losses.items()}
    unnamed = ("spec", "data", "code", "version", "model", "baseline_model", "recipe")
    given: dict[str, Any] = dict.fromkeys(unnamed, "")
    return Evidence(
        **given,
        usecase=spec.name,
        night=night,
        prior=float(actual.mean()),
        metrics={CHALLENGER: measured(METRICS["binary"], actual[unseen], said[CHALLENGER][unseen])},
        losses=Losses(tuple(nights), tuple(len(place) for place in places), sums),
        champion="champion" if champion else "",
        last_fitted=last,
        fitted=training.serves.fitted,
        facts=Facts(refit=refit),
    )


def weeks(spec: UseCase) -> Iterator[tuple[str, list[str]]]:
    """Yield each training night with the scored nights that follow it until the next."""
    days = spec.clock.keys(*TRAININGS)[:: 7 * WEEKS]
    for night, following in zip(days, [*days[1:], LAST], strict=True):
        yield night, spec.clock.keys(spec.clock.shift(night, 1), following)


def replay(year: Year) -> list[Policy]:
    """Live through the year under each policy."""
    never, always = Policy("never retrained"), Policy("replaced each time, no gate")
    gates = {name: Policy(name) for name in ("held_out", "walk_forward")}
    specs = {
        name: year.spec.model_copy(update={"gate": year.spec.gate.model_copy(update={"evidence": name})})
        for name in gates
    }
    labels = year.known("2013-12-31")
    for night, nights in weeks(year.spec):
        trained = {"held_out": held_out(year, night), "walk_forward": walk_forward(year, night)}
        for name, policy in gates.items():
            found = judged(specs[name], policy, night, trained[name])
            policy.seconds.append(trained[name].seconds)
            failed = [check.sentence() for check in found if not check.passed]
            print(f"{night} {name}: {'; '.join(failed) or 'promoted'}", flush=True)
            if not failed:
                policy.take(trained[name].serves, night)
        newest = trained["walk_forward"].serves
        for policy in (always, never)[: 1 if never.champion else 2]:
            policy.take(newest, night)
        for key in nights:
            rows = labels.filter(pc.equal(labels["night"], key))
            for policy in (never, always, *gates.values()):
                policy.serve(year.spec, key, rows)
        year.forget(night)
    return [never, always, *gates.values()]


def show(spec: UseCase, policies: list[Policy]) -> None:
    """Print the table, and by how much less each policy loses than the first model for the whole year."""
    rows = [len(values) for values in policies[0].actual]
    reference = policies[0].losses(spec)
    print("\n| policy | promotions | log loss | ROC-AUC | AP | mean age, nights | CPU s a training | gain |")
    print("|---|---|---|---|---|---|---|---|")
    for policy in policies:
        actual, said = np.concatenate(policy.actual), np.concatenate(policy.predictions)
        found = measured(METRICS["binary"], actual, said)
        shown = gain(reference, policy.losses(spec), rows, spec.gate.block, 0.05)
        other = gain(policy.losses(spec), reference, rows, spec.gate.block, 0.05)
        interval = f"{shown.mean:+.4f} [{shown.low:+.4f}, {-other.low:+.4f}]" if shown.mean else "-"
        seconds = f"{np.mean(policy.seconds):.1f}" if policy.seconds else "-"
        print(
            f"| {policy.name} | {len(policy.promoted)} | {found['log_loss']:.4f} | {found['roc_auc']:.4f} "
            f"| {found['average_precision']:.4f} | {np.mean(policy.ages):.1f} | {seconds} "
            f"| {interval} |"
        )
    print(f"\n{len(rows)} nights, {sum(rows)} rows; gain: log loss less than never retrained, 90 % interval")


def main() -> None:
    """Replay and print."""
    spec = load("flight_delay")
    show(spec, replay(Year(Lake(spec.name), spec)))


if __name__ == "__main__":
    main()
