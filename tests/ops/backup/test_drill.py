"""The drill: everything is destroyed and restored, and the next partition is as if nothing had been."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException
from typer.testing import CliRunner

from evergreen.operators.base import EvergreenOperator
from include.cli.app import app
from include.errors import BackupError, NotPublished, SettingError
from include.models.registry import Registry
from include.ops import backup as write
from include.ops import backup_store, doctor
from include.ops.backup import BackupResult, backup
from include.ops.restore import restore
from include.ops.verify import verify
from include.storage.lake import RESTORING, Lake
from tests.ops.backup.conftest import NEXT, NOW, Clinic, content, cut_short, flip
from tests.warm import stand_in

TABLES = ("partitions", "validated_visits", "validated_outcomes", "predictions", "findings", "drift")
KILLED = """
import os, signal
from datetime import UTC, datetime
from include.ops.backup import backup
from include.storage.lake import Lake

real, seen = Lake.create, []

def create(place, key, data):
    seen.append(key)
    if len(seen) == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(place, key, data)

Lake.create = create
lake = Lake("{name}", "{folder}/lake")
backup([lake], Lake("backups", "{safe}".removesuffix("/backups")), now=datetime.now(UTC), connect=None)
"""


KILLED_RESTORE = """
import os, signal
from include.ops.restore import restore
from include.storage.lake import Lake

real, written = Lake.create, []

def create(place, key, data):
    if not key.startswith("locks/"):
        written.append(key)
    if len(written) == {writes} + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(place, key, data)

def remove(place, keys):
    if place.name != "backups":
        os.kill(os.getpid(), signal.SIGKILL)

Lake.create, Lake.remove = create, remove
restore(Lake("backups", "{safe}".removesuffix("/backups")), "{backup}")
"""


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    """The place of the backups."""
    return Lake("backups", str(tmp_path / "safe"))


def copy(clinic: Clinic, store: Lake, after: int = 0) -> BackupResult:
    """Back up, some seconds later than the test's own now."""
    now = NOW + timedelta(seconds=after)
    return backup([clinic.lake], store, now=now, connect=clinic.connect)


def same_partition(one: Clinic, other: Clinic) -> bool:
    """Return whether two clinics' next partition has the same rows everywhere, and the same digests."""
    for clinic in (one, other):
        clinic.partition(NEXT)
    rows = [
        {name: sorted(map(repr, clinic.lake.rows(name, {"partition": NEXT}))) for name in TABLES}
        for clinic in (one, other)
    ]
    assert rows[0]["predictions"]
    return rows[0] == rows[1]


@pytest.mark.full
def test_after_a_disaster_all_is_as_it_was_and_the_next_partition_runs(
    home: Clinic, store: Lake, tmp_path: Path
) -> None:
    """Lake and MLflow are destroyed: rows, objects, verify, runs and the next partition are as before."""
    shutil.copytree(home.folder, tmp_path / "twin")
    twin = Clinic(home.spec, tmp_path / "twin")
    before, sound = content(home.lake), verify(home.lake, home.spec)
    assert (sound.differences, sound.models) == ((), 1)
    done = copy(home, store)
    assert done.failed == ()
    assert [output.partition(" (")[0] for output in done.missing] == [
        "airflow's database",
        "MLflow's artifacts",
    ]
    shutil.rmtree(home.folder / "lake")
    (home.folder / "mlflow.db").unlink()
    output = restore(store, done.name, dumps=tmp_path / "dumps")
    assert any("airflow's database" in line for line in output)
    shutil.copy(tmp_path / "dumps" / "mlflow.sqlite", home.folder / "mlflow.db")
    assert content(home.lake) == before
    assert verify(home.lake, home.spec) == sound
    (run,) = Registry(f"sqlite:///{home.folder}/mlflow.db").run_parameters(home.spec.name)
    assert run == {}
    assert same_partition(home, twin)


@pytest.mark.full
def test_what_could_be_read_of_the_past_can_be_read_afterwards(home: Clinic, store: Lake) -> None:
    """Each version of each table, which trainings refer to by number."""
    lake = home.lake
    then = {n: lake.read("validated_visits", version=n) for n in range(lake.version("validated_visits") + 1)}
    done = copy(home, store)
    shutil.rmtree(home.folder / "lake")
    restore(store, done.name)
    for number, rows in then.items():
        assert home.lake.read("validated_visits", version=number) == rows


@pytest.mark.full
def test_a_second_backup_copies_what_is_new(
    home: Clinic, store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing new copies and reads nothing; a partition more copies that partition.

    Each restores its own moment.
    """
    first = copy(home, store)
    assert first.copied == first.objects > 100
    read = Lake.get

    def not_of_the_lake(place: Lake, key: str) -> bytes | None:
        assert place.uri == store.uri, key
        return read(place, key)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "get", not_of_the_lake)
        assert copy(home, store, 1).copied == 0
    before = content(home.lake)
    home.partition(NEXT)
    third = copy(home, store, 2)
    assert 0 < third.copied < first.copied / 2
    for done, rows in ((first, before), (third, content(home.lake))):
        shutil.rmtree(home.folder / "lake")
        restore(store, done.name)
        assert content(home.lake) == rows


@pytest.mark.parametrize("damage", [flip, cut_short, Path.unlink])
def test_a_damaged_object_is_named_and_nothing_is_written(
    home: Clinic, store: Lake, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """A bit, the end or the whole of one file of the backup: restore names it, and the place stays empty."""
    done = copy(home, store)
    name, objects = home.spec.name, backup_store.load_manifest(store, done.name).objects
    victim = next(key for key in objects[name] if key.startswith("models/"))
    damage(tmp_path / "safe" / "backups" / backup_store.object_key(objects[name][victim][0]))
    shutil.rmtree(home.folder / "lake")
    with pytest.raises(BackupError, match=f"{name}/{victim}"):
        restore(store, done.name)
    assert home.lake.sizes_and_etags() == {}


def test_dumps_that_cannot_be_written_leave_no_restore_unfinished(
    home: Clinic, store: Lake, tmp_path: Path
) -> None:
    """A file in the folder's place is named before anything is restored; another folder then restores all."""
    done = copy(home, store)
    shutil.rmtree(home.folder / "lake")
    (tmp_path / "a file").write_text("")
    with pytest.raises(BackupError, match=r"--dumps: expected a folder .*a file.*; name another folder"):
        restore(store, done.name, dumps=tmp_path / "a file")
    assert home.lake.sizes_and_etags() == {}
    output = restore(store, done.name, dumps=tmp_path / "a folder")
    assert any(f"copy '{tmp_path}/a folder/mlflow.sqlite' over" in line for line in output)


def test_a_damaged_manifest_is_refused_and_another_one_named(
    home: Clinic, store: Lake, tmp_path: Path
) -> None:
    """A manifest that isn't what was written restores nothing, and is in the way of no other backup."""
    first, second = copy(home, store), copy(home, store, 1)
    flip(tmp_path / "safe" / "backups" / f"{second.name}.json")
    shutil.rmtree(home.folder / "lake")
    with pytest.raises(BackupError, match=f"found other bytes.*another one: {first.name}"):
        restore(store, second.name)
    assert home.lake.sizes_and_etags() == {}
    restore(store, first.name)
    assert copy(home, store, 2).copied == 0


def test_what_is_damaged_is_copied_anew_where_it_was_removed_or_cut_short(
    home: Clinic, store: Lake, tmp_path: Path
) -> None:
    """While the lake is there, the next backup mends the place."""
    first = copy(home, store)
    files = sorted((tmp_path / "safe" / "backups" / "objects").glob("*/*"))
    cut_short(files[0])
    files[1].unlink()
    copy(home, store, 1)
    before = content(home.lake)
    shutil.rmtree(home.folder / "lake")
    restore(store, first.name)
    assert content(home.lake) == before


@pytest.mark.full
def test_a_backup_that_was_killed_is_none_and_the_next_one_completes_it(home: Clinic, store: Lake) -> None:
    """Killed before its fortieth write, it isn't offered; the next one copies the rest."""
    killed = subprocess.run(
        [stand_in(), "-c", KILLED.format(folder=home.folder, name=home.spec.name, safe=store.uri)],
        cwd=Path(__file__).parents[3],
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    there = len(store.keys("objects"))
    assert there >= 20
    assert backup_store.backup_names(store) == []
    with pytest.raises(NotPublished, match="found none at all"):
        restore(store, "2024-04-03T000000Z")
    done = copy(home, store, 1)
    assert done.copied == done.objects - there
    shutil.rmtree(home.folder / "lake")
    restore(store, done.name)
    assert verify(home.lake, home.spec).differences == ()


@pytest.mark.full
@pytest.mark.parametrize("writes", [1, 100, pytest.param(10**6, id="all")])
def test_a_lake_whose_restore_was_killed_is_refused_until_it_is_restored_again(
    home: Clinic, store: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed after the mark, on the way and before its removal: all refuse, and the remedy works."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(home.folder / "usecases"))
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    before, done = content(home.lake), copy(home, store)
    shutil.rmtree(home.folder / "lake")
    program = KILLED_RESTORE.format(writes=writes, safe=store.uri, backup=done.name)
    killed = subprocess.run(
        [stand_in(), "-c", program], cwd=Path(__file__).parents[3], timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    files = {path for path in (home.folder / "lake").rglob("*") if path.is_file()}
    objects = backup_store.load_manifest(store, done.name).objects[home.spec.name]
    assert RESTORING not in objects
    assert (len(files) == len(objects) + 1) == (writes > len(objects))
    refusal = (
        f"expected a lake whose restore has ended, but found an unfinished restore of backup {done.name}"
    )
    for command in ("verify", "status", "backup", f"run score {home.spec.name} --partition {NEXT}"):
        output = CliRunner().invoke(app, command.split())
        assert isinstance(output.exception, BackupError), command
        assert refusal in str(output.exception), command
    with (
        pytest.raises(AirflowFailException, match=refusal),
        EvergreenOperator(task_id="any", usecase=home.spec.name).open_use_case() as (lake, _),
    ):
        lake.rows("partitions")
    check = doctor._probe("restores", doctor._restores, "")
    assert (check.ok, refusal in check.detail) == (False, True)
    with pytest.raises(BackupError, match="remove all objects at this address and restore again"):
        restore(store, done.name)
    assert {path for path in (home.folder / "lake").rglob("*") if path.is_file()} == files
    shutil.rmtree(home.folder / "lake")
    restore(store, done.name)
    assert content(home.lake) == before
    assert doctor._probe("restores", doctor._restores, "").ok


def test_a_place_where_something_is_stays_as_it_is(home: Clinic, store: Lake) -> None:
    """One object is enough for a refusal, and nothing is written or replaced."""
    done = copy(home, store)
    before = content(home.lake)
    with pytest.raises(BackupError, match=r"expected an empty address to restore to, but found .* objects"):
        restore(store, done.name)
    assert content(home.lake) == before
    shutil.rmtree(home.folder / "lake")
    home.lake.replace("state/breaker", b"1")
    with pytest.raises(BackupError, match="found 1 objects, such as state/breaker"):
        restore(store, done.name)
    assert home.lake.keys("") == ["state/breaker"]


@pytest.mark.full
def test_one_use_case_is_restored_beside_live_artifacts(home: Clinic, store: Lake) -> None:
    """They belong to all use cases. A whole restore refuses them, and names the setting to change."""
    artifacts = str(home.folder / "artifacts")
    result = backup([home.lake], store, now=NOW, connect=home.connect, artifacts=artifacts)
    before = content(home.lake)
    shutil.rmtree(home.folder / "lake")
    with pytest.raises(BackupError, match="set EVERGREEN_MLFLOW_ARTIFACTS to another address"):
        restore(store, result.name, artifacts=artifacts)
    restore(store, result.name, home.spec.name, artifacts=artifacts)
    assert content(home.lake) == before


@pytest.mark.parametrize("address", ["s3://mlflow", "s3://mlflow/", "gs://mlflow"])
def test_a_bucket_without_a_folder_holds_no_artifacts(address: str) -> None:
    """It would be read as a folder of this machine, which is empty."""
    with pytest.raises(SettingError, match=f"a folder of a bucket, such as .*, but found {address}"):
        write.open_address(address)


@pytest.mark.full
@pytest.mark.parametrize("moment", ["objects_of_versions", "_copy_objects"])
def test_a_partition_that_comes_while_backing_up_is_in_it_whole_or_not(
    home: Clinic, store: Lake, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the files are listed or copied: what is restored verifies, has none of its rows, and runs it."""
    real = getattr(write, moment)

    def with_a_partition(*args: object) -> object:
        home.partition(NEXT)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(write, moment, with_a_partition)
        done = copy(home, store)
    shutil.rmtree(home.folder / "lake")
    restore(store, done.name)
    assert verify(home.lake, home.spec).differences == ()
    assert not any(home.lake.rows(name, {"partition": NEXT}) for name in TABLES)
    home.partition(NEXT)
    assert verify(home.lake, home.spec).differences == ()


@pytest.mark.parametrize("place", ["lake", "lake/safe", "lake/clinic/safe", "."])
def test_the_backup_lies_outside_the_lake(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What destroys the one must leave the other, by whatever name it is called."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path)
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    for to in (tmp_path / place, tmp_path / "alias" / place):
        monkeypatch.setenv("EVERGREEN_BACKUP", str(to))
        with pytest.raises(BackupError, match="expected an address outside the lake"):
            backup_store.open_store()
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "lakeside"))
    assert backup_store.open_store().uri.endswith("/lakeside/backups")


def test_a_person_backs_up_looks_and_restores(
    home: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/how-to/back-up-and-restore.md, one after the other."""

    def call(*words: str) -> tuple[int, dict[str, object]]:
        done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
        return done.exit_code, json.loads(done.stdout)

    monkeypatch.setenv("EVERGREEN_USECASES", str(home.folder / "usecases"))
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    monkeypatch.setenv("EVERGREEN_MLFLOW_ARTIFACTS", str(home.folder / "artifacts"))
    args = {"conn_type": "generic", "host": f"sqlite:///{home.folder}/mlflow.db"}
    monkeypatch.setenv("AIRFLOW_CONN_EVERGREEN_MLFLOW_DB", json.dumps(args))
    before = content(home.lake)
    code, output = call("backup")
    name = str(output["name"])
    assert (code, output["failed"]) == (0, [])
    assert call("restore", name, "--verify-only")[0] == 0
    for folder in ("lake", "artifacts"):
        shutil.rmtree(home.folder / folder)
    code, output = call("restore", name, "--dumps", str(tmp_path / "dumps"))
    assert code == 0
    assert content(home.lake) == before
    assert [file.suffix for file in (home.folder / "artifacts").rglob("*") if file.is_file()] == [".skops"]
    with sqlite3.connect(tmp_path / "dumps" / "mlflow.sqlite") as rows:
        assert rows.execute("SELECT COUNT(*) FROM runs").fetchall() == [(1,)]
    assert (tmp_path / "dumps" / "mlflow.sqlite").stat().st_mode & 0o077 == 0
    assert call("verify", home.spec.name)[0] == 0
