"""Score one partition: one partition, in one commit, whatever failed before.

What was served is a fact. A partition that has predictions is scored again by the version that served them,
whichever rung that was and whatever was promoted or has arrived since; what it would say of what is known by
now goes to `restated`, beside it. The row in `partitions` is written last and says that the partition is
done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from include.errors import ModelError, NotPublished, StaleDecision
from include.features import point_in_time
from include.features.build import compute_features, known_too_late, remedy_too_late
from include.models import outputs
from include.promote import ledger
from include.promote.trials import Trial, trials_on
from include.references import Ref
from include.score import fallback, predictions
from include.score.fallback import Rung, Served, Take
from include.score.prefetch import Prefetch
from include.score.shadow import score_shadow, split_canary
from include.spec import UseCase
from include.stats import profiles as profile
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.lake import Lake

Summary = tuple[pa.Table, pa.Table]  # the profiles, and the row


def summarize(
    spec: UseCase, partition: str, rows: pa.Table | None, made: pa.Table, inputs: Mapping[str, str]
) -> Summary:
    """Return what follows from a partition's predictions.

    Without the rows they were made from, from them alone.

    What such a partition had seen isn't known any more, so its row names no inputs and no declaration.
    """
    declaration, seen = (spec.digest, inputs) if rows is not None else ("", {})
    with ThreadPoolExecutor(1) as beside:
        row = beside.submit(_row, partition, made, seen, declaration)
        profiles = []  # in the order of their names
        if rows is not None:
            of = spec.features
            profiles.append(profile.build_profile("features", partition, rows, of.numeric, of.categorical))
        profiles.append(profile.build_profile("predictions", partition, made, spec.problem.outputs, []))
        return pa.concat_tables(profiles), row.result()


def _row(partition: str, made: pa.Table, inputs: Mapping[str, str], declaration: str) -> pa.Table:
    return predictions.predictions_row(
        "predictions", partition, made, inputs, declaration, predictions.serving_sentence(made)
    )


def publish_summary(lake: Lake, partition: str, of: Summary) -> Ref:
    """Publish it, the row last."""
    profiles, row = of
    lake.publish(
        "profiles", profiles, {"product": profiles["product"].unique().to_pylist(), "partition": partition}
    )
    lake.publish("partitions", row, {"product": "predictions", "partition": partition})
    (said,) = row.select(["digest", "rows", "note"]).to_pylist()
    return Ref(f"{lake.uri}/tables/predictions", partition, **said)


Part = tuple[Rung, str, pa.Array]  # who served, why by none higher, and which rows


def finish_partition(
    lake: Lake, spec: UseCase, partition: str, rows: pa.Table, published: pa.Table, inputs: Mapping[str, str]
) -> Ref:
    """Finish a served partition that was killed or damaged.

    What it would be now stands beside what it was.
    """
    served = point_in_time.conform(spill.sort_rows(published, spec.key), predictions.predictions_schema(spec))
    before = digest_table(served)
    parts = predictions.served_parts(spec, served, rows)
    alike = predictions.same_rows(spec, rows, served)
    recorded = _recorded(lake, partition)
    why = "would be others now, and the model that served is lost"
    try:
        now = _by_the_same(lake, spec, rows, parts)
    except ModelError:
        now = served if alike else None
    if now is not None:
        digest = digest_table(now)
        said = before if recorded is None else recorded["digest"]
        if alike and said == before and predictions.nearly_equal(spec, served, now):
            digest = before
        if digest != before and said == digest:
            lake.publish(
                "predictions", now, {"partition": partition}
            )  # damaged since: what was served is recorded
            served, before = now, digest
        if digest == before:
            return publish_summary(lake, partition, summarize(spec, partition, rows, served, inputs))
        for model, version in {step.model: step.version for step, _, _ in parts}.items():
            mine = pc.equal(now["model"], model)
            values = outputs.from_columns(spec, spill.filter_rows(now, mine))
            publish_restated(lake, spec, spill.filter_rows(rows, mine), version, model, values)
        why = "would be others now: see restated"
    if _recorded(lake, partition) is None:  # now: who served it may have finished meanwhile
        publish_summary(lake, partition, summarize(spec, partition, rows if alike else None, served, inputs))
    note = f"{predictions.serving_sentence(served)}; they {why}"
    return Ref(f"{lake.uri}/tables/predictions", partition, before, served.num_rows, note)


def _recorded(lake: Lake, partition: str) -> dict[str, Any] | None:
    return next(iter(lake.rows("partitions", {"product": "predictions", "partition": partition})), None)


def _by_the_same(lake: Lake, spec: UseCase, rows: pa.Table, parts: Sequence[Part]) -> pa.Table:
    """Return what those who served a partition's rows say of the rows now."""
    made = []
    for step, reason, mask in parts:
        mine = spill.filter_rows(rows, mask)
        served = Served(step, reason, fallback.predict_rung(lake, spec, mine, step))
        made.append(predictions.build_predictions(spec, mine, served))
    return predictions.join_parts(spec, made)


def publish_restated(
    lake: Lake, spec: UseCase, rows: pa.Table, version: str, model: str, values: NDArray[np.float64]
) -> None:
    """Publish to `restated` what a model says of rows."""
    made = predictions.build_predictions(spec, rows, Served(Rung("restated", version, model), "", values))
    lake.publish("restated", made, {"partition": made["partition"][0].as_py(), "model": model})


def source_states(lake: Lake, spec: UseCase, partition: str) -> dict[str, dict[str, object]]:
    """Return the row of `partitions` of each source that has one."""
    rows = lake.rows("partitions", {"product": list(spec.sources), "partition": partition})
    return {row["product"]: row for row in rows}


def missing_sources(
    spec: UseCase, partition: str, seen: Mapping[str, pa.Table], state: Mapping[str, dict[str, object]]
) -> dict[str, str]:
    """Return the sources that the partition is without, each with a word why."""
    found = {}
    for name in spec.sources:
        row = state.get(name)
        if row is None or row["outcome"] != "published":
            found[name] = str(row["outcome"]) if row else "not published"
        elif row["rows"] and not pc.any(pc.equal(seen[name]["partition"], partition)).as_py():
            # what came after the decision is absent: a backfill must not serve what that partition couldn't
            found[name] = "published too late for this partition"
    return found


Inputs = Callable[[], dict[str, str]]  # the digest of what the partition saw of each source


def score(lake: Lake, spec: UseCase, partition: str) -> Ref:
    """Publish a prediction for each of the partition's rows; again leaves those that were served.

    Returns
    -------
    Ref
        of the served rows; its note says when they would be others now. A spine that is published without
        rows is a partition of none.

    Raises
    ------
    NotPublished
        There are no rows to score that were known at the partition's decision time.
    StaleDecision
        Other partitions' first predictions were faster fifty times.
    """
    state = source_states(lake, spec, partition)  # first: what is published meanwhile isn't "too late"
    seen = rows_known_at(lake, spec, partition)
    missing = missing_sources(spec, partition, seen, state)
    with ThreadPoolExecutor(1) as beside, Prefetch(lake, spec, partition, missing) as ahead:
        inputs = beside.submit(inputs_digest, spec, seen)  # the features have one core
        rows = compute_features(spec, seen, [partition], watch=ahead.watch)
        if rows.num_rows == 0:
            return _empty(lake, spec, partition, state, inputs.result)
        on_trial = trials_on(ledger.switches(lake), spec, partition)
        published = lake.read("predictions", {"partition": partition})
        if published is None or not published.num_rows:
            new = _predict(lake, spec, rows, on_trial, missing, ahead.take)
            published, ref = _first(lake, spec, partition, rows, new, inputs.result)
        else:
            ref = finish_partition(lake, spec, partition, rows, published, inputs.result())
        if not set(missing) & set(spec.scoring.requires.get("champion", ())):
            # last: it mustn't hold up who serves
            score_shadow(lake, spec, rows, published, on_trial, inputs.result())
    return ref


def _predict(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    on_trial: Sequence[Trial],
    missing: Mapping[str, str],
    take: Take,
) -> pa.Table:
    """Return a prediction for each row, by the first rung, or the canary, that can serve it."""
    rungs = fallback.fallback_chain(ledger.serving(lake, rows["partition"][0].as_py()), spec)
    parts = split_canary(spec, rows, rungs, on_trial)
    served = [(r, fallback.predict_with_fallback(lake, spec, r, steps, missing, take)) for r, steps in parts]
    return predictions.join_parts(spec, [predictions.build_predictions(spec, *one) for one in served])


def _first(
    lake: Lake,
    spec: UseCase,
    partition: str,
    rows: pa.Table,
    made: pa.Table,
    inputs: Inputs,
) -> tuple[pa.Table, Ref]:
    """Publish a partition's first predictions, or finish those by which another run was faster."""
    with ThreadPoolExecutor(1) as beside:
        # while they are written; where it fails they are served, and the partition is finished by who runs
        # again
        summed = beside.submit(lambda: summarize(spec, partition, rows, made, inputs()))
        published = _serve(lake, partition, made)
        if published is made:
            return made, publish_summary(lake, partition, summed.result())
    return published, finish_partition(lake, spec, partition, rows, published, inputs())


# other partitions of a backfill move the table's version too
@retry(
    retry=retry_if_exception_type(StaleDecision),
    wait=wait_random(0, 0.2),
    stop=stop_after_attempt(50),
    reraise=True,
)
def _serve(lake: Lake, partition: str, made: pa.Table) -> pa.Table:
    """Publish a partition's first predictions and return them, or those by which another run was faster."""
    version = lake.version("predictions")
    published = lake.read("predictions", {"partition": partition})
    if published is not None and published.num_rows:
        return published
    lake.append_at("predictions", made, version)
    return made


def rows_known_at(lake: Lake, spec: UseCase, partition: str) -> dict[str, pa.Table]:
    """Return each source's rows that were known at the partition's decision time: see `views.read`."""
    decided = pa.scalar(spec.clock.moment(partition), schemas.TIME)
    read = point_in_time.read_sources(lake, spec, [partition])
    return {
        name: spill.filter_rows(rows, pc.less_equal(rows["known_at"], decided)) for name, rows in read.items()
    }


def inputs_digest(spec: UseCase, seen: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return the digest of what the partition saw of each source: rows that came later are no part of it.

    Parameters
    ----------
    seen : of `seen_by`, whose rows are in order.
    """
    return {name: digest_table(rows) for name, rows in seen.items()}


def _empty(
    lake: Lake, spec: UseCase, partition: str, state: Mapping[str, dict[str, object]], inputs: Inputs
) -> Ref:
    """Publish a partition whose spine is published without rows: a partition of none.

    Once it is published so it stays, whatever came after the decision.
    """
    row = state.get(spec.features.spine)
    own = lake.rows("partitions", {"product": "predictions", "partition": partition})
    without = row is not None and row["outcome"] == "published" and not row["rows"]
    if not (without or (own and not own[0]["rows"])) or lake.count("predictions", {"partition": partition}):
        raise _nothing(lake, spec, partition, state)
    none = predictions.predictions_schema(spec).empty_table()
    note = f"0 rows: {spec.features.spine} is published without any for this partition"
    made = predictions.predictions_row("predictions", partition, none, inputs(), spec.digest, note)
    lake.publish("partitions", made, {"product": "predictions", "partition": partition})
    return Ref(f"{lake.uri}/tables/predictions", partition, digest_table(none), 0, note)


def _nothing(
    lake: Lake, spec: UseCase, partition: str, state: Mapping[str, dict[str, object]]
) -> NotPublished:
    row, late = state.get(spec.features.spine), known_too_late(lake, spec, [partition])
    found = "nothing" if row is None else f"{row['outcome']} with {row['rows']} rows: {row['note']}"
    remedy = "ingest that source for the partition, then score it"
    if row is not None and late:
        found = f"{row['rows']} that were known only from {late[partition]:%Y-%m-%d %H:%M} UTC on"
        remedy = remedy_too_late(spec, partition)
    decided = spec.clock.moment(partition)
    return NotPublished(
        f"{spec.name}/{spec.features.spine}/{partition}",
        required=f"rows to score, known by {decided:%Y-%m-%d %H:%M} UTC",
        found=found,
        remedy=remedy,
    )
