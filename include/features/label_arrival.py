"""When labels became known: on the partition that brought them, and on each later one that changed them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from include.features.build import labels
from include.spec import UseCase
from include.storage.lake import Lake


def known_on(lake: Lake, spec: UseCase, partitions: Sequence[str], until: str) -> dict[str, tuple[str, ...]]:
    """Return for each partition those up to ``until`` on which its labels became known or changed, ascending.

    Parameters
    ----------
    partitions : matured on ``until``.
    """
    if not partitions:
        return {}
    clock, delay = spec.clock, spec.labels.delay
    keys = clock.keys(min(partitions), until)
    label_partition = dict(zip(keys, keys[delay:], strict=False))
    where = {"partition": [label_partition[key] for key in partitions]}
    rows = lake.read(f"validated_{spec.labels.source}", where, ["partition", "known_at"])
    moments = defaultdict(set)
    if rows is not None:
        for row in rows.group_by(["partition", "known_at"]).aggregate([]).to_pylist():
            moments[row["partition"]].add(row["known_at"])
    found = {}
    for partition in partitions:
        first = keys.index(label_partition[partition])
        later = keys[first:]
        places = sorted(
            {bisect_left(later, at, key=clock.moment) for at in moments[label_partition[partition]]}
        )
        found[partition] = tuple(later[place] for place in places if place < len(later))
    return found


def labels_known_on(
    lake: Lake, spec: UseCase, arrivals: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield partition, partition on which they were known, and the labels, for each pair in ``arrivals``.

    Labels that arrived at once are read together, and each revision by itself.
    """
    at_once: dict[str, list[str]] = defaultdict(list)
    for partition, knowns in arrivals.items():
        for known in knowns:
            at_once[known if len(knowns) > 1 else ""].append(partition)
    for known, partitions in at_once.items():
        last = known or max(arrivals[partition][0] for partition in partitions)
        rows = labels(lake, spec, partitions, known=last)
        for partition in partitions:
            own = rows.filter(pc.equal(rows["partition"], partition))
            yield partition, known or arrivals[partition][0], own
