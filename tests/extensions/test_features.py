"""Features in Python see what the SQL sees, and are checked as the SQL's are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from include.errors import SpecError
from include.features.build import features
from include.spec import UseCase
from include.storage.lake import Lake
from include.train.recipes import recipe_key
from include.validate.pipeline import errors
from include.validate.stored import data_problems
from tests.features import parcels

FIRST, LAST = "2024-03-01", "2024-03-10"
DECLARED = yaml.safe_load(parcels.SPEC)["features"]
# what parcels.SQL computes
RELATION = f"""
def build(tables):
    return tables["spine"].query("spine", '''{parcels.SQL}''')
"""
PANDAS = """
def build(tables):
    spine, roads = tables["spine"].df(), tables["known_roads"].df()
    arrivals = tables["known_arrivals"].df().rename(columns={"for_partition": "at"})
    arrivals["late"] = arrivals["delay"].gt(10).where(arrivals["delay"].notna())
    past = arrivals.groupby(["at", "depot"])["late"].agg(["sum", "count"]).reset_index()
    roads = roads[["for_partition", "depot", "ice", "state"]].rename(columns={"state": "road"})
    rows = spine.merge(roads, how="left", left_on=["partition", "depot"], right_on=["for_partition", "depot"])
    rows = rows.merge(past, how="left", left_on=["partition", "depot"], right_on=["at", "depot"])
    rows["late_share"] = rows["sum"].astype(float) / rows["count"]
    rows["known_arrivals"] = rows["count"]
    names = ["depot", "parcel", "partition", "weight", "express", "ice", "road", "late_share"]
    return rows[[*names, "known_arrivals"]]
"""
AFTER_SQL = """
import pyarrow.compute as pc

from .units import HEAVY


def build(tables):
    rows = tables["features"].to_arrow_table()
    return rows.append_column("heavy", pc.greater(rows["weight"], HEAVY))
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Ten partitions of parcels."""
    made = Lake("parcels", str(tmp_path / "lake"))
    parcels.fill(made, parcels.spec(tmp_path / "sql"), FIRST, LAST)
    return made


def errors_in(lake: Lake, spec: UseCase) -> list[str]:
    """Return the sentences of what stored rows make invalid."""
    return [one.sentence for one in data_problems(lake, spec) if one.severity == "error"]


def declare(folder: Path, python: str, *, sql: str = "", **changes: Any) -> UseCase:
    """Declare the parcels with features in Python, alone or after SQL."""
    home = folder / "parcels"
    home.mkdir(parents=True, exist_ok=True)
    (home / "features.py").write_text(python)
    (home / "units.py").write_text("HEAVY = 5.0\n")
    spec = parcels.spec(folder, sql, features={**DECLARED, "python": "features:build", **changes})
    if not sql:
        (home / "features.sql").unlink()
    return spec


@pytest.mark.full
@pytest.mark.parametrize("python", [RELATION, PANDAS, RELATION.replace('""")', '""").to_arrow_table()')])
def test_python_alone_computes_what_the_sql_does(python: str, lake: Lake, tmp_path: Path) -> None:
    """From the same tables, as a relation, pandas or Arrow; without data it is valid too."""
    spec, partitions = declare(tmp_path, python), ["2024-03-03", "2024-03-09", LAST]
    assert spec.sql == ""
    assert errors(spec) == []
    expected = features(lake, parcels.spec(tmp_path / "sql"), partitions)
    assert features(lake, spec, partitions).equals(expected)
    assert errors_in(lake, spec) == []


@pytest.mark.full
def test_python_after_the_sql_gets_its_result(lake: Lake, tmp_path: Path) -> None:
    """It adds a column to the table `features`."""
    numeric = [*DECLARED["numeric"], "heavy"]
    spec = declare(tmp_path, AFTER_SQL, sql=parcels.SQL, numeric=numeric)
    assert errors(spec) == []
    rows = features(lake, spec, [LAST]).to_pylist()
    assert {row["heavy"] for row in rows} == {0.0, 1.0}
    assert all(row["heavy"] == (row["weight"] > 5) for row in rows)
    assert errors_in(lake, spec) == []


def test_a_leak_in_python_is_seen(lake: Lake, tmp_path: Path) -> None:
    """It reads arrivals of any partition, known at any time: the check names the column and the file."""
    leaking = RELATION.replace(
        "FROM known_arrivals GROUP BY for_partition, depot",
        "FROM arrivals, (SELECT DISTINCT for_partition FROM calendar) GROUP BY for_partition, depot",
    )
    problems = errors_in(lake, declare(tmp_path, leaking))
    assert problems
    for problem in problems:
        assert (
            "found other values of late_share, known_arrivals once later or older rows are added" in problem
        )
        assert problem.count("features.py") == 2


@pytest.mark.full
@pytest.mark.parametrize(
    ("python", "problem", "place"),
    [
        ("def build(tables):\n    return tables['orders_of_nobody']\n", "KeyError: 'orders_of_nobody'", ":2"),
        ("def build(tables):\n    return 3\n", "found type int", ":1"),
        (
            "def build(tables):\n    rows = tables['spine'].df()\n"
            "    return rows.assign(weight=rows.weight.astype('float16'))\n",
            "NotImplementedException",
            "",
        ),
        ("def build():\n    return 3\n", "found TypeError: build() takes 0 positional arguments but 1", ""),
        (
            "def build(tables):\n    return tables['spine']\n",
            "expected the columns depot, parcel, part",
            "",
        ),
        (
            RELATION.replace("FROM spine s", "FROM spine s, range(2)"),
            "expected exactly one row for each",
            "",
        ),
        (RELATION.replace("s.weight,", "'heavy' AS weight,"), "Could not convert string 'heavy'", ""),
        (RELATION.replace("s.weight,", "s.nothing AS weight,"), "found BinderException: Binder Error", ":3"),
        ("def build(tables):\n    return tables['spine'].project('depot::INT')\n", "ConversionException", ""),
    ],
)
def test_what_is_no_table_of_the_features_is_refused(
    python: str, problem: str, place: str, lake: Lake, tmp_path: Path
) -> None:
    """The error says what was required and found, and names the module, and its line where it raised."""
    with pytest.raises(SpecError) as caught:
        features(lake, declare(tmp_path, python), [LAST])
    assert problem in str(caught.value)
    assert f"parcels/features.py{place}" in caught.value.where


RANDOM = f"""
import random


def build(tables):
    rows = tables["spine"].query("spine", '''{parcels.SQL}''').to_arrow_table().to_pandas()
    return rows.assign(weight=random.random())
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("python", "problem"),
    [
        (RELATION.replace("s.weight,", "'heavy' AS weight,"), "Could not convert string 'heavy'"),
        (
            RANDOM,
            "expected the same features whenever it runs, but found other values of weight the second time",
        ),
        (
            RELATION.replace("s.weight,", "s.weight / sum(s.weight) OVER () AS weight,"),
            "other values of weight if the partition before or the next one is computed too",
        ),
    ],
)
def test_validate_needs_no_data_to_see_wrong_features(python: str, problem: str, tmp_path: Path) -> None:
    """Text for a number, a random number, and a sum over partitions that happen to be computed at once."""
    (only,) = errors(declare(tmp_path, python))
    assert problem in only
    assert "features.py" in only


def test_the_code_is_part_of_every_key(tmp_path: Path) -> None:
    """Another line of Python is another declaration and another recipe, but the sources stay as they are."""
    before = declare(tmp_path, RELATION)
    recipe = before.training.candidates[0]
    digests = before.digest, recipe_key(before, recipe), before.digest_of("orders")
    after = declare(tmp_path, RELATION + "\n")
    assert after.digest != digests[0]
    assert recipe_key(after, recipe) != digests[1]
    assert after.digest_of("orders") == digests[2]
