"""Everything that the lake has on an attempt, read once, so that the page and both cards agree.

Nothing comes from the registry, so a registry that is down doesn't matter.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from include.errors import EvergreenError
from include.judge.context import Check
from include.judge.evidence import BASELINE_PREFIX, CHALLENGER, CHAMPION, Evidence, evidence_rows_key
from include.judge.judge import checks_of
from include.models import outputs
from include.promote import ledger, verdicts
from include.promote.promotion import read_ledgers, switch_blocker
from include.spec import UseCase
from include.stats.intervals import Gain, estimate_gain, partitions_needed
from include.stats.profiles import Profile
from include.storage.lake import Lake, Row
from include.train import monitoring_baselines

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredTestRows:
    """The labels of the test rows, shape (n,), and each model's predictions, shape (n,) or (n, k)."""

    actual: Array
    predicted: Mapping[str, Array]


@dataclass(frozen=True)
class TrainingData:
    """The number of rows that a model was fitted on, and each column's profile; empty if not stored."""

    rows: int
    columns: Mapping[str, Profile]


@dataclass(frozen=True)
class PreviousChampion:
    """The champion that the attempt had to beat: its switch, its own attempt, and that attempt's evidence.

    Parameters
    ----------
    evidence : None if other code wrote it and this code can't read it.
    """

    switch: Row
    attempt: Row
    evidence: Evidence | None
    training_data: TrainingData


@dataclass(frozen=True)
class AttemptData:
    """An attempt with everything that the lake has on it.

    Parameters
    ----------
    row : of `attempts`; ``newest_row`` is the same, or that of the forced verdict on it.
    test_rows : None if the rows weren't stored, or there are none.
    newer_champion : partition of a champion's evidence that was already newer than this attempt, empty if
        there was none; an attempt that is older than the champion is recorded and never deployed.
    blocker : why there is no switch to an attempt that passed the gate; empty if it waits for approval.
    source_partitions : rows of `partitions` of the sources, up to the attempt's partition.
    """

    spec: UseCase
    row: Row
    newest_row: Row
    evidence: Evidence
    checks: Sequence[Check]
    test_rows: ScoredTestRows | None
    champion: PreviousChampion | None
    newer_champion: str
    blocker: str
    training_data: TrainingData
    source_partitions: Sequence[Row]

    @property
    def rival(self) -> str:
        """The model to beat, as the losses name it: the champion, or else the strongest baseline."""
        sums = self.evidence.losses.sums
        if CHAMPION in sums:
            return CHAMPION
        baselines = (name for name in sums if name.startswith(BASELINE_PREFIX))
        return min(baselines, key=lambda name: sum(sums[name]), default="")

    @property
    def rows(self) -> int:
        """The number of labeled test rows."""
        return sum(self.evidence.losses.rows)

    def mean_loss(self, model: str) -> float:
        """Return the mean loss of a model's walk; there must be rows."""
        return sum(self.evidence.losses.sums[model]) / self.rows

    def gain(self) -> Gain | None:
        """Return the gain over the rival at the gate's level, None if there are too few partitions."""
        losses, gate = self.evidence.losses, self.spec.gate
        if not self.rival or len(losses.partitions) < partitions_needed(gate.block_partitions):
            return None
        return estimate_gain(
            losses.sums[self.rival], losses.sums[CHALLENGER], losses.rows, gate.block_partitions, gate.alpha
        )


def read_attempt(lake: Lake, spec: UseCase, key: str) -> AttemptData:
    """Read an attempt.

    Raises
    ------
    NotPublished
        if there is no such attempt.
    """
    row = verdicts.attempt(lake, key)
    evidence = Evidence.from_json(row["evidence"])
    blocker = switch_blocker(read_ledgers(lake, spec), row)
    forced = lake.rows("attempts", {"key": ledger.forced_key(evidence.key)})
    source_partitions = lake.rows("partitions", {"product": list(spec.sources)})
    return AttemptData(
        spec=spec,
        row=row,
        newest_row=forced[0] if forced else row,
        evidence=evidence,
        checks=checks_of(row["checks"]),
        test_rows=_read_test_rows(lake, evidence),
        champion=_read_champion(lake, spec, evidence),
        newer_champion=_newer_champion(lake, row),
        blocker=blocker.sentence if blocker and not blocker.waits else "",
        training_data=_read_training_data(lake, spec, evidence.model, evidence.partition),
        source_partitions=[row for row in source_partitions if row["partition"] <= evidence.partition],
    )


def _read_test_rows(lake: Lake, evidence: Evidence) -> ScoredTestRows | None:
    key = evidence_rows_key(evidence.key)
    data = lake.get(key)
    if data is None:
        log.warning("%s: the page has no curves because %s has no test rows", evidence.usecase, key)
        return None
    table = pq.read_table(io.BytesIO(data))
    if not table.num_rows or not {"actual", *evidence.losses.sums} <= set(table.column_names):
        return None
    columns = {
        name: outputs.from_single_column(table[name]) for name in table.column_names if name != "partition"
    }
    return ScoredTestRows(columns["actual"], {name: columns[name] for name in evidence.losses.sums})


def _read_champion(lake: Lake, spec: UseCase, evidence: Evidence) -> PreviousChampion | None:
    # the champion that it was compared with, whichever is live by now
    switches = [
        row
        for row in ledger.champions(ledger.switches(lake))
        if row["model"] == evidence.champion and row["judged_on"] <= evidence.partition
    ]
    switch = switches[0] if switches else ledger.champion_to_beat(lake, evidence.partition, evidence.key)
    if switch is None:
        return None
    # a champion that replaced a worse one is of the attempt's training, and may be of another recipe
    attempt = {**verdicts.attempt(lake, switch["attempt"]), "model": switch["model"]}
    try:
        champion_evidence = Evidence.from_json(attempt["evidence"])
        champion_evidence = replace(
            champion_evidence, recipe=switch.get("recipe") or champion_evidence.recipe
        )
    except EvergreenError as error:
        log.warning("%s: can't read the champion's own evidence: %s", evidence.usecase, error)
        champion_evidence = None
    training_data = _read_training_data(lake, spec, switch["model"], switch["judged_on"])
    return PreviousChampion(switch, attempt, champion_evidence, training_data)


def _newer_champion(lake: Lake, row: Row) -> str:
    recorded = {attempt["key"]: attempt["recorded"] for attempt in verdicts.attempts(lake)}
    partitions = [
        switch["judged_on"]
        for switch in ledger.champions(ledger.switches(lake))
        if recorded.get(switch["attempt"], 0) < row["recorded"] and switch["judged_on"] > row["partition"]
    ]
    return max(partitions, default="")


def _read_training_data(lake: Lake, spec: UseCase, model: str, partition: str) -> TrainingData:
    columns = monitoring_baselines.read_reference(lake, model, partition)
    features = [columns[name] for name in spec.features.columns if name in columns]
    return TrainingData(max((profile.count for profile in features), default=0), columns)
