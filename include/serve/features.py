"""The features of the newest partition in memory, by the rows' keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from include.errors import NotPublished
from include.features.build import compute_features
from include.score.fallback import missing_sources
from include.score.pipeline import rows_known_at
from include.serve.rows import RequestRefused
from include.spec import UseCase
from include.storage.lake import Lake

MAX_FEATURE_ROWS = 1_000_000  # of a partition that is kept in memory, about half a GB


@dataclass(frozen=True)
class NewestFeatures:
    """One partition's features, as its batch run has them.

    Parameters
    ----------
    input_digests : what they were computed from; the same input_digests means the same features.
    missing : see `include.score.fallback.missing_sources`.
    positions : the position of each key's row.
    decision : of the partition.
    due : when the next partition's predictions have to exist, and with them its features.
    """

    partition: str
    input_digests: tuple[Any, ...]
    table: pa.Table
    missing: Mapping[str, str]
    positions: Mapping[tuple[Any, ...], int]
    decision: datetime
    due: datetime

    def look_up(self, keys: pa.Table) -> pa.Table:
        """Return the features of rows by their keys, in the order of the keys.

        Raises
        ------
        RequestRefused
            with 404 for a key that isn't in the partition.
        """
        row_keys = list(zip(*(column.to_pylist() for column in keys.columns), strict=True))
        row_positions = [self.positions.get(key, -1) for key in row_keys]
        if -1 in row_positions:
            row = row_positions.index(-1)
            names = ", ".join(keys.column_names)
            raise RequestRefused(
                404,
                f"rows[{row}]",
                required=f"a key ({names}) of partition {self.partition}",
                found=", ".join(map(str, row_keys[row]))[:200],
                remedy="send the features with the request",
            )
        return self.table.take(row_positions)

    def age(self, now: datetime) -> dict[str, Any]:
        """Return the partition, the seconds since its decision, and whether newer features are overdue."""
        seconds = round((now - self.decision).total_seconds())
        return {"partition": self.partition, "age_seconds": seconds, "stale": now > self.due}


def newest_features(lake: Lake, spec: UseCase, earlier: NewestFeatures | None) -> NewestFeatures:
    """Return the features of the newest partition that was scored; of the newest with rows before any was.

    Parameters
    ----------
    earlier : what was computed before, which is returned if nothing has changed.

    Raises
    ------
    NotPublished
        if no partition has rows, or the newest has more than are kept in memory.
    """
    spine = spec.features.spine
    where = {"product": ["predictions", spine], "outcome": "published"}
    published = lake.rows("partitions", where, ["product", "partition", "rows"])
    rows = [row for row in published if row["rows"]]
    newest = max(rows, key=lambda row: (row["product"] == "predictions", row["partition"]), default=None)
    if newest is None:
        raise NotPublished(
            f"{spec.name}: features",
            required="a partition with rows",
            found="none",
            remedy=f"ingest {spine} first, or send the features with each request",
        )
    if newest["rows"] > MAX_FEATURE_ROWS:
        raise NotPublished(
            f"{spec.name}/{newest['partition']}: features in memory",
            required=f"at most {MAX_FEATURE_ROWS:,} rows",
            found=f"{newest['rows']:,}",
            remedy="send the features with each request",
        )
    partition = str(newest["partition"])
    back = max(spec.features.lookback_of(name) for name in spec.sources)
    looked_back_on = spec.clock.keys(spec.clock.shift(partition, -back), partition)
    inputs = lake.rows("partitions", {"product": list(spec.sources), "partition": looked_back_on})
    input_digests = (
        partition,
        *sorted(
            (row["product"], row["partition"], row["outcome"], row["revision"], row["digest"])
            for row in inputs
        ),
    )
    if earlier is not None and earlier.input_digests == input_digests:
        return earlier
    known_rows = rows_known_at(lake, spec, partition)
    states = {row["product"]: row for row in inputs if row["partition"] == partition}
    missing = missing_sources(spec, partition, known_rows, states)
    table = compute_features(spec, known_rows, [partition])
    keys = zip(*(table[name].to_pylist() for name in spec.key), strict=True)
    return NewestFeatures(
        partition,
        input_digests,
        table,
        missing,
        positions={key: index for index, key in enumerate(keys)},
        decision=spec.clock.decision_time(partition),
        due=spec.clock.local(spec.clock.after(partition), spec.scoring.deadline),
    )
