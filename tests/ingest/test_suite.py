"""A contract becomes a suite that Great Expectations runs, and a suite becomes a contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.errors import SpecError
from include.ingest.validation.suite import from_suite, to_suite
from include.spec.load import read

ROOT = Path(__file__).parents[2]
FLIGHTS = read(ROOT / "include" / "usecases" / "flight_delay" / "usecase.yaml")
GOOD = {"tailnum": ["N1", "N2"], "year": [1999, None], "seats": [100, 200]}


def saved(suite: Any) -> Any:
    """Return a suite as Great Expectations saves it."""
    return gx.ExpectationSuite(**json.loads(json.dumps(suite, default=str))).to_json_dict()


def passes(suite: Any, rows: dict[str, list[Any]]) -> dict[str, bool]:
    """Return whether rows meet each expectation of a suite, as Great Expectations evaluates it."""
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.DataFrame(rows)})
    results = batch.validate(gx.ExpectationSuite(**suite)).results
    return {
        f"{result.expectation_config.type} {result.expectation_config.kwargs.get('column', '')}": bool(
            result.success
        )
        for result in results
    }


@pytest.mark.parametrize("name", FLIGHTS.sources)
def test_a_suite_leads_back_to_the_declaration(name: str) -> None:
    """Also after Great Expectations saved it: key, required columns, row counts and expectations."""
    source = FLIGHTS.sources[name]
    required = {column: {"required": True} for column, one in source.columns.items() if one.required}
    limits = {"min_rows": source.contract.min_rows, "max_rows": source.contract.max_rows}
    contract = {limit: value for limit, value in limits.items() if value is not None}
    expectations = [expectation.model_dump() for expectation in source.contract.expectations]
    for suite in (to_suite(FLIGHTS, name), saved(to_suite(FLIGHTS, name))):
        result = from_suite(suite, FLIGHTS, name)
        assert result.not_expressed == []
        assert result.declaration.get("columns", {}) == required
        assert result.declaration["key"] == list(source.key)
        assert result.declaration["contract"] == contract | (
            {"expectations": expectations} if expectations else {}
        )


def test_great_expectations_evaluates_the_suite() -> None:
    """Rows that break the key, a limit or the row count break just those expectations."""
    suite = to_suite(FLIGHTS, "planes")
    columns = {name: GOOD.get(name, ["a", "b"]) for name in FLIGHTS.sources["planes"].columns}
    results = passes(suite, columns)
    assert {name for name, met in results.items() if not met} == {"expect_table_row_count_to_be_between "}
    bad = {**columns, "tailnum": ["N1", "N1"], "seats": [0, 200]}
    assert {name for name, met in passes(suite, bad).items() if not met} == {
        "expect_table_row_count_to_be_between ",
        "expect_column_values_to_be_unique tailnum",
        "expect_column_values_to_be_between seats",
    }


def test_what_a_declaration_can_not_express_is_named(tmp_path: Path) -> None:
    """The command prints what it can, names each other expectation with the reason, and ends with 1."""
    between = {"column": "seats", "min_value": 1.0}
    entries = [
        {"type": "expect_column_values_to_be_between", "kwargs": between},
        {"type": "expect_column_values_to_be_between", "kwargs": {**between, "mostly": 0.9}},
        {"type": "expect_column_values_to_be_between", "kwargs": between, "severity": "warning"},
        {"type": "expect_column_values_to_be_increasing", "kwargs": {"column": "seats"}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "wings"}},
        {"type": "Our Own", "kwargs": {}},
    ]
    (tmp_path / "suite.json").write_text(json.dumps({"name": "s", "expectations": entries}))
    command = ["contract", "flight_delay", "planes", "--read", str(tmp_path / "suite.json")]
    output = CliRunner().invoke(app, [*command, "--json"])
    assert output.exit_code == 1
    result = json.loads(output.stdout)
    expected = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "seats", "min_value": 1}}
    assert result["declaration"] == {"contract": {"expectations": [expected]}}
    reasons = ("found mostly", "found warning", "expected one of", "found wings", "an expectation's name")
    assert len(result["not_expressed"]) == len(reasons)
    for sentence, reason in zip(result["not_expressed"], reasons, strict=True):
        assert reason in sentence
        assert sentence in output.stderr


@pytest.mark.parametrize(
    "suite",
    [
        [],
        {"expectations": [{"expectation_type": "expect_x"}]},
        {"expectations": [{"type": "expect_x", "kwargs": []}]},
    ],
)
def test_what_is_no_suite_is_refused(suite: Any) -> None:
    """A file of another format, such as that of Great Expectations 0.18, is not read as an empty contract."""
    with pytest.raises(SpecError, match=r"expected a suite of Great Expectations 1\.x"):
        from_suite(suite, FLIGHTS, "planes")


def test_the_command_names_a_source_or_file_that_is_not_there(tmp_path: Path) -> None:
    """The sources that there are, or the file that can't be read."""
    unknown = CliRunner().invoke(app, ["contract", "flight_delay", "trains"])
    assert "expected one of schedule, outcomes, weather, planes, but found trains" in str(unknown.exception)
    missing = CliRunner().invoke(app, ["contract", "flight_delay", "planes", "--read", str(tmp_path / "no")])
    assert "expected a JSON file" in str(missing.exception)
