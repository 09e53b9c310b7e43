"""The declaration of the prediction problem: its kind, target and classes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from include.spec.source import Name, Strict

MIN_CLASSES = 3  # of a multiclass problem


def _class_name(value: Any) -> Any:
    """Return a class's name; an unquoted 1 is accepted, an unquoted yes, which YAML reads as true, isn't."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", text):
        raise ValueError(
            f"{value!r} is no valid class name: columns and metrics are named after it, so use letters, "
            "digits, _ and - (quote yes, no, on and off), and use that name in labels.sql"
        )
    return text


ClassName = Annotated[str, BeforeValidator(_class_name, json_schema_input_type=str | int)]


class Problem(Strict):
    """The prediction problem: what is predicted, and why."""

    kind: Literal["binary", "regression", "multiclass"] = Field(
        description="binary and multiclass problems predict probabilities"
    )
    classes: tuple[ClassName, ...] = Field(
        (),
        exclude_if=lambda classes: not classes,  # so that it doesn't change the digests of other kinds
        description="only multiclass: the values of the label, in display order",
    )
    statement: str = Field(description="what is predicted, for whom and when; the DAGs show it")
    target: Name = Field(description="a name for what is predicted; it may not be a feature")
    owner: str = Field("", description="the team to ask; Airflow shows it as the owner of the tasks")
    never_features: tuple[str, ...] = Field(
        (), description="columns that must not become features, for privacy"
    )

    @property
    def codes(self) -> tuple[float, ...]:
        """The numbers that encode the classes of a label, ascending; empty for a regression."""
        codes = tuple(float(code) for code in range(len(self.classes)))
        return {"binary": (0.0, 1.0), "regression": (), "multiclass": codes}[self.kind]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of a prediction: one, or for a multiclass problem one probability per class."""
        return tuple(f"prediction_{name}" for name in self.classes) or ("prediction",)

    @model_validator(mode="after")
    def _classes_fit(self) -> Problem:
        if self.kind != "multiclass":
            if self.classes:
                raise ValueError(f"classes: only a multiclass problem declares them, found kind {self.kind}")
            return self
        distinct = {name.lower() for name in self.classes}
        if len(distinct) < max(MIN_CLASSES, len(self.classes)):
            raise ValueError(
                f"classes: at least {MIN_CLASSES} names that differ by more than case, as [early, on_time, "
                f"late], found {', '.join(self.classes) or 'none'}; two classes are a binary problem"
            )
        return self
