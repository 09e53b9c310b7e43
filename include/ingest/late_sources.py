"""When a source that is late or failed is tried again: until the deadline, and by the next partitions.

Before a partition is scored, those that it looks back on are refreshed. Each of them is then published,
refused or unavailable, so the order in which partitions run makes no difference, other than to the time from
which late data counts as known. What serves without the source is decided in `include.score.fallback`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from include.environment import Connect
from include.errors import PartitionRefused, SettingError, SpecError
from include.ingest.pipeline import NOTHING_YET, Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake

RETRY_INTERVAL = timedelta(minutes=5)  # between two attempts until the scoring deadline
RETRY_PARTITIONS = 3  # how many partitions back an unavailable source is retried


def next_attempt(spec: UseCase, partition: str, now: datetime) -> datetime | None:
    """Return when a partition's failed task tries again; None if the scoring deadline comes first."""
    following = now + RETRY_INTERVAL
    return following if following < spec.clock.local(partition, spec.scoring.deadline) else None


def refresh_lookback(lake: Lake, spec: UseCase, partition: str, connect: Connect) -> list[Outcome]:
    """Ingest the partitions of the lookback that were never attempted, and retry recent ones without data.

    A partition that was never attempted, or whose source failed, is known at its own ``available_at``, as in
    a backfill: an outage doesn't tell when the data was available. Only where the source answered that it had
    no data yet does late data become known on ``partition``.

    Returns
    -------
    list of Outcome
        of the partitions that were attempted. One that can't be ingested, because a connection is missing or
        a row check fails, counts as unavailable. Nothing is recorded, so the next partition tries it again.
    """
    last = spec.clock.shift(partition, -1)
    recent = spec.clock.shift(partition, -RETRY_PARTITIONS)
    first = spec.clock.shift(partition, -max(spec.features.lookback, RETRY_PARTITIONS))
    rows = lake.rows("partitions", {"product": list(spec.sources), "partition": spec.clock.keys(first, last)})
    recorded = {(row["product"], row["partition"]): row for row in rows}
    outcomes = []
    for source in spec.sources:
        on_time: list[str] = []  # known at their own `available_at`
        late: list[str] = []
        for key in spec.partitions(source, first, last):
            row = recorded.get((source, key))
            if row is None:
                on_time.append(key)
            elif key >= recent and (row["outcome"] == "unavailable" or row["inputs"] == NOTHING_YET):
                (late if row["inputs"] == NOTHING_YET else on_time).append(key)
        for partitions, arrived_on in ((on_time, None), (late, partition)):
            if partitions:
                outcomes += _ingest_what_can_be(lake, spec, source, partitions, connect, arrived_on)
    return outcomes


def _ingest_what_can_be(
    lake: Lake, spec: UseCase, source: str, partitions: list[str], connect: Connect, arrived_on: str | None
) -> list[Outcome]:
    """Return the outcomes of a source's partitions; an error of one stops nothing else."""
    try:
        return ingest(lake, spec, source, partitions, connect, arrived_on=arrived_on)
    except (SettingError, SpecError, PartitionRefused) as error:
        if isinstance(error, SettingError) or len(partitions) == 1:
            return [Outcome(source, key, "unavailable", note=str(error), error=error) for key in partitions]
    return [
        outcome
        for key in partitions
        for outcome in _ingest_what_can_be(lake, spec, source, [key], connect, arrived_on)
    ]
