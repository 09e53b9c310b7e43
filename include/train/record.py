"""The training record: what a training fitted and chose, stored with the run for evaluation to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from include.errors import ModelError
from include.judge import evidence
from include.models import artifacts
from include.models.outputs import Constant
from include.spec import UseCase
from include.train.fits import Fit
from include.train.recipes import recipes
from include.train.selection import Choice, has_relation_changed, proven_gain
from include.train.walks import Walks

SCHEMA = 3
PATH = "evergreen/training.json"  # below the run; its models are at `artifacts.model_key(digest)`


def training_key(spec: UseCase, partition: str, data: str, champion: str = "") -> str:
    """Return the key of a training's attempt, the one that its evidence will have."""
    return evidence.attempt_key(spec.name, partition, spec.digest, data, champion)


@dataclass(frozen=True)
class FittedModel:
    """One model as it would serve.

    Parameters
    ----------
    name : of its recipe.
    digest : of the model's bytes.
    predictions : digest of the float64 predictions for the test rows. A loaded copy must reproduce it.
    chosen : the parameters that a search or early stopping chose, by name.
    """

    name: str
    digest: str
    predictions: str
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path of its bytes below the run."""
        return artifacts.model_key(self.digest)


@dataclass(frozen=True)
class Selection:
    """Why the challenger's recipe was chosen.

    Parameters
    ----------
    recipe, serving : the chosen recipe, and the one that serves; the latter is empty if none does.
    baseline : the recipe of the next step of the fallback chain.
    reason : a sentence.
    weights, losses : of each recipe: its weight (they sum to 1), and its mean loss per row over its walk; a
        recipe without a walk has no loss.
    partitions : the number of partitions of the walks.
    gain : by how much the loss of ``recipe`` is lower than that of ``serving``, per row, and its lower bound
        of a confidence sequence; None if the recipe stays or there is nothing to compare with.
    prior_model : digest of the fit of the recipe that uses no features; empty if none is declared.
    relation_changed : whether the relation between features and label has changed, see
        `include.train.selection.has_relation_changed`.
    failed : of each declared recipe that couldn't be fitted, and so can't be chosen, why.
    champion : digest of the model that ``serving`` was the recipe of; empty if none served, None in a record
        of earlier code.
    """

    recipe: str
    serving: str
    baseline: str
    reason: str
    weights: dict[str, float]
    losses: dict[str, float]
    partitions: int
    gain: tuple[float, float] | None = None
    relation_changed: bool = False
    prior_model: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    champion: str | None = None

    @classmethod
    def from_walks(
        cls,
        spec: UseCase,
        walks: Walks,
        choice: Choice,
        fits: Mapping[str, Fit],
        *,
        serving_recipe: str,
        baseline: str,
    ) -> Selection:
        """Return the selection that a choice among the walks' recipes leads to; fits are the training's."""
        gain = None
        if serving_recipe in walks.recipes and choice.recipe != serving_recipe:
            gain = proven_gain(spec, walks, choice.recipe, serving_recipe)
        means = {name: walks.mean(name) for name in walks.recipes}
        return cls(
            recipe=choice.recipe,
            serving=serving_recipe,
            baseline=baseline,
            reason=choice.reason,
            weights=choice.weights,
            losses={name: mean for name, mean in means.items() if np.isfinite(mean)},
            partitions=len(walks.partitions),
            gain=gain if gain and np.isfinite(gain).all() else None,
            relation_changed=has_relation_changed(spec, walks),
            prior_model=next((fits[r.name].model for r in recipes(spec) if r.estimator == "prior"), ""),
        )


@dataclass(frozen=True)
class TrainingRecord:
    """One training.

    Parameters
    ----------
    usecase, partition : the use case and the partition it was trained for.
    spec, data, code : digests of the declaration and the training set, and the commit of the code.
    version : of the challenger in the registry.
    constant : the constant prediction that the fitted rows' labels imply: their mean or quantile, or each
        class's share.
    last_fitted : the last partition that the challenger was fitted on.
    fitted_rows : the number of rows that it was fitted on.
    partitions, rows : the partitions of ``train`` and ``test`` that have labeled rows, and their rows. The
        challenger was fitted on both; each recipe is judged on ``test`` by its earlier fits.
    baseline : the best baseline, which is the next step of the fallback chain.
    """

    usecase: str
    partition: str
    spec: str
    data: str
    code: str
    version: str
    constant: Constant
    last_fitted: str
    fitted_rows: int
    partitions: dict[str, list[str]]
    rows: dict[str, int]
    challenger: FittedModel
    baseline: FittedModel
    selection: Selection
    schema: int = SCHEMA

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrainingRecord:
        """Read the JSON that `to_json` wrote.

        Raises
        ------
        ModelError
            when it is something else.
        """
        try:
            raw: dict[str, Any] = json.loads(data)
            if isinstance(raw["constant"], list):
                raw["constant"] = tuple(raw["constant"])
            raw["challenger"] = FittedModel(**raw["challenger"])
            raw["baseline"] = FittedModel(**raw["baseline"])
            if gain := raw["selection"].get("gain"):
                raw["selection"]["gain"] = tuple(gain)
            raw["selection"] = Selection(**raw["selection"])
            return cls(**raw)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                "training record",
                required=f"schema {SCHEMA} with {', '.join(f.name for f in fields(cls))}",
                found=f"{type(error).__name__}: {error}",
                where=PATH,
                remedy="it was written by another version of the code: train again",
            ) from error
