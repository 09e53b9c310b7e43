"""Labels and requirements that stored data contradicts, beyond those of the list."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from include.spec.load import read
from include.validate.baselines import value_line
from tests.validate.declarations import ROOT, change, stored, validate, write_usecase

__all__ = ["stored"]  # the fixture

CASES = {
    "a bound that the positive rate itself meets": (
        {"{metric: roc_auc, at_least: 0.6}": "{metric: roc_auc, at_least: 0.5}"},
        "warning",
        "gate.requirements: roc_auc",
        "the positive rate as the only prediction misses; it has 0.5",
    ),
    "labels that are never 1": (
        {"sql: units > 100\n": "sql: units > 9999\n"},
        "error",
        "labels.sql: units_sold",
        "labels of each class, 0, 1, but found none of 1 among",
    ),
    "labels that are counts": (
        {"sql: units > 100\n": "sql: units\n"},
        "error",
        "labels.sql",
        "expected 0, 1 or null, for a binary problem, but found ",
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_labels_that_contradict_the_declaration_are_found(
    case: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the labels and their share."""
    changes, severity, subject, message = CASES[case]
    monkeypatch.setenv("EVERGREEN_LAKE", str(stored))
    folder = write_usecase(tmp_path, "rare")
    for old, new in changes.items():
        change(folder / "usecase.yaml", old, new)
    found = [one for one in validate(folder, "--data")[1]["problems"] if one["severity"] == severity]
    (own,) = [one for one in found if one["subject"].endswith(subject)]
    assert message in f"expected {own['required']}, but found {own['found']}"


@pytest.mark.full
def test_a_binary_problem_with_counts_as_labels_is_warned_of_without_data(tmp_path: Path) -> None:
    """The contract would allow other values than 0 and 1; once it doesn't, nothing is said."""
    folder = write_usecase(tmp_path, "rare")
    change(folder / "usecase.yaml", "sql: units > 100\n", "sql: units\n")
    (problem,) = validate(folder)[1]["problems"]
    assert (problem["severity"], problem["subject"]) == ("warning", "weekly_sales: labels.sql")
    bounds = "expect_column_values_to_be_between, kwargs: {column: units, min_value: 0, max_value: 10000}"
    change(
        folder / "usecase.yaml",
        bounds,
        "expect_column_values_to_be_in_set, kwargs: {column: units, value_set: [0, 1]}",
    )
    assert validate(folder)[1]["problems"] == []


@pytest.mark.full
def test_the_value_of_a_week_before_is_that_of_the_same_day(tmp_path: Path) -> None:
    """A label comes `delay` partitions after its row, so it is as many partitions younger than a week."""
    folder = tmp_path / "_template"
    shutil.copytree(ROOT / "include" / "usecases" / "_template", folder)
    file = folder / "usecase.yaml"
    text = file.read_text().replace("USECASE", "_template").replace("name: _template", "name: shop")
    file.write_text(text.replace("    - {name: yesterday,", "    # - {name: yesterday,"))
    folder = folder.rename(tmp_path / "shop")
    (problem,) = validate(folder)[1]["problems"]
    spec = read(folder / "usecase.yaml")
    line = value_line(spec, "units_week_ago", 6)
    assert line in problem["remedy"]
    row, label = "2024-03-13", "2024-03-20"
    assert spec.clock.shift(row, spec.labels.delay) == spec.clock.shift(label, -6)
    change(folder / "features.sql", "SELECT\n    spine.item,", f"SELECT\n    {line}\n    spine.item,")
    change(folder / "usecase.yaml", "sold_mean_7]", "sold_mean_7, units_week_ago]")
    rule = "    - {name: week_ago, estimator: rule, params: {column: units_week_ago}}\n"
    change(folder / "usecase.yaml", "  candidates:\n", f"{rule}  candidates:\n")
    assert validate(folder)[1]["problems"] == []


@pytest.mark.full
def test_an_hourly_forecast_is_compared_with_the_hour_of_the_day_before(tmp_path: Path) -> None:
    """The lookback of 24 hours reaches a day and no week; the lines can be added as they are shown."""
    folder = tmp_path / "hourly_rides"
    shutil.copytree(ROOT / "tests" / "usecases" / "hourly_rides", folder)
    (problem,) = validate(folder)[1]["problems"]
    assert problem["required"].endswith("the last known value, and that of the same hour a day before")
    last, day, first_recipe, second_recipe = re.findall(r"`([^`]+)`", problem["remedy"])
    assert "past.ago = 23 " in day
    sql = (folder / "features.sql").read_text()
    select = sql.rindex("SELECT") + len("SELECT")
    (folder / "features.sql").write_text(f"{sql[:select]}\n    {last}\n    {day}{sql[select:]}")
    change(folder / "usecase.yaml", "  numeric: [", "  numeric: [rides_next_last, rides_next_day_ago, ")
    added = f"    {first_recipe}\n    {second_recipe}\n  candidates:\n"
    change(folder / "usecase.yaml", "  candidates:\n", added)
    assert validate(folder)[1]["problems"] == []
