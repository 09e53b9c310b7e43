"""What a use case declares of its features, training, scoring, monitoring and retraining."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from include.spec.gate import Requirement
from include.spec.source import Local, Name, Strict, _later

Rung = Literal["champion", "previous", "baseline", "prior"]


class Features(Strict):
    """One SQL file that serves training and scoring alike."""

    sql: str = Field("features.sql", description="the file with one SELECT, in the use case's folder")
    spine: Name = Field(description="the source whose rows are to be scored")
    lookback: int = Field(ge=0, description="partitions before the spine's that the SQL may read")
    lookbacks: dict[Name, Annotated[int, Field(ge=0)]] = Field(
        {}, description="sources that are read less far back"
    )
    numeric: tuple[str, ...] = Field((), description="columns of the SELECT that are numbers")
    categorical: tuple[str, ...] = Field((), description="columns of the SELECT that are categories")
    groups: dict[Name, tuple[str, ...]] = Field(
        {}, description="features that an ablation leaves out together; none: the numeric, the categorical"
    )

    @property
    def ablated(self) -> dict[str, tuple[str, ...]]:
        """The groups of an ablation, each with its columns."""
        kinds = {"numeric": self.numeric, "categorical": self.categorical}
        return self.groups or {kind: columns for kind, columns in kinds.items() if columns}

    @property
    def columns(self) -> tuple[str, ...]:
        """All feature columns, numeric first."""
        return self.numeric + self.categorical

    def back(self, source: str) -> int:
        """Return the partitions before the spine's that the SQL may read of a source."""
        return min(self.lookbacks.get(source, self.lookback), self.lookback)

    @model_validator(mode="after")
    def _some(self) -> Features:
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ValueError("declare at least one feature, each once, under numeric or categorical")
        if any('"' in name for name in self.columns):
            raise ValueError("a feature's name can't hold the mark by which SQL quotes it")
        for name, columns in self.groups.items():
            unknown = [column for column in columns if column not in self.columns]
            if unknown or not columns:
                found = ", ".join(unknown) or "nothing"
                raise ValueError(f"groups.{name}: {found} is no feature; there are {', '.join(self.columns)}")
        return self


class Labels(Strict):
    """What came true."""

    source: Name = Field(description="the source that brings the labels; it has the spine's key")
    sql: str = Field(
        description="an expression over the source's columns; null where no label will ever come"
    )
    delay: int = Field(
        ge=0, description="partitions from the spine's partition to the one that brings its labels"
    )


class Candidate(Strict):
    """A recipe that is fitted."""

    name: Name = Field(description="shown in reports and in MLflow; unique in its list")
    estimator: Name = Field(
        description="as hist_gradient_boosting; `validate` lists those of the problem's kind"
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the scikit-learn estimator"
    )


class Training(Strict):
    """A time-ordered split: train, then validation (chooses), then test (judges)."""

    window: int | None = Field(
        None, ge=3, description="partitions back from the training partition; none: all history"
    )
    validation: int = Field(7, ge=1, description="partitions")
    test: int = Field(28, ge=1, description="partitions; neither fitted nor tuned on")
    max_test: int | None = _later(
        None,
        description="of a walk forward: more test partitions, up to half of the labelled ones",
    )
    baselines: tuple[Candidate, ...] = Field(min_length=1)
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    seed: int = Field(7, description="of every random choice, so that a rerun fits the same model")
    ablation: bool = Field(
        False, description="each training also measures what each group of features brings"
    )

    @model_validator(mode="after")
    def _named(self) -> Training:
        for what, some in (("baselines", self.baselines), ("candidates", self.candidates)):
            if len({one.name for one in some}) != len(some):
                raise ValueError(f"{what}: each name once")
        if not any(one.name == one.estimator == "prior" for one in self.baselines):
            raise ValueError(
                "baselines: one must be {name: prior, estimator: prior}; leaks are measured by it"
            )
        if self.max_test is not None and self.max_test <= self.test:
            raise ValueError(f"max_test: more than test = {self.test}, found {self.max_test}")
        return self


def _fallback(value: Any) -> Any:
    """Refuse what is neither a number nor a number a class, in one sentence."""
    if isinstance(value, dict) and all(_is_number(one) for one in value.values()):
        return {str(name): float(one) for name, one in value.items()}
    if _is_number(value):
        return float(value)
    raise ValueError(f"a number, or of a multiclass problem a number for each class; found {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


class Scoring(Strict):
    """Every row gets a prediction: the first rung of the ladder that can serve."""

    deadline: Local = Field("23:59", description="local hour of the partition by which predictions exist")
    requires: dict[Rung, tuple[Name, ...]] = Field({}, description="sources that a rung can't serve without")
    fallback: Annotated[float | dict[str, float], BeforeValidator(_fallback)] = Field(
        description="the prediction before any model was promoted; of a multiclass problem a probability a "
        "class"
    )


class SuddenChanges(Strict):
    """How rarely a column's alarm may be false, and what it takes."""

    false_alarms_per_year: float = Field(
        4, gt=0, description="tolerable alerts in 365 clean partitions, over all columns"
    )
    past: int = Field(28, ge=7, description="partitions before a partition that it is compared with")
    partitions: int = Field(2, ge=1, description="of the last `of` that must break with their past")
    of: int = Field(3, ge=1, description="partitions that are looked at, the newest included")
    quiet: int = Field(7, ge=1, description="partitions after an alert in which no other counts")

    @property
    def enough(self) -> int:
        """Partitions that must be there, of the past and the last ``of``, before one is judged."""
        return round(0.75 * self.past) + self.of

    @model_validator(mode="after")
    def _can_be(self) -> SuddenChanges:
        if self.partitions > self.of:
            raise ValueError(f"partitions: at most of = {self.of}, found {self.partitions}")
        return self


class Measure(Strict):
    """The measure by which a column of each kind is judged; the others are written beside it."""

    numeric: Literal["psi", "js", "ks", "wasserstein"] = Field("psi", description="for columns of numbers")
    categorical: Literal["psi", "js"] = Field("psi", description="for columns of categories")


class Monitoring(Strict):
    """What is watched, partition by partition."""

    measure: Measure = _later(Measure())
    psi: float = Field(0.25, gt=0, description="population stability index from which a column has drifted")
    js: float = _later(0.1, gt=0, description="Jensen–Shannon distance, natural, from which it has")
    ks: float = _later(0.1, gt=0, description="Kolmogorov–Smirnov distance from which it has")
    wasserstein: float = _later(
        0.1, gt=0, description="distance in the reference's standard deviations from which it has"
    )
    missing: float = Field(
        0.1, gt=0, le=1, description="rise of the missing share from which a column has drifted"
    )
    unseen: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of values that the reference doesn't hold, from which it is an alarm",
    )
    sudden_changes: SuddenChanges = _later(SuddenChanges())
    requirements: tuple[Requirement, ...] = Field((), description="of realised performance")
    window: int = Field(
        7, ge=1, description="partitions that drift is judged on, and matured ones that performance is"
    )
    patience: int = _later(
        21,
        ge=2,
        description="matured partitions below the baseline after which the ladder steps down by itself",
    )
    false_alarms_per_year: float = _later(
        0.1, gt=0, lt=1, description="false alarms in 365 partitions that each test of the losses may raise"
    )
    report_rows: int = Field(
        5000, ge=100, description="rows of the sample from which Evidently's report is drawn"
    )


class Retraining(Strict):
    """When the evidence asks for a training outside the schedule."""

    when: tuple[Literal["degraded", "drifted", "concept"], ...] = Field(
        ("degraded",),
        description="causes of a training: live performance below its limits, drift, a change of concept",
    )
    consecutive: int = Field(3, ge=1, description="partitions in a row that must show it")
    cooldown: int = Field(
        14, ge=0, description="partitions after such a training in which no other is asked for"
    )
    max_per_month: int = Field(2, ge=1, description="such trainings in 30 partitions, at most")


class Alerts(Strict):
    """Whom the partitions tell, and how often."""

    quiet: int = Field(
        7,
        ge=1,
        description=(
            "partitions in which the same isn't told again; of jumps, monitoring.sudden_changes.quiet"
        ),
    )
    to: tuple[Name, ...] = Field(
        (), description="Airflow connections: of a webhook, of Slack's, of a mail server"
    )
