"""Judge partitions by limits that were made before them, and plant faults to see how soon they are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.spec.stages import SuddenChanges
from include.stats.alarms import WEEK, AlarmLimits, alarm_limits, break_scores, persistent
from include.stats.drift_measures import Binning
from include.train.monitoring_baselines import count_by_partition

REFIT = 4 * WEEK  # partitions between two trainings
SHIFTS = (0.5, 1.0, 2.0)  # of a numeric column's standard deviation
UNKNOWN = (0.1, 0.5)  # share of a categorical column's values that are of no known category
WITHIN = 2 * WEEK  # partitions in which a fault counts as found
Counts = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class Walk:
    """What the limits did to the partitions after those they came from.

    Parameters
    ----------
    counts : rows by partition and bin, by column, shape (partitions, bins).
    start : place of the first partition that was judged.
    high : by column, partitions beyond its limit, shape (partitions,).
    by : the limits of each partition.
    """

    counts: Mapping[str, Counts]
    rules: SuddenChanges
    start: int
    high: Mapping[str, Marks]
    by: list[AlarmLimits | None]

    @property
    def alarm(self) -> Marks:
        """The partitions on which any column alarms, from ``start`` on."""
        marks = [persistent(high, self.rules) for high in self.high.values()]
        return np.asarray(np.any(marks, axis=0)[self.start :], dtype=np.bool_)


def walked(counts: Mapping[str, Counts], rules: SuddenChanges, start: int, seed: int) -> Walk:
    """Judge every partition from ``start`` on by limits that were made from partitions before it alone."""
    partitions = min(len(rows) for rows in counts.values())
    by: list[AlarmLimits | None] = [None] * partitions
    high = {name: np.zeros(partitions, dtype=np.bool_) for name in counts}
    far = {name: break_scores(rows, rules.past) for name, rows in counts.items()}
    for first in range(start, partitions, REFIT):
        made = alarm_limits({name: rows[:first] for name, rows in counts.items()}, rules, seed)
        span = slice(first, first + REFIT)
        by[span] = [made] * len(by[span])
        for name in made.median_log_score if made else ():
            high[name][span] = far[name][span] > (made.threshold(name) if made else np.inf)
    return Walk(counts, rules, start, high, by)


def faults(
    rows: pa.Table,
    partitions: list[str],
    cuts: Mapping[str, Binning],
    spreads: Mapping[str, float],
    walk: Walk,
) -> Iterator[dict[str, Any]]:
    """Yield how often and how soon each size of each fault is found, column by column.

    Parameters
    ----------
    rows : of the features, with the column ``partition``.
    spreads : standard deviation of each numeric column.
    """
    for size in SHIFTS:
        moved = {
            name: count_by_partition(_moved(rows, name, size * spread), name, cuts[name], partitions)
            for name, spread in spreads.items()
        }
        yield _planted("moved by standard deviations", size, moved, walk)
    for size in UNKNOWN:
        other = {
            name: _unknown(walk.counts[name], size) for name, cut in cuts.items() if cut.names is not None
        }
        yield _planted("share of values of no known category", size, other, walk)


def _moved(rows: pa.Table, name: str, by: float) -> pa.Table:
    return pa.table({"partition": rows["partition"], name: pc.add(rows[name].cast(pa.float64()), by)})


def _unknown(counts: Counts, share: float) -> Counts:
    """Return the counts where a share of the values goes to the bin of all others."""
    rest = counts * (1 - share)
    rest[:, -1] += share * counts.sum(axis=1)
    return rest


def _planted(fault: str, size: float, broken: Mapping[str, Counts], walk: Walk) -> dict[str, Any]:
    found = {name: _delays(name, rows, walk) for name, rows in broken.items()}
    delays = [delay for of in found.values() for delay in of if delay]
    tried = sum(map(len, found.values()))
    return {
        "fault": fault,
        "size": size,
        "tried": tried,
        "found": len(delays) / tried if tried else 0.0,
        "partitions": float(np.median(delays)) if delays else None,
        "columns": {name: float(np.mean([delay > 0 for delay in of])) for name, of in found.items() if of},
    }


def _delays(name: str, broken: Counts, walk: Walk) -> list[int]:
    """Return the partitions until a fault is found, 0 for never.

    For faults that begin in each judged week.
    """
    found, rules = [], walk.rules
    for first in range(walk.start, len(broken) - WITHIN, WEEK):
        made = walk.by[first]
        if made is None or name not in made.median_log_score:
            continue
        before = walk.counts[name][max(first - rules.past - rules.of, 0) : first]
        combined = np.concatenate([before, broken[first : first + WITHIN]])
        high = break_scores(combined, rules.past) > made.threshold(name)
        hit = np.flatnonzero(persistent(high, rules)[-WITHIN:])
        found.append(int(hit[0]) + 1 if len(hit) else 0)
    return found
