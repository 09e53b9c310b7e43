"""The monitoring of one partition: everything that its checks read, each part loaded once on first use.

Each check takes a `PartitionContext` and returns findings, as each check of the gate takes a `CheckContext`.
People read a finding, and the policy acts on it. *Not enough* is an outcome of its own: there was too little
to judge, which is neither ok nor an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from include.monitor import reference
from include.monitor.losses import LossSeries, loss_series
from include.monitor.reference import Reference, ReferenceColumn
from include.monitor.state import PublishedState
from include.spec import UseCase
from include.stats import profiles
from include.stats.profiles import Profile
from include.storage.lake import Lake, Row
from include.storage.schemas import FINDINGS
from include.train import walks
from include.train.walks import Walks

Outcome = Literal["ok", "alarm", "not enough"]
NO_PREDICTIONS = "nothing was predicted for this partition"


@dataclass(frozen=True)
class Finding:
    """What one check observed about one subject.

    Parameters
    ----------
    check : the name of the check in `include.monitor.registry`.
    subject : the column, metric, source or product that was checked.
    value, threshold : the figure, and the limit beyond which it is an alarm; None if there is none.
    note : the finding as a sentence.
    """

    check: str
    subject: str
    value: float | None
    threshold: float | None
    outcome: Outcome
    note: str


def findings_table(partition: str, findings: Iterable[Finding]) -> pa.Table:
    """Return a partition's findings as rows of `findings`, sorted by check and subject."""
    ordered = sorted(findings, key=lambda finding: (finding.check, finding.subject))
    rows = [{"partition": partition, **asdict(finding)} for finding in ordered]
    return pa.Table.from_pylist(rows, schema=FINDINGS)


def findings_from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the findings that rows of `findings` hold."""
    return [Finding(**{k: v for k, v in row.items() if k != "partition"}) for row in rows]


@dataclass(frozen=True)
class Neighbors:
    """The scored partitions that a partition is compared with, and the partition itself.

    Parameters
    ----------
    served : how many ``rows`` of a partition each fallback step, model and reason served.
    profiles : rows of `profiles` by column and partition, of features, predictions and labels.
    """

    served: Sequence[Row]
    profiles: Mapping[str, Mapping[str, Row]]

    def column_profiles(self, column: str, partitions: Sequence[str]) -> list[Row]:
        """Return a column's profiles of those of the partitions that have one, in the partitions' order."""
        rows = self.profiles.get(column, {})
        return [rows[partition] for partition in partitions if partition in rows]

    def served_by(self, champion: str, partitions: Sequence[str]) -> list[str]:
        """Return those partitions in which a champion served every row, apart from a canary's share."""
        models: dict[str, set[str]] = {key: set() for key in partitions}
        for row in self.served:
            # a canary's share of a partition hardly changes the distribution of the champion's predictions
            if row["served_by"] != "canary" and row["partition"] in models:
                models[row["partition"]].add(row["model"])
        return [key for key, served in models.items() if served == {champion}]


@dataclass(frozen=True)
class ColumnComparison:
    """A column beside the champion's reference.

    Parameters
    ----------
    reference : the column as the champion learned it.
    window : its profile over the window's partitions.
    width : how many partitions the window has.
    newest : its profile in the partition alone; of the labels, over the window.
    """

    reference: ReferenceColumn
    window: Profile
    width: int
    newest: Profile


@dataclass(frozen=True)
class PartitionContext:
    """One partition that is monitored.

    Parameters
    ----------
    inputs : digests of everything that the findings depend on, taken before any of it is read.
    """

    lake: Lake
    spec: UseCase
    state: PublishedState
    partition: str
    inputs: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", self.state.inputs(self.partition))

    @cached_property
    def champion(self) -> Row | None:
        """The switch by which the partition has its champion, None before the first promotion."""
        return self.state.champion(self.partition)

    @cached_property
    def model(self) -> str:
        """The champion's digest, empty before the first promotion."""
        return str(self.champion["model"]) if self.champion else ""

    @cached_property
    def window(self) -> list[str]:
        """The scored partitions that are compared with the reference, up to the partition itself."""
        return self.state.window(self.partition)

    @cached_property
    def reference(self) -> Reference | None:
        """The champion's reference, None if its training published none."""
        return reference.read(self.lake, self.spec, self.champion)

    @cached_property
    def losses(self) -> LossSeries | None:
        """The losses of the matured partitions since the champion's recipe serves, None if none serves."""
        if self.champion is None:
            return None
        return loss_series(self.lake, self.state.recipe_switches(self.partition), self.partition)

    @cached_property
    def walk(self) -> Walks:
        """The walks of the recipes, as known when the champion was trained."""
        trained = self.champion["judged_on"] if self.champion else ""
        return walks.read(self.lake, self.spec, str(trained))

    @cached_property
    def neighbors(self) -> Neighbors:
        """Who served the partitions that this one is compared with, and their profiles."""
        state, partition = self.state, self.partition
        history = state.sudden_change_partitions(partition)
        scored = sorted({*self.window, *history, *state.familiar_partitions(partition)})
        names = ["partition", "served_by", "reason", "model"]
        predictions = self.lake.read("predictions", {"partition": scored}, names) if scored else None
        served: list[Row] = []
        if predictions is not None:
            counts = predictions.group_by(names).aggregate([([], "count_all")]).to_pylist()
            served = [{**row, "rows": row["count_all"]} for row in counts]
        partitions = sorted({partition, *scored, *self.newest_matured})
        where = {"product": ["features", "predictions", profiles.LABELS], "partition": partitions}
        by_column: dict[str, dict[str, Row]] = {}
        for row in self.lake.rows("profiles", where):
            by_column.setdefault(row["column"], {})[row["partition"]] = row
        return Neighbors(served, by_column)

    @cached_property
    def newest_matured(self) -> list[str]:
        """The window's worth of partitions whose labels came last."""
        return self.state.matured(self.partition)[-self.spec.monitoring.window :]

    @cached_property
    def window_profiles(self) -> dict[str, list[Row]]:
        """Each column's profiles over its window: features, predictions and, as they mature, labels.

        Of predictions, only partitions that the champion served alone count.
        """
        if self.partition not in self.window:
            return {}
        partitions = {
            **dict.fromkeys(self.spec.features.columns, self.window),
            **dict.fromkeys(self.spec.problem.outputs, self.neighbors.served_by(self.model, self.window)),
            self.spec.problem.target: self.newest_matured,
        }
        return {name: self.neighbors.column_profiles(name, keys) for name, keys in partitions.items()}

    @cached_property
    def comparisons(self) -> dict[str, ColumnComparison | str]:
        """Each column beside the reference, or why it can't be compared; empty without a reference."""
        if self.reference is None:
            return {}
        return {name: self._comparison(name, self.reference) for name in self.window_profiles}

    @cached_property
    def compared_features(self) -> dict[str, ColumnComparison]:
        """Each feature beside the reference, without those that can't be compared."""
        return {
            name: comparison
            for name, comparison in self.comparisons.items()
            if name in self.spec.features.columns and not isinstance(comparison, str)
        }

    def _comparison(self, name: str, reference: Reference) -> ColumnComparison | str:
        rows, column = self.window_profiles[name], reference.columns.get(name)
        # labels are those of matured partitions, so this partition has none yet
        is_label = name == self.spec.problem.target
        newest = [row for row in rows if is_label or row["partition"] == self.partition]
        if not newest:
            if name in self.spec.problem.outputs:
                return f"{name} isn't compared: the champion didn't serve this partition"
            return f"{name} is missing from this partition"
        if column is None:
            return f"{name} has no reference"
        if other := sorted({row["kind"] for row in rows} - {column.profile.kind}):
            return f"{name} is {other[0]} and was {column.profile.kind} in the reference"
        width = len({row["partition"] for row in rows})
        window, partition = (profiles.merge_profiles(part)[name] for part in (rows, newest))
        return ColumnComparison(column, window, width, partition)
