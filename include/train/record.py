"""What a training leaves beside its models, so that whoever judges them knows what they have seen."""

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
PATH = "evergreen/training.json"  # below the run, the models beside it at `models.key(digest)`


def attempt_key(spec: UseCase, partition: str, data: str) -> str:
    """Return the key of an attempt: the same declaration, partition and data are the same attempt."""
    return digest_json([spec.name, partition, spec.digest, data])


@dataclass(frozen=True)
class FittedModel:
    """One model as it would serve.

    Parameters
    ----------
    name : of the baseline or candidate in the spec.
    digest : of the model's bytes.
    validation : mean loss of the recipe on the validation partitions, when fitted on the training partitions
        alone.
    predictions : digest of the float64 predictions on the test rows, which a copy must give to the bit.
    """

    name: str
    digest: str
    validation: float
    predictions: str

    @property
    def path(self) -> str:
        """Where its bytes lie below the run."""
        return artifacts.model_key(self.digest)


@dataclass(frozen=True)
class TrainingRecord:
    """One training.

    Parameters
    ----------
    usecase, partition : whose, and the partition that it was made for.
    spec, data, code : digests of declaration and training set, and the code's commit.
    version : of the challenger in the registry.
    prior : the label's mean over the partitions that were fitted on, or each class's share.
    last_fitted : the last partition that anything was fitted or tuned on.
    partitions : of ``train``, ``validation`` and ``test`` that have labelled rows.
    rows : of each.
    walked : digest of `include.train.walk_forward.PATH`, empty unless the recipe was judged by walking
        forward; then the models were fitted on the test partitions as well.
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
    walked: str = ""
    schema: int = SCHEMA

    @property
    def last_chosen(self) -> str:
        """The last partition by which a recipe was chosen: what is judged on comes after it."""
        return self.partitions["validation"][-1]

    @property
    def fitted_rows(self) -> int:
        """How many rows the models were fitted on."""
        return sum(rows for part, rows in self.rows.items() if self.walked or part != "test")

    @property
    def baseline(self) -> FittedModel:
        """The baseline with the least loss on the validation partitions.

        The first in the spec of two alike.
        """
        return min(self.baselines, key=lambda fitted: fitted.validation)

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrainingRecord:
        """Read what `to_json` wrote, or say that it is something else."""
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
                remedy="it was written by other code: train again",
            ) from error
