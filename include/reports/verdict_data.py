"""What is known of an attempt, read once: the page and both cards say the same because they say this.

Everything comes from the lake, so a registry that is down takes nothing away.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from include.errors import EvergreenError
from include.judge.context import Check, attempt_alpha
from include.judge.evidence import BASELINE, CHALLENGER, CHAMPION, Evidence, evidence_rows_key
from include.judge.judge import checks_of
from include.models import outputs
from include.promote import ledger
from include.spec import UseCase
from include.stats.intervals import Gain, estimate_gain, partitions_needed
from include.stats.profiles import Profile, merge_profiles
from include.storage.lake import Lake
from include.train import monitoring_baselines

Array = NDArray[np.float64]
Row = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredTestRows:
    """The test rows: what came true, shape (n,), and what each model had predicted, (n,) or (n, k)."""

    actual: Array
    predicted: Mapping[str, Array]


@dataclass(frozen=True)
class FittedOn:
    """What a model was fitted on: how many rows, and each column's profile; none where it wasn't kept."""

    rows: int
    columns: Mapping[str, Profile]


@dataclass(frozen=True)
class PreviousChampion:
    """The champion that the attempt was made against: its switch, its attempt, and what that rested on.

    Parameters
    ----------
    evidence : None where other code wrote it and this one can't read it.
    """

    switch: Row
    attempt: Row
    evidence: Evidence | None
    learnt: FittedOn


@dataclass(frozen=True)
class AttemptData:
    """An attempt with everything that the lake has on it.

    Parameters
    ----------
    row : of `attempts`; ``newest`` is the same, or that of the person who forced it since.
    tested : None where the rows weren't kept, or there are none.
    newer : the partition of a champion's evidence that was newer than the attempt's when it was made: what is
        older is recorded and never deployed. Empty where there was none.
    vacant : that the champion to beat had stepped down, so that nobody serves whom it would be tried beside.
    partitions : rows of `partitions` of the sources, up to the attempt's partition.
    """

    spec: UseCase
    row: Row
    newest: Row
    evidence: Evidence
    checks: Sequence[Check]
    tested: ScoredTestRows | None
    before: PreviousChampion | None
    newer: str
    vacant: bool
    learnt: FittedOn
    partitions: Sequence[Row]

    @property
    def rival(self) -> str:
        """Who had to be beaten, as the losses name it: the champion, else the strongest baseline."""
        sums = self.evidence.losses.sums
        if CHAMPION in sums:
            return CHAMPION
        return min((n for n in sums if n.startswith(BASELINE)), key=lambda n: sum(sums[n]), default="")

    @property
    def rows(self) -> int:
        """How many labelled test rows there were."""
        return sum(self.evidence.losses.rows)

    def mean(self, name: str) -> float:
        """Return a model's mean loss; there must be rows."""
        return sum(self.evidence.losses.sums[name]) / self.rows

    def gained(self) -> Gain | None:
        """Return how much less it loses than its rival, at the gate's own level.

        None of too few partitions.
        """
        losses, gate = self.evidence.losses, self.spec.gate
        if not self.rival or len(losses.partitions) < partitions_needed(gate.block_partitions):
            return None
        alpha = attempt_alpha(gate.alpha, int(self.row["attempt"]))
        return estimate_gain(
            losses.sums[self.rival], losses.sums[CHALLENGER], losses.rows, gate.block_partitions, alpha
        )


def read_attempt(lake: Lake, spec: UseCase, key: str) -> AttemptData:
    """Return what is known of an attempt.

    Raises
    ------
    NotPublished
        when there is no such attempt.
    """
    row = ledger.attempt(lake, key)
    evidence = Evidence.from_json(row["evidence"])
    forced = lake.rows("attempts", {"key": ledger.forced_key(evidence.key)})
    kept = lake.rows("partitions", {"product": list(spec.sources)})
    return AttemptData(
        spec=spec,
        row=row,
        newest=forced[0] if forced else row,
        evidence=evidence,
        checks=checks_of(row["checks"]),
        tested=_tested(lake, evidence),
        before=_before(lake, evidence),
        newer=_newer(lake, row),
        vacant=(ledger.champion_to_beat(lake, evidence.partition, evidence.key) or {}).get("kind")
        == ledger.DEMOTED,
        learnt=_learnt(lake, evidence.model),
        partitions=[one for one in kept if one["partition"] <= evidence.partition],
    )


def _tested(lake: Lake, evidence: Evidence) -> ScoredTestRows | None:
    data = lake.get(evidence_rows_key(evidence.key))
    if data is None:
        log.warning("%s: no test rows at %s, so no curves", evidence.usecase, evidence_rows_key(evidence.key))
        return None
    table = pq.read_table(io.BytesIO(data))
    if not table.num_rows or not {"actual", *evidence.losses.sums} <= set(table.column_names):
        return None
    values = {
        name: outputs.from_single_column(table[name]) for name in table.column_names if name != "partition"
    }
    return ScoredTestRows(values.pop("actual"), {name: values[name] for name in evidence.losses.sums})


def _before(lake: Lake, evidence: Evidence) -> PreviousChampion | None:
    # the one that it was compared with, whoever serves by now
    rows = ledger.champions(ledger.switches(lake))
    was = [r for r in rows if r["model"] == evidence.champion and r["evidence"] <= evidence.partition]
    switch = was[0] if was else ledger.champion_to_beat(lake, evidence.partition, evidence.key)
    if switch is None:
        return None
    attempt = ledger.attempt(lake, switch["attempt"])
    try:
        judged = Evidence.from_json(attempt["evidence"])
    except EvergreenError as error:
        log.warning("%s: the champion's own evidence can't be read: %s", evidence.usecase, error)
        judged = None
    return PreviousChampion(switch, attempt, judged, _learnt(lake, switch["model"]))


def _newer(lake: Lake, row: Row) -> str:
    recorded = {one["key"]: one["recorded"] for one in ledger.attempts(lake)}
    partitions = [
        one["evidence"]
        for one in ledger.champions(ledger.switches(lake))
        if recorded.get(one["attempt"], 0) < row["recorded"] and one["evidence"] > row["partition"]
    ]
    return max(partitions, default="")


def _learnt(lake: Lake, model: str) -> FittedOn:
    where = {"product": monitoring_baselines.reference_product(model)}
    made, profiles = lake.rows("partitions", where), lake.rows("profiles", where)
    first = min((row["partition"] for row in profiles), default="")  # trained again it is the same
    columns = merge_profiles(row for row in profiles if row["partition"] == first)
    return FittedOn(made[0]["rows"] if made else 0, columns)
