"""Small files are compacted and old ones go, and no row, digest or referred version is touched."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from include.errors import EvergreenError
from include.models import artifacts
from include.models.registry import Registry
from include.ops.upkeep import maintain_tables, referenced_versions, remove_models, vacuum
from include.references import digest_json
from include.storage import compaction, schemas
from include.storage.compaction import compact
from include.storage.lake import Lake
from include.train.walks import extend
from tests.evaluate.conftest import Clinic
from tests.train import visits


def content(lake: Lake) -> dict[str, str]:
    """Return a digest of each table's rows."""
    return {name: digest_json(sorted(map(repr, lake.rows(name)))) for name in lake.tables()}


def files(lake: Lake) -> dict[str, int]:
    """Return the number of files that each table is read from."""
    return {name: len(DeltaTable(f"{lake.uri}/tables/{name}").file_uris()) for name in lake.tables()}


def parquet(lake: Lake) -> set[str]:
    """Return every data file that is there, read or not."""
    return {key for key in lake.keys("tables") if key.endswith(".parquet") and "/_delta_log/" not in key}


def lived(clinic: Clinic) -> None:
    """Publish partitions one by one, as partitions are, where the history was loaded at once."""
    rows = clinic.lake.read("validated_visits")
    assert rows is not None
    partitions = sorted(set(rows["partition"].to_pylist()))[-8:]
    clinic.lake.publish("validated_visits", rows.slice(0, 0), {"partition": partitions})
    for partition in partitions:
        clinic.lake.publish(
            "validated_visits", rows.filter(pc.equal(rows["partition"], partition)), {"partition": partition}
        )


def test_the_rows_are_the_same_in_fewer_files(clinic: Clinic) -> None:
    """Each table has the rows that it had; done again there is nothing to do."""
    lived(clinic)
    before, many = content(clinic.lake), files(clinic.lake)
    assert max(many.values()) > 5
    ref = maintain_tables(clinic.lake, clinic.registry)
    assert ref.rows > 5
    assert content(clinic.lake) == before
    few = files(clinic.lake)
    assert few["validated_visits"] == 1
    assert maintain_tables(clinic.lake, clinic.registry).rows == 0


def test_what_was_just_replaced_stays(clinic: Clinic) -> None:
    """A reader that began before, and a restore, find each file for the days that are declared."""
    lived(clinic)
    before = parquet(clinic.lake)
    maintain_tables(clinic.lake, clinic.registry)
    assert before < parquet(clinic.lake)


def test_versions_that_a_training_was_fitted_on_stay(clinic: Clinic) -> None:
    """Of a source's table the version in the run's parameters can still be read, one between can't."""
    (version,) = referenced_versions(clinic.registry, clinic.spec.name)["validated_visits"]
    then = clinic.lake.read("validated_visits", version=version)
    assert then is not None
    lived(clinic)
    maintain_tables(clinic.lake, clinic.registry, retention_days=0)
    kept = clinic.lake.read("validated_visits", version=version)
    assert kept is not None
    assert sorted(map(repr, kept.to_pylist())) == sorted(map(repr, then.to_pylist()))
    folder = Path(f"{clinic.lake.uri.removeprefix('file://')}/tables/validated_visits")
    between = DeltaTable(str(folder), version=version + 1).file_uris()
    assert not all(Path(uri.removeprefix("file://")).exists() for uri in between)
    assert vacuum(clinic.lake, "validated_visits", 0) > 0  # unless it is asked to keep them


def test_nothing_is_removed_while_the_registry_is_down(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its trainings refer to isn't known then; files are compacted all the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lived(clinic)
    before = parquet(clinic.lake)
    with pytest.raises(EvergreenError, match="registry"):
        maintain_tables(clinic.lake, Registry("http://127.0.0.1:9"), retention_days=0)
    assert before < parquet(clinic.lake)


def test_what_a_killed_put_left_goes_after_its_days(clinic: Clinic, tmp_path: Path) -> None:
    """No listing of the lake has such a file, in which a killed writer left a part of an object."""
    lake = Lake(clinic.spec.name, str(tmp_path / "folder"))
    lake.create("state/breaker", b"whole")
    old, new = (tmp_path / "folder" / clinic.spec.name / "state" / f"breaker#{n}" for n in (1, 2))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    maintain_tables(lake, clinic.registry)
    assert (old.exists(), new.exists(), lake.get("state/breaker")) == (False, True, b"whole")


def test_an_empty_lake_has_nothing_to_tidy(clinic: Clinic, tmp_path: Path) -> None:
    """Before the first partition there is no table, and that is no error."""
    ref = maintain_tables(Lake(clinic.spec.name, str(tmp_path / "none")), clinic.registry)
    assert ref.rows == 0


def _publish(uri: str, partition: str, value: int) -> None:
    rows = pa.table({"partition": [partition] * 3, "value": pa.array([value] * 3, pa.int64())})
    Lake("usecase", uri).publish("t", rows, {"partition": partition})


def _compact(uri: str) -> None:
    compact(Lake("usecase", uri), "t")


@pytest.mark.full
def test_partitions_that_are_published_meanwhile_lose_nothing(tmp_path: Path) -> None:
    """Partitions are written and rewritten while their files are compacted again and again."""
    partitions = [f"2024-01-{day:02}" for day in range(1, 9)]
    for partition in partitions:
        _publish(str(tmp_path), partition, 0)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        jobs = [
            pool.submit(_publish, str(tmp_path), partition, v) for v in (1, 2) for partition in partitions
        ]
        jobs += [pool.submit(_compact, str(tmp_path)) for _ in range(8)]
        for job in jobs:
            job.result(120)
    found: dict[str, list[int]] = {}
    for row in Lake("usecase", str(tmp_path)).rows("t"):
        found.setdefault(row["partition"], []).append(row["value"])
    assert sorted(found) == partitions
    assert all(len(values) == 3 and len(set(values)) == 1 for values in found.values())


def test_two_compactions_at_once_double_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that began on what another has replaced meanwhile begins again, whoever wrote between them."""
    for day in range(1, 7):  # fewer than are merged as they are written
        _publish(str(tmp_path), f"2024-01-{day:02}", day)
    lake, rest = Lake("usecase", str(tmp_path)), compaction.write_deltalake
    before, began = sorted(map(repr, lake.rows("t"))), []

    def slow(*given: Any, **how: Any) -> None:
        if not began:
            began.append(True)
            monkeypatch.setattr(compaction, "write_deltalake", rest)
            assert compact(Lake("usecase", str(tmp_path)), "t") == (6, 1)
            _publish(str(tmp_path), "2024-01-09", 9)
        rest(*given, **how)

    monkeypatch.setattr(compaction, "write_deltalake", slow)
    compact(lake, "t")
    after = sorted(map(repr, (row for row in lake.rows("t") if row["value"] < 9)))
    assert (began, after) == ([True], before)
    assert lake.count("t") == 21


def test_a_partition_that_is_written_while_it_is_laid_together_stays_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it before is not written over it."""
    for day in range(1, 5):
        _publish(str(tmp_path), f"2024-01-{day:02}", day)
    lake, rest = Lake("usecase", str(tmp_path)), compaction.write_deltalake

    def late(*given: Any, **how: Any) -> None:
        monkeypatch.setattr(compaction, "write_deltalake", rest)
        _publish(str(tmp_path), "2024-01-02", 77)
        rest(*given, **how)

    monkeypatch.setattr(compaction, "write_deltalake", late)
    compact(lake, "t")
    assert {row["value"] for row in lake.rows("t", {"partition": "2024-01-02"})} == {77}
    assert lake.count("t") == 12


def test_a_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    """It is appended to against a version, and has a file a decision, which is few."""
    lake = Lake("usecase", str(tmp_path))
    for table in ("attempts", "others"):
        for partition in ("2024-01-01", "2024-01-02"):
            lake.append_at(table, pa.table({"partition": [partition]}), lake.version(table))
    assert compact(lake, "others") == (2, 1)
    assert compact(lake, "attempts") == (0, 0)


@pytest.mark.full
def test_nothing_is_removed_by_a_registry_of_another_lake(clinic: Clinic, tmp_path: Path) -> None:
    """One that answers, and knows none of the trainings that the lake has verdicts of."""
    clinic.lake.append_at("attempts", pa.table({"key": ["k"]}), -1)
    with pytest.raises(EvergreenError, match=r"upkeep: expected the runs.*nothing was removed"):
        maintain_tables(clinic.lake, Registry(f"sqlite:///{tmp_path}/other.db"), retention_days=0)


def _planted(clinic: Clinic) -> dict[int, str]:
    """Plant fits of one recipe so many partitions before the training; return their models."""
    lake, spec = clinic.lake, clinic.spec
    fit = lake.rows("fits", {"partition": visits.LAST})[0]
    models = {}
    for before in (300, 200, 100, 90):
        models[before] = artifacts.store_model(lake, f"fit {before}".encode())
        partition = spec.clock.shift(visits.LAST, -before)
        row = {**fit, "partition": partition, "model": models[before]}
        lake.publish("fits", pa.Table.from_pylist([row], schemas.FITS), {"partition": partition})
    return models


def test_models_that_nothing_needs_are_removed_and_no_others(clinic: Clinic) -> None:
    """A fit's model stays while a walk may need it, and for good if a ledger names it; its row stays."""
    lake, models = clinic.lake, _planted(clinic)
    switch = dict.fromkeys(schemas.SWITCHES.names) | {
        "switch": 1,
        "role": "champion",
        "model": models[300],
    }
    lake.append_at("switches", pa.Table.from_pylist([switch], schemas.SWITCHES), -1)
    before, fits = set(lake.keys("models")), lake.rows("fits")
    assert remove_models(lake, clinic.spec) == 0  # they were stored just now
    assert remove_models(lake, clinic.spec, retention_days=0) == 2
    # the last fit before the first partition that may be predicted again has predicted it
    removed = {artifacts.model_key(models[ago]) for ago in (200, 100)}
    assert before - set(lake.keys("models")) == removed
    assert remove_models(lake, clinic.spec, retention_days=0) == 0
    assert sorted(map(repr, lake.rows("fits"))) == sorted(map(repr, fits))


def test_a_walk_goes_on_without_the_models_that_were_removed(clinic: Clinic) -> None:
    """Rows of a removed model stay as they are, and other recipes' rows are made again, as often as asked."""
    lake, spec = clinic.lake, clinic.spec
    walk = lake.read("walks")
    assert walk is not None
    rows = walk.to_pylist()
    partition = max(row["partition"] for row in rows)
    first, second, *_ = sorted({row["recipe_key"] for row in rows if row["partition"] == partition})
    (model,) = {row["model"] for row in rows if (row["partition"], row["recipe_key"]) == (partition, first)}
    lake.remove([artifacts.model_key(model)])
    own = pc.equal(walk["partition"], partition)
    left = walk.filter(pc.and_(own, pc.invert(pc.equal(walk["recipe_key"], second))))
    lake.publish("walks", left, {"partition": partition})
    for _ in range(2):
        extend(lake, spec, visits.LAST)
    assert sorted(map(repr, lake.rows("walks"))) == sorted(map(repr, rows))


def test_what_a_killed_writer_left_goes_after_its_days(tmp_path: Path) -> None:
    """A file that no commit names is removed once it is old, and not before: its writer may be at work."""
    lake = Lake("usecase", str(tmp_path))
    _publish(str(tmp_path), "2024-01-01", 1)
    left = Path(lake.uri.removeprefix("file://")) / "tables" / "t" / "part-left.parquet"
    left.write_bytes(b"half")
    assert vacuum(lake, "t", 30) == 0
    os.utime(left, (0, 0))
    assert vacuum(lake, "t", 30) == 1
    assert len(lake.rows("t")) == 3
