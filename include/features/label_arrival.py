"""When labels became known: on the partition that brought them, and on each later one that changed them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from include.features.labels import labels
from include.features.point_in_time import emptied_at
from include.spec import UseCase
from include.storage.lake import Lake


@dataclass(frozen=True)
class LabelArrival:
    """When a partition's labels became known.

    Parameters
    ----------
    partitions : those on which labels arrived or were revised, ascending; none if there are no labels yet.
    next : the moment of a revision that becomes known after the last of these; empty without one.
    early : how many labels were known before the partition's own decision: a clock is wrong, or they leak.
    """

    partitions: tuple[str, ...]
    next: str
    early: int


def label_arrivals(
    lake: Lake, spec: UseCase, partitions: Sequence[str], until: str
) -> dict[str, LabelArrival]:
    """Return for each partition when its labels became known, up to the partition ``until``.

    Parameters
    ----------
    partitions : whose labels are due by ``until``.
    """
    if not partitions:
        return {}
    clock, delay = spec.clock, spec.labels.delay
    decision_time = cache(clock.decision_time)
    keys = clock.keys(min(partitions), until)
    position_of = dict(zip(keys, range(delay, len(keys)), strict=False))
    where = {"partition": [keys[position_of[key]] for key in partitions]}
    rows = lake.read(f"validated_{spec.labels.source}", where, ["partition", "known_at"])
    counts: dict[str, dict[datetime, int]] = defaultdict(dict)
    if rows is not None:
        for row in rows.group_by(["partition", "known_at"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["partition"]][row["known_at"]] = row["count_all"]
    for key, moment in emptied_at(lake, spec.labels.source, list(counts)).items():
        counts[key][moment] = 0
    arrivals = {}
    for partition in partitions:
        later = keys[position_of[partition] :]
        moments = dict(sorted(counts[later[0]].items()))
        positions = {at: bisect_left(later, at, key=decision_time) for at in moments}
        after = [at.isoformat() for at, index in positions.items() if index == len(later)]
        arrivals[partition] = LabelArrival(
            partitions=tuple(dict.fromkeys(later[i] for i in positions.values() if i < len(later))),
            next=after[0] if after else "",
            early=sum(count for at, count in moments.items() if at < decision_time(partition)),
        )
    return arrivals


def known_on(lake: Lake, spec: UseCase, partitions: Sequence[str], until: str) -> dict[str, tuple[str, ...]]:
    """Return for each partition those up to ``until`` on which its labels became known or changed, ascending.

    Parameters
    ----------
    partitions : as in `label_arrivals`.
    """
    arrivals = label_arrivals(lake, spec, partitions, until)
    return {key: arrival.partitions for key, arrival in arrivals.items()}


def labels_known_on(
    lake: Lake, spec: UseCase, arrivals: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield partition, partition on which they were known, and the labels, for each pair in ``arrivals``.

    Labels that arrived at once are read together, and each revision by itself.
    """
    at_once: dict[str, list[str]] = defaultdict(list)
    for partition, arrived_on in arrivals.items():
        for as_of in arrived_on:
            at_once[as_of if len(arrived_on) > 1 else ""].append(partition)
    for as_of, partitions in at_once.items():
        last = as_of or max(arrivals[partition][0] for partition in partitions)
        rows = labels(lake, spec, partitions, as_of=last)
        for partition in partitions:
            own = rows.filter(pc.equal(rows["partition"], partition))
            yield partition, as_of or arrivals[partition][0], own
