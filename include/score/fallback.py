"""The ladder: champion, previous champion, baseline, prior. The first that can serve a partition does.

A rung is passed over with a reason, and the reasons are kept with each prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.errors import ModelError
from include.models import artifacts, outputs
from include.models.artifacts import BatchPredictor, Precomputed, Values
from include.models.outputs import Constant
from include.promote.ledger import Serving
from include.spec import UseCase
from include.storage.lake import Lake

Take = Callable[
    [str], tuple[BatchPredictor, Precomputed] | None
]  # of a model, what was made ready: see `models.filled`
CANARY = "canary"  # serves its share of the rows before the champion, and needs what the champion needs


@dataclass(frozen=True)
class Rung:
    """One rung and who stands on it; the prior is a constant and has no model."""

    rung: str
    version: str = ""
    model: str = ""
    constant: Constant | None = None
    absent: str = ""  # why nobody stands on it

    @property
    def name(self) -> str:
        """The rung as a person reads it, as ``champion v3``."""
        return f"{self.rung} v{self.version}" if self.version else self.rung


@dataclass(frozen=True)
class Served:
    """What a partition was given: the predictions, by one rung, and why by none higher."""

    step: Rung
    reason: str
    values: Values


def fallback_chain(serving: Serving, spec: UseCase) -> list[Rung]:
    """Return the rungs from the top; the last, a constant, can always serve."""
    rows = {"champion": serving.champion, "previous": serving.previous, "baseline": serving.baseline}
    absent = "none was promoted for this partition"
    if serving.down is not None:
        absent = f"v{serving.down['version']} stepped down from {serving.down['effective']} on"
    models_first = [
        Rung(rung, str(row["version"]), str(row["model"])) if row is not None else Rung(rung, absent=absent)
        for rung, row in rows.items()
    ]
    known = serving.prior is not None and np.isfinite(serving.prior).all()
    return [*models_first, Rung("prior", constant=serving.prior if known else spec.fallback)]


def predict_with_fallback(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    rungs: Sequence[Rung],
    missing: Mapping[str, str],
    take: Take,
) -> Served:
    """Return the predictions of the first rung that can serve.

    Parameters
    ----------
    rows : the partition's features, shape (n, any).
    missing : the sources that this partition is without, each with a word why.
    take : gives what asks a model and what it has said already, None where nobody made that ready.
    """
    reasons: list[str] = []
    for step in rungs:
        why = skip_reason(spec, step, missing)
        if not why:
            try:
                return Served(step, "; ".join(reasons), predict_rung(lake, spec, rows, step, take))
            except ModelError as error:
                why = str(error)
        reasons.append(f"{step.name}: {why}")
    raise AssertionError("the last rung is a constant and can always serve")


def skip_reason(spec: UseCase, step: Rung, missing: Mapping[str, str]) -> str:
    """Return why a rung is passed over before it is asked, empty if it isn't."""
    needs: Mapping[str, tuple[str, ...]] = {
        str(rung): sources for rung, sources in spec.scoring.requires.items()
    }
    rung = "champion" if step.rung == CANARY else step.rung
    lacks = [f"{s} is {missing[s]}" for s in needs.get(rung, ()) if s in missing]
    return step.absent or ", ".join(lacks if step.constant is None else [])


def predict_rung(
    lake: Lake, spec: UseCase, rows: pa.Table, step: Rung, take: Take = lambda model: None
) -> Values:
    """Return the predictions from the model or constant of a rung, or raise `ModelError`."""
    if step.constant is not None:
        return outputs.repeat_constant(step.constant, rows.num_rows)
    if ready := take(step.model):
        ask, said = ready
        return artifacts.fill_predictions(ask, rows, spec, said)
    return artifacts.predict(artifacts.load_model(lake, step.model), rows, spec)
