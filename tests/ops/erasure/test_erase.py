"""A person's rows go from everything that is stored, and nobody else's do."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.errors import NotPublished, SettingError, SpecError
from include.ingest import erasure, pipeline
from include.ingest.pipeline import ingest
from include.monitor.pipeline import monitor
from include.ops.backup import backup
from include.ops.erase import ErasureResult, erase, plan_erasure
from include.ops.prune import prune
from include.ops.upkeep import vacuum
from include.ops.verify import verify
from include.ops.withdrawal import withdraw
from include.score import pipeline as scoring
from include.score.pipeline import score
from include.storage.compaction import compact
from include.storage.lake import Lake
from include.storage.windows import window_start
from include.train.monitoring_baselines import REFERENCE
from tests.faults import clocks
from tests.ops.erasure.conftest import (
    FIRST,
    HASH_KEY,
    LAST,
    NEXT,
    NOW,
    PATIENT,
    SERVED,
    SPEC,
    Clinic,
    declare,
    visits,
    write_files,
)

NEW = ("note", "inputs")  # which a rerun of scoring records, as of now
WHO = ("anna", "she asked for it")


def erased(clinic: Clinic, lake: Lake | None = None, **values: str) -> ErasureResult:
    """Erase a person's rows, by default the patient's."""
    lake = lake or clinic.lake
    plan = plan_erasure(lake, clinic.spec, values or {"patient": PATIENT})
    return erase(lake, clinic.spec, plan, *WHO, now=NOW)


def contents(data: bytes) -> Iterator[bytes]:
    """Yield bytes as they are, unpacked, and the texts of a Parquet file."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield zlib.decompressobj(wbits=31).decompress(data)
    if data[:4] == b"PAR1":
        yield json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str).encode()


def places(folder: Path, text: str = PATIENT) -> list[str]:
    """Return the files below a folder that have a text anywhere."""
    return [
        str(file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and any(text.encode() in part for part in contents(file.read_bytes()))
    ]


def keys_with(lake: Lake, text: str = PATIENT) -> list[str]:
    """Return the objects of a lake on any store that have a text anywhere."""
    return [k for k in lake.keys("") if any(text.encode() in part for part in contents(lake.get(k) or b""))]


def rows_of(lake: Lake, table: str) -> list[dict[str, Any]]:
    """Return a table's rows in an order of their own, without their numbers in a file."""
    rows = [{name: value for name, value in row.items() if name != "row"} for row in lake.rows(table)]
    return sorted(rows, key=repr)


def visits_of(patient: str = PATIENT) -> set[str]:
    """Return a patient's visits."""
    lines = [line for day in range(1, 19) for line in visits(day)[1:]]
    return {line.split(",")[0] for line in lines if line.split(",")[1] == patient}


@pytest.fixture(scope="module")
def after(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ErasureResult]:
    """A folder with the clinic once the patient's rows are erased, which no test changes, and the result."""
    folder = shutil.copytree(lived, tmp_path_factory.mktemp("after") / "clinic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HASH_KEY", HASH_KEY)
        return folder, erased(Clinic(folder))


@pytest.fixture
def spared(after: tuple[Path, ErasureResult], tmp_path: Path) -> Clinic:
    """That state, copied."""
    return Clinic(shutil.copytree(after[0], tmp_path / "clinic"))


@pytest.mark.full
def test_no_byte_of_the_person_is_left_and_everybody_else_stays(
    lived: Path, after: tuple[Path, ErasureResult]
) -> None:
    """Raw files, tables, quarantine, predictions, labels and files of earlier versions; the rest is equal."""
    own = visits_of()
    tables = ("validated_visits", "validated_calls", "validated_outcomes", "quarantine", "predictions")
    before = {table: rows_of(Clinic(lived).lake, table) for table in tables}
    assert len(places(lived / "lake")) > 20
    clinic, result = Clinic(after[0]), after[1]

    assert places(clinic.folder / "lake") == []
    assert not result.remaining
    for table in tables:
        others = [
            row
            for row in before[table]
            if PATIENT not in str(row) and (table == "validated_calls" or row.get("visit") not in own)
        ]
        assert len(others) < len(before[table]), table
        assert rows_of(clinic.lake, table) == others, table


@pytest.mark.full
def test_verify_is_green_and_names_what_it_cannot_recompute(spared: Clinic) -> None:
    """Nothing differs from its record, and no partition is stale."""
    result = verify(spared.lake, spared.spec)

    assert (result.differences, result.stale) == ((), ())
    assert [line.partition(";")[0] for line in result.erased] == [
        f"clinic/predictions/{partition} was computed before rows of visits, calls, outcomes were erased"
        for partition in SERVED
    ]


@pytest.mark.full
def test_a_rerun_and_a_new_fetch_bring_no_row_back(spared: Clinic) -> None:
    """The source still delivers the rows: no revision is added, and tables, digests and profiles stay."""
    clinic = spared
    state = clocks.state(clinic.lake, NEW)

    for partition in SERVED:
        clinic.ingest(partition)
        score(clinic.lake, clinic.spec, partition)
    monitor(clinic.lake, clinic.spec, SERVED[-1])
    assert clocks.state(clinic.lake, NEW) == state
    outcomes = clinic.ingest(*SERVED, refetch=True)

    assert {outcome.outcome for outcome in outcomes} == {"published"}
    assert clocks.state(clinic.lake, NEW) == state


def test_new_code_validates_what_is_left_and_refuses_nothing(
    spared: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that the contract accepted has a row too few now; it stays, with the others' rows."""
    clinic = spared
    tables = ("validated_visits", "validated_calls", "validated_outcomes", "quarantine", "profiles")
    before = {table: rows_of(clinic.lake, table) for table in tables}
    monkeypatch.setenv("EVERGREEN_CODE", "another")

    outcomes = clinic.ingest(*clinic.spec.clock.keys(FIRST, SERVED[-1]))

    assert {outcome.outcome for outcome in outcomes} == {"published"}
    assert min(outcome.rows for outcome in outcomes if outcome.product == "visits") == 11
    assert {table: rows_of(clinic.lake, table) for table in tables} == before
    assert verify(clinic.lake, clinic.spec).differences == ()


def test_later_rows_of_the_person_are_left_out_as_they_come(spared: Clinic) -> None:
    """A partition that is ingested afterwards has neither rows nor predictions of the person."""
    spared.run(NEXT)

    assert places(spared.folder / "lake") == []
    assert len(spared.lake.rows("predictions", {"partition": NEXT})) == 12


@pytest.mark.parametrize(
    "changes",
    [
        [("  visits:\n", "  appointments:\n"), ("spine: visits", "spine: appointments")],
        pytest.param([("  calls:\n", "  phone:\n")], marks=pytest.mark.full),
    ],
    ids=["spine", "calls"],
)
def test_rows_stay_away_from_a_source_that_is_declared_later(
    changes: list[tuple[str, str]], spared: Clinic
) -> None:
    """A source under another name delivers all its rows anew: the person's are left out, of every table."""
    declare(spared.folder, changes)
    clinic = Clinic(spared.folder)

    clinic.ingest(*clinic.spec.clock.keys(FIRST, LAST))
    clinic.run(NEXT)

    assert places(clinic.folder / "lake") == []
    new = next(source for source in clinic.spec.sources if source in ("appointments", "phone"))
    assert clinic.lake.count(f"validated_{new}", {"partition": NEXT}) == {"appointments": 12, "phone": 4}[new]
    assert len(clinic.lake.rows("predictions", {"partition": NEXT})) == 12


def test_the_ledger_has_who_when_why_and_how_many_and_not_the_key(spared: Clinic) -> None:
    """Its hash is of this installation, and says nothing to who doesn't have the setting."""
    (row,) = spared.lake.rows("erasures")

    assert (row["by"], row["reason"], row["at"], row["columns"]) == (*WHO, NOW, '["patient"]')
    assert json.loads(row["contents"])["predictions"] == {"2024-03-16": 1}
    assert PATIENT not in str(row)


def test_upkeep_goes_on_without_the_files_that_were_removed(spared: Clinic) -> None:
    """Versions that a training refers to are kept as far as they still exist, and tables are compacted."""
    clinic, lake = spared, spared.lake
    for table in ("validated_visits", "predictions", "profiles"):
        compact(lake, table)
        vacuum(lake, table, 0, range(3))
    assert places(clinic.folder / "lake") == []
    assert verify(clinic.lake, clinic.spec).differences == ()
    clinic.run(NEXT)


@pytest.mark.full
def test_erased_again_it_is_recorded_once_and_nothing_changes(
    after: tuple[Path, ErasureResult], spared: Clinic
) -> None:
    """A second command finds nothing, and proves it once more."""
    first, state = after[1], clocks.state(spared.lake)

    second = erased(spared)

    assert clocks.state(spared.lake) == state
    assert (second.contents, second.by, second.remaining) == (first.contents, first.by, ())


def test_models_that_were_fitted_on_the_rows_are_listed(clinic: Clinic) -> None:
    """With version, training, and whether it serves; of a patient who only phones there is none."""
    plan = plan_erasure(clinic.lake, clinic.spec, {"patient": PATIENT})
    (model,) = plan.models
    assert (model.version, model.partition, model.serves) == ("1", "2024-03-14", True)
    assert "fitted on these rows: v1" in "\n".join(plan.lines)
    assert plan_erasure(clinic.lake, clinic.spec, {"call": "c3-1"}).models == ()


def test_models_whose_features_join_the_rows_are_listed(clinic: Clinic) -> None:
    """A call of the partition before the training's window is joined by the lookback; one before isn't."""
    join = ("FROM spine", "FROM spine LEFT JOIN known_calls USING (patient)")
    declare(clinic.folder, [join, ("  test: 4\n", "  test: 4\n  window: 6\n")])
    joined = Clinic(clinic.folder)
    day = int(window_start(joined.lake, joined.spec, LAST)[-2:])
    listed = {
        ago: [m.version for m in plan_erasure(joined.lake, joined.spec, {"call": f"c{day - ago}-1"}).models]
        for ago in (0, 1, 2)
    }
    assert listed == {0: ["1"], 1: ["1"], 2: []}


@pytest.mark.full
def test_several_columns_must_all_hold(clinic: Clinic) -> None:
    """One visit goes, and the patient's others stay; a number is compared as a number."""
    before = rows_of(clinic.lake, "validated_visits")

    erased(clinic, patient=PATIENT, minute=" 017.0")

    gone = [row for row in before if row not in rows_of(clinic.lake, "validated_visits")]
    assert [(row["patient"], row["minute"], row["visit"]) for row in gone] == [(PATIENT, 17, "d2v3")]
    assert len(clinic.lake.rows("validated_outcomes", {"partition": "2024-03-03"})) == 12


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nobody": "1"}, r"erase --key nobody=….*expected columns of one source"),
        ({"call": "1", "visit": "2"}, r"expected columns of one source"),
        ({"patient": " "}, r"found an empty value"),
    ],
)
def test_a_key_that_no_source_has_is_refused(values: dict[str, str], message: str, clinic: Clinic) -> None:
    """The message names the columns of each source."""
    with pytest.raises(SpecError, match=message + r".*visits: visit, patient, minute"):
        plan_erasure(clinic.lake, clinic.spec, values)


@pytest.mark.parametrize("name", ["", "  phone:\n"], ids=["removed", "renamed"])
def test_a_source_that_is_stored_must_be_declared(name: str, clinic: Clinic) -> None:
    """The rows of one that was removed or renamed can't be told, and aren't passed over in silence."""
    head, body = SPEC[SPEC.index("  calls:\n") : SPEC.index("  outcomes:\n")].split("\n", 1)
    declare(clinic.folder, [(f"{head}\n{body}", f"{name}{body}" if name else "")])

    with pytest.raises(SpecError, match=r"a declaration of each source .* found none of calls .*declare it"):
        erased(Clinic(clinic.folder))
    assert clinic.lake.version("erasures") == -1

    declare(clinic.folder)
    erased(clinic)
    assert places(clinic.folder / "lake") == []


def test_a_key_that_nobody_has_is_refused_and_not_recorded(clinic: Clinic) -> None:
    """The message doesn't repeat it."""
    with pytest.raises(NotPublished, match="found none") as caught:
        erased(clinic, patient="patient-9999")
    assert "9999" not in str(caught.value)
    assert clinic.lake.version("erasures") == -1


def test_another_hash_key_is_refused_before_rows_come_back(
    spared: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another key no row would be recognized, so nothing is ingested."""
    clinic = spared
    monkeypatch.setenv("EVERGREEN_HASH_KEY", "another")
    with pytest.raises(
        SettingError, match="EVERGREEN_HASH_KEY: expected the key that was set when rows were erased"
    ):
        clinic.ingest(NEXT)
    monkeypatch.setenv("EVERGREEN_HASH_KEY", "")
    with pytest.raises(SettingError, match="expected a long random text, but found an empty one"):
        clinic.ingest(NEXT)
    monkeypatch.delenv("EVERGREEN_HASH_KEY")
    with pytest.raises(SettingError, match="EVERGREEN_HASH_KEY"):
        clinic.ingest(NEXT)
    assert clinic.lake.keys(f"raw/snapshots/visits/{NEXT}") == []


@pytest.fixture(scope="module")
def named(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clinic whose model has the patients as categories, which no test changes."""
    folder = tmp_path_factory.mktemp("named")
    declare(folder, [("distance, place FROM", "distance, patient AS place FROM")])
    shutil.copytree(lived / "files", folder / "files")
    clinic = Clinic(folder)
    clinic.ingest(*clinic.spec.clock.keys(FIRST, LAST))
    clinic.learn()
    for partition in SERVED:
        clinic.run(partition)
    return folder


@pytest.mark.full
@pytest.mark.parametrize("key", ["south", PATIENT])
def test_limits_and_profiles_list_the_key_no_more(
    key: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A short key is a category of its own column, a long one of any; the others keep bins and counts."""
    folder = request.getfixturevalue("named" if key == PATIENT else "lived")
    clinic = Clinic(shutil.copytree(folder, tmp_path / "clinic"))
    before = bins(clinic)
    assert key in before

    erased(clinic, **{"patient" if key == PATIENT else "place": key})

    del before[key]
    assert bins(clinic) == before
    reference = clinic.lake.rows("profiles", {"product": REFERENCE})
    assert not [row for row in reference if key.encode() in (row["items"] or b"")]
    result = verify(clinic.lake, clinic.spec)
    assert (result.differences, result.stale) == ((), ())


def bins(clinic: Clinic) -> dict[str, list[int]]:
    """Return the counts by partition of each category in the limits of `place`, and of the rest."""
    (row,) = clinic.lake.rows("limits", {"column": "place"})
    names = [*json.loads(row["binning"])["names"], "the rest"]
    return dict(zip(names, map(list, zip(*json.loads(row["counts"]), strict=True)), strict=True))


@pytest.mark.full
def test_nobody_is_told_to_remove_a_file_of_a_table(clinic: Clinic) -> None:
    """A reason that quotes the key stays in the ledger; without its file, the table couldn't be read."""
    plan = plan_erasure(clinic.lake, clinic.spec, {"patient": PATIENT})
    result = erase(clinic.lake, clinic.spec, plan, "anna", f"asked for by {PATIENT}", now=NOW)

    assert len(result.remaining) == 2  # the row, and what the table's log says of it
    for line in result.remaining:
        assert "tables/erasures/" in line
        assert "don't remove a table's file" in line
        assert "by hand" not in line


@pytest.mark.full
def test_what_cannot_be_rewritten_is_named(named: Path, tmp_path: Path) -> None:
    """A model that knows the patient as a category, a page and a note: it isn't done, and each is named."""
    clinic = Clinic(shutil.copytree(named, tmp_path / "copy"))
    (digest,) = {row["model"] for row in clinic.lake.rows("switches")}
    clinic.lake.create("reports/page.html", f"<p>{PATIENT}</p>".encode())
    clinic.lake.create("reports/other.html", f"<p>{PATIENT}1</p>".encode())

    result = erased(clinic)

    remaining = [re.findall(r"clinic/(\S+);", line)[0] for line in result.remaining]
    assert remaining == [f"models/{digest}.skops", "reports/page.html"]
    assert "train, let the new model serve" in result.remaining[0]
    rest = [place for place in places(clinic.folder / "lake") if "reports" not in place]
    assert rest == [f"clinic/models/{digest}.skops"]


@pytest.mark.full
def test_a_part_that_cannot_be_read_is_emptied_if_it_has_the_key(clinic: Clinic) -> None:
    """A file that is cut off in its compression was refused; it may hold the person all the same."""
    text = ("visit,Patient,minute,distance,place\n" + f"x,{PATIENT},1,2,north\n" * 2000).encode()
    file = clinic.folder / "files" / "visits" / f"{NEXT}.csv"
    file.write_bytes(gzip.compress(text + os.urandom(4000).hex().encode())[:-900])
    clinic.ingest(NEXT)
    assert places(clinic.folder / "lake" / "clinic" / "raw" / "objects")

    erased(clinic)

    assert places(clinic.folder / "lake") == []
    assert verify(clinic.lake, clinic.spec).differences == ()


@pytest.mark.full
def test_features_that_fail_stop_an_erasure_only_after_the_rows_are_gone(clinic: Clinic) -> None:
    """The error has the cause; repeated with the SQL corrected, everything is described and proven."""
    declare(clinic.folder, [("SELECT visit", "SELECT nothing, visit")])
    broken = Clinic(clinic.folder)
    with pytest.raises(SpecError, match=r"whose rows are removed.*nothing.*then repeat the erasure"):
        erased(broken)
    assert places(clinic.folder / "lake") == []

    declare(clinic.folder)
    assert erased(clinic).remaining == ()
    result = verify(clinic.lake, clinic.spec)
    assert (result.differences, result.stale) == ((), ())


@pytest.mark.full
def test_a_withdrawn_partitions_copies_are_rewritten(clinic: Clinic) -> None:
    """Its rows were laid aside, and are searched and erased there too; others stay in the copy."""
    early = datetime(2024, 3, 16, 8, tzinfo=UTC)
    withdraw(clinic.lake, clinic.spec, "2024-03-16", *WHO, now=early)
    assert [place for place in places(clinic.folder / "lake") if "/withdrawn/" in place]

    erased(clinic)

    assert places(clinic.folder / "lake") == []
    copy = next(key for key in clinic.lake.keys("withdrawn/2024-03-16") if "/predictions-" in key)
    assert pq.read_table(io.BytesIO(clinic.lake.get(copy) or b"")).num_rows == 11


@pytest.mark.full
def test_the_next_backup_has_no_row_of_the_person(clinic: Clinic) -> None:
    """Once the earlier backups are pruned, no object of the store has the key in any byte."""
    store = Lake("backups", str(clinic.folder / "safe"))
    backup([clinic.lake], store, now=NOW, connect=clinic.connect)
    assert places(clinic.folder / "safe")
    erased(clinic)

    backup([clinic.lake], store, now=NOW + timedelta(days=7), connect=clinic.connect)
    prune(store, 1)

    assert places(clinic.folder / "safe") == []


@pytest.mark.full
def test_rows_that_a_running_task_stores_meanwhile_are_erased_by_it(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ingest and a scoring that read the ledger before the erasure end without the person's rows."""
    real_store, real_commit = pipeline.store_snapshot, scoring._commit_first

    def store(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(pipeline, "store_snapshot", real_store)
        erased(clinic)
        return real_store(*args, **options)

    monkeypatch.setattr(pipeline, "store_snapshot", store)
    clinic.ingest(NEXT)
    assert [row["patient"] for row in clinic.lake.rows("validated_visits", {"partition": NEXT})].count(
        PATIENT
    ) == 0
    assert places(clinic.folder / "lake" / "clinic" / "raw") == []
    assert verify(clinic.lake, clinic.spec, NEXT).differences == ()

    def commit(*args: Any) -> Any:
        erased(clinic, patient="patient-0011")
        return real_commit(*args)

    monkeypatch.setattr(scoring, "_commit_first", commit)
    score(clinic.lake, clinic.spec, NEXT)
    served = {row["visit"] for row in clinic.lake.rows("predictions", {"partition": NEXT})}
    assert served == {f"d18v{i}" for i in range(13)} - {"d18v3", "d18v5"}
    assert verify(clinic.lake, clinic.spec, NEXT).differences == ()

    erased(clinic)  # the files that were replaced meanwhile
    assert places(clinic.folder / "lake") == []
    assert visits_of("patient-0011")


@pytest.mark.full
def test_a_revision_that_is_published_while_its_partition_is_described_stays(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refetch brings a corrected file just then: what it records isn't replaced by the revision before."""
    file = clinic.folder / "files" / "visits" / "2024-03-10.csv"
    real = erasure.served_profiles

    def profiles(spec: Any, source: str, *args: Any) -> Any:
        if source == "visits":
            monkeypatch.setattr(erasure, "served_profiles", real)
            file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"north", b"east")))
            ingest(clinic.lake, spec, source, ["2024-03-10"], clinic.connect, now=NOW, refetch=True)
        return real(spec, source, *args)

    monkeypatch.setattr(erasure, "served_profiles", profiles)
    erased(clinic)

    (row,) = clinic.lake.rows("partitions", {"product": "visits", "partition": "2024-03-10"})
    assert (row["revision"], row["rows"], row["outcome"]) == (1, 12, "published")
    profiled = clinic.lake.rows("profiles", {"product": "visits", "partition": "2024-03-10"})
    assert b"east" in next(row["items"] for row in profiled if row["column"] == "place")
    assert verify(clinic.lake, clinic.spec).differences == ()


@pytest.mark.full
@pytest.mark.parametrize("manifest", ["before the removal", "after the removal"])
def test_equal_bytes_that_a_running_task_stores_meanwhile_are_not_lost(
    manifest: str, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file equals an earlier day's, and its manifest comes while the erasure removes unreferenced bytes."""
    files = clinic.folder / "files" / "calls"
    shutil.copy(files / f"{SERVED[1]}.json", files / f"{NEXT}.json")
    real_create, real_references = Lake.create, erasure.referenced_objects

    def create(self: Lake, key: str, data: Any) -> bool:
        if not key.startswith(f"raw/snapshots/calls/{NEXT}/"):
            return real_create(self, key, data)
        created: list[bool] = []

        def references(lake: Lake) -> Any:
            listed = real_references(lake)
            if not created:
                created.append(real_create(self, key, data))
            return listed

        monkeypatch.setattr(Lake, "create", real_create)
        if manifest == "before the removal":
            monkeypatch.setattr(erasure, "referenced_objects", references)
        erased(clinic)
        return created[0] if created else real_create(self, key, data)

    monkeypatch.setattr(Lake, "create", create)
    outcomes = clinic.ingest(NEXT)

    assert {outcome.outcome for outcome in outcomes} == {"published"}
    assert places(clinic.folder / "lake" / "clinic" / "raw") == []
    assert clinic.lake.count("validated_calls", {"partition": NEXT}) == 4
    assert verify(clinic.lake, clinic.spec).differences == ()


@pytest.mark.full
def test_a_partition_that_was_scored_since_the_plan_is_erased_too(clinic: Clinic) -> None:
    """Its prediction goes, whose key lacks the patient's, and its label stays out when it comes."""
    plan = plan_erasure(clinic.lake, clinic.spec, {"patient": "patient-0011"})
    clinic.ingest(NEXT)
    score(clinic.lake, clinic.spec, NEXT)
    assert "d18v5" in {row["visit"] for row in clinic.lake.rows("predictions", {"partition": NEXT})}

    erase(clinic.lake, clinic.spec, plan, *WHO, now=NOW)
    assert "d18v5" not in {row["visit"] for row in clinic.lake.rows("predictions", {"partition": NEXT})}
    write_files(clinic.folder / "files", 19, 19)
    clinic.ingest("2024-03-19")
    labels = {row["visit"] for row in clinic.lake.rows("validated_outcomes", {"partition": "2024-03-19"})}
    assert labels == {f"d18v{i}" for i in range(13) if i != 5}


@pytest.mark.full
def test_other_runs_commits_survive_a_rewritten_partition(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is published between reading and writing a partition isn't lost."""
    real, lake = Lake.read, clinic.lake
    new = lake.read("validated_calls", {"partition": "2024-03-02"})
    assert new is not None
    new = new.set_column(new.column_names.index("seconds"), "seconds", pa.array([77.0] * len(new)))

    def read(self: Lake, table: str, *args: Any, **options: Any) -> Any:
        rows = real(self, table, *args, **options)
        if table == "validated_calls" and options.get("version", -1) >= 0:
            monkeypatch.setattr(Lake, "read", real)
            clinic.lake.publish(table, new, {"partition": "2024-03-02"})
        return rows

    monkeypatch.setattr(Lake, "read", read)
    erased(clinic)
    rows = clinic.lake.rows("validated_calls", {"partition": "2024-03-02"})
    assert [row["seconds"] for row in rows] == [77.0] * 4
