"""What the parts of a night have in common, decided once: which rows they read, and who serves them.

A plan is an object under its digest. It names the version of each source's table, so every part sees the same
rows whatever is ingested meanwhile, and the rung that serves, so one night is never a mix of decisions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include import environment, tables
from include.errors import PartsUnfit
from include.features import views
from include.features.build import schema
from include.lake import Lake
from include.promote import ledger
from include.refs import Ref, digest_bytes, inside
from include.rollout.trial import CANARY, Trial, trials
from include.score import ladder
from include.score.ladder import Step
from include.score.missing import missing_of, state_of
from include.spec import UseCase

FOLDER = "parts"


@dataclass(frozen=True)
class Plan:
    """What parts are made from.

    Parameters
    ----------
    of : how many parts.
    spec, code : digest of the declaration, version of the code.
    versions : of each source's table, -1 where it isn't there.
    missing : the sources that the night is without, each with a word why.
    canary : the model by which a canary's share of the rows is told, if there is one.
    served : who serves, and why none higher: of all rows, and under `CANARY` of a canary's share.
    """

    night: str
    of: int
    spec: str
    code: str
    versions: Mapping[str, int]
    missing: Mapping[str, str]
    canary: str
    served: Mapping[str, tuple[Step, str]]

    def dump(self) -> bytes:
        """Return the plan's bytes: equal plans have equal ones."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @property
    def key(self) -> str:
        """Where in the lake the plan lies; its parts lie in the folder of the same name."""
        return f"{folder(self.night)}{digest_bytes(self.dump())}.json"


def folder(night: str) -> str:
    """Return where the plans and parts of a night lie."""
    return inside(f"{FOLDER}/{night}/")


def plan(lake: Lake, spec: UseCase, night: str) -> Ref:
    """Write down how a night is to be scored in parts.

    Returns
    -------
    Ref
        ``uri`` is the plan's key, ``rows`` the number of parts: none of a night that is served already or has
        nothing to score, which is left to whoever publishes.
    """
    if lake.count("predictions", {"night": night}) or not lake.count(
        f"validated_{spec.features.spine}", {"night": night}
    ):
        return Ref("", night, note="no parts: the night has predictions already, or no rows to score")
    state = state_of(lake, spec, night)  # first: what is published meanwhile isn't "too late"
    versions = {name: lake.version(f"validated_{name}") for name in spec.sources}
    made = decided(lake, spec, night, versions, state)
    lake.create(made.key, made.dump())
    said = ", ".join(f"{step.name}" for step, _ in made.served.values())
    return Ref(made.key, night, digest_bytes(made.dump()), made.of, f"{made.of} parts, served by {said}")


def read(lake: Lake, key: str) -> Plan:
    """Return a plan, its digest verified.

    Raises
    ------
    PartsUnfit
        when it isn't there or isn't what its name says.
    """
    said = json.loads(verified(lake, key, key.rpartition("/")[2].removesuffix(".json")))
    if set(said) != set(Plan.__dataclass_fields__):
        raise unfit(f"plan {key}", "one that this code wrote", "one of other code")
    steps = {share: (_step(step), why) for share, (step, why) in said.pop("served").items()}
    return Plan(**said, served=steps)


def verified(lake: Lake, key: str, digest: str) -> bytes:
    """Return an object's bytes, or raise `PartsUnfit` where they aren't those of their digest."""
    data = lake.get(key)
    if data is None or digest_bytes(data) != digest:
        found = "nothing" if data is None else "other bytes"
        raise unfit(key, f"SHA-256 {digest}", found, lake.uri)
    return data


def unfit(subject: str, required: str, found: str, where: str = "") -> PartsUnfit:
    """Return the refusal of a plan or a part."""
    remedy = "nothing is lost: `predict` scores the night as a whole; for parts again clear `score.plan`"
    return PartsUnfit(subject, required=required, found=found, where=where, remedy=remedy)


def _step(said: dict[str, Any]) -> Step:
    constant = said["constant"]
    return Step(**{**said, "constant": tuple(constant) if isinstance(constant, list) else constant})


def decided(
    lake: Lake,
    spec: UseCase,
    night: str,
    versions: Mapping[str, int],
    state: Mapping[str, dict[str, object]],
) -> Plan:
    """Return the plan that the ledgers and the night's partitions ask for now."""
    rungs = ladder.steps(ledger.serving(lake, night), spec)
    on_trial = trials(ledger.switches(lake), spec, night)
    missing = missing_of(spec, night, _seen(lake, spec, night, versions), state)
    none = schema(spec).empty_table()

    def first(steps: list[Step]) -> tuple[Step, str]:
        # of no rows a model is only loaded: what then fails is a part's own rows, and no part decides on them
        found = ladder.climb(lake, spec, none, steps, missing)
        return found.step, found.reason

    canary = next((_canary(one) for one in on_trial if one.kind == CANARY), None)
    served = {"": first(rungs)} | ({CANARY: first([canary, *rungs])} if canary else {})
    return Plan(
        night=night,
        of=spec.scoring.shards,
        spec=spec.digest,
        code=environment.code_version(),
        versions=versions,
        missing=missing,
        canary=canary.model if canary else "",
        served=served,
    )


def stands(lake: Lake, spec: UseCase, made: Plan) -> bool:
    """Tell whether a plan would be made again now, from the versions that it was made from."""
    state = state_of(lake, spec, made.night)
    return replace(decided(lake, spec, made.night, made.versions, state), of=made.of) == made


def _canary(trial: Trial) -> Step:
    return Step(ladder.CANARY, str(trial.candidate["version"]), str(trial.candidate["model"]))


def _seen(lake: Lake, spec: UseCase, night: str, versions: Mapping[str, int]) -> dict[str, pa.Table]:
    """Return of each source the night's own rows that were known at its decision, in two columns."""
    shape = pa.schema([("night", pa.string()), ("known_at", tables.TIME)])
    decided = pa.scalar(spec.clock.moment(night), tables.TIME)
    found = {}
    for name, version in versions.items():
        read = None
        if version >= 0:
            read = lake.read(f"validated_{name}", {"night": night}, shape.names, version=version)
        rows = views.shaped(read, shape)
        found[name] = rows.filter(pc.less_equal(rows["known_at"], decided))
    return found
