"""The whole declaration, and the checks that need more than one part of it."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from include.references import digest_json
from include.spec.clock import Clock
from include.spec.gate import Gate
from include.spec.metrics import objectives_of_kind, validate_metric
from include.spec.problem import Problem
from include.spec.source import Day, Name, Source, Strict
from include.spec.stages import Alerts, Features, Labels, Monitoring, Retraining, Scoring, Training

# what stands beside the sources in `partitions` and `profiles`
PRODUCTS = (
    *("features", "predictions", "shadows", "labels"),
    *("performance", "losses", "drift", "limits", "estimates", "monitor"),
)


class Schedule(Strict):
    """When the partitions are."""

    batch: str
    training: str
    timezone: str
    start: Day = Field(description="the first partition")
    end: Day | None = Field(None, description="the last partition, if there is one")

    @field_validator("batch", "training")
    @classmethod
    def _cron(cls, value: str) -> str:
        from croniter import croniter

        if not croniter.is_valid(value):
            raise ValueError(f"{value!r} is not a cron expression")
        if not re.fullmatch(r"\d{1,2} \d{1,2} \S+ \S+ \S+", value):
            raise ValueError(
                f"{value!r} can fire twice a day; give one minute and one hour, a day has one key"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is not a time zone's name, as America/New_York") from None
        return value


class UseCase(Strict):
    """One use case. ``folder`` is where its file lies and is no part of its identity."""

    name: Name
    problem: Problem
    schedule: Schedule
    sources: dict[Name, Source] = Field(min_length=1)
    features: Features
    labels: Labels
    training: Training
    gate: Gate
    scoring: Scoring
    monitoring: Monitoring = Monitoring()
    retraining: Retraining = Retraining()
    alerts: Alerts = Alerts()
    folder: Path = Field(Path(), exclude=True)

    @property
    def clock(self) -> Clock:
        """The clock of the partitions."""
        return Clock(self.schedule.batch, self.schedule.timezone)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that tell one row to score from another, within a partition."""
        return self.sources[self.features.spine].key

    @property
    def sql(self) -> str:
        """The text of the feature SQL."""
        return (self.folder / self.features.sql).read_text()

    @cached_property
    def digest(self) -> str:
        """The digest of the declaration and its SQL: what a result depends on beside data and code."""
        # what no result depends on
        without = {"training": {"ablation"}, "alerts": True}
        said = self.model_dump(mode="json", by_alias=True, exclude=without)  # type: ignore[arg-type]
        return digest_json([said, self.sql])

    def digest_of(self, product: str) -> str:
        """Return the digest of what a product depends on: a source on its part and the clock, else all.

        That which brings the labels of a multiclass problem is also checked for other classes.
        """
        if product not in self.sources:
            return self.digest
        part = self.sources[product].model_dump(mode="json", by_alias=True)
        known = self.problem.classes if product == self.labels.source else ()
        labels = [known, self.labels.sql] if known else []
        return digest_json([part, self.schedule.batch, self.schedule.timezone, *labels])

    @property
    def fallback(self) -> float | tuple[float, ...]:
        """The prediction before any model was promoted: a number, or each class's probability."""
        said = self.scoring.fallback
        return tuple(said[name] for name in self.problem.classes) if isinstance(said, dict) else said

    def partitions(self, source: str, first: str, last: str) -> list[str]:
        """Return the partitions from ``first`` to ``last`` on which a source exists."""
        start = max(first, self.sources[source].start or self.schedule.start, self.schedule.start)
        return self.clock.keys(start, min(last, self.schedule.end or last)) if start <= last else []

    @model_validator(mode="after")
    def _parts_fit(self) -> UseCase:
        known = ", ".join(self.sources)
        if taken := [name for name in PRODUCTS if name in self.sources]:
            raise ValueError(f"sources: {taken[0]!r} is the name of one of Evergreen's own products")
        named = [("features.spine", self.features.spine), ("labels.source", self.labels.source)]
        named += [("features.lookbacks", source) for source in self.features.lookbacks]
        named += [
            (f"scoring.requires.{rung}", s) for rung, needs in self.scoring.requires.items() for s in needs
        ]
        for path, source in named:
            if source not in self.sources:
                raise ValueError(f"{path}: no source is named {source!r}; there are {known}")
        missing = [c for c in self.key if c not in self.sources[self.labels.source].columns]
        if missing:
            raise ValueError(
                f"labels.source: {self.labels.source} lacks the key column(s) {', '.join(missing)}"
            )
        if self.problem.target in self.features.columns:
            raise ValueError(f"features: the target {self.problem.target!r} can't be a feature")
        for column in self.problem.never_features:
            if column in self.features.columns:
                raise ValueError(f"features: {column!r} is under problem.never_features")
        self._hour_fits()
        self._columns_fit()
        self._outputs_fit()
        self._ablation_fits()
        if self.gate.objective not in objectives_of_kind(self.problem.kind):
            fit = ", ".join(objectives_of_kind(self.problem.kind))
            raise ValueError(
                f"gate.objective: {self.gate.objective!r} doesn't fit {self.problem.kind}; use {fit}"
            )
        for path, rules in (("gate", self.gate.requirements), ("monitoring", self.monitoring.requirements)):
            for rule in rules:
                try:
                    validate_metric(self.problem.kind, rule.metric, self.problem.classes)
                except ValueError as error:
                    raise ValueError(f"{path}.requirements: {error}") from None
        return self

    def _hour_fits(self) -> None:
        """Refuse an hour at which each partition's predictions would be overdue before they are begun."""
        minute, hour = self.schedule.batch.split()[:2]
        begun = f"{int(hour):02}:{int(minute):02}"
        if self.scoring.deadline < begun:
            raise ValueError(
                f"scoring.deadline: {begun} or later, when schedule.batch begins, found "
                f"{self.scoring.deadline}"
            )

    def _outputs_fit(self) -> None:
        """Refuse a fallback that is no prediction, and columns that the predictions' would hide."""
        said, classes = self.scoring.fallback, self.problem.classes
        found = said if isinstance(said, float) else ", ".join(f"{c} {p:g}" for c, p in said.items())
        if not classes and isinstance(said, dict):
            raise ValueError(f"scoring.fallback: a number, for a {self.problem.kind} problem, found {found}")
        if not classes:
            return
        shares = said if isinstance(said, dict) and set(said) == set(classes) else {}
        if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
            wanted = f"{{{', '.join(f'{name}: 0.…' for name in classes)}}}"
            raise ValueError(
                f"scoring.fallback: each class's probability, together 1, as {wanted}, found {found}"
            )
        for name in ("label", *self.problem.outputs):
            if name in (*self.key, *self.features.columns):
                raise ValueError(f"features: {name!r} is a column of the predictions; use another name")

    def _ablation_fits(self) -> None:
        """Refuse an ablation that would fit on nothing, before each training fails at it."""
        for name, columns in self.features.ablated.items():
            if self.training.ablation and set(columns) == set(self.features.columns):
                raise ValueError(
                    f"training.ablation: without the group {name} no feature is left to fit on; declare "
                    "smaller ones under features.groups"
                )

    def _columns_fit(self) -> None:
        """Refuse a slice, group or entity whose column nobody gives."""
        spine, gate = self.sources[self.features.spine].columns, self.gate
        there = [*dict.fromkeys([*self.features.columns, *spine])]
        for path, wanted in (
            ("gate.slices.columns", gate.slices.columns),
            ("gate.fairness.columns", gate.fairness.columns if gate.fairness else ()),
        ):
            for column in wanted:
                if column not in there:
                    raise ValueError(f"{path}: no column is named {column!r}; there are {', '.join(there)}")
        for column in gate.rollout.entity:
            if column not in self.key:
                raise ValueError(f"gate.rollout.entity: {column!r} isn't of the key {', '.join(self.key)}")
        rules, training, delay = gate.rollout, self.training, self.labels.delay
        needed, matured = max(gate.min_partitions, 2 * gate.block_partitions), training.test - 2 * delay
        if matured < needed:
            raise ValueError(
                f"training.test: at least {needed + 2 * delay}, for the gate needs {needed} partitions, "
                "the last "
                f"{delay} have no labels yet, and the first {delay} overlap what was fitted on; found "
                f"{training.test}"
            )
        if training.max_test and gate.evidence != "walk_forward":
            raise ValueError("training.max_test: only for gate.evidence = walk_forward")
        looks = -(-max(rules.partitions, 2 * gate.block_partitions) // rules.look_every)
        if rules.patience < (need := looks * rules.look_every + self.labels.delay):
            raise ValueError(
                f"gate.rollout.patience: at least {need}, or no step forward can come before it ({looks} "
                f"looks of {rules.look_every} partitions, label delay {self.labels.delay}), found "
                f"{rules.patience}"
            )
        if gate.fairness and self.problem.kind != "binary":
            raise ValueError(
                f"gate.fairness: selection rates need a binary problem, found {self.problem.kind}"
            )
