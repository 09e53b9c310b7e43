"""A model on trial scores each night beside the one that serves; its rows are kept apart."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pyarrow as pa

from include.errors import ModelError
from include.lake import Lake
from include.rollout.trial import SHADOW, Trial
from include.score import ladder, predictions
from include.score.ladder import Served, Step
from include.spec import UseCase

log = logging.getLogger(__name__)
TABLE = "shadows"


def score_beside(
    lake: Lake, spec: UseCase, rows: pa.Table, served: pa.Table, on_trial: Iterable[Trial]
) -> None:
    """Publish to `shadows` what each model on trial says of the rows that it doesn't serve.

    What is there stays, so scoring a night again changes nothing. A model that can't score them is logged and
    leaves none: the trial then lacks the night.

    Parameters
    ----------
    rows : the night's features, shape (n, any).
    served : the night's predictions.
    """
    night = rows["night"][0].as_py()
    everywhere = set(served["model"].unique().to_pylist())
    wanted = {str(row["model"]): row for trial in on_trial for row in (trial.candidate, trial.incumbent)}
    for model, row in wanted.items():
        if everywhere == {model} or lake.count(TABLE, {"night": night, "model": model}):
            continue
        step = Step(SHADOW, str(row["version"]), model)
        try:
            values = ladder.predict(lake, spec, rows, step)
        except ModelError as error:
            log.warning("%s/%s: v%s can't score beside: %s", spec.name, night, row["version"], error)
            continue
        made = predictions.build(spec, rows, Served(step, "", values))
        lake.publish(TABLE, made, {"night": night, "model": model})
