"""A partition beyond what memory holds is ingested batch by batch, and nothing that is published tells."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.environment import Connect, Endpoint
from include.ingest.pipeline import Outcome, ingest
from include.ingest.validation import great_expectations
from include.spec import UseCase
from include.storage import spill
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world

ROOT = Path(__file__).parents[2]
PARTITIONS = world.partitions(3)
TABLES = ("validated_sales", "quarantine", "profiles", "partitions")
PLANTED = [
    lambda line: line,  # an exact duplicate
    lambda line: line.replace(",930,", ",0930,"),  # the same once it is read
    lambda line: line.rsplit(",", 1)[0] + ",7",  # a key whose rows disagree
    lambda line: line.replace(",true,", ",perhaps,").replace(",false,", ",perhaps,"),
    lambda line: line.replace("2024-", "2023-"),
    lambda line: line.replace(",s0", ",x0"),
    lambda line: "," + line.partition(",")[2],
    lambda line: line.replace("bread", "br,ead").replace("br,ead", '"br\nead"'),
]


def spoiled(number: int) -> list[str]:
    """Return a week's lines, of which many are broken, and moments of an hour that came twice."""
    chance, lines = random.Random(number), world.week(number)
    lines += [chance.choice(PLANTED)(line) for line in chance.choices(lines, k=25)]
    chance.shuffle(lines)
    return [f"{line},2024-10-27 01:{place % 4}0" for place, line in enumerate(lines)]


def twice(raw: dict[str, Any]) -> None:
    """Declare the moments, a contract that lets the partitions but one pass.

    And expectations of each kind.
    """
    sales = raw["sources"]["sales"]
    sales["columns"]["seen"] = {"type": "timestamp", "timezone": "Europe/London"}
    sales["contract"]["tolerance"] = 0.7
    sales["contract"]["expectations"] += [
        {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": ["store", "units"]}},
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "price"}},
        {
            "type": "expect_select_column_values_to_be_unique_within_record",
            "kwargs": {"column_list": ["store", "item"]},
        },
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "price", "max_value": 3.1}},
    ]


@pytest.fixture
def broken(tmp_path: Path) -> Connect:
    """Return the way to a shop whose files are spoiled, one of them packed."""
    folder = tmp_path / "broken" / "sales"
    folder.mkdir(parents=True)
    for number, partition in enumerate(PARTITIONS):
        text = "\n".join([world.HEADER + ",seen", *spoiled(number)]) + "\n"
        data = gzip.compress(text.encode()) if number == 1 else text.encode()
        (folder / f"{partition}.csv").write_bytes(data)
    return lambda name: Endpoint(name, folder.parent.as_uri())


def shrink(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Make memory hold nothing and a batch so many rows."""
    monkeypatch.setattr(spill, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(spill, "BATCH", batch)
    monkeypatch.setattr(great_expectations, "BATCH", 5 * batch)


def ingested(folder: Path, spec: UseCase, connect: Connect) -> tuple[list[Outcome], dict[str, list[str]]]:
    """Return what became of the partitions, and all that was published, each twice."""
    lake = Lake("weekly_sales", str(folder))
    outcomes = ingest(lake, spec, "sales", PARTITIONS, connect)
    assert ingest(lake, spec, "sales", PARTITIONS, connect) == outcomes
    return outcomes, {table: sorted(map(repr, lake.rows(table))) for table in TABLES}


@pytest.mark.full
def test_partitions_larger_than_a_batch_are_the_same_partitions(
    declare: Callable[..., UseCase],
    broken: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows, digests, what is set aside with its reasons, refusals and profiles are those of memory."""
    spec = declare(twice)
    whole, tables = ingested(tmp_path / "whole", spec, broken)
    assert {one.outcome for one in whole} == {"published", "refused"}, [one.note for one in whole]
    assert len({row.split("'rule': ")[1].split("(")[0].split(",")[0] for row in tables["quarantine"]}) >= 7
    assert sum(one.duplicates for one in whole) > 0
    shrink(monkeypatch, 16)
    cut, found = ingested(tmp_path / "cut", spec, broken)
    assert cut == whole
    assert found == tables


def test_a_file_of_many_batches_is_kept_whole_and_stays_refused_where_it_breaks(
    declare: Callable[..., UseCase],
    shop: Path,
    lake: Lake,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its bytes are those that came, and a row of too few fields at its end refuses all of it."""
    shrink(monkeypatch, 8)
    file = shop / "sales" / f"{PARTITIONS[0]}.csv"
    lines = world.week(0) * 1000
    file.write_text("\n".join([world.HEADER, *lines, "2024-01-01,s01"]) + "\n")
    (outcome,) = ingest(lake, declare(), "sales", PARTITIONS[:1], connect)
    assert outcome.outcome == "refused"
    assert "rows with as many fields as the header" in outcome.note
    (key,) = lake.keys("raw/objects")
    assert lake.get(key) == file.read_bytes()
    assert lake.count("validated_sales") == 0


@pytest.mark.full
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """With its limits turned down, a partition of four times the rows takes next to no more memory.

    With all rows in memory it took 98 MB more.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    peaks = []
    for rows in (60_000, 240_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        command = [sys.executable, "-m", "tests.ingest.large", str(rows), str(folder), "csv"]
        done = subprocess.run(command, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 40, peaks
