"""What a message advises can be done, and then the problem is gone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.validate.declarations import change, validate, write_usecase


def only_problem(folder: Path) -> dict[str, Any]:
    """Return the one problem of a use case."""
    (problem,) = validate(folder)[1]["problems"]
    return dict(problem)


@pytest.mark.full
def test_the_lines_of_the_baseline_hint_can_be_added(tmp_path: Path) -> None:
    """The SELECT's line, the features and the recipe are added as they are shown."""
    folder = write_usecase(tmp_path, "sales")
    spec, sql = folder / "usecase.yaml", folder / "features.sql"
    change(spec, "    - {name: last, estimator: rule, params: {column: units_last_week}}\n", "")
    select, recipe = re.findall(r"`([^`]+)`", only_problem(folder)["remedy"])
    change(sql, "SELECT\n    spine.store,", f"SELECT\n    {select}\n    spine.store,")
    change(spec, "units_last_week, units_mean_4]", "units_last_week, units_mean_4, units_sold_last]")
    change(spec, "  candidates:\n", f"    {recipe}\n  candidates:\n")
    assert validate(folder)[1]["problems"] == []


@pytest.mark.full
def test_the_lookback_can_be_set_as_advised(tmp_path: Path) -> None:
    """The remedy names the key's line."""
    folder = write_usecase(tmp_path, "two")
    change(folder / "usecase.yaml", "lookback: 28", "lookback: 5")
    (line,) = {re.findall(r"`([^`]+)`", one["remedy"])[0] for one in validate(folder)[1]["problems"]}
    change(folder / "usecase.yaml", "lookback: 5", line)
    assert validate(folder)[1]["problems"] == []


@pytest.mark.full
@pytest.mark.parametrize("place", [0, 1])
def test_the_day_of_the_labels_can_be_corrected_as_advised(place: int, tmp_path: Path) -> None:
    """Either the delay or the offset brings the labels of the features' day."""
    folder = write_usecase(tmp_path, "two")
    change(folder / "usecase.yaml", "delay: 2 ", "delay: 3 ")
    line = re.findall(r"`([^`]+)`", only_problem(folder)["remedy"])[place]
    old = "delay: 3" if line.startswith("delay") else "offset: -1"
    change(folder / "usecase.yaml", old, line)
    assert validate(folder)[1]["problems"] == []
