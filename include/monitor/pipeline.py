"""Monitor one partition: what its data and its matured labels say, and what is to be done about it.

Nothing here fails the partition: what can't be judged is *not enough*, and says why. Findings first, then the
report and the row in `partitions`, the decision last; a rerun, or a partition done late, leaves what order
would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from include.errors import EvergreenError
from include.monitor import estimates, findings, performance, policy, reference, report
from include.monitor.checks import concept, degradation, drift, labels, sudden_changes
from include.monitor.checks.sudden_changes import Neighbors
from include.monitor.findings import Finding
from include.monitor.performance import completion_row, publish_performance
from include.monitor.policy import Decision
from include.monitor.reference import Reference
from include.monitor.state import PRODUCT, State
from include.references import Ref
from include.spec import UseCase
from include.stats import profiles
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake

WRITTEN = {
    PRODUCT: ("findings", schemas.FINDINGS, ("check", "subject")),
    sudden_changes.PRODUCT: ("drift", schemas.DRIFT, ("column", "measure")),
    estimates.PRODUCT: ("estimates", schemas.ESTIMATES, ("metric",)),
}
PASSES = 100  # far more than there are partitions that one reaches


def monitor(lake: Lake, spec: UseCase, partition: str) -> Ref:
    """Publish the partition's findings and decision, and again those of later partitions that depend on it.

    Returns
    -------
    Ref
        of the partition's rows in `findings`; its note is the sentence a person reads.
    """
    state = State(lake, spec, partition)
    judged = False
    # each pass does one partition and reads again what there is by then: a run beside it may have changed it
    for _ in range(PASSES):
        if publish_performance(lake, spec, state):
            state.read(lake)
        due = [key for key in (partition, *state.later) if state.stale(key)]
        if judged and not due and not _torn(lake, partition, state):
            row = state.partition_row(PRODUCT, partition)
            assert row is not None
            said = f"{row['note']}; {_ask(policy.publish_decisions(lake, spec, partition))}"
            return Ref(f"{lake.uri}/tables/findings", partition, row["digest"], row["rows"], said)
        _publish(lake, spec, due[0] if judged and due else partition, state)
        judged = True
        state.read(lake)
    raise EvergreenError(
        f"{spec.name}/monitor/{partition}",
        required="inputs that hold still",
        found="others that change them each time they are read",
        remedy="run it again when the runs of its neighbours have ended",
    )


def _torn(lake: Lake, partition: str, state: State) -> bool:
    """Tell whether findings or measures aren't those of their row: two runs at once wrote them crosswise."""
    for product, (table, schema, order) in WRITTEN.items():
        row, stored = state.partition_row(product, partition), lake.read(table, {"partition": partition})
        if row is None or stored is None:
            return True
        rows = stored.sort_by([(name, "ascending") for name in order]).select(schema.names)
        if digest_table(rows) != str(row["digest"]):
            return True
    return False


def _publish(lake: Lake, spec: UseCase, partition: str, state: State) -> None:
    inputs = state.inputs(partition)
    champion = state.model(partition)
    window = state.window(partition)
    looked = sudden_changes.read_neighbors(lake, spec, state, partition)
    learnt = reference.read(lake, spec, state.champion(partition))
    current = [row for row in looked.served if row["partition"] == partition]
    rows = {
        p: r for p in (*spec.sources, "predictions") if (r := state.partition_row(p, partition)) is not None
    }
    found = [*findings.check_data(spec, partition, rows), findings.check_fallback_share(current, champion)]
    seen = sudden_changes.comparison_windows(spec, state, partition, looked)
    found += check_drift(spec, partition, state, learnt, seen, looked)
    found += sudden_changes.check_sudden_changes(lake, spec, partition, state, looked)
    found += labels.check_labels(lake, spec, partition, state)
    found += performance.check_recent_performance(lake, spec, partition, state)
    found += degradation.check_performance(lake, spec, partition, state)
    found += concept.check_concept(lake, spec, partition, state)
    estimates.publish_estimates(
        lake, spec, partition, state, [*found, *check_unfamiliar(spec, partition, learnt, seen)], inputs
    )
    table = findings.findings_table(partition, found)
    lake.publish("findings", table, {"partition": partition})
    compared = sudden_changes.drift_table(partition, learnt, seen)
    lake.publish("drift", compared, {"partition": partition})
    said = f"{compared.num_rows} measures of {len(seen)} columns"
    _mark(lake, completion_row(spec, sudden_changes.PRODUCT, partition, compared, inputs, said))
    before, measured = (
        state.partition_row(product, partition) for product in (PRODUCT, sudden_changes.PRODUCT)
    )
    drawn = before is not None and before["digest"] == digest_table(table)
    drawn &= measured is not None and measured["digest"] == digest_table(compared)
    if before is None or not drawn or _window(before["inputs"]) != _window(json.dumps(inputs)):
        report.draw_drift_report(lake, spec, partition, window, learnt, found, compared)
    _mark(lake, completion_row(spec, PRODUCT, partition, table, inputs, findings_note(found)))


def _mark(lake: Lake, row: dict[str, Any]) -> None:
    done = pa.Table.from_pylist([row], schema=schemas.PARTITIONS)
    lake.publish("partitions", done, {"product": row["product"], "partition": row["partition"]})


def _window(inputs: str) -> dict[str, str]:
    """Return the part of a partition's inputs that the report is drawn from, and a little more."""
    return {k: v for k, v in json.loads(inputs).items() if k.startswith(("predictions/", "champion/"))}


def check_drift(
    spec: UseCase,
    partition: str,
    state: State,
    learnt: Reference | None,
    seen: Mapping[str, Sequence[Mapping[str, Any]]],
    looked: Neighbors,
) -> list[Finding]:
    """Compare the window with the reference by column; a broken feed is looked for in the partition alone.

    Parameters
    ----------
    seen : each column's profiles over its window.
    looked : what the partition looks at, from which it is told what is new in it.
    """
    champion = state.model(partition)
    if learnt is None or partition not in state.window(partition):
        why = "no model was promoted yet" if not champion else f"model {champion[:12]} left no reference"
        why = why if learnt is None else "nothing was predicted for this partition"
        return [Finding("drift", "features", None, None, "not enough", why)]
    found = []
    for name, of in seen.items():
        label, column = name == spec.problem.target, learnt.columns.get(name)
        # labels are of the partitions that have matured, so of this partition there are none yet
        last = [row for row in of if label or row["partition"] == partition]
        if why := _unfit(name, column, of, last, spec.problem.outputs):
            found.append(Finding("drift", name, None, None, "not enough", f"{name} {why}"))
            continue
        assert column is not None
        window, current = profiles.merge_profiles(of)[name], profiles.merge_profiles(last)[name]
        width = len({row["partition"] for row in of})
        found.append(drift.check_distribution(name, column, window, width, spec.monitoring))
        if name not in spec.problem.outputs and not label:
            found.append(drift.check_missing(name, column, current, spec.monitoring))
            lately = looked.of(name, state.lately(partition))
            found.append(drift.check_unseen(name, column, current, spec.monitoring, lately))
    return found


def check_unfamiliar(
    spec: UseCase, partition: str, learnt: Reference | None, seen: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Finding]:
    """Say of each feature whether the partition has what the champion never learnt, however usual by now."""
    found: list[Finding] = []
    if learnt is None:
        return found
    for name in spec.features.columns:
        column, last = (
            learnt.columns.get(name),
            [row for row in seen.get(name, ()) if row["partition"] == partition],
        )
        if column is not None and not _unfit(name, column, last, last, spec.problem.outputs):
            found.append(
                drift.check_unseen(name, column, profiles.merge_profiles(last)[name], spec.monitoring)
            )
    return found


def _unfit(
    name: str,
    column: drift.LearnedColumn | None,
    of: Sequence[Mapping[str, Any]],
    last: Sequence[Mapping[str, Any]],
    outputs: Sequence[str],
) -> str:
    """Return why a column can't be compared, empty where it can."""
    if not last:
        return "isn't this champion's in this partition" if name in outputs else "isn't there"
    if column is None:
        return "has no reference"
    kinds = sorted({row["kind"] for row in of} - {column.profile.kind})
    return f"is {kinds[0]} and was {column.profile.kind} in the reference" if kinds else ""


def findings_note(found: Sequence[Finding]) -> str:
    """Return what a partition found in a sentence."""
    parts = []
    for check in ("data", "labels", "fallback", "concept", "missing", "unseen", "jump", "drift"):
        alarms = sorted(f.subject for f in found if f.check == check and f.outcome == "alarm")
        if alarms:
            shown = ", ".join(alarms[:4]) + (", …" if len(alarms) > 4 else "")
            parts.append(f"{check}: {shown}")
    drift = [f for f in found if f.check == "drift"]
    judged = sum(f.outcome != "not enough" for f in drift)
    steady = sum(f.outcome == "ok" for f in drift)
    parts.append(f"{steady} of {judged} columns without drift" if judged else f"drift: {drift[0].note}")
    parts += [f.note for f in found if f.check == "performance"][:1]
    return "; ".join(parts)


def _ask(decision: Decision) -> str:
    """Return what is to be done, for the end of a partition's sentence."""
    if decision.cause:
        return f"asks for a training ({decision.reason})"
    return decision.reason if decision.alerts else f"nothing to do ({decision.reason})"
