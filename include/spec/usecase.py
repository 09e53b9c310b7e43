"""The whole declaration of a use case, and the checks across its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from include.extensions import CodeReference, is_reference, registered
from include.references import digest_json
from include.spec.clock import Clock, fires_a_year, is_frequent, time_of_day
from include.spec.gate import Gate, MetricBound
from include.spec.metrics import (
    COST,
    Objective,
    find_objective,
    is_custom_metric,
    is_custom_objective,
    validate_metric,
    validate_objective,
)
from include.spec.problem import Problem
from include.spec.source import Day, Name, PythonSource, Source, Strict, Zone, added_field
from include.spec.stages import Alerts, Features, Labels, Monitoring, Retraining, Scoring, Training

# the products besides the sources in the tables `partitions` and `profiles`
PRODUCTS = (
    "features",
    "predictions",
    "shadows",
    "labels",
    "performance",
    "losses",
    "drift",
    "limits",
    "estimates",
    "monitor",
)
# the assets besides the sources, for which other DAGs wait
ASSETS = ("features", "predictions", "findings", "decisions", "switches")
# the columns of the table `predictions` beside the key and, for a multiclass problem, those of the classes
PREDICTION_COLUMNS = (
    "partition",
    "prediction",
    "served_by",
    "reason",
    "version",
    "model",
    "row_digest",
    "action",
)
LONGEST = 30  # years of partitions that are counted back or ahead, so that no date leaves the calendar
MAX_WALK_ORIGINS = 7  # fits of a recipe where its walk is filled in for the past
# the keys whose Python results depend on; alerts' decides nothing
PYTHON_IN_DIGEST = ("features", "training", "sources", "gate", "monitoring")


class Events(Strict):
    """A queue whose messages start a partition's run before the schedule would; see start-on-an-event.md."""

    kind: Literal["kafka", "redis", "sqs"] = Field(description="of queue; the extra `events` has its package")
    connection: Name = Field(description="the Airflow connection, of the type that Airflow's provider has")
    queue: str = Field(min_length=1, description="the topic, the channel, or the queue's URL")
    alert_after: float = Field(
        5, ge=0, le=525_600, description="minutes without an answer until alerts.to are notified"
    )


class Schedule(Strict):
    """The schedules of partitions and trainings, and what else starts a partition."""

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
    events: Events | None = added_field(None)

    @field_validator("batch", "training")
    @classmethod
    def _cron(cls, value: str) -> str:
        from croniter import CroniterBadDateError, CroniterError, croniter

        try:
            fields = value.split()
            if len(fields) != 5 or any(field[0] in "hHrR" for field in fields):  # seconds, random times
                raise ValueError(value)
            croniter(value, datetime(2000, 1, 1)).get_next()
        except CroniterBadDateError:
            raise ValueError(f"{value!r} never fires; correct the day of the month, or the month") from None
        except (CroniterError, ValueError):
            raise ValueError(
                f"{value!r} is not a cron expression of five fields, such as 5 * * * * or 0 18 * * 1"
            ) from None
        return " ".join(fields)


class Horizon(Strict):
    """The same forecast further ahead: a use case of its own, named by both as coffee_week.

    These keys replace those of the declaration; mappings are merged. The schedule and sources stay the same.
    """

    problem: dict[str, Any] = added_field({}, description="such as its own `statement`")
    features: dict[str, Any] = added_field({}, description="such as {sql: features_week.sql}")
    labels: dict[str, Any] = added_field({}, description="such as {delay: 7}")
    training: dict[str, Any] = added_field({}, description="such as a longer `test`, or other baselines")
    gate: dict[str, Any] = added_field({}, description="such as other requirements")
    scoring: dict[str, Any] = added_field({}, description="such as another constant")
    monitoring: dict[str, Any] = added_field({}, description="such as a longer window")
    retraining: dict[str, Any] = added_field({}, description="such as other reasons for a training")
    alerts: dict[str, Any] = added_field({}, description="such as other recipients")


class UseCase(Strict):
    """One use case, which is a declaration or one of its horizons.

    ``folder``, which contains its file, and ``horizon`` are not part of its digest.
    """

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
    horizons: dict[Name, Horizon] = added_field(
        {},
        description="the same forecast further ahead: each is a use case of its own, named <name>_<horizon>",
    )
    folder: Path = Field(Path(), exclude=True)
    horizon: str = Field("", exclude=True)

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
        """The SQL of the features; empty if Python alone computes them."""
        file = self.folder / self.features.sql
        return "" if self.features.python and not file.is_file() else file.read_text()

    @property
    def features_file(self) -> Path:
        """The file whose result are the features: the SQL, or the module of the Python after it."""
        own = self.python_of("features")
        return (own[0].file if own else None) or self.folder / self.features.sql

    @property
    def python(self) -> tuple[CodeReference, ...]:
        """All Python that the declaration names."""
        return tuple(
            code for path, kind, name in self._names() if (code := self.code(path, kind, name)) is not None
        )

    def code(self, path: str, kind: str, name: str) -> CodeReference | None:
        """Return the Python that a name stands for; None for a name that isn't one of code.

        Parameters
        ----------
        path : where the declaration has the name.
        kind : of `include.extensions.KINDS`.
        """
        name = name if is_reference(name) else registered(kind).get(name, "")
        return CodeReference(self.folder, path, name) if name else None

    def _names(self) -> Iterator[tuple[str, str, str]]:
        """Yield the path, the kind and the name of whatever may be Python."""
        if self.features.python:
            yield "features.python", "features", self.features.python
        for recipe in (*self.training.baselines, *self.training.candidates):
            yield f"training.{recipe.name}", "estimators", recipe.estimator
        for name, source in self.sources.items():
            if isinstance(source, PythonSource):
                yield f"sources.{name}.kind", "connectors", source.kind
            for check in source.contract.row_checks:
                yield f"sources.{name}.contract.row_checks", "row_checks", check
        for check in self.gate.checks:
            yield "gate.checks", "gate_checks", check
        if is_custom_objective(self.gate.objective):
            yield "gate.objective", "objectives", self.gate.objective
        for path, rule in self.requirements:
            if is_custom_metric(rule.metric):
                yield path, "metrics", rule.metric
        for name, channel in self.alerts.channels.items():
            yield f"alerts.channels.{name}", "alert_channels", channel

    def python_of(self, path: str) -> tuple[CodeReference, ...]:
        """Return the Python that the declaration names at a path or below it."""
        return tuple(code for code in self.python if f"{code.key}.".startswith(f"{path}."))

    @property
    def objective(self) -> Objective:
        """The loss by which models are compared."""
        name = self.gate.objective
        own = self.python_of("gate.objective")
        if own:
            return Objective(name, (self.problem.kind,), own[0].name, code=own[0])
        return replace(find_objective(name), costs=self.problem.cost_matrix)

    @property
    def custom_metrics(self) -> dict[str, CodeReference]:
        """The use case's own metrics by their names in the declaration."""
        codes = {
            rule.metric: self.code(path, "metrics", rule.metric)
            for path, rule in self.requirements
            if is_custom_metric(rule.metric)
        }
        return {name: code for name, code in codes.items() if code}

    def channel(self, connection: str, kind: str) -> CodeReference | None:
        """Return the Python that sends alerts to a connection; None if Evergreen's own channels do.

        Parameters
        ----------
        kind : the type of the connection, for which a package may register a channel.
        """
        name = self.alerts.channels.get(connection, kind)
        return self.code(f"alerts.channels.{connection}", "alert_channels", name)

    @property
    def requirements(self) -> list[tuple[str, MetricBound]]:
        """The bounds on metrics, of the gate and then of monitoring, each with its path."""
        parts = {"gate": self.gate.requirements, "monitoring": self.monitoring.requirements}
        return [(f"{part}.requirements", rule) for part, rules in parts.items() for rule in rules]

    @cached_property
    def python_digests(self) -> dict[str, Any]:
        """The digests of Python by name that were computed so far: they stay the same within a task."""
        return {}

    def code_digests(self, *codes: CodeReference | None, of: tuple[str, ...] = ()) -> list[Any]:
        """Return the digests of Python, for the digest of what depends on it.

        Parameters
        ----------
        of : paths of what is meant in addition, as ``features``.

        Returns
        -------
        list
            Empty without Python, so that the digest stays as it was.
        """
        named = {code.name: code for code in codes if code}
        named |= {code.name: code for path in of for code in self.python_of(path)}
        for name, code in named.items():
            if name not in self.python_digests:
                self.python_digests[name] = code.digest()
        return [[name, self.python_digests[name]] for name in sorted(named)]

    @cached_property
    def digest(self) -> str:
        """The digest of the declaration, its SQL and Python: what results depend on besides data and code."""
        # no result depends on these
        irrelevant = {
            "training": {"ablation"},
            "alerts": True,
            "scoring": {"shards"},
            "schedule": {"events"},
            "horizons": True,
        }
        declared = self.model_dump(mode="json", by_alias=True, exclude=irrelevant)  # type: ignore[arg-type]
        return digest_json([declared, self.sql, *self.code_digests(of=PYTHON_IN_DIGEST)])

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
        own = self.code_digests(of=(f"sources.{product}",))
        return digest_json([part, self.schedule.batch, self.schedule.timezone, *labels, *own])

    @property
    def constant(self) -> float | tuple[float, ...]:
        """The prediction until a model is promoted: a number, or each class's probability."""
        value = self.scoring.constant
        return tuple(value[name] for name in self.problem.classes) if isinstance(value, dict) else value

    @property
    def sparse(self) -> bool:
        """Whether partitions without a row to score aren't a fault, so that windows don't count them."""
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
        if not clock.sub_daily:
            return calendar.keys(first, last)
        first, last = clock.start_of(first), clock.end_of(last)
        days = (clock.date_of(first).isoformat(), (clock.date_of(last) + timedelta(days=1)).isoformat())
        keys = dict.fromkeys(clock.newest(calendar.decision_time(key)) for key in calendar.keys(*days))
        return [key for key in keys if first <= key <= last]

    @cached_property
    def walk_step(self) -> int:
        """The partitions between two fits where a recipe's walk is filled in for the past.

        It is fitted as often as the schedule trains, so that its fits are as old as those that would have
        served. Of ``training.test`` partitions a step is at least a seventh, which bounds a first training.
        """
        trainings = max(fires_a_year(self.schedule.training), 1)
        between = round(fires_a_year(self.schedule.batch) / trainings)
        return max(between, -(-self.training.test // MAX_WALK_ORIGINS))

    @model_validator(mode="after")
    def _parts_fit(self) -> UseCase:
        for name, one in self.sources.items():
            if isinstance(one, PythonSource):
                one.locate(self.code(f"sources.{name}.kind", "connectors", one.kind))
        if reserved := [name for name in (*PRODUCTS, *ASSETS) if name in self.sources]:
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
        self._counts_fit()
        self._key_fits()
        self._label_key_fits()
        self._target_fits()
        never = {column.lower() for column in self.problem.never_features}  # SQL ignores case
        if column := next((column for column in self.features.columns if column.lower() in never), None):
            raise ValueError(f"features: {column!r} is under problem.never_features")
        self._times_fit()
        self._columns_fit()
        self._gate_fits()
        self._outputs_fit()
        self._ablation_fits()
        self._metrics_fit()
        for path, kind, name in self._names():
            if kind != "estimators" and self.code(path, kind, name) is None:  # those may be built in
                raise ValueError(
                    f"{path}: {name!r} is neither code as module:name nor a name that an installed package "
                    f"registers as an entry point of evergreen.{kind}"
                )
        return self

    def _counts_fit(self) -> None:
        """Refuse a number of partitions that stands for more than `LONGEST` years."""
        training, monitoring, retraining = self.training, self.monitoring, self.retraining
        recipes = {"baselines": training.baselines, "candidates": training.candidates}
        counts = {
            "features.lookback": self.features.lookback,
            "labels.delay": self.labels.delay,
            "training.window": training.window,
            "training.test": training.test,
            **{f"training.{kind}.{one.name}.window": one.window for kind in recipes for one in recipes[kind]},
            "monitoring.window": monitoring.window,
            "monitoring.sudden_changes.past": monitoring.sudden_changes.past,
            "monitoring.sudden_changes.of": monitoring.sudden_changes.of,
            "monitoring.sudden_changes.quiet": monitoring.sudden_changes.quiet,
            "retraining.consecutive": retraining.consecutive,
            "retraining.cooldown": retraining.cooldown,
            "alerts.quiet": self.alerts.quiet,
        }
        most = LONGEST * max(fires_a_year(self.schedule.batch), 1)
        for path, count in counts.items():
            if (count or 0) > most:
                raise ValueError(
                    f"{path}: at most {most}, which are {LONGEST} years of partitions, but found {count}"
                )

    def _target_fits(self) -> None:
        """Refuse a target with the name of a feature, or of a column of the predictions."""
        target = self.problem.target
        if target in self.features.columns:
            raise ValueError(f"features: the target {target!r} can't be a feature")
        if target in (*self.key, *PREDICTION_COLUMNS):
            raise ValueError(f"problem.target: {target!r} is a column of the predictions; use another name")

    def _key_fits(self) -> None:
        """Refuse a key column with the name of another column of the predictions, whatever its case."""
        spine, per_class = self.features.spine, ("label", *self.problem.outputs)
        own = {name.lower() for name in (*PREDICTION_COLUMNS, *(per_class if self.problem.classes else ()))}
        for name in self.key:
            if name.lower() in own:
                column = self.sources[spine].columns[name]
                original = ", ".join(column.names_in_source(name))
                renamed = f"{spine}_{name}: {{type: {column.type}, from: {original}}}"
                both = "" if self.labels.source == spine else f", here and in {self.labels.source}"
                raise ValueError(
                    f"sources.{spine}.key: other names than the columns of the predictions, but found "
                    f"{name!r}; rename it by `from` under columns, as `{renamed}`{both}"
                )

    def _label_key_fits(self) -> None:
        """Refuse labels with another key than the rows': a row could have several, or none of its own."""
        labels, key = self.labels.source, self.sources[self.labels.source].key
        missing = [column for column in self.key if column not in key]
        other = [column for column in key if column not in self.key]
        if not missing and not other:
            self._label_hashes_fit()
            return
        remedies = [f"add {', '.join(missing)}"] if missing else []
        remedies += [f"remove {', '.join(other)}"] if other else []
        raise ValueError(
            f"sources.{labels}.key: the key of {self.features.spine} ({', '.join(self.key)}), because labels "
            f"are joined by it, but found {', '.join(key)}; {' and '.join(remedies)}"
        )

    def _label_hashes_fit(self) -> None:
        """Refuse a key column that only one of the labels' source and the spine has as a hash."""
        labels, spine = self.labels.source, self.features.spine
        for name in self.key:
            hashed = self.sources[spine].columns[name].hashed
            if self.sources[labels].columns[name].hashed != hashed:
                here, there = ("false", "true") if hashed else ("true", "false")
                raise ValueError(
                    f"sources.{labels}.columns.{name}.hashed: the same as in {spine}, because labels are "
                    f"joined by it, but found {here} here and {there} there"
                )

    def _metrics_fit(self) -> None:
        """Refuse an objective or a metric of another kind of problem; the use case's own fit any."""
        named = [(path, rule.metric) for path, rule in self.requirements]
        for path, name in (*named, ("gate.objective", self.gate.objective)):
            if name == COST and not self.problem.costs and self.problem.kind != "regression":
                raise ValueError(
                    f"{path}: {COST} needs problem.costs, what each decision costs for each actual label, as "
                    "{0: {wait: 0, warn: 1}, 1: {wait: 5, warn: 1}}; found none"
                )
        if not is_custom_objective(self.gate.objective):
            try:
                validate_objective(self.problem.kind, self.gate.objective)
            except ValueError as error:
                raise ValueError(f"gate.objective: {error}") from None
        for path, name in named:
            if is_custom_metric(name):
                continue
            try:
                validate_metric(self.problem.kind, name, self.problem.classes)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None

    def _times_fit(self) -> None:
        """Refuse a time of day in a schedule of several partitions a day, and a deadline before the start."""
        times = [("scoring.deadline", self.scoring.deadline)]
        times += [(f"sources.{name}.available_at", one.available_at) for name, one in self.sources.items()]
        if self.clock.sub_daily:
            for path, at in times:
                if ":" in at:
                    raise ValueError(
                        f"{path}: minutes from the partition's time, such as +20m or -5m, because "
                        f"schedule.batch can fire more than once a day, but found {at}"
                    )
        elif is_frequent(self.schedule.training):
            raise ValueError(
                f"schedule.training: at most once a day, as schedule.batch, "
                f"but found {self.schedule.training!r}"
            )
        at = self.scoring.deadline
        if at.startswith("-"):
            raise ValueError(f"scoring.deadline: +0m or later, but found {at}")
        if ":" not in at:
            return
        if at < (start := time_of_day(self.schedule.batch)):
            raise ValueError(
                f"scoring.deadline: {start} or later, when schedule.batch begins, but found {at}"
            )

    def _outputs_fit(self) -> None:
        """Refuse a constant that isn't a prediction, and features with the name of a predictions column."""
        value, classes = self.scoring.constant, self.problem.classes
        if self.problem.costs and "action" in (*self.key, *self.features.columns):
            raise ValueError("features: 'action' is a column of the predictions; use another name")
        text = value if isinstance(value, float) else ", ".join(f"{c} {p:g}" for c, p in value.items())
        if not classes and isinstance(value, dict):
            raise ValueError(
                f"scoring.constant: a number, for a {self.problem.kind} problem, but found {text}"
            )
        if not classes:
            return
        shares = value if isinstance(value, dict) and set(value) == set(classes) else {}
        if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
            example = f"{{{', '.join(f'{name}: 0.…' for name in classes)}}}"
            here = value if isinstance(value, dict) else {}
            unmatched = [
                f"{name} is only in problem.classes" for name in classes if here and name not in here
            ]
            unmatched += [f"{name} only in scoring.constant" for name in here if name not in classes]
            raise ValueError(
                f"scoring.constant: each class's probability, together 1, as {example}, but found {text}"
                f"{'; ' * bool(unmatched)}{', '.join(unmatched)}"
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
        for recipe in (*self.training.baselines, *self.training.candidates):
            for column in recipe.monotone:
                if column not in self.features.numeric:
                    raise ValueError(
                        f"training.{recipe.name}.monotone: {column!r} isn't a numeric feature; there are "
                        f"{', '.join(self.features.numeric) or 'none'}"
                    )
        self._entity_fits()
        for column in gate.rollout.entity:
            if column not in self.key:
                raise ValueError(f"gate.rollout.entity: {column!r} isn't of the key {', '.join(self.key)}")

    def _entity_fits(self) -> None:
        """Refuse an entity of other columns than the spine's strings and integers, and shards without one."""
        spine = self.sources[self.features.spine].columns
        available = [name for name, column in spine.items() if column.type in ("string", "integer")]
        for column in self.features.entity:
            if column not in available:
                raise ValueError(
                    f"features.entity: {column!r} isn't a column of strings or integers of "
                    f"{self.features.spine}; there are {', '.join(available) or 'none'}"
                )
        if self.scoring.shards > 1 and not self.features.entity:
            raise ValueError(
                "scoring.shards: a partition is split by entity, and features.entity isn't declared; declare "
                "the columns beyond which no feature looks, as `entity: [customer]`, or remove scoring.shards"
            )

    def _gate_fits(self) -> None:
        """Refuse windows and patience that are too short, and fairness without selection rates."""
        gate = self.gate
        rollout, training, delay = gate.rollout, self.training, self.labels.delay
        needed = gate.needed_partitions
        if training.test - delay < needed:
            raise ValueError(
                f"training.test: at least {needed + delay}, because the gate needs {needed} partitions and "
                f"the last {delay} have no labels yet; found {training.test}"
            )
        hidden = 0 if self.sparse else delay  # of a sparse spine, only partitions with rows count
        if training.window and training.window < (least := 2 * needed + hidden - 1):
            raise ValueError(
                f"training.window: at least {least}, because at most half of its labeled partitions are test "
                f"partitions, of which the gate needs {needed}, and the last {hidden} have no labels yet; "
                f"found {training.window}"
            )
        for kind, recipes in (("baselines", training.baselines), ("candidates", training.candidates)):
            for recipe in recipes:
                if recipe.window and recipe.window <= hidden:
                    raise ValueError(
                        f"training.{kind}.{recipe.name}.window: at least {hidden + 1}, because the last "
                        f"{hidden} partitions have no labels yet; found {recipe.window}"
                    )
        looks = -(-max(rollout.partitions, 2 * gate.block_partitions) // rollout.look_every)
        if rollout.patience < (need := looks * rollout.look_every + delay):
            raise ValueError(
                f"gate.rollout.patience: at least {need}, or no step forward can come before it ({looks} "
                f"looks of {rollout.look_every} partitions, label delay {delay}), but found "
                f"{rollout.patience}"
            )
        if gate.fairness and self.problem.kind != "binary":
            raise ValueError(
                f"gate.fairness: selection rates need a binary problem, but found {self.problem.kind}"
            )
