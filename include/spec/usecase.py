"""The whole declaration of a use case, and the checks across its parts."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from include.references import digest_json
from include.spec.clock import Clock, is_frequent
from include.spec.gate import Gate
from include.spec.metrics import objectives_of_kind, validate_metric
from include.spec.problem import Problem
from include.spec.source import Day, Name, Source, Strict, Zone
from include.spec.stages import Alerts, Features, Labels, Monitoring, Retraining, Scoring, Training

# the products besides the sources in the tables `partitions` and `profiles`
PRODUCTS = (
    *("features", "predictions", "shadows", "labels"),
    *("performance", "losses", "drift", "limits", "estimates", "monitor"),
)


class Schedule(Strict):
    """The schedules of partitions and trainings."""

    batch: str = Field(
        description="cron of the partitions. A partition is a local date, such as 2013-03-01; if the cron "
        "can fire more than once a day, a UTC minute, such as 2013-03-01T0500Z"
    )
    training: str = Field(
        description="cron of the trainings, on days that have a partition. If batch can fire more than once "
        "a day, a training belongs to the partition at or before it"
    )
    timezone: Zone = Field(description="time zone of the crons and dates, such as America/New_York")
    start: Day = Field(description="the first day with partitions")
    end: Day | None = Field(None, description="the last day with partitions; null: no end")

    @field_validator("batch", "training")
    @classmethod
    def _cron(cls, value: str) -> str:
        from croniter import CroniterError, croniter

        try:
            fields = value.split()
            if len(fields) != 5 or any(field[0] in "hHrR" for field in fields):  # seconds, random times
                raise ValueError(value)
            croniter(value, datetime(2000, 1, 1)).get_next()  # fails if it never fires
        except (CroniterError, ValueError):
            raise ValueError(
                f"{value!r} is not a cron expression of five fields, such as 5 * * * * or 0 18 * * 1"
            ) from None
        return " ".join(fields)


class UseCase(Strict):
    """One use case. ``folder`` contains its file and is not part of its digest."""

    name: Name = Field(description="the folder's name; also the first part of the DAG ids")
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
        """The columns that identify a row to score within a partition."""
        return self.sources[self.features.spine].key

    @property
    def sql(self) -> str:
        """The SQL of the features."""
        return (self.folder / self.features.sql).read_text()

    @cached_property
    def digest(self) -> str:
        """The digest of the declaration and its SQL: what results depend on besides data and code."""
        irrelevant = {"training": {"ablation"}, "alerts": True}  # no result depends on these
        declared = self.model_dump(mode="json", by_alias=True, exclude=irrelevant)  # type: ignore[arg-type]
        return digest_json([declared, self.sql])

    def digest_of(self, product: str) -> str:
        """Return the digest of what a product depends on: a source on its own part and the schedule.

        The source of a multiclass problem's labels also depends on the classes. Other products depend on
        everything.
        """
        if product not in self.sources:
            return self.digest
        part = self.sources[product].model_dump(mode="json", by_alias=True)
        classes = self.problem.classes if product == self.labels.source else ()
        labels = [classes, self.labels.sql] if classes else []
        return digest_json([part, self.schedule.batch, self.schedule.timezone, *labels])

    @property
    def fallback(self) -> float | tuple[float, ...]:
        """The prediction until a model is promoted: a number, or each class's probability."""
        value = self.scoring.fallback
        return tuple(value[name] for name in self.problem.classes) if isinstance(value, dict) else value

    @property
    def sparse(self) -> bool:
        """Whether partitions without a row to score are no fault, so that windows don't count them."""
        return self.sources[self.features.spine].sparse

    @property
    def start(self) -> str:
        """What no partition sorts before: schedule.start."""
        return self.clock.start_of(self.schedule.start)

    @property
    def end(self) -> str | None:
        """What no partition sorts after: schedule.end; None without one."""
        return self.clock.end_of(self.schedule.end) if self.schedule.end else None

    def partitions(self, source: str, first: str, last: str) -> list[str]:
        """Return the partitions from ``first`` to ``last``, each a partition or a day, that have a source."""
        clock = self.clock
        begins = clock.start_of(self.sources[source].start or self.schedule.start)
        start, last = max(clock.start_of(first), begins, self.start), clock.end_of(last)
        return clock.keys(start, min(last, self.end or last)) if start <= last else []

    def trainings(self, first: str, last: str) -> list[str]:
        """Return the partitions from ``first`` to ``last`` that have a scheduled training."""
        clock = self.clock
        calendar = Clock(self.schedule.training, self.schedule.timezone)
        if not clock.frequent:
            return calendar.keys(first, last)
        first, last = clock.start_of(first), clock.end_of(last)
        days = (clock.date_of(first).isoformat(), (clock.date_of(last) + timedelta(days=1)).isoformat())
        keys = dict.fromkeys(clock.newest(calendar.moment(key)) for key in calendar.keys(*days))
        return [key for key in keys if first <= key <= last]

    @model_validator(mode="after")
    def _parts_fit(self) -> UseCase:
        if reserved := [name for name in PRODUCTS if name in self.sources]:
            raise ValueError(f"sources: {reserved[0]!r} is the name of one of Evergreen's own products")
        references = [("features.spine", self.features.spine), ("labels.source", self.labels.source)]
        references += [("features.lookbacks", source) for source in self.features.lookbacks]
        for step, sources in self.scoring.requires.items():
            references += [(f"scoring.requires.{step}", source) for source in sources]
        for path, source in references:
            if source not in self.sources:
                raise ValueError(
                    f"{path}: no source is named {source!r}; there are {', '.join(self.sources)}"
                )
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
        self._times_fit()
        self._columns_fit()
        self._gate_fits()
        self._outputs_fit()
        self._ablation_fits()
        if self.gate.objective not in objectives_of_kind(self.problem.kind):
            valid = ", ".join(objectives_of_kind(self.problem.kind))
            raise ValueError(
                f"gate.objective: {self.gate.objective!r} doesn't fit {self.problem.kind}; use {valid}"
            )
        for path, rules in (("gate", self.gate.requirements), ("monitoring", self.monitoring.requirements)):
            for rule in rules:
                try:
                    validate_metric(self.problem.kind, rule.metric, self.problem.classes)
                except ValueError as error:
                    raise ValueError(f"{path}.requirements: {error}") from None
        return self

    def _times_fit(self) -> None:
        """Refuse a time of day in a schedule of several partitions a day, and a deadline before the start."""
        times = [("scoring.deadline", self.scoring.deadline)]
        times += [(f"sources.{name}.available_at", one.available_at) for name, one in self.sources.items()]
        if self.clock.frequent:
            for path, at in times:
                if ":" in at:
                    raise ValueError(
                        f"{path}: minutes from the partition's time, such as +20m or -5m, because "
                        f"schedule.batch can fire more than once a day, found {at}"
                    )
        elif is_frequent(self.schedule.training):
            raise ValueError(
                f"schedule.training: at most once a day, as schedule.batch, found {self.schedule.training!r}"
            )
        at = self.scoring.deadline
        if at.startswith("-"):
            raise ValueError(f"scoring.deadline: +0m or later, found {at}")
        if ":" not in at:
            return
        minute, hour = self.schedule.batch.split()[:2]
        start = f"{int(hour):02}:{int(minute):02}"
        if self.scoring.deadline < start:
            raise ValueError(
                f"scoring.deadline: {start} or later, when schedule.batch begins, found "
                f"{self.scoring.deadline}"
            )

    def _outputs_fit(self) -> None:
        """Refuse a fallback that is no prediction, and features with the name of a predictions column."""
        value, classes = self.scoring.fallback, self.problem.classes
        text = value if isinstance(value, float) else ", ".join(f"{c} {p:g}" for c, p in value.items())
        if not classes and isinstance(value, dict):
            raise ValueError(f"scoring.fallback: a number, for a {self.problem.kind} problem, found {text}")
        if not classes:
            return
        shares = value if isinstance(value, dict) and set(value) == set(classes) else {}
        if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
            example = f"{{{', '.join(f'{name}: 0.…' for name in classes)}}}"
            raise ValueError(
                f"scoring.fallback: each class's probability, together 1, as {example}, found {text}"
            )
        for name in ("label", *self.problem.outputs):
            if name in (*self.key, *self.features.columns):
                raise ValueError(f"features: {name!r} is a column of the predictions; use another name")

    def _ablation_fits(self) -> None:
        """Refuse a group of an ablation that contains all features."""
        for name, columns in self.features.ablated.items():
            if self.training.ablation and set(columns) == set(self.features.columns):
                raise ValueError(
                    f"training.ablation: without the group {name} no feature is left to fit on; declare "
                    "smaller ones under features.groups"
                )

    def _columns_fit(self) -> None:
        """Refuse slices, groups and entities with unknown columns."""
        spine, gate = self.sources[self.features.spine].columns, self.gate
        available = [*dict.fromkeys([*self.features.columns, *spine])]
        for path, columns in (
            ("gate.slices.columns", gate.slices.columns),
            ("gate.fairness.columns", gate.fairness.columns if gate.fairness else ()),
        ):
            for column in columns:
                if column not in available:
                    raise ValueError(
                        f"{path}: no column is named {column!r}; there are {', '.join(available)}"
                    )
        for column in gate.rollout.entity:
            if column not in self.key:
                raise ValueError(f"gate.rollout.entity: {column!r} isn't of the key {', '.join(self.key)}")

    def _gate_fits(self) -> None:
        """Refuse test windows and patience that are too short, and fairness without selection rates."""
        gate = self.gate
        rollout, training, delay = gate.rollout, self.training, self.labels.delay
        needed = max(gate.min_partitions, 2 * gate.block_partitions)
        if training.test - delay < needed:
            raise ValueError(
                f"training.test: at least {needed + delay}, because the gate needs {needed} partitions and "
                f"the last {delay} have no labels yet; found {training.test}"
            )
        looks = -(-max(rollout.partitions, 2 * gate.block_partitions) // rollout.look_every)
        if rollout.patience < (need := looks * rollout.look_every + delay):
            raise ValueError(
                f"gate.rollout.patience: at least {need}, or no step forward can come before it ({looks} "
                f"looks of {rollout.look_every} partitions, label delay {delay}), found "
                f"{rollout.patience}"
            )
        if gate.fairness and self.problem.kind != "binary":
            raise ValueError(
                f"gate.fairness: selection rates need a binary problem, found {self.problem.kind}"
            )
