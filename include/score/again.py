"""A night that was served is scored again: what was served stays, what it would be now stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include import outputs, spool
from include.errors import ModelError
from include.features import views
from include.lake import Lake
from include.refs import Ref, digest_table
from include.score import done, ladder, predictions
from include.score.ladder import Served, Step
from include.spec import UseCase

Part = tuple[Step, str, pa.Array]  # who served, why by none higher, and which rows


def finish(
    lake: Lake, spec: UseCase, night: str, rows: pa.Table, published: pa.Table, inputs: Mapping[str, str]
) -> Ref:
    """Finish a served night that was killed or damaged; what it would be now stands beside what it was."""
    served = views.shaped(spool.ordered(published, spec.key), predictions.shape(spec))
    before = digest_table(served)
    parts = predictions.parts(spec, served, rows)
    alike = predictions.alike(spec, rows, served)
    recorded = _recorded(lake, night)
    why = "would be others now, and the model that served is lost"
    try:
        now = _by_the_same(lake, spec, rows, parts)
    except ModelError:
        now = served if alike else None
    if now is not None:
        digest = digest_table(now)
        said = before if recorded is None else recorded["digest"]
        if alike and said == before and predictions.near(spec, served, now):
            digest = before
        if digest != before and said == digest:
            lake.publish("predictions", now, {"night": night})  # damaged since: what was served is recorded
            served, before = now, digest
        if digest == before:
            return done.publish(lake, night, done.summed(spec, night, rows, served, inputs))
        for model, version in {step.model: step.version for step, _, _ in parts}.items():
            mine = pc.equal(now["model"], model)
            values = outputs.array(spec, spool.chosen(now, mine))
            restated(lake, spec, spool.chosen(rows, mine), version, model, values)
        why = "would be others now: see restated"
    if _recorded(lake, night) is None:  # now: who served it may have finished meanwhile
        done.publish(lake, night, done.summed(spec, night, rows if alike else None, served, inputs))
    note = f"{predictions.sentence(served)}; they {why}"
    return Ref(f"{lake.uri}/tables/predictions", night, before, served.num_rows, note)


def _recorded(lake: Lake, night: str) -> dict[str, Any] | None:
    return next(iter(lake.rows("partitions", {"product": "predictions", "night": night})), None)


def _by_the_same(lake: Lake, spec: UseCase, rows: pa.Table, parts: Sequence[Part]) -> pa.Table:
    """Return what those who served a night's rows say of the rows now."""
    made = []
    for step, reason, mask in parts:
        mine = spool.chosen(rows, mask)
        served = Served(step, reason, ladder.predict(lake, spec, mine, step))
        made.append(predictions.build(spec, mine, served))
    return predictions.joined(spec, made)


def restated(
    lake: Lake, spec: UseCase, rows: pa.Table, version: str, model: str, values: NDArray[np.float64]
) -> None:
    """Publish to `restated` what a model says of rows."""
    made = predictions.build(spec, rows, Served(Step("restated", version, model), "", values))
    lake.publish("restated", made, {"night": made["night"][0].as_py(), "model": model})
