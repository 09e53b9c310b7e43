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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include import environment, spool
from include.errors import ModelError, PartsUnfit, StoreUnavailable
from include.features.build import compute, schema
from include.features.ranges import Range
from include.lake import Lake
from include.refs import Ref, digest_bytes
from include.rollout.beside import predict_beside
from include.rollout.canary import entities
from include.rollout.trial import CANARY, SHADOW
from include.score import ladder, plan, predictions, run
from include.score.ladder import Served, Step
from include.score.plan import Plan
from include.spec import UseCase

Part = Mapping[str, Any]  # what a part's task wrote down of it
log = logging.getLogger(__name__)
PACKED = pa.ipc.IpcWriteOptions(compression="lz4")
FEATURES, PREDICTIONS = "features", "predictions"  # of a part; what a model on trial said is under its digest


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
    found, failed = {FEATURES: rows, PREDICTIONS: _predicted(lake, spec, made, rows)}, {}
    for model, version in made.beside.items():
        try:
            found[model] = predict_beside(lake, spec, rows, Step(SHADOW, version, model))
        except ModelError as error:
            failed[model] = str(error)
    mine = list(spec.sources)[number :: made.of]  # digesting what was seen is shared as well
    said = {
        **{"plan": key, "part": number, "rows": rows.num_rows, "whole": own.whole, "failed": failed},
        "inputs": run.inputs_of(spec, {name: seen[name] for name in mine}),
        "tables": {name: _written(lake, made, number, table) for name, table in found.items()},
    }
    data = json.dumps(said, sort_keys=True).encode()
    at = f"{_folder(made)}{number}-{digest_bytes(data)}.json"
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
        rows, made, missing = night_of.rows, night_of.made, night_of.plan.missing
        done = run.publish(
            lake, spec, rows, missing, lambda: made, lambda: night_of.inputs, night_of.predicted
        )
    clear(lake, night)
    return done


def clear(lake: Lake, night: str) -> int:
    """Remove the plans and parts of a night, and return how many objects that were."""
    try:
        keys = lake.keys(plan.folder(night))
        for key in keys:
            lake.remove(key)
    except StoreUnavailable as error:
        log.warning("parts of %s are left to upkeep: %s", night, error)  # the night itself is done
        return 0
    return len(keys)


def sweep(lake: Lake, days: int) -> int:
    """Remove what was left of nights that are published, or so many days older than the newest of those."""
    rows = lake.rows("partitions", {"product": "predictions", "outcome": "published"})
    done = {row["night"] for row in rows}
    if not done:
        return 0
    old = (date.fromisoformat(max(done)) - timedelta(days=days)).isoformat()
    nights = {key.split("/")[1] for key in lake.keys(f"{plan.FOLDER}/")}
    return sum(clear(lake, night) for night in sorted(nights) if night in done or night < old)


@dataclass(frozen=True)
class _Night:
    """A night that was put together from its parts."""

    plan: Plan
    rows: pa.Table
    made: pa.Table
    inputs: dict[str, str]
    parts: Sequence[Part]

    def predicted(self, lake: Lake, spec: UseCase, rows: pa.Table, step: Step) -> pa.Table:
        """Return what the parts' tasks had a model on trial say; what they didn't is said now."""
        failed = [part["failed"][step.model] for part in self.parts if step.model in part["failed"]]
        if failed:
            raise ModelError(f"{spec.name}: v{step.version}", found=failed[0])
        try:
            if step.model in self.plan.beside:
                return _table(lake, spec, self.parts, step.model, self.plan)
        except PartsUnfit as error:
            log.warning("%s: v%s is asked again: %s", spec.name, step.version, error)
        return predict_beside(lake, spec, rows, step)


def _gathered(lake: Lake, spec: UseCase, night: str, refs: Sequence[Mapping[str, Any]]) -> _Night:
    """Return a night from its parts, all of it checked."""
    parts = sorted((_read(lake, ref) for ref in refs), key=lambda part: int(part["part"]))
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
    rows = _table(lake, spec, parts, FEATURES, made)
    served = _table(lake, spec, parts, PREDICTIONS, made)
    counts = {rows.num_rows, served.num_rows, *(part["whole"] for part in parts)}
    if counts != {rows.num_rows} or not rows.num_rows:
        raise _unfit(night, "as many rows as the night has, and some", f"counts of {sorted(counts)}")
    inputs = {name: digest for part in parts for name, digest in part["inputs"].items()}
    return _Night(made, rows, served, inputs, parts)


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


def _folder(made: Plan) -> str:
    return f"{made.key.removesuffix('.json')}/"


def _written(lake: Lake, made: Plan, number: int, table: pa.Table) -> list[str]:
    """Write a table batch by batch, and return the batches' digests."""
    digests = []
    for _, some in spool.parts(table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, some.schema, options=PACKED) as writer:
            for batch in some.combine_chunks().to_batches():  # no batch of no rows
                writer.write_batch(batch)
        data = sink.getvalue().to_pybytes()
        digests.append(digest_bytes(data))
        lake.create(f"{_folder(made)}{number}/{digests[-1]}.arrow", data)
    return digests


def _read(lake: Lake, ref: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(_verified(lake, str(ref["uri"]), str(ref["digest"]))))


def _verified(lake: Lake, key: str, digest: str) -> bytes:
    data = lake.get(key)
    if data is None or digest_bytes(data) != digest:
        found = "nothing" if data is None else "other bytes"
        raise PartsUnfit(f"part {key}", required=f"SHA-256 {digest}", found=found, where=lake.uri)
    return data


def _table(lake: Lake, spec: UseCase, parts: Sequence[Part], name: str, made: Plan) -> pa.Table:
    """Return a table of all parts, whose rows are those of the night in their order."""
    shape = schema(spec) if name == FEATURES else predictions.shape(spec)

    def batches() -> Iterator[pa.RecordBatch]:
        last: list[object] = []
        for part in parts:
            for digest in part["tables"][name]:
                data = _verified(lake, f"{_folder(made)}{part['part']}/{digest}.arrow", digest)
                for batch in pa.ipc.open_stream(data):
                    first, after = ([batch[c][place].as_py() for c in spec.key] for place in (0, -1))
                    if last and not last < first:
                        raise _unfit(made.night, "parts in the order of the key, none twice", str(first))
                    last = after
                    yield batch

    return spool.held(shape, batches())


def _unfit(night: str, required: str, found: str) -> PartsUnfit:
    return PartsUnfit(f"parts of {night}", required=required, found=found)
