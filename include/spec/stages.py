"""The declaration of features, labels, training, scoring, monitoring, retraining and alerts."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from include.spec.gate import MetricBound
from include.spec.source import Name, NameOrCode, PartitionTime, Strict, added_field, finite

StepName = Literal["champion", "previous", "baseline"]  # a constant can always serve
STEPS = ("champion", "canary", "previous", "baseline", "constant")  # of the fallback chain, in order


class Features(Strict):
    """The features: one SQL file, a Python function, or both, for both training and scoring."""

    sql: str = Field(
        "features.sql",
        description="the file with one SELECT, in the use case's folder; with `python` it may be missing",
    )
    python: NameOrCode | None = added_field(
        None,
        description="a function as module:name, from the tables that the SQL sees to the features; the SQL's "
        "result, if there is SQL, is the table `features`",
    )
    spine: Name = Field(description="the source whose rows are scored")
    lookback: int = Field(ge=0, description="earlier partitions that the SQL may read")
    lookbacks: dict[Name, Annotated[int, Field(ge=0)]] = Field(
        {}, description="sources with a shorter lookback"
    )
    numeric: tuple[str, ...] = Field((), description="columns of the SELECT that are numbers")
    categorical: tuple[str, ...] = Field((), description="columns of the SELECT that are categories")
    entity: tuple[str, ...] = added_field(
        (),
        description="columns of the spine, strings or integers: declares that a row's features never look at "
        "rows with other values of them, so that scoring.shards may split a partition",
    )
    groups: dict[Name, tuple[str, ...]] = Field(
        {}, description="features that an ablation leaves out together; default: numeric and categorical"
    )

    @property
    def ablated(self) -> dict[str, tuple[str, ...]]:
        """The columns of each group of an ablation."""
        kinds = {"numeric": self.numeric, "categorical": self.categorical}
        return self.groups or {kind: columns for kind, columns in kinds.items() if columns}

    @property
    def columns(self) -> tuple[str, ...]:
        """All feature columns, numeric first."""
        return self.numeric + self.categorical

    def lookback_of(self, source: str) -> int:
        """Return how many earlier partitions of a source the SQL may read."""
        return self.lookbacks.get(source, self.lookback)

    @model_validator(mode="after")
    def _valid_columns(self) -> Features:
        for source, lookback in self.lookbacks.items():
            if lookback > self.lookback:
                raise ValueError(
                    f"lookbacks.{source}: at most lookback, which is {self.lookback}, but found {lookback}"
                )
        if not self.columns:
            raise ValueError("declare at least one feature under numeric or categorical")
        if twice := [name for name, count in Counter(self.columns).items() if count > 1]:
            raise ValueError(
                f"each feature once, under numeric or categorical, but found {', '.join(twice)} twice"
            )
        if any('"' in name for name in self.columns):
            raise ValueError("a feature's name can't contain a double quote, by which SQL quotes it")
        for name, columns in self.groups.items():
            unknown = [column for column in columns if column not in self.columns]
            if unknown or not columns:
                wrong = f"{', '.join(unknown)} isn't a feature" if unknown else "it is empty"
                features = ", ".join(self.columns)
                raise ValueError(f"groups.{name}: {wrong}; there are {features}")
        return self


class Labels(Strict):
    """The labels: the true values of the target."""

    source: Name = Field(description="the source that brings the labels; it has the spine's key")
    sql: str = Field(
        description="an expression over the source's columns; null if there will never be a label"
    )
    delay: int = Field(ge=0, description="partitions from a scored partition to the one with its labels")


class Recipe(Strict):
    """A recipe: an estimator and its parameters."""

    name: Name = Field(description="shown in reports and in MLflow; unique in its list")
    estimator: NameOrCode = Field(
        description="as hist_gradient_boosting, see docs/reference/estimators.md; or a class as module:name"
    )
    params: Annotated[dict[str, Any], AfterValidator(finite)] = Field(
        default_factory=dict, description="arguments of the scikit-learn estimator"
    )
    window: int | None = added_field(
        None, ge=3, description="partitions before a training that it is fitted on; null: training.window"
    )
    calibration: Literal["isotonic", "sigmoid"] | None = added_field(
        None,
        description="maps probabilities to observed rates: a fit without the newest training.test partitions "
        "(at most half of all) is calibrated on them, and the map then serves with a fit on all rows. "
        "isotonic needs more rows than sigmoid, and may predict 0 or 1",
    )
    target: Literal["log1p"] | None = added_field(
        None, description="fits log(1 + target) of a regression; the predictions are in the target's unit"
    )
    half_life: int | None = added_field(
        None, ge=1, description="partitions in which a row's weight falls to half; null: all weigh the same"
    )
    recent_intercept: int | None = added_field(
        None,
        ge=1,
        description="newest labeled partitions on which a fitted model's intercept is fitted again, so that "
        "it follows a level that moves, such as a season, while the rest has learned from all rows",
    )
    monotone: dict[str, Literal[-1, 1]] = added_field(
        {}, description="numeric features with which the prediction may only rise (1) or only fall (-1)"
    )
    early_stopping: int | None = added_field(
        None,
        ge=1,
        description="newest partitions (at most half of all) that boosting's number of rounds is chosen on; "
        "the declared number is the most. The model is then fitted on all rows",
    )
    external_memory: int | None = added_field(
        None,
        ge=1,
        description="rows from which on xgboost reads them in batches from a file under TMPDIR, instead of "
        "holding all of them in memory",
    )
    engine: Literal["local", "dask"] = added_field(
        "local",
        description="where xgboost is fitted: in the task's process, or by dask on worker processes, each of "
        "which holds its share of the rows in memory",
    )
    workers: int = added_field(
        2, ge=1, le=1000, description="worker processes of engine: dask; the model depends on their number"
    )
    search: dict[str, Annotated[tuple[Any, ...], Field(min_length=1), AfterValidator(finite)]] = added_field(
        {},
        description="values of parameters to choose from, by the objective on the newest training.test "
        "partitions (at most half of all) of the rows. The model is then fitted on all rows",
    )
    search_fits: int = added_field(
        20, ge=2, description="combinations of `search` that are tried at most; of more, a random choice"
    )

    @model_validator(mode="after")
    def _options_of_an_option(self) -> Recipe:
        if "search_fits" in self.model_fields_set and not self.search:
            raise ValueError(
                "search_fits: it limits search, which isn't declared; declare it, or remove this"
            )
        if "workers" in self.model_fields_set and self.engine != "dask":
            raise ValueError("workers: they are those of engine: dask; declare it, or remove this")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What is declared beside the parameters and the window; a fit depends on it."""
        return self.model_dump(exclude={"name", "estimator", "params", "window"})

    @property
    def unnamed(self) -> Recipe:
        """The recipe without its name; two that are equal without it have the same fits."""
        return self.model_copy(update={"name": ""})


class Training(Strict):
    """Training: the recipes, what they are fitted on, and the partitions on which they are judged."""

    window: int | None = Field(
        None, ge=3, description="partitions before the training partition that are used; null: all"
    )
    test: int = Field(
        28,
        ge=1,
        description="newest partitions on which a recipe is judged, by the fit that it had before each",
    )
    walk_rows: int = added_field(
        10_000, ge=100, description="rows of a partition that each recipe predicts for its walk, at most"
    )
    dask_connection: Name | None = added_field(
        None,
        description="Airflow connection of the Dask scheduler that fits recipes with engine: dask; null: a "
        "cluster is started on the task's machine for each fit",
    )
    baselines: tuple[Recipe, ...] = Field(min_length=1)
    candidates: tuple[Recipe, ...] = Field(min_length=1)
    seed: int = Field(
        7, ge=0, lt=2**32, description="of every random choice, so that a rerun fits the same model"
    )
    ablation: bool = Field(
        False, description="each training also measures what each group of features contributes"
    )

    @model_validator(mode="after")
    def _valid_recipes(self) -> Training:
        for key, recipes in (("baselines", self.baselines), ("candidates", self.candidates)):
            if len({recipe.name for recipe in recipes}) != len(recipes):
                raise ValueError(f"{key}: each name once")
        if not any(recipe.name == recipe.estimator == "prior" for recipe in self.baselines):
            raise ValueError(
                "baselines: one must be {name: prior, estimator: prior}; leakage is measured against it"
            )
        names = [recipe.name for recipe in (*self.baselines, *self.candidates)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"candidates: {', '.join(twice)} is the name of a baseline too; use another name"
            )
        unnamed = [recipe.unnamed for recipe in (*self.baselines, *self.candidates)]
        if same := [name for index, name in enumerate(names) if unnamed[index] in unnamed[:index]]:
            raise ValueError(f"candidates: {', '.join(same)} is the same recipe as an earlier one; remove it")
        engines = {recipe.engine for recipe in (*self.baselines, *self.candidates)}
        if self.dask_connection and "dask" not in engines:
            raise ValueError("dask_connection: no recipe has engine: dask; declare it, or remove this")
        return self


def _constant(value: Any) -> Any:
    """Accept a number, or a number per class."""
    if isinstance(value, dict) and all(_is_number(number) for number in value.values()):
        return {str(name): float(number) for name, number in value.items()}
    if _is_number(value):
        return float(value)
    raise ValueError(f"a number, or for a multiclass problem a number for each class; found {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


class Scoring(Strict):
    """Scoring: every row gets a prediction from the first step of the fallback chain that can serve."""

    deadline: PartitionTime = Field(
        "23:59",
        description="when the partition's predictions must exist: a local time, or minutes from the "
        "partition's time, such as +20m, which is required if schedule.batch can fire more than once a day",
    )
    shards: int = added_field(
        1,
        ge=1,
        le=1000,
        description="tasks among which a partition is split by features.entity; 1: one task scores it",
    )
    requires: dict[StepName, tuple[Name, ...]] = Field(
        {}, description="sources without which a step of the fallback chain can't serve"
    )
    constant: Annotated[float | dict[str, float], BeforeValidator(_constant)] = Field(
        description="the prediction until a model is promoted; for a multiclass problem a probability per "
        "class"
    )


class SuddenChanges(Strict):
    """Sudden changes of a column: the tolerated false alarms, and the windows."""

    false_alarms_per_year: float = Field(
        4,
        gt=0,
        description="tolerated false alerts over all columns, in 365 partitions, or in a year if it has more",
    )
    past: int = Field(28, ge=7, description="earlier partitions that a partition is compared with")
    partitions: int = Field(
        2, ge=1, description="partitions of the last `of` that must differ from their past"
    )
    of: int = Field(3, ge=1, description="the newest partitions, of which `partitions` must differ")
    quiet: int = Field(7, ge=1, description="partitions after an alert in which it isn't repeated")

    @property
    def enough(self) -> int:
        """Published partitions that are needed, of the past and the last ``of``, to judge one."""
        return round(0.75 * self.past) + self.of

    @model_validator(mode="after")
    def _valid_windows(self) -> SuddenChanges:
        if self.partitions > self.of:
            raise ValueError(f"partitions: at most of = {self.of}, but found {self.partitions}")
        return self


class Measure(Strict):
    """The drift measure that decides, for each kind of column; the others are only recorded."""

    numeric: Literal["psi", "js", "ks", "wasserstein"] = Field("psi", description="for columns of numbers")
    categorical: Literal["psi", "js"] = Field("psi", description="for columns of categories")


class Monitoring(Strict):
    """Monitoring: the limits of the checks that run on each partition."""

    measure: Measure = added_field(Measure())
    psi: float = Field(
        0.25, gt=0, description="population stability index from which a column counts as drifted"
    )
    js: float = added_field(
        0.1,
        gt=0,
        description="Jensen–Shannon distance (natural logarithm) from which a column counts as drifted",
    )
    ks: float = added_field(
        0.1, gt=0, description="Kolmogorov–Smirnov distance from which a column counts as drifted"
    )
    wasserstein: float = added_field(
        0.1,
        gt=0,
        description="Wasserstein distance, in standard deviations, from which a column counts as drifted",
    )
    missing: float = Field(
        0.1, gt=0, le=1, description="increase of the share of missing values from which a column alarms"
    )
    unseen: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of values that aren't in the reference from which a column alarms",
    )
    sudden_changes: SuddenChanges = added_field(SuddenChanges())
    requirements: tuple[MetricBound, ...] = Field((), description="bounds on realized metrics")
    window: int = Field(
        7,
        ge=1,
        description="partitions in the window of drift, and partitions with labels in that of performance",
    )
    false_alarms_per_year: float = added_field(
        0.1,
        gt=0,
        lt=1,
        description="tolerated false alarms of each test of the losses, in 365 partitions, or in a year if "
        "it has more",
    )
    report_rows: int = Field(5000, ge=100, description="rows of the sample in Evidently's report")


class Retraining(Strict):
    """When monitoring requests a training outside the schedule."""

    when: tuple[Literal["degraded", "drifted", "concept"], ...] = Field(
        ("degraded",),
        description="causes of a training: live performance below its limits, drift, a change of concept",
    )
    consecutive: int = Field(3, ge=1, description="consecutive partitions that must show the cause")
    cooldown: int = Field(
        14, ge=0, description="partitions after such a training in which no other is requested"
    )
    max_per_month: int = Field(
        2,
        ge=1,
        description="maximal number of such trainings in 30 partitions, or in 30 days if they have more",
    )


class Alerts(Strict):
    """Alerts: the recipients, and how often an alert is repeated."""

    quiet: int = Field(
        7,
        ge=1,
        description=(
            "partitions in which an alert isn't repeated; for sudden changes see "
            "monitoring.sudden_changes.quiet"
        ),
    )
    to: tuple[Name, ...] = Field(
        (), description="Airflow connections of the recipients: webhooks, Slack webhooks, mail servers"
    )
    channels: dict[Name, NameOrCode] = added_field(
        {},
        description="functions as module:name by recipient, such as {team_chat: channels:send}; "
        "by default the connection's type chooses the channel",
    )

    @model_validator(mode="after")
    def _valid_channels(self) -> Alerts:
        for name in self.channels:
            if name not in self.to:
                raise ValueError(
                    f"channels: {name!r} is none of the recipients under to: {', '.join(self.to)}"
                )
        return self
