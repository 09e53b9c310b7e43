"""Score one night: one partition, in one commit, whatever failed before.

What was served is a fact. A night that has predictions is scored again by the version that served them,
whichever rung that was and whatever was promoted or has arrived since; what it would say of what is known by
now goes to `restated`, beside it. The row in `partitions` is written last and says that the night is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from include import spool, tables
from include.errors import NotPublished, StaleDecision
from include.features import views
from include.features.build import compute, known_too_late, remedy_too_late
from include.lake import Lake
from include.promote import ledger
from include.refs import Ref, digest_table
from include.rollout.beside import score_beside
from include.rollout.canary import shares
from include.rollout.trial import Trial, trials
from include.score import again, done, ladder, predictions
from include.score.ahead import Ahead
from include.score.ladder import Take
from include.score.missing import missing_of, state_of
from include.spec import UseCase

Inputs = Callable[[], dict[str, str]]  # the digest of what the night saw of each source


def score(lake: Lake, spec: UseCase, night: str) -> Ref:
    """Publish a prediction for each of the night's rows; again leaves those that were served.

    Returns
    -------
    Ref
        of the served rows; its note says when they would be others now. A spine that is published without
        rows is a night of none.

    Raises
    ------
    NotPublished
        There are no rows to score that were known at the night's decision time.
    StaleDecision
        Other nights' first predictions were faster fifty times.
    """
    state = state_of(lake, spec, night)  # first: what is published meanwhile isn't "too late"
    seen = seen_by(lake, spec, night)
    missing = missing_of(spec, night, seen, state)
    with ThreadPoolExecutor(1) as beside, Ahead(lake, spec, night, missing) as ahead:
        inputs = beside.submit(inputs_of, spec, seen)  # the features have one core
        rows = compute(spec, seen, [night], watch=ahead.watch)
        if rows.num_rows == 0:
            return _empty(lake, spec, night, state, inputs.result)
        on_trial = trials(ledger.switches(lake), spec, night)
        published = lake.read("predictions", {"night": night})
        if published is None or not published.num_rows:
            new = _predict(lake, spec, rows, on_trial, missing, ahead.take)
            published, ref = _first(lake, spec, night, rows, new, inputs.result)
        else:
            ref = again.finish(lake, spec, night, rows, published, inputs.result())
        if not set(missing) & set(spec.scoring.needs.get("champion", ())):
            # last: it mustn't hold up who serves
            score_beside(lake, spec, rows, published, on_trial, inputs.result())
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
    rungs = ladder.steps(ledger.serving(lake, rows["night"][0].as_py()), spec)
    parts = shares(spec, rows, rungs, on_trial)
    served = [(r, ladder.climb(lake, spec, r, steps, missing, take)) for r, steps in parts]
    return predictions.joined(spec, [predictions.build(spec, *one) for one in served])


def _first(
    lake: Lake,
    spec: UseCase,
    night: str,
    rows: pa.Table,
    made: pa.Table,
    inputs: Inputs,
) -> tuple[pa.Table, Ref]:
    """Publish a night's first predictions, or finish those by which another run was faster."""
    with ThreadPoolExecutor(1) as beside:
        # while they are written; where it fails they are served, and the night is finished by who runs again
        summed = beside.submit(lambda: done.summed(spec, night, rows, made, inputs()))
        published = _serve(lake, night, made)
        if published is made:
            return made, done.publish(lake, night, summed.result())
    return published, again.finish(lake, spec, night, rows, published, inputs())


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


def seen_by(lake: Lake, spec: UseCase, night: str) -> dict[str, pa.Table]:
    """Return each source's rows that were known at the night's decision time: see `views.read`."""
    decided = pa.scalar(spec.clock.moment(night), tables.TIME)
    read = views.read(lake, spec, [night])
    return {name: spool.chosen(rows, pc.less_equal(rows["known_at"], decided)) for name, rows in read.items()}


def inputs_of(spec: UseCase, seen: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return the digest of what the night saw of each source: rows that came later are no part of it.

    Parameters
    ----------
    seen : of `seen_by`, whose rows are in order.
    """
    return {name: digest_table(rows) for name, rows in seen.items()}


def _empty(
    lake: Lake, spec: UseCase, night: str, state: Mapping[str, dict[str, object]], inputs: Inputs
) -> Ref:
    """Publish a night whose spine is published without rows: a partition of none.

    Once it is published so it stays, whatever came after the decision.
    """
    row = state.get(spec.features.spine)
    own = lake.rows("partitions", {"product": "predictions", "night": night})
    without = row is not None and row["outcome"] == "published" and not row["rows"]
    if not (without or (own and not own[0]["rows"])) or lake.count("predictions", {"night": night}):
        raise _nothing(lake, spec, night, state)
    none = predictions.shape(spec).empty_table()
    note = f"0 rows: {spec.features.spine} is published without any for this night"
    made = predictions.partition("predictions", night, none, inputs(), spec.digest, note)
    lake.publish("partitions", made, {"product": "predictions", "night": night})
    return Ref(f"{lake.uri}/tables/predictions", night, digest_table(none), 0, note)


def _nothing(lake: Lake, spec: UseCase, night: str, state: Mapping[str, dict[str, object]]) -> NotPublished:
    row, late = state.get(spec.features.spine), known_too_late(lake, spec, [night])
    found = "nothing" if row is None else f"{row['outcome']} with {row['rows']} rows: {row['note']}"
    remedy = "ingest that source for the night, then score it"
    if row is not None and late:
        found = f"{row['rows']} that were known only from {late[night]:%Y-%m-%d %H:%M} UTC on"
        remedy = remedy_too_late(spec, night)
    decided = spec.clock.moment(night)
    return NotPublished(
        f"{spec.name}/{spec.features.spine}/{night}",
        required=f"rows to score, known by {decided:%Y-%m-%d %H:%M} UTC",
        found=found,
        remedy=remedy,
    )
