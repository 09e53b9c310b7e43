"""The rows on which SQL is tried satisfy the contracts, and repeat whatever a key doesn't forbid."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.ingest.validation.expectations import broken_expectations
from include.spec import UseCase
from include.spec.load import read
from include.validate.generated import generate, generated_problems, text_like
from tests.train import visits
from tests.validate.declarations import ROOT, change, validate, write_usecase

PARTITIONS = {"flight_delay": "2013-03-01", "weekly_sales": "2024-03-04", "flight_minutes": "2013-02-01"}


def shipped(name: str) -> UseCase:
    """Return a use case of the repository or of its tests."""
    parent = "include" if name == "flight_delay" else "tests"
    return read(ROOT / parent / "usecases" / name / "usecase.yaml")


@pytest.mark.parametrize("name", PARTITIONS)
def test_generated_rows_satisfy_the_contracts(name: str) -> None:
    """Keys are unique in a partition, required columns have values, and no expectation is broken."""
    spec = shipped(name)
    for source, rows in generate(spec, PARTITIONS[name]).items():
        declared = spec.sources[source]
        keys = zip(*(rows[column].to_pylist() for column in ("partition", *declared.key)), strict=True)
        assert max(Counter(keys).values()) == 1
        typed = rows.select(list(declared.columns))
        assert [c for c, one in declared.columns.items() if one.required and rows[c].null_count] == []
        everyone = np.ones(rows.num_rows, bool)
        about_rows = [one for one in declared.contract.expectations if "table" not in one.type]
        broken = broken_expectations("generated", about_rows, typed, everyone)
        assert [about_rows[number].rule for number, _, mask in broken if mask.any()] == []


@pytest.mark.parametrize("name", ["flight_delay", "weekly_sales"])
def test_columns_outside_of_a_key_repeat(name: str) -> None:
    """Otherwise a join on them would look as if it kept the number of rows."""
    spec = shipped(name)
    for source, rows in generate(spec, PARTITIONS[name]).items():
        last = rows.filter(pa.compute.equal(rows["partition"], PARTITIONS[name]))
        for column in set(spec.sources[source].columns) - set(spec.sources[source].key):
            assert last[column].drop_null().combine_chunks().value_counts().field(1).to_numpy().max() > 1


def test_a_join_on_a_column_that_is_no_key_is_refused(tmp_path: Path) -> None:
    """Two planes may have the same year, even if the stored ones don't."""
    folder = write_usecase(tmp_path, "two")
    change(folder / "features.sql", "p.tailnum = s.tailnum", "p.year = s.year")
    (problem,) = validate(folder)[1]["problems"]
    assert problem["subject"] == "flight_delay: features.sql on generated rows"
    assert "of the 12 rows of the spine" in problem["found"]


def test_an_inner_join_that_loses_rows_is_refused(tmp_path: Path) -> None:
    """A row to score needn't have a match."""
    folder = write_usecase(tmp_path, "two")
    change(folder / "features.sql", "LEFT JOIN fleet", "JOIN fleet")
    (problem,) = validate(folder)[1]["problems"]
    assert "of the 12 rows of the spine" in problem["found"]
    assert "keep rows without a match by LEFT JOIN" in problem["remedy"]


def test_an_inner_join_on_a_key_of_one_column_is_refused(tmp_path: Path) -> None:
    """All keys of one column are generated for the spine, and the other sources lack some of them."""
    spec = visits.usecase(tmp_path)
    join = "JOIN known_outcomes o ON o.for_partition = s.partition AND o.visit = s.visit"
    columns = "s.visit, s.partition, s.distance, s.earlier, s.place"
    spec.features_file.write_text(f"SELECT {columns} FROM spine s LEFT {join}")
    assert list(generated_problems(read(spec.folder / "usecase.yaml"), visits.LAST)) == []
    spec.features_file.write_text(f"SELECT {columns} FROM spine s {join}")
    (problem,) = generated_problems(read(spec.folder / "usecase.yaml"), visits.LAST)
    assert "for 5 of the 6 rows of the spine" in problem.error.found


@pytest.mark.full
@pytest.mark.parametrize("condition", ["s.item = 'tea'", "s.item IN ('tea', 'milk')", "'tea' = s.ITEM"])
def test_a_text_that_the_sql_looks_for_occurs(tmp_path: Path, condition: str) -> None:
    """A condition that no generated row met would hide that it reads whatever partitions are computed."""
    folder = write_usecase(tmp_path, "sales")
    counted = f"spine.price + (SELECT count(*) FROM sales AS s WHERE {condition}) AS price,"
    change(folder / "features.sql", "spine.price,", counted)
    problems = validate(folder)[1]["problems"]
    assert problems
    assert all("other values of price" in problem["found"] for problem in problems)


@pytest.mark.full
def test_the_last_bits_of_sums_are_no_mistake(tmp_path: Path) -> None:
    """Other partitions and entities may change the order of a sum; only shards must have the same digest."""
    folder = write_usecase(tmp_path, "sales")
    last_bits = "spine.price * (1 + 1e-14 * (SELECT count(*) FROM spine)) AS price,"
    change(folder / "features.sql", "spine.price,", last_bits)
    change(folder / "usecase.yaml", "  lookback: 4", "  lookback: 4\n  entity: [store]")
    assert validate(folder)[1]["problems"] == []
    change(folder / "usecase.yaml", "scoring:\n", "scoring:\n  shards: 4\n")
    (problem,) = validate(folder)[1]["problems"]
    assert "round what adds up floats" in problem["remedy"]


@pytest.mark.full
def test_a_lookback_of_more_than_a_year_is_looked_at(tmp_path: Path) -> None:
    """The partition that is generated has its whole lookback, also in the schedule's second year."""
    folder = write_usecase(tmp_path, "sales")
    year_ago = (
        "(SELECT max(k.price) FROM known_sales k WHERE k.for_partition = spine.partition AND k.ago = 54 "
        "AND k.store = spine.store AND k.item = spine.item) AS price,"
    )
    change(folder / "features.sql", "spine.price,", year_ago)
    change(folder / "usecase.yaml", "lookback: 4", "lookback: 54")
    assert validate(folder)[1]["problems"] == []


def test_a_key_may_be_a_time(tmp_path: Path) -> None:
    """Recipes are fitted on generated rows whose key is of any type that a column may have."""
    folder = write_usecase(tmp_path, "sales")
    change(folder / "usecase.yaml", "key: [store, item]", "key: [store, item, opened]")
    change(
        folder / "usecase.yaml",
        "      opens:",
        "      opened: {type: timestamp, required: true}\n      opens:",
    )
    change(folder / "features.sql", "spine.price,", "spine.opened, spine.price,")
    subjects = {problem["subject"] for problem in validate(folder)[1]["problems"]}
    assert subjects <= {"weekly_sales: features.sql on generated rows"}  # whose joins lack the new column


@pytest.mark.full
@pytest.mark.parametrize("sql", ["CAST(spine.item AS INTEGER)", "CAST(substr(spine.store, 2) AS INTEGER)"])
def test_sql_that_reads_numbers_from_texts_is_tried_with_digits(sql: str, tmp_path: Path) -> None:
    """A contract can't say that a text is a number; a leak is seen all the same."""
    folder = write_usecase(tmp_path, "sales")
    change(folder / "features.sql", "spine.price,", f"spine.price + {sql} AS price,")
    assert validate(folder)[1]["problems"] == []
    change(folder / "features.sql", "        AND past.known_at <= now.decision_time\n", "")
    (problem,) = validate(folder)[1]["problems"]
    assert "once later or older rows are added" in problem["found"]


def test_sql_that_fails_on_generated_texts_is_named(tmp_path: Path) -> None:
    """It may be right for the texts that come, but nothing was checked on them."""
    folder = write_usecase(tmp_path, "sales")
    change(
        folder / "features.sql",
        "spine.price,",
        "spine.price + extract('hour' FROM CAST(spine.item AS TIME)) AS price,",
    )
    (problem,) = validate(folder)[1]["problems"]
    assert (problem["severity"], "so that joins and leaks" in problem["required"]) == ("hint", True)


@given(
    st.lists(
        st.sampled_from(["s", "-", r"\d", "[A-Z]", "[a-z0-9]", r"\d{2}", "[A-Z]{2,4}", "x?", "y*", "[0-9]+"]),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 5),
    st.booleans(),
)
def test_a_text_like_a_regular_expression_matches_it(parts: list[str], number: int, anchored: bool) -> None:
    """Each of the simple forms, and their sequences."""
    regex = "".join(parts)
    regex = f"^{regex}$" if anchored else regex
    assert re.search(regex, text_like(regex, number))
