"""What is predicted: a kind of problem, and what follows from it for labels and predictions."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from include.spec.source import Name, Strict

FEWEST = 3  # classes of a multiclass problem


def _name_of_class(value: Any) -> Any:
    """Return a class's name; YAML reads 1 as a number, which is meant, and yes as true, which isn't."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", text):
        raise ValueError(
            f"{value!r} names no class: columns and metrics are named after it, so use letters, digits, _ "
            "and - (quote a yes, no, on or off), and give that name in labels.sql"
        )
    return text


ClassName = Annotated[str, BeforeValidator(_name_of_class, json_schema_input_type=str | int)]


class Problem(Strict):
    """What is predicted, and why."""

    kind: Literal["binary", "regression", "multiclass"] = Field(
        description="binary and multiclass problems predict probabilities"
    )
    classes: tuple[Annotated[str, BeforeValidator(_name_of_class, json_schema_input_type=str | int)], ...] = (
        Field(
            (),
            exclude_if=lambda classes: not classes,  # the digests of other kinds know nothing of it
            description="of a multiclass problem: the label's values, in the order in which they are shown",
        )
    )
    statement: str = Field(description="what is predicted, for whom and when; the DAGs show it")
    target: Name = Field(description="a name for what is predicted; it may not be a feature")
    owner: str = Field("", description="the team to ask; Airflow shows it as the owner of the tasks")
    never_features: tuple[str, ...] = Field((), description="columns that privacy keeps out of the features")

    @property
    def codes(self) -> tuple[float, ...]:
        """The numbers that stand for the classes of a label, ascending; none for a regression."""
        named = tuple(float(place) for place in range(len(self.classes)))
        return {"binary": (0.0, 1.0), "regression": (), "multiclass": named}[self.kind]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of what a model says: one, or of a multiclass problem a probability a class."""
        return tuple(f"prediction_{name}" for name in self.classes) or ("prediction",)

    @model_validator(mode="after")
    def _classes_fit(self) -> Problem:
        if self.kind != "multiclass":
            if self.classes:
                raise ValueError(f"classes: only a multiclass problem declares them, found kind {self.kind}")
            return self
        different = {name.lower() for name in self.classes}
        if len(different) < max(FEWEST, len(self.classes)):
            raise ValueError(
                f"classes: at least {FEWEST} names that differ by more than case, as [early, on_time, late], "
                f"found {', '.join(self.classes) or 'none'}; two classes are a binary problem"
            )
        return self
