"""What a use case declares of its gate: what must be shown, who may let it serve, and in which steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, model_validator

from include.spec.metrics import OBJECTIVES, SERVING_METRICS
from include.spec.source import Name, Strict

Share = Annotated[float, Field(ge=0, le=1)]
ObjectiveName = Annotated[
    str, WithJsonSchema({"type": "string", "enum": [objective.name for objective in OBJECTIVES]})
]  # validated against the kind of problem, in `UseCase`


class Requirement(Strict):
    """A figure that must be reached."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Requirement:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either at_least or at_most")
        return self


class Slices(Strict):
    """Parts of the rows, none of which may get worse.

    A slice refuses only when it is shown, at its share of alpha, to lose more than the tolerance: of a
    hundred noisy slices one always looks worse. The declared ones share half of alpha, the others the rest.
    """

    columns: tuple[Name, ...] = Field(
        (), description="of the spine's source or the features; a column may be a slice and no feature"
    )
    automatic: bool = Field(True, description="also a slice for each category and quarter of each feature")
    min_rows: int = Field(500, ge=1, description="of a slice, or it isn't judged")
    tolerance: float = Field(0.02, ge=0, description="rise of the slice's mean loss, relative to the rival's")


class Fairness(Strict):
    """Differences between the groups of a sensitive column, as requirements.

    The metrics are ``selection_rate``, ``tpr``, ``fpr`` and ``calibration`` (mean prediction less observed
    rate), each with ``_difference`` (largest less smallest) or, but for calibration, ``_ratio``.
    """

    columns: tuple[Name, ...] = Field(
        min_length=1, description="of the spine's source or the features; none of them need be a feature"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a row is selected")
    min_rows: int = Field(500, ge=1, description="of a group, or it isn't compared")
    requirements: tuple[Requirement, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Fairness:
        for rule in self.requirements:
            if rule.metric not in FAIRNESS:
                raise ValueError(f"requirements: {rule.metric!r} is none of {', '.join(FAIRNESS)}")
        return self


FAIRNESS = (
    *(f"{rate}_{how}" for rate in ("selection_rate", "tpr", "fpr") for how in ("difference", "ratio")),
    "calibration_difference",
)
SERVING = tuple(metric.name for metric in SERVING_METRICS)


class Leak(Strict):
    """From where on a model is too good to be true."""

    alone: float = Field(
        0.98,
        gt=0,
        le=1,
        description="ROC-AUC or R² of one feature alone, from which it decides the label; 1: any may",
    )
    history: float = Field(
        3.0, gt=1, description="times the best earlier odds of the prior's loss that is saved to what is left"
    )


class Rollout(Strict):
    """In which steps a promoted challenger comes to serve, and when it goes back by itself.

    ``immediate`` lets it serve at once, with the previous champion scored beside it; ``shadow`` scores it
    beside the champion first; ``canary`` does that and then serves a share of the rows.
    """

    kind: Literal["immediate", "shadow", "canary"] = "immediate"
    partitions: int = Field(14, ge=2, description="matured partitions before a step forward")
    look_every: int = Field(7, ge=1, description="matured partitions between two looks at the live losses")
    patience: int = Field(
        56, ge=2, description="scored partitions after which an undecided step goes back, and a watch is over"
    )
    margin: float = Field(
        0.01, ge=0, description="rise of the mean loss, relative to the champion's, that a step may not show"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of a wrong step, over all looks together")
    share: float = Field(0.1, gt=0, lt=1, description="of the entities, that a canary serves")
    entity: tuple[Name, ...] = Field((), description="columns of the spine's key; none: the whole key")


class Gate(Strict):
    """What a challenger must show before it may replace the champion."""

    objective: ObjectiveName
    evidence: Literal["held_out", "walk_forward"] = Field(
        "held_out",
        description="a model judged on a window and deployed as judged, or a recipe judged by walking "
        "forward over the window and then fitted on everything",
    )
    step: int = Field(7, ge=1, description="partitions between two origins of a walk forward")
    requirements: tuple[Requirement, ...] = ()
    min_partitions: int = Field(21, ge=2, description="matured test partitions, else: not enough evidence")
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="chance of promoting noise, over all attempts together"
    )
    min_gain: float = Field(0.0, ge=0, description="of the mean loss, relative to the champion's")
    block_partitions: int = Field(3, ge=1, description="partitions that are resampled together")
    coverage: Share = Field(
        0.3, description="share of the rows to score whose value of a feature was never fitted on"
    )
    slices: Slices = Slices()
    fairness: Fairness | None = None
    robustness: float | None = Field(
        None,
        gt=0,
        description="rise of the mean loss, relative, when a feature is missing, noisy or unseen; none: any, "
        "as long as nothing crashes",
    )
    serving: tuple[Requirement, ...] = ()
    leak: Leak = Leak()
    approval: Literal["none", "human"] = "none"
    approval_hours: float = Field(48, gt=0, description="after which silence means no")
    rollout: Rollout = Rollout()

    @model_validator(mode="after")
    def _measured(self) -> Gate:
        for rule in self.serving:
            if rule.metric not in SERVING:
                raise ValueError(f"serving: {rule.metric!r} is none of {', '.join(SERVING)}")
        return self
