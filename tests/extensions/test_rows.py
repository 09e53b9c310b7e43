"""A use case's own row checks quarantine rows under their names, as declared rules do."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from include.environment import Endpoint
from include.errors import SpecError
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.validate.pipeline import errors
from tests.usecases.weekly_sales import world

SHIPPED = Path(world.__file__).parent
PARTITION = world.partitions(1)[0]
MASK = "import pyarrow.compute as pc\n\ndef not_tea(rows):\n    return pc.not_equal(rows['item'], 'tea')\n"


def declare(folder: Path, rules: str, name: str = "not_tea") -> UseCase:
    """Return weekly_sales with one row check."""
    home = folder / "weekly_sales"
    shutil.copytree(SHIPPED, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "rules.py").write_text(rules)
    text = (SHIPPED / "usecase.yaml").read_text()
    checked = text.replace("tolerance: 0.05\n", f'tolerance: 0.5\n      row_checks: ["rules:{name}"]\n')
    (home / "usecase.yaml").write_text(checked)
    return read(home / "usecase.yaml")


def ingested(folder: Path, spec: UseCase) -> tuple[Outcome, Counter[str]]:
    """Ingest the first week; return what became of it, and the quarantined rows by rule."""
    lake = Lake(spec.name, str(folder / "lake"))
    world.write(folder / "shop", 1)
    (outcome,) = ingest(
        lake, spec, "sales", [PARTITION], lambda name: Endpoint(name, (folder / "shop").as_uri())
    )
    return outcome, Counter(row["rule"] for row in lake.rows("quarantine"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("returned", "rules"),
    [
        ("pc.not_equal(rows['item'], 'tea')", {"not_tea": 8}),
        ("[item != 'tea' for item in rows['item'].to_pylist()]", {"not_tea": 8}),
        ("rows['item'].to_pandas() != 'tea'", {"not_tea": 8}),
        ("[None] * rows.num_rows", {}),
        ("['hot' if i == 'tea' else 'wet' if i == 'milk' else None for i in rows['item'].to_pylist()]",
         {"not_tea(hot)": 8, "not_tea(wet)": 8}),
    ],
)  # fmt: skip
def test_what_a_function_refuses_is_quarantined(returned: str, rules: dict[str, int], tmp_path: Path) -> None:
    """By a mask as Arrow, a list or pandas, or by reasons; a null passes."""
    spec = declare(tmp_path, MASK.replace("pc.not_equal(rows['item'], 'tea')", returned))
    assert errors(spec) == []
    outcome, quarantined = ingested(tmp_path, spec)
    assert (outcome.outcome, dict(quarantined)) == ("published", rules)


def test_a_function_sees_typed_rows_that_passed_before_it(tmp_path: Path) -> None:
    """Numbers are numbers, in declared units, and a row that an expectation refused isn't shown."""
    rules = """
import pyarrow.compute as pc

def not_tea(rows):
    assert rows["price"].type == "double" and rows.num_rows < 40
    assert not rows.num_rows or pc.min(rows["price"]).as_py() > 2
    return pc.less(rows["price"], 4)
"""
    spec = declare(tmp_path, rules)
    file = spec.folder / "usecase.yaml"
    file.write_text(file.read_text().replace("min_value: 0.01", "min_value: 2"))
    quarantined = ingested(tmp_path, read(file))[1]
    assert quarantined["not_tea"] == 7  # coffee, unless it is promoted
    assert len(quarantined) == 2


@pytest.mark.full
@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (MASK.replace("'item'", "'thing'"), "KeyError"),
        ("def not_tea(rows):\n    return [True]\n", "found 1 of type bool for 0 rows"),
        ("def not_tea(rows):\n    return rows['price']\n", "found 0 of type double for 0 rows"),
        ("import nothing_there\n", "ModuleNotFoundError"),
    ],
)
def test_a_function_that_fails_is_reported(rules: str, problem: str, tmp_path: Path) -> None:
    """Both name the source's key, the file and the line."""
    spec = declare(tmp_path, rules)
    (sentence,) = errors(spec)
    assert "weekly_sales: sources.sales.contract.row_checks: expected" in sentence
    assert problem in sentence
    assert f"{spec.folder}/rules.py:" in sentence
    with pytest.raises(SpecError, match=r"sources\.sales\.contract\.row_checks"):
        ingested(tmp_path, spec)


def test_its_bytes_are_part_of_the_sources_digest(tmp_path: Path) -> None:
    """An edit makes the partitions of that source stale."""
    before = declare(tmp_path, MASK).digest_of("sales")
    assert declare(tmp_path, MASK + "\n").digest_of("sales") != before
