"""The rows of the past, read once: features, and labels by the partition from which on they were known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import NotPublished
from include.features.build import features, require_timely_spine
from include.features.labels import known_on, labels_known_on, matured
from include.references import digest_bytes, digest_json
from include.spec import UseCase
from include.stats.metrics import has_loss
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.storage.windows import key_before
from include.train import walks

POSITION = "position in the table"  # a column's name that no declaration can have
RowPositions = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """The labels of a partition's rows, as known from a partition on.

    Parameters
    ----------
    since : the partition from which on they were known.
    row_positions : positions in `PastRows.table` of the rows with a label, ascending, shape (n,).
    actual : their labels, shape (n,).
    sampled : positions of the labeled rows among those that a walk predicts, shape (m,).
    sampled_actual : their labels, shape (m,).
    digest : of the labeled rows.
    """

    since: str
    row_positions: RowPositions
    actual: Array
    sampled: RowPositions
    sampled_actual: Array
    digest: str


@dataclass(frozen=True)
class PastRows:
    """The rows of all partitions up to the last one of a replay.

    Parameters
    ----------
    spec : the declaration whose features, labels and sample of rows they are.
    calendar : the partitions of the schedule, ascending; some may have no rows.
    table : features, sorted by partition and key, shape (n, any).
    row_positions : by partition, the positions in ``table`` of the rows that a walk predicts.
    labels : by partition, its labels from the oldest revision to the newest; none for a partition without.
    digests : by partition, of its features.
    """

    spec: UseCase
    calendar: tuple[str, ...]
    table: pa.Table
    row_positions: Mapping[str, RowPositions]
    labels: Mapping[str, tuple[Labels, ...]]
    digests: Mapping[str, str]

    @classmethod
    def read(cls, lake: Lake, spec: UseCase, until: str) -> PastRows:
        """Read the rows of the partitions from the schedule's start to ``until``.

        Raises
        ------
        InsufficientData, NotPublished
            if there are none that were known at the decision, or none at all.
        """
        calendar = tuple(spec.clock.keys(spec.schedule.start, until))
        table = features(lake, spec, calendar)
        if not table.num_rows:
            require_timely_spine(lake, spec, "replay", calendar)
            raise NotPublished(
                f"{spec.name}: replay",
                required=f"published rows of the spine {spec.features.spine}",
                found=f"none from {spec.schedule.start} to {until}",
                where=f"{lake.uri}/tables/validated_{spec.features.spine}",
                remedy=f"ingest {spec.features.spine} for these partitions",
            )
        positions = table.select([*spec.key, "partition"]).append_column(
            POSITION, pa.array(np.arange(table.num_rows))
        )
        partition = np.asarray(table["partition"].to_pylist(), dtype=object)
        keys, first = np.unique(partition.astype(str), return_index=True)
        bounds = dict(zip(keys.tolist(), zip(first, [*first[1:], len(partition)], strict=True), strict=True))
        predicted = walks.sample(positions, spec)[POSITION].to_numpy()
        row_positions = {key: predicted[(predicted >= a) & (predicted < b)] for key, (a, b) in bounds.items()}
        digests = {key: digest_table(table.slice(a, b - a)) for key, (a, b) in bounds.items()}
        mature = [key for key in matured(lake, spec, None) if key in bounds]
        by_partition: dict[str, list[Labels]] = defaultdict(list)
        if mature:
            arrivals = known_on(lake, spec, mature, spec.clock.shift(mature[-1], spec.labels.delay))
            names = [*spec.key, "partition"]
            for key, since, labeled in labels_known_on(lake, spec, {k: v for k, v in arrivals.items() if v}):
                start, stop = bounds[key]
                own = positions.slice(start, stop - start)
                own = own.join(labeled, names, join_type="inner").sort_by(POSITION)
                own = own.filter(own[spec.problem.target].is_valid())
                at, actual = own[POSITION].to_numpy(), own[spec.problem.target].to_numpy()
                sampled = np.isin(at, row_positions[key]) & has_loss(spec, actual)
                digest = digest_json(
                    [digests[key], digest_bytes(at.tobytes()), digest_bytes(actual.tobytes())]
                )
                by_partition[key].append(
                    Labels(
                        since,
                        at,
                        actual,
                        np.searchsorted(row_positions[key], at[sampled]),
                        actual[sampled],
                        digest,
                    )
                )
        labels = {key: tuple(parts) for key, parts in sorted(by_partition.items())}
        return cls(spec, calendar, table, row_positions, labels, digests)

    @cached_property
    def positions(self) -> dict[str, int]:
        """The place of each partition in the calendar, by which distances are counted fast."""
        return {key: index for index, key in enumerate(self.calendar)}

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many partitions come up to each one of the calendar; of a sparse spine, those with rows."""
        if not self.spec.sparse:
            return self.positions
        return dict(
            zip(self.calendar, accumulate(key in self.row_positions for key in self.calendar), strict=True)
        )

    @cached_property
    def newest(self) -> dict[str, Labels]:
        """Each partition's newest labels, of those with a labeled row that a walk predicts."""
        return {key: parts[-1] for key, parts in self.labels.items() if len(parts[-1].sampled)}

    def labeled(self, partition: str) -> dict[str, Labels]:
        """Return the labels that were known on a partition, by partition with a labeled row."""
        latest = {
            key: [part for part in parts if part.since <= partition][-1:]
            for key, parts in self.labels.items()
            if key <= partition
        }
        return {key: parts[0] for key, parts in latest.items() if parts and len(parts[0].row_positions)}

    def training_set(self, spec: UseCase, partition: str) -> dict[str, Labels]:
        """Return the labels of the rows that a training on a partition uses, by partition."""
        window = spec.training.window
        first = ""
        if window:
            shifted = spec.clock.shift(partition, -window)
            first = key_before(list(self.row_positions), partition, window) if spec.sparse else shifted
        return {key: part for key, part in self.labeled(partition).items() if key >= first}

    def labeled_rows(self, row_positions: Sequence[RowPositions], actual: Sequence[Array]) -> pa.Table:
        """Return features and target of rows by their positions in the table, of each partition's."""
        rows = self.table.take(pa.array(np.concatenate(row_positions)))
        return rows.append_column(self.spec.problem.target, pa.array(np.concatenate(actual)))

    def digest(self, partitions: Sequence[str]) -> str:
        """Return the digest of the rows of some partitions that a walk predicts."""
        return digest_json([[self.digests[key], len(self.row_positions[key])] for key in partitions])
