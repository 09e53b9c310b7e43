"""A partition is replaced whole by one commit, whoever else writes; a ledger grows at a known version."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pytest
from deltalake.exceptions import DeltaError
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from include.errors import BackupError, EvergreenError, SpecError, StaleDecision, StoreUnavailable
from include.storage.lake import RESTORING, Lake

T = TypeVar("T")
SCHEMA = pa.schema({"partition": pa.string(), "value": pa.int64()})
PARTITIONS = [f"2024-01-{day:02}" for day in range(1, 9)]


on_every_store = pytest.mark.parametrize(
    "address", ["folder", "s3", pytest.param("az", marks=pytest.mark.full)], indirect=True
)


@pytest.fixture
def lake(address: str) -> Lake:
    """Return an empty lake of one use case, in a folder unless a test asks for another store."""
    return Lake("usecase", address)


def rows(partition: str, *values: int) -> pa.Table:
    """Return one row a value."""
    return pa.Table.from_pylist([{"partition": partition, "value": v} for v in values], schema=SCHEMA)


def content(lake: Lake, table: str = "t") -> dict[str, list[int]]:
    """Return each partition's values, sorted."""
    found: dict[str, list[int]] = {}
    for row in lake.rows(table):
        found.setdefault(row["partition"], []).append(row["value"])
    return {partition: sorted(values) for partition, values in sorted(found.items())}


def test_publishing_again_replaces_and_leaves_the_others(lake: Lake) -> None:
    """A rerun of one partition leaves that partition's new rows and every other partition as it was."""
    lake.publish("t", pa.concat_tables([rows("a", 1, 2), rows("b", 3)]), {"partition": ["a", "b"]})
    lake.publish("t", rows("a", 9), {"partition": "a"})
    assert content(lake) == {"a": [9], "b": [3]}


def test_rows_are_counted_by_their_values(lake: Lake) -> None:
    """Each combination of values has its number of rows, of the selected partitions alone."""
    assert lake.counts("t", ["value"]) == []
    lake.publish("t", pa.concat_tables([rows("a", 1, 2, 2), rows("b", 2)]), {"partition": ["a", "b"]})

    assert lake.counts("t", ["value"]) == [{"value": 1, "count": 1}, {"value": 2, "count": 3}]
    assert lake.counts("t", ["partition", "value"], {"partition": "a"}) == [
        {"partition": "a", "value": 1, "count": 1},
        {"partition": "a", "value": 2, "count": 2},
    ]
    assert lake.counts("t", ["value"], {"value": 2}, ("a0", "c")) == [{"value": 2, "count": 1}]


def test_an_empty_partition_empties_only_itself(lake: Lake) -> None:
    """No rows for a partition is a result too, on a new table as on an old one."""
    lake.publish("t", rows("a"), {"partition": "a"})
    found = lake.read("t")
    assert found is not None
    assert found.num_rows == 0
    assert found.schema.equals(SCHEMA)
    lake.publish("t", pa.concat_tables([rows("a", 1), rows("b", 2)]), {"partition": ["a", "b"]})
    lake.publish("t", rows("a"), {"partition": "a"})
    assert content(lake) == {"b": [2]}


def test_a_row_outside_its_partition_is_refused_and_nothing_is_published(lake: Lake) -> None:
    """A stage that mixes up its partitions can't overwrite another one's."""
    lake.publish("t", rows("a", 1), {"partition": "a"})
    with pytest.raises(DeltaError, match="failed validation check"):  # and no fault of the store's
        lake.publish("t", pa.concat_tables([rows("a", 2), rows("b", 3)]), {"partition": "a"})
    assert content(lake) == {"a": [1]}


def test_a_condition_on_no_value_holds_for_no_row(lake: Lake) -> None:
    """An empty list of partitions reads nothing and replaces nothing."""
    lake.publish("t", rows("a", 1), {"partition": "a"})
    lake.publish("t", rows("a"), {"partition": []})
    assert lake.rows("t", {"partition": []}) == []
    assert content(lake) == {"a": [1]}


def test_a_new_column_is_null_where_it_was_not_there(lake: Lake) -> None:
    """A use case may grow a column without its old partitions being written again."""
    lake.publish("t", rows("a", 1), {"partition": "a"})
    grown = rows("b", 2).append_column("more", pa.array(["x"]))
    lake.publish("t", grown, {"partition": "b"})
    assert sorted(lake.rows("t"), key=lambda row: row["partition"]) == [
        {"partition": "a", "value": 1, "more": None},
        {"partition": "b", "value": 2, "more": "x"},
    ]


def test_a_table_that_is_not_there_is_none_and_not_empty(lake: Lake) -> None:
    """Reading what nobody wrote says so; a small table's rows are none."""
    assert lake.read("t") is None
    assert lake.rows("t") == []
    assert lake.version("t") == -1


def test_an_old_version_can_be_read(lake: Lake) -> None:
    """What was replaced is still there under its version."""
    first = lake.publish("t", rows("a", 1), {"partition": "a"})
    second = lake.publish("t", rows("a", 2), {"partition": "a"})
    then, now = lake.read("t", version=first), lake.read("t", version=second)
    assert then is not None
    assert now is not None
    assert (then["value"].to_pylist(), now["value"].to_pylist()) == ([1], [2])
    assert lake.version("t") == second


def test_types_come_back_as_they_went(lake: Lake) -> None:
    """Strings, bytes, times, small integers and booleans keep their types, also as a chosen column."""
    schema = pa.schema(
        {
            "partition": pa.string(),
            "at": pa.timestamp("us", tz="UTC"),
            "revision": pa.int32(),
            "sketch": pa.binary(),
            "day": pa.date32(),
            "good": pa.bool_(),
            "x": pa.float64(),
        }
    )
    moment = datetime(2024, 3, 10, 7, tzinfo=UTC)
    own = {"revision": 1, "sketch": b"\x00\xff", "day": moment.date(), "good": None, "x": 0.1}
    row = {"partition": "a", "at": moment, **own}
    lake.publish("t", pa.Table.from_pylist([row], schema=schema), {"partition": "a"})
    found = lake.read("t")
    assert found is not None
    assert found.schema.equals(schema)
    assert found.to_pylist() == [row]
    some = lake.read("t", columns=["x", "partition"])
    assert some is not None
    assert some.schema.names == ["x", "partition"]


def test_the_first_rows_and_their_number_are_had_without_the_others(lake: Lake) -> None:
    """A limit gives the first by an order, whatever order they were written in; a count reads none."""
    lake.publish("t", pa.concat_tables([rows("a", 3, 1, 2), rows("b", 0)]), {"partition": ["a", "b"]})
    found = lake.read("t", {"partition": "a"}, ["value"], order=["value"], limit=2)
    assert found is not None
    assert found["value"].to_pylist() == [1, 2]
    assert (lake.count("t"), lake.count("t", {"partition": "a"}), lake.count("t", {"partition": []})) == (
        4,
        3,
        0,
    )
    assert lake.count("nothing") == 0


def test_a_folder_without_a_scheme_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative lake lies below the working folder, for tables and objects alike."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGREEN_LAKE", "data/lake/")
    lake = Lake("usecase")
    lake.create("raw/x", b"one")
    lake.publish("t", rows("a", 1), {"partition": "a"})
    monkeypatch.chdir("/")
    assert lake.uri == f"file://{tmp_path}/data/lake/usecase"
    assert (tmp_path / "data/lake/usecase/raw/x").read_bytes() == b"one"
    assert content(Lake("usecase", f"{tmp_path}/data/lake")) == {"a": [1]}


USES: dict[str, Callable[[Lake], object]] = {
    "publish": lambda lake: lake.publish("t", rows("a", 1), {"partition": "a"}),
    "append_at": lambda lake: lake.append_at("t", rows("a", 1), -1),
    "create": lambda lake: lake.create("raw/x", b""),
    "replace": lambda lake: lake.replace("raw/x", b""),
    "get": lambda lake: lake.get("raw/x"),
    "keys": lambda lake: lake.keys("raw"),
}


@pytest.mark.parametrize("use", USES)
def test_a_store_that_does_not_answer_is_named(use: str, tmp_path: Path) -> None:
    """Each way to use a lake that isn't a folder says where it is and what to do, and may be tried again."""
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreUnavailable, match=r"python -m include doctor") as caught:
        USES[use](Lake("usecase", str(tmp_path / "file")))
    assert f"file://{tmp_path}/file/usecase" in str(caught.value)
    assert caught.value.__suppress_context__  # its own words may repeat a secret


@pytest.mark.parametrize("use", ["get", "keys", "rows", "count", "version", "tables", "size", "remove"])
def test_reading_a_lake_that_does_not_exist_creates_nothing(use: str, tmp_path: Path) -> None:
    """It is empty, also for a part of it; and what is written later is read by who has read before."""
    reads: dict[str, Callable[[Lake], object]] = {
        "get": lambda one: one.get("raw/x"),
        "rows": lambda one: one.rows("t"),
        "keys": lambda one: one.keys("raw"),
        "count": lambda one: one.count("t"),
        "version": lambda one: one.version("t"),
        "tables": Lake.tables,
        "size": lambda one: one.size("raw/x"),
        "remove": lambda one: one.remove(["raw/x"]),
    }
    reader = Lake("usecase", str(tmp_path / "lake"))
    assert reads[use](reader) in (None, [], 0, -1)
    assert list(tmp_path.iterdir()) == []
    Lake("usecase", str(tmp_path / "lake")).create("raw/x", b"one")
    assert reader.get("raw/x") == b"one"


@on_every_store
def test_an_unfinished_restore_refuses_every_use_until_its_mark_is_gone(address: str) -> None:
    """Also of a table whose log is whole, by whoever opens the lake after the restore has begun."""
    restoring = Lake("usecase", address)
    restoring.publish("t", rows("a", 1), {"partition": "a"})
    restoring.create(RESTORING, b"backup 1, begun today")
    readers: tuple[Callable[[Lake], object], ...] = (lambda one: one.rows("t"), lambda one: one.open("t"))
    for use in (*USES.values(), *readers, Lake.tables):
        with pytest.raises(BackupError, match=r"found an unfinished restore of backup 1, begun today \("):
            use(Lake("usecase", address))
    restoring.remove([RESTORING])
    assert len(Lake("usecase", address).rows("t")) == 1


@pytest.mark.parametrize("lost", ["_delta_log/*.json", "*.parquet"])
def test_a_table_that_can_not_be_read_is_named(lost: str, lake: Lake, tmp_path: Path) -> None:
    """A torn log and a torn file are said, for reading and counting alike; neither is an empty table."""
    lake.publish("t", rows("a", 1), {"partition": "a"})
    for file in (tmp_path / "usecase" / "tables" / "t").glob(lost):
        file.write_bytes(b"torn")
    for use in (lambda one: one.read("t"), lambda one: one.count("t", {"value": 1})):
        with pytest.raises(StoreUnavailable, match="tables that can be read"):
            use(Lake("usecase", str(tmp_path)))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        GenericError("Generic LocalFileSystem error: Unable to copy data to file: No space left on device"),
        DeltaError("Failed to parse parquet: External: No space left on device (os error 28)"),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:12]}",
)
def test_a_full_disk_asks_for_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What each library raises there leads to one sentence, which doesn't blame the store."""

    def fail(*given: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(obstore, "put", fail)
    sentence = (
        r"expected space on the lake's disk, but found (No space|Disk quota).*; free some space, then run"
    )
    with pytest.raises(StoreUnavailable, match=sentence) as caught:
        Lake("u", str(tmp_path)).create("state/x", b"1")
    assert "doctor" not in str(caught.value)


@settings(max_examples=15)
@given(name=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12))
def test_any_partition_value_names_its_own_rows(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Quotes, percent signs and slashes in a value are part of the value, and never of the condition."""
    lake = Lake("usecase", str(tmp_path_factory.mktemp("lake")))
    lake.publish("t", rows("other", 1), {"partition": "other"})
    for value in (2, 3):
        lake.publish("t", rows(f"{name}'", value), {"partition": f"{name}'"})
    assert content(lake) == {"other": [1], f"{name}'": [3]}
    assert [row["value"] for row in lake.rows("t", {"partition": f"{name}'"})] == [3]


def _publish(uri: str, partition: str, value: int) -> None:
    Lake("usecase", uri).publish("t", rows(partition, *[value] * 5), {"partition": partition})


def _append(uri: str, version: int, value: int) -> bool:
    try:
        Lake("usecase", uri).append_at("ledger", rows("a", value), version)
    except StaleDecision:
        return False
    return True


@pytest.fixture(scope="module")
def processes() -> Any:
    """Return a pool of processes that are forked from one that has opened nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        yield pool


def _with(settings: dict[str, str], work: Callable[..., T], *arguments: Any) -> T:
    """Work with the settings of the test's store, which the pool may be older than."""
    os.environ.update(settings)
    return work(*arguments)


Submit = Callable[..., Future[Any]]


@pytest.fixture
def submit(address: str, processes: ProcessPoolExecutor) -> Submit:
    """Return a function that makes one of these processes work on the lake's store."""
    return partial(processes.submit, _with, dict(os.environ))


@on_every_store
def test_processes_that_publish_different_partitions_lose_nothing(
    lake: Lake, submit: Submit, address: str
) -> None:
    """Eight partitions published at once, on a table that isn't there yet, three times over."""
    jobs = [submit(_publish, address, n, v) for v in range(3) for n in PARTITIONS]
    for job in jobs:
        job.result(120)
    found = content(lake)
    assert list(found) == PARTITIONS
    assert all(len(values) == 5 and len(set(values)) == 1 for values in found.values())


@on_every_store
def test_processes_that_publish_the_same_partition_leave_one_of_them(
    lake: Lake, submit: Submit, address: str
) -> None:
    """One partition published by many at once has the rows of one of them, whole, and none twice."""
    jobs = [submit(_publish, address, "a", value) for value in range(12)]
    for job in jobs:
        job.result(120)
    values = content(lake)["a"]
    assert len(values) == 5
    assert len(set(values)) == 1


@on_every_store
def test_of_many_writers_to_a_ledger_one_wins_each_version(lake: Lake, submit: Submit, address: str) -> None:
    """Each version of a ledger is written once; every other writer is told to decide again."""
    won = []
    for _ in range(3):
        before = lake.version("ledger")
        jobs = [submit(_append, address, before, value) for value in range(6)]
        won.append(sum(job.result(120) for job in jobs))
    assert won == [1, 1, 1]
    assert len(lake.rows("ledger")) == 3


def test_a_ledger_at_another_version_is_refused(lake: Lake) -> None:
    """An append against an old version writes nothing and says to read again."""
    version = lake.append_at("ledger", rows("a", 1), -1)
    assert lake.append_at("ledger", rows("a", 2), version) == lake.version("ledger")
    with pytest.raises(StaleDecision, match="read the table again and decide again"):
        lake.append_at("ledger", rows("a", 3), version)
    assert content(lake, "ledger") == {"a": [1, 2]}


LOOP = """
import sys, pyarrow as pa
from include.storage.lake import Lake
lake, n = Lake("usecase", sys.argv[1]), 0
while True:
    n += 1
    lake.publish("t", pa.table({"partition": ["a"] * 500, "value": [n] * 500}), {"partition": "a"})
    print(n, flush=True)
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("address", "delay"),
    [
        *product(["folder"], [0.0, 0.004, 0.011, 0.023]),
        *product(["s3"], [0.004, 0.023]),
        *product(["az"], [0.004, 0.023]),
    ],
    indirect=["address"],
)
def test_a_writer_that_is_killed_leaves_the_old_rows_or_the_new(
    lake: Lake, delay: float, address: str
) -> None:
    """Kill -9 between any two writes leaves one whole generation, and the next writer goes on."""
    with subprocess.Popen([sys.executable, "-c", LOOP, address], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        published = int([writer.stdout.readline() for _ in range(3)][-1])
        time.sleep(delay)
        writer.kill()
    values = content(lake)["a"]
    assert len(values) == 500
    assert len(set(values)) == 1
    assert values[0] >= published
    lake.publish("t", rows("a", 0), {"partition": "a"})
    assert content(lake) == {"a": [0]}


@on_every_store
def test_an_object_is_created_once(lake: Lake) -> None:
    """The second writer of a key is told so, and the first one's bytes stay."""
    assert lake.create("raw/x/1", b"one")
    assert not lake.create("raw/x/1", b"two")
    assert lake.get("raw/x/1") == b"one"
    lake.replace("raw/x/1", b"three")
    assert lake.get("raw/x/1") == b"three"


def test_the_file_of_an_unfinished_put_is_known_and_goes_once_it_is_old(tmp_path: Path) -> None:
    """No listing has it, nor is it an object; one that is whole by then is none."""
    lake, parts = Lake("usecase", str(tmp_path)), []

    def data() -> Iterator[bytes]:
        yield bytes(20 << 20)
        parts.extend(lake.unfinished_puts())
        yield b"end"

    lake.replace("raw/object", data())  # type: ignore[arg-type]  # in parts, so that it can be looked at midway
    assert parts
    assert lake.unfinished_puts() == {}
    parts[0].write_bytes(b"half")  # as a killed one leaves it
    assert lake.keys("") == ["raw/object"]
    assert lake.remove_unfinished_puts(datetime.now(UTC) - timedelta(minutes=1)) == 0
    os.utime(parts[0], (0, 0))
    assert lake.remove_unfinished_puts(datetime.now(UTC) - timedelta(minutes=1)) == 1
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["object"]


@on_every_store
def test_objects_are_listed_below_a_prefix(lake: Lake) -> None:
    """Keys come sorted; a key that isn't there is None; a prefix without objects lists none."""
    for key in ("raw/b/2", "raw/a/1", "models/m"):
        lake.create(key, b"")
    assert lake.keys("raw") == ["raw/a/1", "raw/b/2"]
    assert lake.get("raw/a/1") == b""
    assert lake.get("raw/a/3") is None
    assert lake.keys("nothing") == []


@pytest.mark.parametrize("key", ["", "/etc/x", "../other/x", "raw/../../x", "raw\\..\\x", ".."])
def test_a_key_can_not_leave_its_folder(lake: Lake, key: str, tmp_path: Path) -> None:
    """A key made from what a source said stays below the use case, for each way to use it."""
    for use in (lambda: lake.create(key, b""), lambda: lake.replace(key, b""), lambda: lake.get(key)):
        with pytest.raises(EvergreenError, match="a path below the use case's folder"):
            use()
    if key:  # the whole folder is below itself
        with pytest.raises(EvergreenError):
            lake.keys(key)
    assert [entry for entry in tmp_path.rglob("*") if entry != tmp_path / "usecase"] == []


def test_a_column_that_is_gone_is_null_and_one_of_another_type_is_refused(tmp_path: Path) -> None:
    """Rows without a column of the table get nulls; a number is never stored in an integer's column."""
    lake = Lake("u", str(tmp_path))
    lake.publish("t", pa.table({"partition": ["a"], "value": [1], "gone": ["x"]}), {"partition": "a"})
    lake.publish("t", pa.table({"partition": ["b"], "value": [2]}), {"partition": "b"})
    assert {row["partition"]: row["gone"] for row in lake.rows("t")} == {"a": "x", "b": None}
    with pytest.raises(SpecError, match=r"column value: expected int64, but found double"):
        lake.publish("t", pa.table({"partition": ["c"], "value": [1.7], "gone": ["y"]}), {"partition": "c"})
    assert {row["partition"] for row in lake.rows("t")} == {"a", "b"}


@pytest.mark.full
@on_every_store
def test_one_that_is_gone_already_leaves_none_of_the_others(lake: Lake) -> None:
    """Removing tells nobody that an object was missing, and still removes all it was asked to."""
    keys = [f"p/{number}" for number in range(300)]
    for key in [*keys, "other"]:
        lake.create(key, b"1")
    lake.remove(["p/none", *keys])
    assert (lake.keys("p"), lake.keys("")) == ([], ["other"])
