"""Features come out as declared, whichever partitions are asked for, and a wrong SQL is refused by name."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.errors import PartitionError, SpecError
from include.features import build
from include.features.build import compute_features, features, schema
from include.features.checks import require_equal, require_independent
from include.features.labels import labels, matured, training_set
from include.features.point_in_time import read_sources
from include.spec import UseCase
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.lake import Lake
from tests.features import parcels

PARTITIONS = [f"2024-03-{day:02}" for day in range(1, 11)]


def _of(table: pa.Table, partition: str) -> pa.Table:
    return table.filter(pc.equal(table["partition"], partition))


def _rows(table: pa.Table, **where: object) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[k] == v for k, v in where.items())]


def test_shape(lake: Lake, use: UseCase) -> None:
    """Features are the key, the partition and the declared columns, typed and sorted."""
    found = features(lake, use, ["2024-03-05", "2024-03-04"])
    assert found.schema == schema(use)
    assert found.column_names == [
        *("depot", "parcel", "partition", "weight", "express", "ice", "late_share", "known_arrivals", "road")
    ]
    order = [(r["partition"], r["depot"], r["parcel"]) for r in found.to_pylist()]
    assert order == sorted(order)
    assert len(order) == 24


def test_values(lake: Lake, use: UseCase) -> None:
    """A partition's features are what its own rows and the lookback's say, by a count done by hand."""
    partition, depot = "2024-03-09", "north"
    past = [
        r["delay"]
        for seen in ("2024-03-05", "2024-03-06", "2024-03-07", "2024-03-08", "2024-03-09")
        for r in _rows(parcels.rows(use, "arrivals", seen), depot=depot)
        if r["delay"] is not None
    ]
    order = _rows(parcels.rows(use, "orders", partition), depot=depot, parcel=3)[0]
    road = _rows(parcels.rows(use, "roads", partition), depot=depot)[0]
    expected = {
        **{"depot": depot, "parcel": 3, "partition": partition},
        **{"weight": order["weight"], "express": float(order["express"])},
        **{"ice": road["ice"], "road": road["state"], "known_arrivals": float(len(past))},
        "late_share": sum(d > 10 for d in past) / len(past),
    }
    assert _rows(features(lake, use, [partition]), depot=depot, parcel=3) == [expected]


@settings(max_examples=8)
@given(st.sets(st.sampled_from(PARTITIONS), min_size=1))
def test_other_partitions_dont_matter(lake: Lake, use: UseCase, partitions: set[str]) -> None:
    """A partition has the same features, to the digest, whichever partitions are asked for with it."""
    together = features(lake, use, sorted(partitions))
    partition = max(partitions)
    assert digest_table(_of(together, partition)) == digest_table(features(lake, use, [partition]))
    first = min(partitions)
    assert digest_table(_of(together, first)) == digest_table(features(lake, use, [first]))


def test_long_ranges_go_in_blocks(lake: Lake, use: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that is longer than a block is the same as in one go."""
    whole = features(lake, use, PARTITIONS)
    monkeypatch.setattr("include.features.build.BLOCK", 3)
    assert digest_table(features(lake, use, PARTITIONS)) == digest_table(whole)


def test_a_training_set_is_computed_in_blocks_of_rows_and_not_held_in_memory(
    lake: Lake, use: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same whether it stays in memory or goes to a file, block by block."""
    whole, blocks = training_set(lake, use, "2024-03-10"), list[int]()
    real = build.compute_features

    def compute_features(spec: UseCase, rows: Any, partitions: list[str], **options: Any) -> pa.Table:
        blocks.append(len(partitions))
        return real(spec, rows, partitions, **options)

    fresh = Lake(
        "parcels", str(shutil.copytree(lake.uri.removeprefix("file://"), tmp_path / "parcels").parent)
    )
    monkeypatch.setattr(build, "compute_features", compute_features)
    monkeypatch.setattr(build, "BLOCK_ROWS", max(row["rows"] for row in fresh.rows("partitions")))
    monkeypatch.setattr(spill, "MEMORY_LIMIT", 0)
    spilled = training_set(fresh, use, "2024-03-10")
    assert len(blocks) > 1
    assert spilled.equals(whole)
    # a file's rows aren't Arrow's memory
    before = pa.total_allocated_bytes()
    del spilled
    assert before - pa.total_allocated_bytes() < whole.nbytes / 2


def test_a_source_that_was_never_published(tmp_path: Path, use: UseCase) -> None:
    """A source without a table gives nulls, and the rows to score are all there."""
    lake = Lake("parcels", str(tmp_path))
    parcels.publish(lake, use, "orders", "2024-03-05", [parcels.rows(use, "orders", "2024-03-05")])
    found = features(lake, use, ["2024-03-05"])
    assert found.num_rows == 12
    for column in ("ice", "road", "late_share", "known_arrivals"):
        assert found[column].null_count == 12


def test_no_rows(lake: Lake, tmp_path: Path, use: UseCase) -> None:
    """No partitions, a partition without rows and an empty lake give no rows in the right shape."""
    for found in (
        features(lake, use, []),
        features(lake, use, ["2024-04-20"]),
        features(Lake("parcels", str(tmp_path)), use, ["2024-03-05"]),
    ):
        assert found.num_rows == 0
        assert found.schema == schema(use)


def test_a_partition_that_the_clock_lacks(lake: Lake, tmp_path: Path) -> None:
    """A key on which the schedule doesn't fire is refused."""
    schedule = {"batch": "0 6 * * 1", "training": "0 8 * * 1", "timezone": "UTC", "start": "2024-01-01"}
    with pytest.raises(PartitionError, match="2024-03-05"):
        features(lake, parcels.spec(tmp_path, schedule=schedule), ["2024-03-05"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("r.ice,", "", "missing ice"),
        ("r.ice,", "r.ice, r.ice AS icy,", "not declared icy"),
        ("r.ice,", "r.rain AS ice,", "rain"),
        ("FROM spine s\n", "FROM spine s, (VALUES (1), (2)) twice\n", "24 rows, for 12 of the 12"),
        ("FROM spine s\n", "FROM (SELECT * FROM spine WHERE parcel > 0) s\n", "10 rows, for 10 of the 12"),
        ("s.parcel,", "s.parcel + 1 AS parcel,", "12 rows, for 10 of the 12 rows of the spine"),
        ("s.parcel,", "NULL AS parcel,", "null values in parcel"),
        ("s.weight,", "CAST('x' || s.parcel AS DOUBLE) AS weight,", "Could not convert string 'x"),
        ("s.parcel,", "'x' || s.parcel AS parcel,", "as a scalar of type int64"),
        ("FROM known_arrivals", "FROM read_csv('/etc/passwd')", "disabled"),
        (parcels.SQL, "", "syntax error"),
    ],
)
def test_a_wrong_sql(lake: Lake, tmp_path: Path, old: str, new: str, said: str) -> None:
    """A SQL that isn't what was declared, or reads elsewhere, is refused with its file and what is wrong."""
    assert old in parcels.SQL
    wrong = parcels.spec(tmp_path, parcels.SQL.replace(old, new))
    with pytest.raises(SpecError) as caught:
        features(lake, wrong, ["2024-03-05"])
    assert said in str(caught.value)
    assert str(tmp_path / "parcels" / "features.sql") in str(caught.value)


def test_the_order_of_the_sql_makes_no_difference(lake: Lake, use: UseCase, tmp_path: Path) -> None:
    """Rows that the SQL gives in another order are the same rows in the same order."""
    sql = f"SELECT * FROM ({parcels.SQL.strip().rstrip(';')}\n) ORDER BY parcel DESC, partition DESC"
    turned = features(lake, parcels.spec(tmp_path, sql), PARTITIONS)
    assert digest_table(turned) == digest_table(features(lake, use, PARTITIONS))


def test_no_value(lake: Lake, tmp_path: Path) -> None:
    """What isn't a finite number is a missing value."""
    wrong = parcels.spec(tmp_path, parcels.SQL.replace("s.weight,", "'nan'::DOUBLE + s.parcel AS weight,"))
    assert features(lake, wrong, ["2024-03-05"])["weight"].null_count == 12
    wrong = parcels.spec(tmp_path, parcels.SQL.replace("s.weight,", "'infinity'::DOUBLE AS weight,"))
    assert features(lake, wrong, ["2024-03-05"])["weight"].null_count == 12


def test_revisions(tmp_path: Path, use: UseCase) -> None:
    """A partition sees the revision that was known at its decision, and a later one the next revision."""
    lake = Lake("parcels", str(tmp_path))
    parcels.fill(lake, use, "2024-03-01", "2024-03-06")
    was = features(lake, use, ["2024-03-04", "2024-03-05"])
    first = parcels.rows(use, "arrivals", "2024-03-04")
    # known an hour after the decision of the 4th, so to the 5th but not to the 4th
    second = parcels.rows(use, "arrivals", "2024-03-04", revision=1, after=timedelta(hours=1))
    parcels.publish(lake, use, "arrivals", "2024-03-04", [first, second])
    then = features(lake, use, ["2024-03-04", "2024-03-05"])
    assert digest_table(_of(then, "2024-03-04")) == digest_table(_of(was, "2024-03-04"))
    assert digest_table(_of(then, "2024-03-05")) != digest_table(_of(was, "2024-03-05"))
    assert digest_table(_of(then, "2024-03-05")) == digest_table(features(lake, use, ["2024-03-05"]))


def test_a_revision_replaces_its_whole_partition(tmp_path: Path, use: UseCase) -> None:
    """A row that it lacks is no longer scored, read by SQL or a label: alone in a shard as among all."""
    by_depot = {**use.features.model_dump(mode="json"), "entity": ["depot"]}
    use = parcels.spec(tmp_path / "sharded", features=by_depot)
    lake, partitions = Lake("parcels", str(tmp_path)), ["2024-03-05", "2024-03-06"]
    parcels.fill(lake, use, "2024-03-01", "2024-03-07")
    before = _rows(features(lake, use, partitions), partition="2024-03-06", depot="south")
    for source, corrected in (("orders", "2024-03-05"), ("arrivals", "2024-03-04")):
        first = parcels.rows(use, source, corrected)
        second = parcels.rows(use, source, corrected, revision=1, after=timedelta(minutes=-1))
        north = second.filter(pc.equal(second["depot"], "north"))
        parcels.publish(lake, use, source, corrected, [first, north])
    found = features(lake, use, partitions)
    assert {row["depot"] for row in _rows(found, partition="2024-03-05")} == {"north"}
    south = _rows(found, partition="2024-03-06", depot="south")
    assert south[0]["known_arrivals"] < before[0]["known_arrivals"]
    known = labels(lake, use, ["2024-03-02"], as_of="2024-03-04")
    assert set(known["depot"].to_pylist()) == {"north"}
    for partition in partitions:
        parts = (read_sources(lake, use, [partition], shard=(number, 5)) for number in range(5))
        shards = pa.concat_tables(compute_features(use, rows, [partition]) for rows in parts)
        require_equal(use, _of(found, partition), shards)
        require_independent(use, read_sources(lake, use, [partition]), partition)


def test_labels_that_are_no_finite_number_are_none(lake: Lake, tmp_path: Path) -> None:
    """0 / 0 and 1 / 0 are numbers to SQL, and no model can be fitted on them."""
    wrong = parcels.spec(
        tmp_path,
        problem={"kind": "regression", "statement": "How late?", "target": "late"},
        gate={"objective": "squared_error"},
        labels={
            "source": "arrivals",
            "sql": "CASE WHEN depot = 'north' THEN delay / 0 ELSE delay END",
            "delay": 2,
        },
    )
    found = labels(lake, wrong, ["2024-03-03"], as_of="2024-03-10")
    assert {row["late"] for row in _rows(found, depot="north")} == {None}
    assert {row["late"] for row in _rows(found, depot="south")} > {None}


def test_a_late_spine(tmp_path: Path, use: UseCase) -> None:
    """Rows to score that came after the decision aren't there for that partition."""
    lake = Lake("parcels", str(tmp_path))
    late = parcels.rows(use, "orders", "2024-03-05", after=timedelta(minutes=1))
    parcels.publish(lake, use, "orders", "2024-03-05", [late])
    assert features(lake, use, ["2024-03-05"]).num_rows == 0


def test_matured(lake: Lake, use: UseCase) -> None:
    """A partition's labels are there once the partition that brings them is published, by the given time."""
    assert matured(lake, use, "2024-03-10") == PARTITIONS[:8]
    assert matured(lake, use, "2024-03-04") == PARTITIONS[:2]
    assert matured(lake, use, "2024-03-02") == []


def test_labels(lake: Lake, use: UseCase) -> None:
    """Labels are the expression over what came, null where nothing came true, none for unknown partitions."""
    found = labels(lake, use, ["2024-03-03", "2024-03-09"], as_of="2024-03-10")
    came = parcels.rows(use, "arrivals", "2024-03-05").to_pylist()
    expected = [
        {
            "depot": r["depot"],
            "parcel": r["parcel"],
            "partition": "2024-03-03",
            "late": None if r["delay"] is None else float(r["delay"] > 10),
        }
        for r in came
    ]
    assert found.to_pylist() == sorted(expected, key=lambda r: (r["depot"], r["parcel"]))
    assert labels(lake, use, ["2024-03-03"], as_of="2024-03-04").num_rows == 0


def test_revised_labels(tmp_path: Path, use: UseCase) -> None:
    """A label that was revised later is what it was, as known earlier, and what it is, as known later."""
    lake = Lake("parcels", str(tmp_path))
    parcels.fill(lake, use, "2024-03-01", "2024-03-06")
    before = labels(lake, use, ["2024-03-02"], as_of="2024-03-06")
    second = parcels.rows(use, "arrivals", "2024-03-04", revision=1, after=timedelta(days=1))
    parcels.publish(
        lake, use, "arrivals", "2024-03-04", [parcels.rows(use, "arrivals", "2024-03-04"), second]
    )
    assert digest_table(labels(lake, use, ["2024-03-02"], as_of="2024-03-04")) == digest_table(before)
    assert digest_table(labels(lake, use, ["2024-03-02"], as_of="2024-03-05")) != digest_table(before)


def test_a_wrong_label(lake: Lake, tmp_path: Path) -> None:
    """A label expression over a column that isn't there is refused with what is."""
    wrong = parcels.spec(tmp_path, labels={"source": "arrivals", "sql": "lateness > 10", "delay": 2})
    with pytest.raises(SpecError, match=r"labels.sql.*depot, parcel, delay"):
        labels(lake, wrong, ["2024-03-03"], as_of="2024-03-10")


def test_training_set(lake: Lake, use: UseCase) -> None:
    """The training set is every row labeled by the partition, within the window, with the same features."""
    found = training_set(lake, use, "2024-03-10")
    assert sorted(set(found["partition"].to_pylist())) == PARTITIONS[:8]
    assert found["late"].null_count == 0
    came = labels(lake, use, PARTITIONS, as_of="2024-03-10")
    assert found.num_rows == came.num_rows - came["late"].null_count < came.num_rows
    assert found.column_names == [*schema(use).names, "late"]
    seen = {(r["partition"], r["depot"], r["parcel"]): r for r in features(lake, use, PARTITIONS).to_pylist()}
    for row in found.to_pylist():
        del row["late"]
        assert row == seen[row["partition"], row["depot"], row["parcel"]]
    training = use.training.model_copy(update={"window": 4})  # fewer than the gate needs
    short = training_set(lake, use.model_copy(update={"training": training}), "2024-03-10")
    assert sorted(set(short["partition"].to_pylist())) == ["2024-03-06", "2024-03-07", "2024-03-08"]


TIES = """
SELECT s.depot, s.parcel, s.partition, s.weight, s.express, NULL::DOUBLE AS ice, 'x' AS road,
    0.0 AS late_share,
       row_number() OVER (PARTITION BY s.depot ORDER BY s.express)::DOUBLE AS known_arrivals
FROM spine s; -- the end"""


def test_the_lakes_order_of_rows_is_none_of_the_answer(
    lake: Lake, use: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks among ties are the same in whatever order the lake's rows come, which have none."""
    ranked, read = parcels.spec(tmp_path, TIES), Lake.read
    first = features(lake, ranked, ["2024-03-05"])

    def turned(self: Lake, *args: Any, **kwargs: Any) -> pa.Table | None:
        found = read(self, *args, **kwargs)
        return found if found is None else found.take(list(range(found.num_rows))[::-1])

    monkeypatch.setattr(Lake, "read", turned)
    assert features(lake, ranked, ["2024-03-05"]).equals(first)
    assert set(first["known_arrivals"].to_pylist()) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}


def test_a_row_without_a_key_is_refused(lake: Lake, use: UseCase, tmp_path: Path) -> None:
    """Nobody could tell whose prediction it is, and a null in the spine is like no null of the answer."""
    rows = parcels.rows(use, "orders", "2024-03-05")
    nulled = pa.array([None, *rows["parcel"].to_pylist()[1:]], rows["parcel"].type)
    there = rows.set_column(rows.column_names.index("parcel"), "parcel", nulled)
    mine = Lake(lake.name, str(tmp_path))
    mine.publish("validated_orders", there, {"partition": "2024-03-05"})
    with pytest.raises(SpecError, match="null values in parcel"):
        features(mine, use, ["2024-03-05"])
