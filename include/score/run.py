"""Score one night: one partition, in one commit, whatever failed before.

What was served is a fact. A night that has predictions is scored again by the version that served them,
whichever rung that was and whatever was promoted or has arrived since; what another version would have said,
or the same one of what is known by now, goes to `restated`, beside it. The row in `partitions` is written
last and says that the night is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from include import outputs, profile, spool, tables
from include.errors import ModelError, NotPublished, StaleDecision
from include.features import views
from include.features.build import compute
from include.lake import Lake
from include.promote import ledger
from include.refs import Ref, digest_table
from include.rollout.beside import score_beside
from include.rollout.canary import shares
from include.rollout.trial import Trial, trials
from include.score import ladder, predictions
from include.score.ladder import Served, Step
from include.score.missing import missing_of, state_of
from include.spec import UseCase

Part = tuple[Step, str, pa.Array]  # who served, why by none higher, and which rows


def score(lake: Lake, spec: UseCase, night: str) -> Ref:
    """Publish a prediction for each of the night's rows; again leaves those that were served.

    Returns
    -------
    Ref
        of the served rows; its note says when they would be others now.

    Raises
    ------
    NotPublished
        There are no rows to score that were known at the night's decision time.
    StaleDecision
        Other nights' first predictions were faster fifty times.
    """
    state = state_of(lake, spec, night)  # first: what is published meanwhile isn't "too late"
    seen = seen_by(lake, spec, night)
    rows = compute(spec, seen, [night])
    if rows.num_rows == 0:
        raise _nothing(spec, night, state)
    missing = missing_of(spec, night, seen, state)

    def made(on_trial: Sequence[Trial]) -> pa.Table:
        return _climbed(lake, spec, rows, on_trial, missing)

    return publish(lake, spec, rows, missing, made, lambda: inputs_of(spec, seen))


def publish(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    missing: Mapping[str, str],
    made: Callable[[Sequence[Trial]], pa.Table],
    inputs: Callable[[], dict[str, str]],
) -> Ref:
    """Publish a night's predictions unless it has some, then what follows from them.

    Parameters
    ----------
    rows : the night's features, shape (n, any), n > 0.
    missing : the sources that the night is without, each with a word why.
    made : returns the predictions, if they are wanted, by the rungs and a canary of the trials.
    inputs : returns the digest of what the night saw of each source.
    """
    night = rows["night"][0].as_py()
    on_trial = trials(ledger.switches(lake), spec, night)
    published, first = lake.read("predictions", {"night": night}), None
    if published is None or not published.num_rows:
        first = made(on_trial)
        published = _serve(lake, night, first)
    seen = inputs()
    if published is first:
        ref = _finish(lake, spec, night, rows, first, seen)
    else:
        ref = _again(lake, spec, night, rows, published, seen)
    if not set(missing) & set(spec.scoring.needs.get("champion", ())):
        score_beside(lake, spec, rows, published, on_trial, seen)  # last: it mustn't hold up who serves
    return ref


def _climbed(
    lake: Lake, spec: UseCase, rows: pa.Table, on_trial: Sequence[Trial], missing: Mapping[str, str]
) -> pa.Table:
    """Return a prediction for each row, by the first rung that can serve it."""
    rungs = ladder.steps(ledger.serving(lake, rows["night"][0].as_py()), spec)
    parts = shares(spec, rows, rungs, on_trial)
    made = [predictions.build(spec, r, ladder.climb(lake, spec, r, steps, missing)) for r, steps in parts]
    return predictions.joined(spec, made)


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
    values = ladder.predict(lake, spec, rows, Step("restated", version, model))
    made = _restate(lake, spec, rows, version, model, values)
    note = f"{made.num_rows} rows by restated v{version}"
    return Ref(f"{lake.uri}/tables/restated", night, digest_table(made), made.num_rows, note)


def _restate(
    lake: Lake, spec: UseCase, rows: pa.Table, version: str, model: str, values: NDArray[np.float64]
) -> pa.Table:
    made = predictions.build(spec, rows, Served(Step("restated", version, model), "", values))
    lake.publish("restated", made, {"night": made["night"][0].as_py(), "model": model})
    return made


def seen_by(
    lake: Lake, spec: UseCase, night: str, versions: Mapping[str, int] | None = None
) -> dict[str, pa.Table]:
    """Return each source's rows that were known at the night's decision time: see `views.read`."""
    decided = pa.scalar(spec.clock.moment(night), tables.TIME)
    read = views.read(lake, spec, [night], versions)
    return {name: spool.chosen(rows, pc.less_equal(rows["known_at"], decided)) for name, rows in read.items()}


def _again(
    lake: Lake, spec: UseCase, night: str, rows: pa.Table, published: pa.Table, inputs: Mapping[str, str]
) -> Ref:
    """Finish a served night that was killed or damaged; what it would be now stands beside what it was."""
    served = views.shaped(spool.ordered(published, spec.key), predictions.shape(spec))
    before = digest_table(served)
    parts = predictions.parts(spec, served, rows)
    alike = predictions.alike(spec, rows, served)
    done = next(iter(lake.rows("partitions", {"product": "predictions", "night": night})), None)
    why = "would be others now, and the model that served is lost"
    try:
        now = _by_the_same(lake, spec, rows, parts)
    except ModelError:
        now = served if alike else None
    if now is not None:
        digest = digest_table(now)
        if alike and (done is None or done["digest"] == before) and predictions.near(spec, served, now):
            digest = before
        if digest != before and done is not None and done["digest"] == digest:
            lake.publish("predictions", now, {"night": night})  # damaged since: what was served is recorded
            served, before = now, digest
        if digest == before:
            return _finish(lake, spec, night, rows, served, inputs)
        for model, version in {step.model: step.version for step, _, _ in parts}.items():
            mine = pc.equal(now["model"], model)
            values = outputs.array(spec, spool.chosen(now, mine))
            _restate(lake, spec, spool.chosen(rows, mine), version, model, values)
        why = "would be others now: see restated"
    if done is None:
        _finish(lake, spec, night, rows if alike else None, served, inputs if alike else {})
    note = f"{predictions.sentence(served)}; they {why}"
    return Ref(f"{lake.uri}/tables/predictions", night, before, served.num_rows, note)


def _by_the_same(lake: Lake, spec: UseCase, rows: pa.Table, parts: Sequence[Part]) -> pa.Table:
    """Return what those who served a night's rows say of the rows now."""
    made = []
    for step, reason, mask in parts:
        mine = spool.chosen(rows, mask)
        served = Served(step, reason, ladder.predict(lake, spec, mine, step))
        made.append(predictions.build(spec, mine, served))
    return predictions.joined(spec, made)


def inputs_of(spec: UseCase, seen: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return the digest of what the night saw of each source: rows that came later are no part of it.

    Parameters
    ----------
    seen : of `seen_by`, whose rows are in order.
    """
    return {name: digest_table(rows) for name, rows in seen.items()}


def _finish(
    lake: Lake, spec: UseCase, night: str, rows: pa.Table | None, made: pa.Table, inputs: Mapping[str, str]
) -> Ref:
    """Publish what follows from a night's predictions; without the rows they were made from, from them alone.

    What such a night had seen isn't known any more, so its row names no inputs and no declaration.
    """
    note = predictions.sentence(made)
    profiles = {"predictions": profile.build("predictions", night, made, spec.problem.outputs, [])}
    if rows is not None:
        of = spec.features
        profiles["features"] = profile.build("features", night, rows, of.numeric, of.categorical)
    both = pa.concat_tables([profiles[name] for name in sorted(profiles)])
    lake.publish("profiles", both, {"product": sorted(profiles), "night": night})
    declaration = "" if rows is None else spec.digest
    done = predictions.partition("predictions", night, made, inputs, declaration, note)
    lake.publish("partitions", done, {"product": "predictions", "night": night})
    return Ref(f"{lake.uri}/tables/predictions", night, done["digest"][0].as_py(), made.num_rows, note)


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
