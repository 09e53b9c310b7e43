"""The declaration of the gate: the checks of a challenger, its approval, and its rollout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, model_validator

from include.extensions import REFERENCE
from include.spec.metrics import OBJECTIVES, SERVING_METRICS
from include.spec.source import Name, NameOrCode, Strict, added_field

# Test partitions that are enough for a verdict, however few rows they have; and rows with which two are. On
# 40 rows a partition, what serves from two on loses no more in its first weeks than what serves from seven
# on, and up to a sixth less. On one row it loses up to 4 % more.
MIN_PARTITIONS, ENOUGH_ROWS = 7, 50

Share = Annotated[float, Field(ge=0, le=1)]
_NAMES = [objective.name for objective in OBJECTIVES if not objective.parameter]
_PATTERN = rf"^({'|'.join(one.name for one in OBJECTIVES if one.parameter)})@0\.[0-9]*[1-9]$"
ObjectiveName = Annotated[
    str,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": _NAMES},
                {"type": "string", "pattern": _PATTERN},
                {"type": "string", "pattern": REFERENCE},
            ],
        }
    ),
]  # validated against the kind of problem, in `UseCase`


class MetricBound(Strict):
    """A bound on a metric: at_least or at_most."""

    metric: str = Field(
        description="a metric of the problem's kind, as roc_auc or recall@0.5; or a function as module:name"
    )
    at_least: float | None = Field(None, description="the lowest value that passes; give this or at_most")
    at_most: float | None = Field(None, description="the highest value that passes")

    @model_validator(mode="after")
    def _one_side(self) -> MetricBound:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")
        return self

    @property
    def limit(self) -> float:
        """The bound, whichever side it is of."""
        limit = self.at_most if self.at_least is None else self.at_least
        assert limit is not None  # the declaration requires one of the two
        return limit

    @property
    def side(self) -> str:
        """On which side of the bound a value passes."""
        return "at most" if self.at_least is None else "at least"

    def is_met(self, value: float) -> bool:
        """Return whether a value passes; NaN doesn't."""
        return value <= self.limit if self.at_least is None else value >= self.limit


class Requirement(MetricBound):
    """A bound on a challenger's metric, which is reported if it isn't met, and blocks if it is hard."""

    hard: bool = added_field(
        False,
        description="a hard requirement blocks; otherwise a missed one is reported in red and doesn't keep a "
        "worse model in place",
    )


INTERSECTION = " x "  # between the columns, and between the groups, of a combination
FAIRNESS = (
    *(f"{rate}_{how}" for rate in ("selection_rate", "tpr", "fpr") for how in ("difference", "ratio")),
    "calibration_difference",
)
SERVING = tuple(metric.name for metric in SERVING_METRICS)


class FairnessRequirement(Requirement):
    """A bound on how a rate differs between groups."""

    metric: str = Field(
        description="a difference or ratio of two groups",
        json_schema_extra={"enum": list(FAIRNESS)},
    )


class ServingRequirement(Requirement):
    """A bound on what predicting with the stored model takes."""

    metric: str = Field(
        description="p50_ms, p95_ms, p99_ms: to predict one row; rows_per_second: of a whole partition; "
        "size_mb: of the stored model; memory_mb: to load it and predict",
        json_schema_extra={"enum": list(SERVING)},
    )


class Slices(Strict):
    """Subsets of the rows, none of which may get worse.

    A slice fails only if its loss is significantly worse than the tolerance, at its share of alpha: among a
    hundred noisy slices one always looks worse. The declared slices share half of alpha, the automatic ones
    the other half.
    """

    columns: tuple[Name, ...] = Field(
        (), description="columns of the spine's source or features; a slice column need not be a feature"
    )
    automatic: bool = Field(
        True, description="add a slice for each category and each quartile of each feature"
    )
    min_rows: int = Field(500, ge=1, description="rows that a slice must have to be judged")
    tolerance: float = Field(
        0.02, ge=0, description="tolerated increase of a slice's mean loss, relative to the champion's"
    )


class FairnessRules(Strict):
    """Differences between the groups of a sensitive column, as requirements.

    The metrics are ``selection_rate``, ``tpr``, ``fpr`` and ``calibration`` (mean prediction less observed
    rate), each with ``_difference`` (larger less smaller, at_most) or, but for calibration, ``_ratio``
    (smaller by larger, at_least). A requirement fails only if two groups are shown to break it: their
    confidence bound is beyond it, at gate.alpha over all pairs of groups.
    """

    columns: tuple[Name, ...] = Field(
        min_length=1,
        description="sensitive columns of the spine's source or features; they need not be features",
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a row counts as selected")
    min_rows: int = Field(500, ge=1, description="rows that a group must have to be compared")
    reference: dict[str, str] = added_field(
        {},
        description="the group of a column that the others are compared with, such as {origin: JFK}; "
        "default: all pairs of groups are compared",
    )
    exclude: dict[str, tuple[str, ...]] = added_field(
        {}, description="groups of a column that aren't compared, such as {origin: [missing]}"
    )
    intersections: bool = added_field(
        False, description="compare the combinations of the columns too, as another column named `a x b`"
    )
    requirements: tuple[FairnessRequirement, ...] = Field(
        min_length=1, description="such as {metric: tpr_difference, at_most: 0.1}"
    )

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns whose groups are compared, the combination of all of them last."""
        return (*self.columns, *([INTERSECTION.join(self.columns)] if self.intersections else []))

    @model_validator(mode="after")
    def _valid_metrics(self) -> FairnessRules:
        for rule in self.requirements:
            if rule.metric not in FAIRNESS:
                raise ValueError(f"requirements: {rule.metric!r} is none of {', '.join(FAIRNESS)}")
            side = "at_least" if rule.metric.endswith("_ratio") else "at_most"
            if getattr(rule, side) is None:
                raise ValueError(f"requirements: {rule.metric} is bounded by {side}")
        return self

    @model_validator(mode="after")
    def _valid_columns(self) -> FairnessRules:
        if self.intersections and len(self.columns) < 2:
            raise ValueError(f"intersections: needs two columns, but found {', '.join(self.columns)}")
        for key, columns in (("reference", self.reference), ("exclude", self.exclude)):
            for column in columns:
                if column not in self.compared:
                    raise ValueError(f"{key}: {column!r} is none of {', '.join(self.compared)}")
        return self


class Leak(Strict):
    """Limits from which a model is too good to be true, which indicates leakage."""

    max_score: float = Field(
        0.98,
        gt=0,
        le=1,
        description="ROC-AUC or R² from which a single feature, or a model of all features, is a leak; 1 "
        "turns both checks off",
    )
    max_odds_ratio: float = Field(
        3.0,
        gt=1,
        description="a model is suspected of a leak if the odds of the share of the prior's loss that it "
        "saves are more than this many times those of the best model before",
    )


class Rollout(Strict):
    """The steps in which a promoted challenger starts to serve, and when it is rolled back automatically.

    ``immediate``: it serves at once, and the previous champion runs in shadow. ``shadow``: it runs in shadow
    first. ``canary``: after the shadow it serves a share of the rows first.
    """

    kind: Literal["immediate", "shadow", "canary"] = Field(
        "immediate", description="how a promoted challenger starts to serve"
    )
    partitions: int = Field(14, ge=2, description="partitions with labels before a step forward")
    look_every: int = Field(
        7, ge=1, description="partitions with labels between two interim looks at the live losses"
    )
    patience: int = Field(
        56,
        ge=2,
        description="scored partitions after which an undecided step is rolled back, or a watch ends",
    )
    margin: float = Field(
        0.01,
        ge=0,
        description="increase of the mean loss, relative to the champion's, that must be ruled out",
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="probability of a wrong step, over all interim looks"
    )
    share: float = Field(0.1, gt=0, lt=1, description="share of the entities that a canary serves")
    entity: tuple[Name, ...] = Field(
        (), description="columns of the spine's key that identify an entity; default: the whole key"
    )


class Gate(Strict):
    """The conditions under which a challenger may replace the champion."""

    objective: ObjectiveName = Field(
        description="the loss by which models are compared, row by row: poisson_deviance for counts, "
        "quantile_loss@0.9 for a quantile, or a function as module:name. A candidate is fitted to it by its "
        "own params"
    )
    requirements: tuple[Requirement, ...] = Field((), description="of the challenger's metrics")
    checks: tuple[NameOrCode, ...] = added_field(
        (), description="more checks of the challenger, functions as module:name"
    )
    prove: bool = Field(
        False,
        description="another recipe replaces the serving one only when its loss is shown to be lower, by a "
        "confidence sequence at gate.alpha",
    )
    min_partitions: int | None = Field(
        None,
        ge=2,
        description=f"test partitions with labels that are needed for a verdict: {MIN_PARTITIONS} if "
        f"nothing is declared, or 2 if they have {ENOUGH_ROWS} labeled rows",
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="probability of a false result of each test")
    min_gain: float = Field(
        0.0,
        ge=0,
        description="share by which a candidate's mean loss must be lower than a baseline's to replace it",
    )
    block_partitions: int = Field(3, ge=1, description="partitions per block of the block bootstrap")
    max_unseen: Share = Field(
        0.3,
        description="tolerated share of rows to score whose value of a feature wasn't in the training data",
    )
    slices: Slices = Slices()
    fairness: FairnessRules | None = None
    robustness: float | None = Field(
        None,
        gt=0,
        description="tolerated relative increase of the mean loss if a feature is missing, noisy or unseen; "
        "default: any increase, as long as nothing crashes",
    )
    serving: tuple[ServingRequirement, ...] = Field((), description="of latency, throughput, size or memory")
    onnx: bool = added_field(
        False,
        description="the challenger must be exportable to ONNX, and the file predict the same within 1e-9; "
        "needs the extra `onnx`",
    )
    leak: Leak = Leak()
    approval: Literal["none", "changes", "all"] = Field(
        "none",
        description="changes: a person must approve another recipe before it serves; all: each refit as well",
    )
    approval_hours: float = Field(
        48, gt=0, le=87_600, description="hours after which an unanswered approval counts as rejected"
    )
    rollout: Rollout = Rollout()

    @property
    def quantile(self) -> float | None:
        """The quantile that an objective ``quantile_loss@0.9`` asks for; None for any other objective."""
        name, _, parameter = self.objective.partition("@")
        return float(parameter) if name == "quantile_loss" else None

    @property
    def needed_partitions(self) -> int:
        """The labeled test partitions that a declaration must have room for."""
        return max(self.min_partitions or MIN_PARTITIONS, 2 * self.block_partitions)

    @property
    def holds_back_changes(self) -> bool:
        """Whether another recipe must first be proven, approved, tried, or judged by rules that block."""
        rules = (*self.requirements, *(self.fairness.requirements if self.fairness else ()))
        waits = self.prove or self.approval != "none" or self.rollout.kind != "immediate"
        return waits or bool(self.checks) or any(rule.hard for rule in rules)

    @model_validator(mode="after")
    def _valid_serving_metrics(self) -> Gate:
        for rule in self.serving:
            if rule.metric not in SERVING:
                raise ValueError(f"serving: {rule.metric!r} is none of {', '.join(SERVING)}")
        return self
