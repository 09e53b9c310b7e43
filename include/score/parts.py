"""A night scored in parts by several tasks: each writes its rows aside, and one commit publishes them all.

A part's rows are objects under their digest, and so is the list of them, which a task hands on. So a part
that is late, run twice or of another attempt overwrites nothing. Who publishes checks all of it; where
anything is missing, altered or no longer what would be decided now, it scores the night as a whole, as one
task does. A model that fails on a part's rows fails that part, and so the whole night goes to the next rung,
never half of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include import environment, spool
from include.errors import PartsUnfit, StoreUnavailable
from include.features.build import compute
from include.features.ranges import Range
from include.lake import Lake
from include.refs import Ref, digest_bytes
from include.rollout.canary import entities
from include.rollout.trial import CANARY
from include.score import aside, ladder, plan, predictions, run
from include.score.aside import FEATURES, PREDICTIONS, Part
from include.score.ladder import Served
from include.score.plan import Plan
from include.spec import UseCase

log = logging.getLogger(__name__)


def score_part(lake: Lake, spec: UseCase, key: str, number: int) -> Ref:
    """Predict one part of a night's rows and write them aside.

    Parameters
    ----------
    key, number : of the plan, and which of its parts, from 0.

    Raises
    ------
    PartsUnfit
        The plan is gone, or of another declaration or code.
    ModelError
        The model that is to serve fails on these rows.
    """
    made = plan.read(lake, key)
    _same(spec, made)
    own = Range(number, made.of)
    seen = run.seen_by(lake, spec, made.night, made.versions)
    rows = compute(spec, seen, [made.night], only=own)
    found = {FEATURES: rows, PREDICTIONS: _predicted(lake, spec, made, rows)}
    mine = list(spec.sources)[number :: made.of]  # digesting what was seen is shared as well
    said = {
        **{"plan": key, "part": number, "rows": rows.num_rows, "whole": own.whole},
        "inputs": run.inputs_of(spec, {name: seen[name] for name in mine}),
        "tables": {name: aside.write(lake, made, number, table) for name, table in found.items()},
    }
    data = json.dumps(said, sort_keys=True).encode()
    at = f"{aside.folder(made)}{number}-{digest_bytes(data)}.json"
    lake.create(at, data)
    note = f"{rows.num_rows} of {own.whole} rows, part {number + 1} of {made.of}"
    return Ref(at, made.night, digest_bytes(data), rows.num_rows, note)


def publish(
    lake: Lake, spec: UseCase, night: str, refs: Sequence[Mapping[str, Any]], whole: Callable[[], Ref]
) -> Ref:
    """Publish a night from its parts in one commit; without all of them, score it as a whole.

    Parameters
    ----------
    refs : what the parts' tasks handed on, in any order.
    whole : scores the night as one task does.

    Returns
    -------
    Ref
        as `run.score` returns it; its note says why the night was scored as a whole, if it was.
    """
    served = lake.count("predictions", {"night": night}) > 0
    try:
        night_of = _gathered(lake, spec, night, refs)
    except PartsUnfit as error:
        if not served:
            log.warning("%s/%s is scored as a whole: %s", spec.name, night, error)
        done = whole()
        if not served:  # one that is has no parts any more
            done = replace(done, note=f"{done.note}; scored as a whole: {error}")
    else:
        rows, made, missing = night_of.rows, night_of.made, night_of.missing
        done = run.publish(lake, spec, rows, missing, lambda _: made, lambda: night_of.inputs)
    clear(lake, night)
    return done


def clear(lake: Lake, night: str) -> int:
    """Remove the plans and parts of a night, and return how many objects that were."""
    try:
        keys = lake.keys(plan.folder(night))
        lake.remove(keys)
    except StoreUnavailable as error:
        log.warning("parts of %s are left to upkeep: %s", night, error)  # the night itself is done
        return 0
    return len(keys)


def sweep(lake: Lake, days: int) -> int:
    """Remove what was left so many days ago; what is younger may be of a night at work, a backfill's too."""
    last = datetime.now(UTC) - timedelta(days)
    old = [key for key, then in lake.written(f"{plan.FOLDER}/").items() if then <= last]
    lake.remove(old)
    return len(old)


@dataclass(frozen=True)
class _Night:
    """A night that was put together from its parts."""

    rows: pa.Table
    made: pa.Table
    inputs: dict[str, str]
    missing: Mapping[str, str]


def _gathered(lake: Lake, spec: UseCase, night: str, refs: Sequence[Mapping[str, Any]]) -> _Night:
    """Return a night from its parts, all of it checked."""
    parts = sorted((_listed(lake, ref) for ref in refs), key=lambda part: int(part["part"]))
    keys = {part["plan"] for part in parts}
    if len(keys) != 1:
        raise _unfit(night, "the parts of one plan", f"{len(refs)} parts of {len(keys)}")
    made = plan.read(lake, keys.pop())
    if [part["part"] for part in parts] != list(range(made.of)) or made.night != night:
        found = ", ".join(str(part["part"] + 1) for part in parts)
        raise _unfit(night, f"each of its {made.of} parts once", f"{found} (of {made.night})")
    _same(spec, made)
    if not plan.stands(lake, spec, made):
        raise _unfit(night, "a plan that would be made now", "other sources, or another model to serve")
    rows = aside.read(lake, spec, made, parts, FEATURES)
    served = aside.read(lake, spec, made, parts, PREDICTIONS)
    counts = {rows.num_rows, served.num_rows, *(part["whole"] for part in parts)}
    if counts != {rows.num_rows} or not rows.num_rows:
        raise _unfit(night, "as many rows as the night has, and some", f"counts of {sorted(counts)}")
    inputs = {name: digest for part in parts for name, digest in part["inputs"].items()}
    if not predictions.alike(spec, rows, served):
        raise _unfit(night, "predictions of the parts' own rows", "the digests of others")
    return _Night(rows, served, inputs, made.missing)


def _same(spec: UseCase, made: Plan) -> None:
    """Refuse a plan of another declaration or code."""
    now = (spec.digest, environment.code_version())
    if (made.spec, made.code) != now:
        raise _unfit(made.night, "the declaration and code of its plan", "others by now")


def _predicted(lake: Lake, spec: UseCase, made: Plan, rows: pa.Table) -> pa.Table:
    """Return the predictions of a part's rows by who serves them, or raise `ModelError`."""
    shares = [("", rows)]
    if made.canary and rows.num_rows:
        mask = pa.array(entities(spec, rows, made.canary), pa.bool_())
        both = [(CANARY, spool.chosen(rows, mask)), ("", spool.chosen(rows, pc.invert(mask)))]
        shares = [one for one in both if one[1].num_rows]
    found = []
    for share, some in shares:
        step, reason = made.served[share]
        served = Served(step, reason, ladder.predict(lake, spec, some, step))
        found.append(predictions.build(spec, some, served))
    return predictions.joined(spec, found)


def _listed(lake: Lake, ref: Mapping[str, Any]) -> Part:
    return dict(json.loads(plan.verified(lake, str(ref["uri"]), str(ref["digest"]))))


def _unfit(night: str, required: str, found: str) -> PartsUnfit:
    return plan.unfit(f"parts of {night}", required, found)
