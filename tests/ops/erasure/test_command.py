"""The command shows what would go and asks; it erases for good, and names what is left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from include.cli.app import app
from include.errors import SpecError, StoreUnavailable
from include.ops import backup_store
from include.ops.backup_store import lock_store, open_store
from tests.faults import clocks
from tests.ops.erasure.conftest import PATIENT, Clinic
from tests.ops.erasure.test_erase import places

ASKED = ("--by", "anna", "--reason", "she asked for it")


@pytest.fixture
def home(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """The clinic, whose lake and declaration the settings name."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(clinic.folder / "lake"))
    monkeypatch.setenv("EVERGREEN_USECASES", str(clinic.folder / "usecases"))
    return clinic


def command(*options: str) -> Result:
    """Run the command; an error is raised."""
    return CliRunner().invoke(app, ["erase", "clinic", *options, *ASKED], catch_exceptions=False)


@pytest.mark.full
def test_without_a_yes_nothing_is_written(home: Clinic) -> None:
    """The plan has tables, partitions and models, not the key; the exit code is 1."""
    state = clocks.state(home.lake)

    shown = command("--key", f"patient={PATIENT}")

    assert shown.exit_code == 1
    assert "validated_visits: 6 rows of 6 partitions, 2024-03-02 to 2024-03-16" in shown.stdout
    assert "predictions: 1 rows of 1 partitions" in shown.stdout
    assert "v1, model" in shown.stdout
    assert "nothing was erased; --yes erases this" in shown.stdout
    assert PATIENT not in shown.stdout
    assert json.loads(command("--key", f"patient={PATIENT}", "--json").stdout)["contents"]["predictions"]
    assert clocks.state(home.lake) == state


@pytest.mark.full
def test_with_a_yes_the_rows_are_gone(home: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place where the key is left, here among MLflow's artifacts, is named, and then it isn't done."""
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "example.json").write_text(json.dumps({"data": [[PATIENT, 1]]}))
    monkeypatch.setenv("EVERGREEN_MLFLOW_ARTIFACTS", str(tmp_path / "artifacts"))

    first = command("--key", f"patient={PATIENT}", "--yes")

    assert first.exit_code == 1
    assert "artifacts/example.json; train, let the new model serve" in first.stdout
    assert "searched: no such row is left; its text is left in 1 places" in first.stdout
    assert places(home.folder / "lake") == []

    (tmp_path / "artifacts" / "example.json").unlink()
    second = command("--key", f"patient={PATIENT}", "--yes", "--json")
    assert (second.exit_code, json.loads(second.stdout)["remaining"]) == (0, [])


@pytest.mark.full
@pytest.mark.parametrize("table", ["predictions", "profiles/product=visits", "limits"])
def test_a_damaged_file_is_named_and_the_rest_is_erased(table: str, home: Clinic) -> None:
    """Its rows can't be told, so it isn't done until the file is restored or removed."""
    folder = home.folder / "lake" / "clinic" / "tables" / table
    torn = folder / "part-of-a-killed-run.parquet"
    torn.write_bytes(next(folder.glob("*.parquet")).read_bytes()[:900])

    first = command("--key", f"patient={PATIENT}", "--yes")

    assert first.exit_code == 1
    assert f"tables/{table}/part-of-a-killed-run.parquet can't be read; restore it" in first.stdout
    assert "no such row is left; 1 of them can't be read, and may have such rows" in first.stdout

    torn.unlink()
    assert places(home.folder / "lake") == []
    assert command("--key", f"patient={PATIENT}", "--yes").exit_code == 0


@pytest.mark.full
@pytest.mark.parametrize("place", ["raw/objects/ab/abab#1", "tables/predictions/part.parquet#2"])
def test_what_a_killed_put_left_is_removed_or_named_while_it_is_new(place: str, home: Clinic) -> None:
    """No listing of the lake has such a file, and a part of an object can't be searched for rows."""
    left = home.folder / "lake" / "clinic" / place
    for written_at in (0, None):
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(f"visit,{PATIENT}".encode())
        if written_at is not None:
            os.utime(left, (written_at, written_at))

        result = command("--key", f"patient={PATIENT}", "--yes")

        assert result.exit_code == (written_at is None)
        assert left.exists() == (written_at is None)
        assert (f"{left} is of a put that was killed or still runs" in result.stdout) == left.exists()


@pytest.mark.full
def test_a_short_key_is_searched_in_rows_only_and_the_result_says_so(home: Clinic) -> None:
    """It would occur by chance in other bytes."""
    result = command("--key", "visit=d2v3", "--yes")
    assert result.exit_code == 0
    assert "bytes that aren't rows weren't searched for the key" in result.stdout
    assert not [row for row in home.lake.rows("validated_visits") if row["visit"] == "d2v3"]


def test_it_waits_for_a_backup(home: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that is being made would copy what is about to go."""
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    monkeypatch.setattr(backup_store, "WAIT", 0)
    with lock_store(open_store(), "shared"), pytest.raises(StoreUnavailable, match="no other process"):
        command("--key", f"patient={PATIENT}", "--yes")
    assert home.lake.version("erasures") == -1


@pytest.mark.parametrize("keys", [("patient",), ("patient=a", "patient=b")])
def test_a_key_is_a_column_and_a_value(keys: tuple[str, ...], home: Clinic) -> None:
    """Anything else is refused without repeating it."""
    with pytest.raises(SpecError, match="erase --key: expected column=value, each column once"):
        command(*(option for key in keys for option in ("--key", key)))
