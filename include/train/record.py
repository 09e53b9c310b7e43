"""The training record: what a training fitted, on which data, stored with the run for evaluation to read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from include.errors import ModelError
from include.models import artifacts
from include.models.outputs import Constant
from include.references import digest_json
from include.spec import UseCase

SCHEMA = 1
PATH = "evergreen/training.json"  # below the run; its models are at `artifacts.model_key(digest)`


def attempt_key(spec: UseCase, partition: str, data: str) -> str:
    """Return the key of an attempt, the same for the same declaration, partition and data digest."""
    return digest_json([spec.name, partition, spec.digest, data])


@dataclass(frozen=True)
class FittedModel:
    """One model as it would serve.

    Parameters
    ----------
    name : of the baseline or candidate in the spec.
    digest : of the model's bytes.
    validation : mean loss on the validation partitions, when fitted on the training partitions alone.
    predictions : digest of the float64 predictions for the test rows. A loaded copy must reproduce it.
    """

    name: str
    digest: str
    validation: float
    predictions: str

    @property
    def path(self) -> str:
        """The path of its bytes below the run."""
        return artifacts.model_key(self.digest)


@dataclass(frozen=True)
class TrainingRecord:
    """One training.

    Parameters
    ----------
    usecase, partition : the use case and the partition it was trained for.
    spec, data, code : digests of the declaration and the training set, and the commit of the code.
    version : of the challenger in the registry.
    prior : the label's mean over the fitted partitions, or each class's share.
    last_fitted : the last partition that anything was fitted or tuned on.
    partitions : the partitions of ``train``, ``validation`` and ``test`` that have labelled rows.
    rows : the number of rows of each.
    walk_forward : digest of the file `include.train.walk_forward.PATH`. It is empty unless the recipe was
        judged by walking forward, in which case the models were fitted on the test partitions as well.
    """

    usecase: str
    partition: str
    spec: str
    data: str
    code: str
    version: str
    prior: Constant
    last_fitted: str
    partitions: dict[str, list[str]]
    rows: dict[str, int]
    challenger: FittedModel
    baselines: tuple[FittedModel, ...]
    walk_forward: str = ""
    schema: int = SCHEMA

    @property
    def last_validation(self) -> str:
        """The last validation partition. A model is only judged on later ones."""
        return self.partitions["validation"][-1]

    @property
    def fitted_rows(self) -> int:
        """The number of rows that the models were fitted on."""
        return sum(rows for part, rows in self.rows.items() if self.walk_forward or part != "test")

    @property
    def baseline(self) -> FittedModel:
        """The baseline with the lowest loss on the validation partitions; of a tie the first in the spec."""
        return min(self.baselines, key=lambda fitted: fitted.validation)

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
            if isinstance(raw["prior"], list):
                raw["prior"] = tuple(raw["prior"])
            raw["challenger"] = FittedModel(**raw["challenger"])
            raw["baselines"] = tuple(FittedModel(**fitted) for fitted in raw["baselines"])
            return cls(**raw)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                "training record",
                required=f"schema {SCHEMA} with {', '.join(f.name for f in fields(cls))}",
                found=f"{type(error).__name__}: {error}",
                where=PATH,
                remedy="it was written by another version of the code: train again",
            ) from error
