"""The form's action and the weekly task back up what the command backs up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from typer.testing import CliRunner

from evergreen.operators.operate import OperateOperator
from evergreen.operators.upkeep import BackUpOperator, PruneOperator
from evergreen.run_note import REFUSAL
from include.cli.app import app
from include.errors import NotPublished, StoreUnavailable
from include.ops import backup_store, doctor
from tests.ops.backup.conftest import Clinic


@pytest.fixture
def context(home: Clinic, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The form, filled in by nobody who is logged in."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(home.folder / "usecases"))
    run = SimpleNamespace(triggering_user_name=None)
    task = SimpleNamespace(pushed={})
    task.xcom_push = task.pushed.__setitem__
    return {"params": {"action": "back up", "reason": ""}, "dag_run": run, "run_id": "r", "ti": task}


@pytest.mark.full
def test_backing_up_needs_no_reason_and_says_what_it_lacks(
    home: Clinic, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes nothing of the lake; the reference names the backup and each database that isn't in it."""
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    output = OperateOperator(task_id="operate", usecase=home.spec.name).execute(context)
    (name,) = backup_store.backup_names(backup_store.open_store())
    assert output["note"].startswith(f"{name}: {output['rows']} objects")
    for tool in ("airflow", "mlflow"):
        assert f"{tool}'s database (no connection evergreen_{tool}_db)" in output["note"]


@pytest.mark.parametrize("lake", ["not mounted", "empty"])
def test_a_lake_that_is_not_there_is_neither_backed_up_nor_verified(
    lake: str, home: Clinic, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the form, upkeep and the commands: an empty backup would count as one, and nothing differs."""
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / lake))
    (tmp_path / "empty").mkdir()
    errors = (AirflowFailException, StoreUnavailable, NotPublished)
    match = r"EVERGREEN_LAKE: expected a folder that exists|something was published of, but found none"
    form = OperateOperator(task_id="operate", usecase=home.spec.name)
    steps = [
        partial(form.execute, context),
        partial(CliRunner().invoke, app, ["backup"], catch_exceptions=False),
        partial(CliRunner().invoke, app, ["backup", home.spec.name], catch_exceptions=False),
    ]
    back_up = partial(BackUpOperator(task_id="back_up").execute, context)
    if lake == "not mounted":
        steps += [back_up, partial(CliRunner().invoke, app, ["verify"], catch_exceptions=False), doctor._lake]
    else:  # upkeep isn't red before the first partition
        for task in (back_up, partial(PruneOperator(task_id="prune").execute, context)):
            with pytest.raises(AirflowSkipException):
                task()
    for step in steps:
        with pytest.raises(errors, match=match):
            step()
    assert backup_store.backup_names(backup_store.open_store()) == []
    assert not (tmp_path / "not mounted").exists()
    assert not (tmp_path / "safe").exists()
    backup_store.open_store().create("2024-01-01T000000Z.json", b"{}")
    with pytest.raises(errors, match=match):
        back_up()


@pytest.mark.full
def test_without_a_place_for_it_it_fails_in_one_sentence(context: Any) -> None:
    """The setting that is missing is named, with the place of it for whoever has Compose and no shell."""
    with pytest.raises(AirflowFailException, match=r"EVERGREEN_BACKUP.*in \.env and run `make up`"):
        OperateOperator(task_id="operate", usecase="missed_visits").execute(context)


@pytest.mark.parametrize(
    ("action", "reason", "field"),
    [
        ("roll back", None, "Why"),
        ("roll back", " ", "Why"),
        ("force", "", "Why"),
        ("force", "a try", "Attempt"),
    ],
)
def test_an_action_names_the_field_that_it_lacks(
    context: Any, action: str, reason: str | None, field: str
) -> None:
    """The form lets each field be empty; the task refuses in a sentence."""
    context["dag_run"].triggering_user_name = "ada"
    context["params"] |= {"action": action, "reason": reason, "version": None, "attempt": None}
    with pytest.raises(AirflowFailException, match=f"{action}: expected {field}, but found an empty field"):
        OperateOperator(task_id="operate", usecase="missed_visits").execute(context)


@pytest.mark.parametrize("action", ["verify", "back up"])
def test_an_action_of_the_whole_use_case_ignores_no_field(context: Any, action: str) -> None:
    """What it would leave out is refused; Why may be filled in."""
    context["params"] |= {"action": action, "reason": "a look", "version": "9", "partition": None, "foo": "1"}
    with pytest.raises(
        AirflowFailException, match=f"{action}: expected no field but Why, but found Version, Foo;"
    ):
        OperateOperator(task_id="operate", usecase="missed_visits").execute(context)


@pytest.mark.parametrize(
    ("action", "field", "own"),
    [
        ("roll back", "attempt", "Version"),
        ("force", "version", "Attempt"),
        ("withdraw", "alert", "Partition"),
        ("acknowledge", "partition", "Alert"),
        ("mute", "version", "Alert and Partition"),
    ],
)
def test_an_action_ignores_no_field_of_another(context: Any, action: str, field: str, own: str) -> None:
    """A version in the field Attempt would roll back to another one; nothing is done."""
    context["dag_run"].triggering_user_name = "ada"
    context["params"] |= {"action": action, "reason": "a test", "version": None, field: "3"}
    with pytest.raises(
        AirflowFailException,
        match=f"{action}: expected no field but Why and {own}, but found {field.title()};",
    ):
        OperateOperator(task_id="operate", usecase="missed_visits").execute(context)


def test_nobody_switches_without_a_name(context: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that no person started changes no champion; the refusal is logged, and left for the note."""
    context["params"] |= {"action": "roll back", "reason": "a test", "version": None}
    with pytest.raises(
        AirflowFailException, match="roll back: expected a person, but found nobody"
    ) as refusal:
        OperateOperator(task_id="operate", usecase="missed_visits").execute(context)
    assert context["ti"].pushed == {REFUSAL: str(refusal.value)}
    assert f"[error    ] {refusal.value}" in capsys.readouterr().out


def test_upkeep_backs_up_all_and_then_removes_what_is_beyond_the_number(
    home: Clinic, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two weeks of which one stays: the tasks' references say what was copied, read and removed."""
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    monkeypatch.setenv("EVERGREEN_BACKUPS_KEPT", "1")
    back_up, prune = BackUpOperator(task_id="back_up"), PruneOperator(task_id="prune_backups")
    first = back_up.execute(context)
    assert first["rows"] > 100
    backup_store.write_manifest(
        backup_store.open_store(), "2000-01-01T000000Z", replace(_manifest(), name="2000-01-01T000000Z")
    )
    output = prune.execute(context)
    assert "backups left: 1; removed: 2000-01-01T000000Z" in output["note"]
    assert first["note"].startswith(backup_store.backup_names(backup_store.open_store())[0])
    monkeypatch.setenv("EVERGREEN_BACKUPS_KEPT", "0")
    with pytest.raises(AirflowSkipException, match="EVERGREEN_BACKUPS_KEPT is 0: every backup stays"):
        prune.execute(context)


def _manifest() -> backup_store.Manifest:
    """Return the manifest of the one backup that there is."""
    (name,) = backup_store.backup_names(backup_store.open_store())
    return backup_store.load_manifest(backup_store.open_store(), name)


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("operator", [BackUpOperator, PruneOperator])
def test_upkeep_without_a_place_skips_and_says_how_to_set_it(
    operator: Any, context: Any, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither red nor silent, and no place of its own choice."""
    if value is not None:
        monkeypatch.setenv("EVERGREEN_BACKUP", value)
    with pytest.raises(AirflowSkipException, match=r"nothing is backed up: EVERGREEN_BACKUP.*s3://bucket"):
        operator(task_id="t").execute(context)


def test_a_database_that_cannot_be_dumped_fails_upkeep_before_it_cleans(
    home: Clinic, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lake's part is kept; what comes after the task runs only where it didn't fail."""
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    monkeypatch.setenv(
        "AIRFLOW_CONN_EVERGREEN_MLFLOW_DB", '{"conn_type": "generic", "host": "sqlite:////none"}'
    )
    with pytest.raises(AirflowFailException, match="unable to open database file"):
        BackUpOperator(task_id="back_up").execute(context)
    assert len(backup_store.backup_names(backup_store.open_store())) == 1
