"""The live losses of a trial: both models on the same rows, on the nights whose labels have come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from include import outputs
from include.evaluate.metrics import loss
from include.features import views
from include.features.build import labels, matured
from include.lake import Lake
from include.promote.evidence import CHALLENGER, CHAMPION, Losses
from include.rollout.beside import TABLE
from include.rollout.trial import Trial
from include.score import predictions
from include.spec import UseCase

SUFFIX = " of the incumbent"


def losses(lake: Lake, spec: UseCase, trial: Trial, night: str) -> Losses:
    """Return the losses of candidate and incumbent by night, as known on ``night``.

    Only rows that both have scored from the same features count, and that have a label.
    """
    nights = [key for key in matured(lake, spec, night) if key >= trial.since]
    by, target = [*spec.key, "night"], spec.problem.target
    sides = [_scored(lake, spec, nights, str(row["model"])) for row in (trial.candidate, trial.incumbent)]
    came = labels(lake, spec, nights, known=night)
    both = sides[0].join(sides[1], [*by, "row_digest"], join_type="inner", right_suffix=SUFFIX)
    both = both.join(came.filter(came[target].is_valid()), by, join_type="inner").sort_by(
        [(name, "ascending") for name in ("night", *spec.key)]
    )
    of, actual = np.asarray(both["night"].to_pylist(), dtype=object), both[target].to_numpy()
    places = {key: np.flatnonzero(of == key) for key in sorted(set(of))}
    sums = {}
    for name, suffix in ((CHALLENGER, ""), (CHAMPION, SUFFIX)):
        each = loss(spec.gate.objective, actual, outputs.array(spec, both, suffix))
        sums[name] = tuple(float(each[place].sum()) for place in places.values())
    return Losses(tuple(places), tuple(len(place) for place in places.values()), sums)


def _scored(lake: Lake, spec: UseCase, nights: Sequence[str], model: str) -> pa.Table:
    """Return a model's prediction for each row of the nights, whether it served or stood beside."""
    said = spec.problem.outputs
    columns = [*spec.key, "night", "row_digest", *said]
    where = {"night": list(nights), "model": model}
    found = [lake.read(table, where, columns) for table in ("predictions", TABLE)] if nights else []
    shape = pa.schema([predictions.shape(spec).field(name) for name in columns])
    rows = pa.concat_tables([views.shaped(some, shape) for some in (None, *found)])
    # in a canary a model has some rows in both tables, and they are equal
    by = [name for name in columns if name not in said]
    once = rows.group_by(by).aggregate([(name, "min") for name in said])
    return once.rename_columns({f"{name}_min": name for name in said})
