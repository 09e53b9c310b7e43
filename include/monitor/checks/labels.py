"""Whether what came true can be trusted: labels that don't come, change, come twice, or come too soon.

Without them nothing can be said of performance, and nothing else would say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from include.features.build import labels
from include.monitor.findings import Finding, Outcome
from include.monitor.state import State
from include.spec import UseCase
from include.storage.lake import Lake


def check_labels(lake: Lake, spec: UseCase, partition: str, state: State) -> list[Finding]:
    """Return what is to be said of the labels that a partition knows."""
    tolerance = spec.sources[spec.labels.source].contract.tolerance
    return [
        overdue_labels(state.pool(partition), state.matured(partition), spec.monitoring.window),
        *_revised(lake, spec, partition, state, tolerance),
        *_early(partition, state),
        *_twice(spec, partition, state, tolerance),
    ]


def overdue_labels(scored: Sequence[str], matured: Sequence[str], window: int) -> Finding:
    """Say for how many scored partitions in a row labels should have been known by now and aren't.

    Parameters
    ----------
    scored : the last partitions whose labels are due, oldest first.
    matured : those of them whose labels are known.
    window : partitions that performance is judged on: when as many lack, it can't be.
    """
    last = max(matured, default="")
    late = [key for key in scored if key > last]
    if not scored:
        return Finding("labels", "overdue", None, window, "not enough", "no labels are due yet")
    since = f"since those of {last}" if last else f"of the last {len(scored)} scored partitions"
    note = f"labels of {len(late)} scored partition(s) should be known and aren't, none came {since}"
    note = note if late else f"labels came up to the partition of {last}"
    outcome: Outcome = "alarm" if len(late) >= window else "ok"
    return Finding("labels", "overdue", len(late), window, outcome, note)


def _revised(lake: Lake, spec: UseCase, partition: str, state: State, tolerance: float) -> list[Finding]:
    """Say which share of the labels of the partitions that were restated in this partition is another now."""
    again = state.restated.get(partition, [])
    changed = rows = 0
    by, target = [*spec.key, "partition"], spec.problem.target
    for scored in again:
        before = max(key for key in state.known(scored) if key < partition)
        then, now = (labels(lake, spec, [scored], known=key) for key in (before, partition))
        both = now.join(then, by, join_type="left outer", right_suffix="_then")
        same = pc.fill_null(pc.equal(both[target], both[f"{target}_then"]), False)
        none = pc.and_(pc.is_null(both[target]), pc.is_null(both[f"{target}_then"]))
        changed += both.num_rows - int(pc.sum(pc.or_(same, none)).as_py() or 0)
        rows += both.num_rows
    if not rows:
        return []
    partitions = (
        f"{len(again)} partition(s), {again[0]} to {again[-1]},"
        if again[1:]
        else f"the partition of {again[0]}"
    )
    note = f"{changed} of {rows} labels of {partitions} are others than reported; their figures are restated"
    share = changed / rows
    return [Finding("labels", "revised", share, tolerance, "alarm" if share > tolerance else "ok", note)]


def _early(partition: str, state: State) -> list[Finding]:
    """Check how many of this partition's new labels were known before their own partition's decision."""
    news = [key for key in state.matured(partition) if state.known(key)[0] == partition]
    rows = {key: state.early(key) for key in news if state.early(key)}
    if not rows:
        return []
    note = (
        f"{sum(rows.values())} labels of {', '.join(rows)} were known before those partitions were predicted:"
    )
    note += " a source's clock is wrong, or labels.delay is too long, or what is predicted is known already"
    return [Finding("labels", "early", sum(rows.values()), 0, "alarm", note)]


def _twice(spec: UseCase, partition: str, state: State, tolerance: float) -> list[Finding]:
    """Check which share of this partition's labels came twice; those that disagree were quarantined."""
    row = state.partition_row(spec.labels.source, partition)
    if row is None or not row["duplicates"]:
        return []
    share = row["duplicates"] / (row["rows"] + row["duplicates"])
    note = f"{row['duplicates']} of {row['rows'] + row['duplicates']} rows of {spec.labels.source} came twice"
    return [Finding("labels", "twice", share, tolerance, "alarm" if share > tolerance else "ok", note)]
