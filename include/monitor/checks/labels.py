"""Whether labels can be trusted: overdue, revised, early and duplicate ones, and features that reveal them.

Without labels performance can't be judged, and no other check would notice that they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from include.features.labels import labels
from include.monitor.context import Finding, Outcome, PartitionContext
from include.monitor.performance import labeled_partitions
from include.promote.verdicts import failed_leakage_checks

MIN_UNLABELED = 3  # partitions in a row; the labels of one or two may truly all be null


def check_labels(context: PartitionContext) -> list[Finding]:
    """Check the labels that are known on the partition."""
    state, partition = context.state, context.partition
    matured, window = state.matured(partition), context.spec.monitoring.window
    labeled = labeled_partitions(context.lake, matured, partition)
    return [
        overdue_labels(state.labels_due(partition), matured, labeled, window),
        *_check_revised(context),
        *_check_early(context),
        *_check_duplicates(context),
    ]


def _judge_share(context: PartitionContext, subject: str, counted: int, rows: int, note: str) -> Finding:
    """Judge a share of the labels as their contract does, which tolerates few rows whatever their share."""
    contract = context.spec.sources[context.spec.labels.source].contract
    outcome: Outcome = "alarm" if contract.exceeded(counted, rows) else "ok"
    return Finding("labels", subject, counted / rows, contract.tolerance, outcome, note)


def overdue_labels(
    scored: Sequence[str], matured: Sequence[str], labeled: Sequence[str], window: int
) -> Finding:
    """Judge for how many scored partitions in a row the labels are overdue.

    Labels that came and label no row, since all are null or have other keys, count as none. That may be true
    of a few partitions in a row, such as days on which everything was canceled.

    Parameters
    ----------
    scored : the last partitions whose labels are due, oldest first.
    matured : those of them whose labels are known.
    labeled : those of these of which a row has a label.
    window : partitions that performance is judged on; when as many lack labels, it can't be judged.
    """
    last = max(labeled, default="")
    late = [key for key in scored if key > last]
    unmatched = [key for key in late if key in matured]
    limit = max(window, MIN_UNLABELED) if unmatched else window
    if not scored:
        return Finding("labels", "overdue", None, window, "not enough", "no labels are due yet")
    note = f"labels are known up to partition {last}"
    if late:
        are = "scored partitions are" if len(late) != 1 else "scored partition is"
        note = f"labels of {len(late)} {are} overdue: none came since those of {last}"
        if not last:  # no older partitions are looked at
            note = f"labels of at least {len(late)} {are} overdue: none came for {scored[0]} or later"
    if unmatched:
        note += f"; label rows arrived for {len(unmatched)} of them, but none labels a scored row: "
        note += "the label is null, or the key differs"
    outcome: Outcome = "alarm" if len(late) >= limit else "ok"
    return Finding("labels", "overdue", len(late), limit, outcome, note)


def _check_revised(context: PartitionContext) -> list[Finding]:
    """Check the share of labels that this partition's revisions changed."""
    spec, state, partition = context.spec, context.state, context.partition
    revised = state.relabeled.get(partition, [])
    changed = rows = 0
    keys, target, previous = [*spec.key, "partition"], spec.problem.target, f"{spec.problem.target}_previous"
    for scored in revised:
        before = max(key for key in state.labels_known_on(scored) if key < partition)
        old, new = (labels(context.lake, spec, [scored], as_of=key) for key in (before, partition))
        joined = new.join(old, keys, join_type="left outer", right_suffix="_previous")
        equal = pc.fill_null(pc.equal(joined[target], joined[previous]), False)
        both_null = pc.and_(pc.is_null(joined[target]), pc.is_null(joined[previous]))
        changed += joined.num_rows - int(pc.sum(pc.or_(equal, both_null)).as_py() or 0)
        rows += joined.num_rows
    if not rows:
        return []
    partitions = f"partition {revised[0]}"
    if revised[1:]:
        partitions = f"{len(revised)} partitions, {revised[0]} to {revised[-1]},"
    note = f"{changed:,} of {rows:,} labels of {partitions} were revised; their figures were computed again"
    return [_judge_share(context, "revised", changed, rows, note)]


def _check_early(context: PartitionContext) -> list[Finding]:
    """Check how many of this partition's new labels were known before their own partition's decision."""
    state, partition = context.state, context.partition
    new = [key for key in state.matured(partition) if state.labels_known_on(key)[0] == partition]
    rows = {key: state.early_labels(key) for key in new if state.early_labels(key)}
    if not rows:
        return []
    note = f"{sum(rows.values()):,} labels of {', '.join(rows)} were known before the predictions were made:"
    note += " a source's clock is wrong, labels.delay is too long, or the target is known at decision time"
    return [Finding("labels", "early", sum(rows.values()), 0, "alarm", note)]


def _check_duplicates(context: PartitionContext) -> list[Finding]:
    """Check the share of duplicates among this partition's labels; contradicting ones are quarantined."""
    source = context.spec.labels.source
    row = context.state.partition_row(source, context.partition)
    if row is None or not row["duplicates"]:
        return []
    duplicates, rows = row["duplicates"], row["rows"] + row["duplicates"]
    note = f"{duplicates:,} of {rows:,} rows of {source} are duplicates"
    return [_judge_share(context, "duplicates", duplicates, rows, note)]


def check_leakage(context: PartitionContext) -> list[Finding]:
    """Return an alarm if the newest training before the partition was refused for a leak."""
    attempt = context.state.refused_leak(context.partition)
    if attempt is None:
        return []
    failed = failed_leakage_checks(attempt["checks"])
    note = f"the training of {attempt['partition']} was refused, and what serves may use the same columns: "
    note += "; ".join(check.sentence() for check in failed)
    return [Finding("leakage", "training", len(failed), 0, "alarm", note)]
