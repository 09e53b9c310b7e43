"""The events of our assets say which rows were published, for DAGs of other teams."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evergreen.assets import product
from evergreen.operators.score import ScoreOperator
from tests.monitor import machines


@pytest.fixture
def events() -> Any:
    """Return the events that a task adds to."""
    return defaultdict(lambda: SimpleNamespace(extra={}))


def test_an_event_has_rows_digest_and_version(
    tmp_path: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions carry the digest of their rows; features that of what they come from, which differs."""
    (tmp_path / "usecases").mkdir()
    use = machines.spec(tmp_path / "usecases")
    lake = machines.plant(tmp_path / "lake", use)
    partition = use.clock.shift(machines.TRAINED, 1)
    machines.many_partitions(lake, use, [partition])
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    run = SimpleNamespace(partition_key=partition, run_type="scheduled")
    context: Any = {"dag_run": run, "params": {}, "outlet_events": events}
    features, predictions = product("machines", "features"), product("machines", "predictions")

    ref = ScoreOperator(task_id="a", usecase="machines", outlets=[features, predictions]).execute(context)

    assert events[predictions].extra == {
        "partition": partition,
        "rows": machines.ROWS,
        "digest": ref["digest"],
        "version": lake.version("predictions"),
    }
    assert events[features].extra["rows"] == machines.ROWS
    assert events[features].extra["version"] == lake.version("profiles")
    assert events[features].extra["digest"] not in ("", ref["digest"])


def test_a_dag_without_the_asset_has_no_event(
    tmp_path: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same operator in another DAG announces nothing that its task doesn't declare."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path))
    operator = ScoreOperator(task_id="a", usecase="machines")
    operator.add_event_metadata({"outlet_events": events}, "features", None, "profiles", None)  # type: ignore[arg-type]  # not read
    assert events == {}
