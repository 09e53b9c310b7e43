"""The declaration of the prediction problem: its kind, target and classes."""

from __future__ import annotations

import re
from itertools import permutations
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from include.spec.source import Name, Strict, added_field

MIN_CLASSES = 3  # of a multiclass problem
CLASS_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}"


def _class_name(value: Any) -> Any:
    """Return a class's name; an unquoted 1 is accepted, an unquoted yes, which YAML reads as true, isn't."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch(CLASS_NAME, text):
        raise ValueError(
            f"{value!r} isn't a valid class name: columns and metrics are named after it, so use letters, "
            "digits, _ and - (quote yes, no, on and off), and use that name in labels.sql"
        )
    return text


ClassName = Annotated[str, BeforeValidator(_class_name, json_schema_input_type=str | int)]


def _costs(value: Any) -> Any:
    """Accept an unquoted 0 or 1 as a name; an unquoted yes, which YAML reads as true, isn't one."""
    if not isinstance(value, dict):
        return value
    if wrong := [name for name in value if isinstance(name, bool) or not isinstance(name, str | int)]:
        raise ValueError(f"{wrong[0]!r} isn't a valid name: quote yes, no, on and off")
    return {str(name): _costs(inner) for name, inner in value.items()}


Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Problem(Strict):
    """The prediction problem: what is predicted, and why."""

    kind: Literal["binary", "regression", "multiclass"] = Field(
        description="binary and multiclass problems predict probabilities"
    )
    classes: tuple[ClassName, ...] = Field(
        (),
        exclude_if=lambda classes: not classes,  # so that it doesn't change the digests of other kinds
        description="only multiclass: the values of the label, in display order. Those that the "
        "training rows lack share a probability of 0.001 until one has come",
    )
    statement: str = Field(description="what is predicted, for whom and when; the DAGs show it")
    target: Name = Field(description="a name for what is predicted; it may not be a feature")
    owner: str = Field("", description="the team to ask; Airflow shows it as the owner of the tasks")
    never_features: tuple[str, ...] = Field(
        (),
        description="columns that must not become features, nor be what SQL computes them from, for privacy",
    )
    costs: Annotated[
        dict[str, dict[str, Cost]],
        BeforeValidator(_costs, json_schema_input_type=dict[str, dict[str, Cost]]),
    ] = added_field(
        {},
        description="not of a regression: for each actual label (0 and 1, or each class) what each action "
        "costs, such as {0: {wait: 0, warn: 1}, 1: {wait: 5, warn: 1}}. Each prediction then has the action "
        "with the lowest expected cost; the metric and the objective `cost` are what actions cost per row",
    )

    @property
    def codes(self) -> tuple[float, ...]:
        """The numbers that encode the classes of a label, ascending; empty for a regression."""
        codes = tuple(float(code) for code in range(len(self.classes)))
        return {"binary": (0.0, 1.0), "regression": (), "multiclass": codes}[self.kind]

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions that have costs, as declared; empty without costs."""
        return next((tuple(row) for row in self.costs.values()), ())

    @property
    def cost_matrix(self) -> tuple[tuple[float, ...], ...]:
        """The cost of each action by the code of the actual label, shape (k, d); empty without costs."""
        names = self.classes or ("0", "1")
        return tuple(tuple(self.costs[name][one] for one in self.actions) for name in names if self.costs)

    @property
    def threshold(self) -> float | None:
        """The probability at which two actions of a binary problem cost the same; None of any other.

        The one that costs less if the label is 1 has the lower expected cost above it (C. Elkan, The
        foundations of cost-sensitive learning, 2001).
        """
        if self.classes or len(self.actions) != 2:
            return None
        (low, high), (other_low, other_high) = self.cost_matrix
        return (high - low) / (high - low + other_low - other_high)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of a prediction: one, or for a multiclass problem one probability per class."""
        return tuple(f"prediction_{name}" for name in self.classes) or ("prediction",)

    @model_validator(mode="after")
    def _classes_fit(self) -> Problem:
        if self.kind != "multiclass":
            if self.classes:
                raise ValueError(
                    f"classes: only a multiclass problem declares them, but found kind {self.kind}"
                )
            return self
        distinct = {name.lower() for name in self.classes}
        if len(distinct) < max(MIN_CLASSES, len(self.classes)):
            raise ValueError(
                f"classes: at least {MIN_CLASSES} names that differ by more than case, as [early, on_time, "
                f"late], but found {', '.join(self.classes) or 'none'}; two classes are a binary problem"
            )
        return self

    @model_validator(mode="after")
    def _costs_fit(self) -> Problem:
        if not self.costs:
            return self
        if self.kind == "regression":
            raise ValueError(
                "costs: only binary and multiclass problems have them, but found kind regression"
            )
        labels = self.classes or ("0", "1")
        if set(self.costs) != set(labels):
            raise ValueError(
                f"costs: a row for each actual label, {', '.join(labels)}, but found {', '.join(self.costs)}"
            )
        for label, row in self.costs.items():
            if set(row) != set(self.actions) or len(row) < 2:
                raise ValueError(
                    f"costs.{label}: at least two actions, the same ones as of the first label "
                    f"({', '.join(self.actions) or 'none'}), but found {', '.join(row) or 'none'}"
                )
        for one, other in permutations(self.actions, 2):
            if all(row[other] <= row[one] for row in self.costs.values()):
                raise ValueError(
                    f"costs: actions that each cost less than every other for some actual label, but found "
                    f"{one}, which never costs less than {other}; correct the costs, or remove {one}"
                )
        return self
