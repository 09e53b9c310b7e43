"""A training is asked for by its cause, whatever the weightiest decision of the partition is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

from evergreen.operators.monitor import RequestTrainingOperator
from include.spec import load
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines

PARTITION = "2024-01-25"
CAUSE = f"degraded-0123-{PARTITION}"
STARTED = "cause__degraded-0123-2024-01-26"


@pytest.mark.parametrize("decision", ["retrain", "replace", "roll back"])
@pytest.mark.parametrize(
    ("cause", "run_type", "started", "why"),
    [
        (CAUSE, "scheduled", [], ""),
        (CAUSE, "scheduled", ["cause__degraded-0123-2024-01-30"], ""),  # beyond the cool-down
        (CAUSE, "backfill", [], "a backfilled partition never trains; worse"),
        (CAUSE, "scheduled", [STARTED], "another partition started this training already; worse"),
        ("", "scheduled", [], "worse"),
    ],
)
def test_the_cause_asks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decision: str,
    cause: str,
    run_type: str,
    started: list[str],
    why: str,
) -> None:
    """It names the run; the task skips with the reason without one, in a backfill, and during a cool-down."""
    machines.spec(tmp_path)
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    row = {"partition": PARTITION, "decision": decision, "cause": cause, "reason": "worse", "alerts": "[]"}
    table = pa.Table.from_pylist([row], schema=schemas.DECISIONS)
    lake = Lake("machines")
    lake.publish("decisions", table, {"partition": PARTITION})
    monitored = [
        {"product": "monitor", "partition": key, "outcome": "published"} for key in (PARTITION, "2024-01-26")
    ]
    lake.publish("partitions", pa.Table.from_pylist(monitored, schemas.PARTITIONS), {"product": "monitor"})
    run = SimpleNamespace(partition_key=PARTITION, run_type=run_type)
    instance = SimpleNamespace(get_dr_count=lambda dag_id, run_ids: len({*run_ids} & {*started}))
    ask = RequestTrainingOperator(task_id="request_training", usecase="machines")
    is_needed = ask.acts_on(row, lake, load("machines"), is_backfill=run_type == "backfill")
    assert is_needed == (bool(cause) and run_type == "scheduled")  # else the monitor skips it
    with pytest.raises(AirflowSkipException if why else DagRunTriggerException) as said:
        ask.execute({"dag_run": run, "ti": instance, "params": {}})  # type: ignore[typeddict-item]  # all that it reads
    if isinstance(said.value, DagRunTriggerException):
        assert said.value.dag_run_id == f"cause__{cause}"
    else:
        assert str(said.value) == why
