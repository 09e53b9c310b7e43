"""The monitor stage: run every check on one partition, publish the findings, and decide what follows.

Nothing here fails the partition. A check that can't judge reports *not enough* with the reason. What live
labels show is published first, then estimates, findings and drift, whose rows in `partitions` mark them as
complete, and the decision last. A rerun is idempotent, and partitions monitored out of order lead to the same
tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from include.errors import unstable
from include.monitor import estimates
from include.monitor.checks import drift
from include.monitor.context import Finding, PartitionContext, findings_table
from include.monitor.performance import publish_performance
from include.monitor.policy import Decision, publish_decisions
from include.monitor.registry import CHECKS, run_checks
from include.monitor.state import PRODUCT, PublishedState
from include.references import Ref
from include.spec import UseCase
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake, Row

PRODUCTS = (PRODUCT, drift.PRODUCT, estimates.PRODUCT)  # of one monitored partition
MAX_ATTEMPTS = 100  # besides one for each later partition, all of which may depend on this one


def monitor(lake: Lake, spec: UseCase, partition: str) -> Ref:
    """Publish the partition's findings and decision, and repeat later partitions that depend on it.

    Returns
    -------
    Ref
        of the partition's rows in `findings`; its note is a sentence for people.
    """
    state = PublishedState(lake, spec, partition)
    is_monitored, labels_may_differ = False, True
    # Each attempt publishes one partition and reads the state again, which a concurrent run may have changed.
    attempts = MAX_ATTEMPTS + len(state.later)
    for _ in range(attempts):
        if labels_may_differ:  # from those that the last attempt saw
            realized = publish_performance(lake, spec, state)
            labels_may_differ = bool(realized) and state.refresh(lake, realized)
        stale = [key for key in (partition, *state.later) if state.stale(key)]
        if is_monitored and not stale and _is_consistent(lake, partition, state):
            row = state.partition_row(PRODUCT, partition)
            assert row is not None
            decision = publish_decisions(lake, spec, partition)
            note = f"{row['note']}; {_decision_note(decision)}"
            return Ref(f"{lake.uri}/tables/findings", partition, row["digest"], row["rows"], note)
        next_partition = stale[0] if is_monitored and stale else partition
        completed = _publish(PartitionContext(lake, spec, state, next_partition))
        is_monitored = True
        labels_may_differ = state.refresh(lake, completed) or labels_may_differ
    raise unstable(f"{spec.name}/monitor/{partition}", "inputs", attempts)


def _is_consistent(lake: Lake, partition: str, state: PublishedState) -> bool:
    """Return whether each table's rows match their row in `partitions`; concurrent runs may interleave."""
    for product in PRODUCTS:
        table, schema, order = schemas.PRODUCT_TABLES[product]
        row, stored = state.partition_row(product, partition), lake.read(table, {"partition": partition})
        if row is None or stored is None:
            return False
        rows = stored.sort_by([(name, "ascending") for name in order]).select(schema.names)
        if digest_table(rows) != str(row["digest"]):
            return False
    return True


def _publish(context: PartitionContext) -> list[Row]:
    """Run the checks of one partition and publish its estimates, findings and drift measures.

    Returns
    -------
    list of dict
        The rows of `partitions` that were published, in one commit.
    """
    lake, spec, partition = context.lake, context.spec, context.partition
    findings = run_checks(context)
    completed = [estimates.publish_estimates(context, findings)]
    table = findings_table(partition, findings)
    lake.publish("findings", table, {"partition": partition})
    measures = drift.drift_table(partition, context.reference, context.window_profiles)
    lake.publish("drift", measures, {"partition": partition})
    note = f"{measures.num_rows} measures of {len(context.window_profiles)} columns"
    inputs, digest = context.inputs, spec.digest
    completed.append(
        schemas.completion_row(drift.PRODUCT, partition, measures, inputs=inputs, spec=digest, note=note)
    )
    note = findings_note(findings)
    completed.append(schemas.completion_row(PRODUCT, partition, table, inputs=inputs, spec=digest, note=note))
    # last, in one commit: these rows mark the tables as complete
    where = {"product": [str(row["product"]) for row in completed], "partition": partition}
    lake.publish("partitions", pa.Table.from_pylist(completed, schema=schemas.PARTITIONS), where)
    return completed


def findings_note(findings: Sequence[Finding]) -> str:
    """Return a partition's findings as a sentence: the alarms, the share without drift, the performance."""
    parts = []
    for check in CHECKS:
        alarms = sorted(f.subject for f in findings if f.check == check.name and f.outcome == "alarm")
        # performance has its own part, in alarm or not
        if alarms and check.name != "performance":
            parts.append(f"{check.name}: {', '.join(alarms[:4])}{', …' if len(alarms) > 4 else ''}")
    columns = [finding for finding in findings if finding.check == "drift"]
    judged = sum(finding.outcome != "not enough" for finding in columns)
    without = sum(finding.outcome == "ok" for finding in columns)
    parts.append(f"{without} of {judged} columns without drift" if judged else f"drift: {columns[0].note}")
    parts += [finding.note for finding in findings if finding.check == "performance"][:1]
    return "; ".join(parts)


def _decision_note(decision: Decision) -> str:
    if decision.cause:
        return f"requests a training ({decision.reason})"
    return decision.reason if decision.alerts else f"nothing to do ({decision.reason})"
