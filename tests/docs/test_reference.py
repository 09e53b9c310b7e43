"""The reference pages say what the code says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from include.judge.checks import CHECKS, SUFFICIENCY_CHECKS
from include.spec.load import SCHEMA, SHIPPED, json_schema
from include.train.estimators import ESTIMATORS
from tests.docs.pages import DOCS, ROOT

GENERATOR = DOCS / "reference" / "generate.py"
USECASES = [*SHIPPED.glob("[a-z]*/usecase.yaml"), *(ROOT / "tests" / "usecases").glob("*/usecase.yaml")]


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    """Return what the generator defines."""
    return runpy.run_path(str(GENERATOR))


def test_every_generated_file_is_up_to_date(generator: dict[str, Any]) -> None:
    """Regenerating changes nothing; if it does, run `python docs/reference/generate.py`."""
    for path, text in generator["pages"]().items():
        assert path.read_text() == text, f"{path}: run `python docs/reference/generate.py`"


def test_every_key_says_what_it_means(generator: dict[str, Any]) -> None:
    """No key of usecase.yaml has an empty last column, and each level of the file has a section."""
    page = (DOCS / "reference" / "usecase.md").read_text()
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []
    for path in ("schedule", "sources.<name>.columns.<name>", "training.candidates[]", "gate.rollout"):
        assert f"## `{path}`" in page


def test_every_column_of_a_table_says_what_it_means() -> None:
    """No column of a table has an empty last column."""
    page = (DOCS / "reference" / "tables.md").read_text()
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []


def test_a_key_that_is_added_to_the_schema_comes_to_the_page(generator: dict[str, Any]) -> None:
    """The page is made from the schema: a planted key is in it."""
    schema = json_schema()
    planted = {"type": "number", "minimum": 2, "default": 3, "description": "planted"}
    schema["$defs"]["Gate"]["properties"]["planted"] = planted
    assert "| `planted` | number, ≥ 2 | `3` | Planted |" in generator["usecase_page"](schema)


def test_each_check_of_the_gate_has_a_row_under_its_key() -> None:
    """The table of gate.md has the keys of the registry, in the order in which a verdict lists them."""
    page = (DOCS / "explanation" / "gate.md").read_text()
    rows = [line.split(" | ")[0].strip("| `") for line in page.splitlines() if line.startswith("| `")]
    assert rows == [*SUFFICIENCY_CHECKS, *CHECKS]


def test_every_estimator_of_the_registry_is_on_the_page_with_what_it_is_for() -> None:
    """Each name that a recipe may use has a line with a sentence, `rule` with its parameters."""
    page = (DOCS / "reference" / "estimators.md").read_text()
    rows = {line.split(" | ")[0].strip("| `"): line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {name for estimators in ESTIMATORS.values() for name in estimators}
    assert [name for name, line in rows.items() if line.endswith("|  |")] == []
    assert "plus: -5" in rows["rule"]


@pytest.mark.full
@pytest.mark.parametrize("file", USECASES, ids=lambda file: file.parent.name)
def test_what_evergreen_reads_the_schema_accepts(file: Path) -> None:
    """A valid declaration has no mistake in an editor either, and the first line leads to the schema."""
    jsonschema.validate(yaml.safe_load(file.read_text()), json.loads(SCHEMA.read_text()))
    first = file.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (file.parent / first.partition("=")[2]).resolve() == SCHEMA.resolve()


def test_the_schema_refuses_an_unknown_key() -> None:
    """A misspelt key is marked in the editor."""
    declared = yaml.safe_load((SHIPPED / "flight_delay" / "usecase.yaml").read_text())
    declared["features"]["loockback"] = declared["features"].pop("lookback")
    with pytest.raises(jsonschema.ValidationError, match="loockback"):
        jsonschema.validate(declared, json.loads(SCHEMA.read_text()))
