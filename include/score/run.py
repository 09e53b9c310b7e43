"""Score one night: one partition, in one commit, whatever failed before.

What was served is a fact. A night that has predictions is scored again by the version that served them,
whichever rung that was and whatever was promoted or has arrived since; what another version would have said
goes to `restated`, beside it. The row in `partitions` is written last and says that the night is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from include import environment, profile, tables
from include.errors import ModelError, NotPublished, StaleDecision
from include.features import views
from include.features.build import compute
from include.lake import Lake
from include.promote import ledger
from include.refs import Ref, digest_table
from include.score import ladder, predictions
from include.score.ladder import Served, Step
from include.spec import UseCase


def score(lake: Lake, spec: UseCase, night: str) -> Ref:
    """Publish a prediction for each of the night's rows; again gives the same rows.

    Raises
    ------
    NotPublished
        There are no rows to score that were known at the night's decision time.
    StaleDecision
        Other nights' first predictions were faster fifty times.
    """
    seen = seen_by(lake, spec, night)
    state = {
        r["product"]: r for r in lake.rows("partitions", {"product": list(spec.sources), "night": night})
    }
    rows = compute(spec, seen, [night])
    if rows.num_rows == 0:
        raise _nothing(spec, night, state)
    published = lake.read("predictions", {"night": night})
    made = None
    if published is None or not published.num_rows:
        rungs = ladder.steps(ledger.serving(lake, night), spec)
        made = predictions.build(
            spec, rows, ladder.climb(lake, spec, rows, rungs, _missing(spec, night, seen, state))
        )
        published = _serve(lake, night, made)
    if published is not made:
        made = _again(lake, spec, rows, published)
    return _publish(lake, spec, night, rows, made, inputs_of(spec, seen))


# other nights of a backfill move the table's version too
@retry(
    retry=retry_if_exception_type(StaleDecision),
    wait=wait_random(0, 0.2),
    stop=stop_after_attempt(50),
    reraise=True,
)
def _serve(lake: Lake, night: str, made: pa.Table) -> pa.Table:
    """Publish a night's first predictions and return them, or those by which another run was faster."""
    version = lake.version("predictions")
    published = lake.read("predictions", {"night": night})
    if published is not None and published.num_rows:
        return published
    lake.append_at("predictions", made, version)
    return made


def restate(lake: Lake, spec: UseCase, night: str, model: str, version: str) -> Ref:
    """Publish to `restated` what another model would have predicted, and leave `predictions` alone.

    Parameters
    ----------
    model, version : the digest of a model in the lake, and its version for people.

    Raises
    ------
    NotPublished
        There are no rows to score.
    ModelError
        The model can't be loaded, or fails on these rows.
    """
    rows = compute(spec, seen_by(lake, spec, night), [night])
    if rows.num_rows == 0:
        raise _nothing(spec, night, {})
    step = Step("restated", version, model)
    made = predictions.build(spec, rows, Served(step, "", ladder.predict(lake, spec, rows, step)))
    lake.publish("restated", made, {"night": night, "model": model})
    note = f"{made.num_rows} rows by {step.name}"
    return Ref(f"{lake.uri}/tables/restated", night, digest_table(made), made.num_rows, note)


def seen_by(lake: Lake, spec: UseCase, night: str) -> dict[str, pa.Table]:
    """Return each source's rows that were known at the night's decision time."""
    decided = pa.scalar(spec.clock.moment(night), tables.TIME)
    read = views.read(lake, spec, [night])
    return {name: rows.filter(pc.less_equal(rows["known_at"], decided)) for name, rows in read.items()}


def _missing(
    spec: UseCase, night: str, seen: Mapping[str, pa.Table], state: Mapping[str, dict[str, object]]
) -> dict[str, str]:
    """Return the sources that the night is without, each with a word why."""
    found = {}
    for name in spec.sources:
        row = state.get(name)
        if row is None or row["outcome"] != "published":
            found[name] = str(row["outcome"]) if row else "not published"
        elif row["rows"] and not pc.any(pc.equal(seen[name]["night"], night)).as_py():
            # what came after the decision is absent: a backfill must not serve what that night couldn't
            found[name] = "published too late for this night"
    return found


def _again(lake: Lake, spec: UseCase, rows: pa.Table, published: pa.Table) -> pa.Table:
    """Return the night's rows by whoever served them before; as they stand if that model is lost by now."""
    step, reason = predictions.who(published)
    try:
        return predictions.build(spec, rows, Served(step, reason, ladder.predict(lake, spec, rows, step)))
    except ModelError:
        shape = predictions.shape(spec)
        return views.shaped(published.sort_by([(c, "ascending") for c in spec.key]), shape).combine_chunks()


def inputs_of(spec: UseCase, seen: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return the digest of what the night saw of each source: rows that came later are no part of it."""
    order = {name: ("night", "revision", *source.key) for name, source in spec.sources.items()}
    return {
        name: digest_table(rows.sort_by([(c, "ascending") for c in order[name]]))
        for name, rows in seen.items()
    }


def _publish(
    lake: Lake, spec: UseCase, night: str, rows: pa.Table, made: pa.Table, inputs: Mapping[str, str]
) -> Ref:
    step, reason = predictions.who(made)
    note = f"{made.num_rows} rows by {step.name}" + (f": {reason}" if reason else "")
    digest = digest_table(made)
    lake.publish("predictions", made, {"night": night})
    of_features = profile.build("features", night, rows, spec.features.numeric, spec.features.categorical)
    of_predictions = profile.build("predictions", night, made, ["prediction"], [])
    both = pa.concat_tables([of_features, of_predictions])
    lake.publish("profiles", both, {"product": ["features", "predictions"], "night": night})
    row = {
        "product": "predictions",
        "night": night,
        "outcome": "published",
        "revision": 0,
        "rows": made.num_rows,
        "quarantined": 0,
        "duplicates": 0,
        "digest": digest,
        "inputs": json.dumps({**inputs, "model": step.model}, sort_keys=True),
        "spec": spec.digest,
        "code": environment.code_version(),
        "note": note,
    }
    done = pa.Table.from_pylist([row], schema=tables.PARTITIONS)
    lake.publish("partitions", done, {"product": "predictions", "night": night})
    return Ref(f"{lake.uri}/tables/predictions", night, digest, made.num_rows, note)


def _nothing(spec: UseCase, night: str, state: Mapping[str, dict[str, object]]) -> NotPublished:
    row = state.get(spec.features.spine)
    found = "nothing" if row is None else f"{row['outcome']} with {row['rows']} rows: {row['note']}"
    decided = spec.clock.moment(night)
    return NotPublished(
        f"{spec.name}/{spec.features.spine}/{night}",
        required=f"rows to score, known by {decided:%Y-%m-%d %H:%M} UTC",
        found=found,
        remedy="ingest that source for the night, then score it",
    )
