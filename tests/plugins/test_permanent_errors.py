"""An error that a retry can't mend fails a task at once, wherever in the task it happens."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from evergreen import operators
from evergreen.operators.base import BaseTaskOperator, EvergreenOperator
from include import errors
from include.errors import EvergreenError, StoredDataError

REF = {"id": "evaluations/0.json", "partition": "2024-03-04"}
KEYWORDS: dict[str, Any] = {"run": REF, "evidence": REF, "verdict": REF, "hours": 1.0}


def stages() -> Iterator[type[EvergreenOperator]]:
    """Yield each operator of a use case that can be executed."""
    for module in pkgutil.iter_modules(operators.__path__):
        importlib.import_module(f"evergreen.operators.{module.name}")
    waiting = EvergreenOperator.__subclasses__()
    while waiting:
        operator = waiting.pop()
        waiting += operator.__subclasses__()
        if operator.__module__.startswith("evergreen.operators.") and "execute" in vars(operator):
            yield operator


STAGES = sorted(stages(), key=lambda operator: operator.__name__)


def execute(operator: type[EvergreenOperator]) -> Any:
    """Execute a task of the use case ``shop``, in a run by a person."""
    parameters = inspect.signature(operator.__init__).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "usecase"]
    more = {name: KEYWORDS.get(name, "2024-03-04") for name in names}
    run = SimpleNamespace(
        partition_key="2024-03-04", run_type="scheduled", triggering_user_name="ada", run_after=None
    )
    form = {"action": "roll back", "reason": "a test", "version": None}
    form |= {"first": "2024-03-04", "last": "2024-03-04"}
    context: Any = {"dag_run": run, "params": form, "run_id": "r", "triggering_asset_events": {}}
    context["ti"] = SimpleNamespace(xcom_push=lambda key, value: None)
    return operator(task_id="task", usecase="shop", **more).execute(context)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a use case's declaration, which isn't YAML."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    file = tmp_path / "shop" / "usecase.yaml"
    file.parent.mkdir()
    file.write_text("name: [shop")
    return file


@pytest.mark.parametrize("operator", STAGES, ids=lambda operator: str(operator.__name__))
def test_an_unreadable_declaration_fails_each_task_at_once(
    shop: Path, operator: type[EvergreenOperator]
) -> None:
    """Each operator opens its use case where a permanent error is final."""
    with pytest.raises(AirflowFailException, match="shop"):
        execute(operator)


def test_a_missing_setting_fails_a_task_at_once(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lake's address is one."""
    monkeypatch.delenv("EVERGREEN_LAKE")
    with pytest.raises(AirflowFailException, match="EVERGREEN_LAKE"):
        execute(STAGES[0])


def test_damaged_stored_data_fails_a_task_at_once() -> None:
    """Only restoring it helps."""
    with (
        pytest.raises(AirflowFailException, match="from a backup"),
        BaseTaskOperator(task_id="t").fail_without_retry(),
    ):
        raise StoredDataError("shop", remedy="restore the object from a backup")


def test_only_what_may_pass_by_itself_is_retried() -> None:
    """An outage, a late source, a busy machine, another process that was first, and what has no class."""
    classes = {
        one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, EvergreenError)
    }
    assert {one.__name__ for one in classes if one.retryable} == {
        "CircuitOpen",
        "ClusterUnavailable",
        "ConcurrentCommit",
        "EvergreenError",
        "MeasurementFailed",
        "SourceUnavailable",
        "StaleDecision",
        "StoreUnavailable",
    }
