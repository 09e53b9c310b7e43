"""A canary serves a declared share of the entities, the same ones every night."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from include import spool
from include.rollout.trial import CANARY, Trial
from include.score.ladder import Step
from include.spec import UseCase

Part = tuple[pa.Table, list[Step]]


def shares(spec: UseCase, rows: pa.Table, rungs: list[Step], on_trial: Sequence[Trial]) -> list[Part]:
    """Return the night's rows in one part, or in two when a canary serves some of them, with their rungs."""
    for trial in on_trial:
        if trial.kind == CANARY:
            model, version = str(trial.candidate["model"]), str(trial.candidate["version"])
            chosen = pa.array(entities(spec, rows, model), pa.bool_())
            both = [(spool.chosen(rows, chosen), [Step(CANARY, version, model), *rungs])]
            both.append((spool.chosen(rows, pc.invert(chosen)), rungs))
            return [part for part in both if part[0].num_rows]
    return [(rows, rungs)]


def entities(spec: UseCase, rows: pa.Table, model: str) -> list[bool]:
    """Tell for each row whether its entity is in the canary's share.

    The model's digest goes into the hash, so that it isn't always the same entities that try what is new.
    """
    columns = spec.gate.rollout.entity or spec.key
    edge = int(spec.gate.rollout.share * 2**64)
    names = zip(*(rows[name].to_pylist() for name in columns), strict=True)
    texts = (f"{model}{json.dumps(name, default=str)}".encode() for name in names)
    return [int.from_bytes(blake2b(text, digest_size=8).digest()) < edge for text in texts]
