"""A model on trial scores each night beside the one that serves; its rows are kept apart."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import pyarrow as pa

from include import spool
from include.errors import ModelError
from include.features import views
from include.lake import Lake
from include.refs import digest_table
from include.rollout.trial import SHADOW, Trial
from include.score import ladder, predictions
from include.score.ladder import Served, Step
from include.spec import UseCase

log = logging.getLogger(__name__)
TABLE = "shadows"


def score_beside(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    served: pa.Table,
    on_trial: Iterable[Trial],
    inputs: Mapping[str, str],
) -> None:
    """Publish to `shadows` what each model on trial says of the rows that it doesn't serve.

    What is there as recorded stays, so scoring a night again changes nothing; what a kill left without its
    row in `partitions`, or was changed since, is made anew. A model that can't score the rows is logged and
    leaves none: the trial then lacks the night.

    Parameters
    ----------
    rows : the night's features, shape (n, any).
    served : the night's predictions.
    inputs : the digest of what the night saw of each source.
    """
    night, everywhere = rows["night"][0].as_py(), set(served["model"].unique().to_pylist())
    wanted = {str(row["model"]): row for trial in on_trial for row in (trial.candidate, trial.incumbent)}
    wanted = {model: row for model, row in wanted.items() if everywhere != {model}}
    if not wanted:
        return
    kept = _kept(lake, spec, night)
    made = [kept] if kept is not None else []
    have = set(kept["model"].to_pylist()) if kept is not None else set()
    for model, row in wanted.items():
        if model in have:
            continue
        step = Step(SHADOW, str(row["version"]), model)
        try:
            values = ladder.predict(lake, spec, rows, step)
        except ModelError as error:
            log.warning("%s/%s: v%s can't score beside: %s", spec.name, night, row["version"], error)
            continue
        made.append(predictions.build(spec, rows, Served(step, "", values)))
    if made and (kept is None or len(made) > 1):
        _publish(lake, spec, night, pa.concat_tables(made), inputs)


def _kept(lake: Lake, spec: UseCase, night: str) -> pa.Table | None:
    """Return a night's rows if they are those that were recorded."""
    for recorded in lake.rows("partitions", {"product": TABLE, "night": night}):
        found = _sorted(spec, views.shaped(lake.read(TABLE, {"night": night}), predictions.shape(spec)))
        if digest_table(found) == recorded["digest"]:
            return found
    return None


def _publish(lake: Lake, spec: UseCase, night: str, made: pa.Table, inputs: Mapping[str, str]) -> None:
    made = _sorted(spec, made)
    lake.publish(TABLE, made, {"night": night})
    done = predictions.partition(TABLE, night, made, inputs, spec.digest, predictions.sentence(made))
    lake.publish("partitions", done, {"product": TABLE, "night": night})


def _sorted(spec: UseCase, rows: pa.Table) -> pa.Table:
    return spool.ordered(rows, ("model", *spec.key))
