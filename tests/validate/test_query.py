"""What the parse tree of the SQL shows, without any data."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.spec.load import read
from include.validate.query import query_problems
from tests.validate.declarations import change, write_usecase

FORBIDDEN = {
    "a rename": ("spine.price,", "spine.opens AS price,"),
    "another case": ("spine.price,", "spine.OPENS AS price,"),
    "an expression": ("spine.price,", "CASE WHEN spine.opens > 500 THEN 1 ELSE 0 END AS price,"),
    "a rename in a query before": ("past.price,", "past.opens AS price,"),
    "two renames": ("arg_max(price, seen) FILTER", "arg_max(opened, seen) FILTER"),
    "a subquery": ("spine.price,", "(SELECT max(opens) FROM sales) AS price,"),
}
ALLOWED = {
    "nothing": ("spine.price,", "spine.price,"),
    "a number of values": ("spine.price,", "(SELECT count(DISTINCT opens) FROM sales) AS price,"),
    "a choice of rows": ("spine.price,", "(SELECT max(units) FROM sales WHERE opens > 500) AS price,"),
    "a window": ("spine.price,", "max(spine.price) OVER (PARTITION BY spine.opens) AS price,"),
}


@pytest.mark.parametrize("case", [*FORBIDDEN, *ALLOWED])
def test_a_feature_that_is_computed_from_a_forbidden_column_is_refused(case: str, tmp_path: Path) -> None:
    """Whatever its name is; rows may still be chosen and counted by the column."""
    folder = write_usecase(tmp_path, "sales")
    change(
        folder / "usecase.yaml",
        "  owner: replenishment\n",
        "  owner: replenishment\n  never_features: [opens]\n",
    )
    sql = folder / "features.sql"
    change(sql, "spine.opens AS opens_minute", "0 AS opens_minute")
    change(sql, "past.price, past.units", "past.price, past.opens AS opened, past.units")
    change(sql, *{**FORBIDDEN, **ALLOWED}[case])
    subjects = {problem.error.subject for problem in query_problems(read(folder / "usecase.yaml"))}
    assert ("weekly_sales: problem.never_features" in subjects) == (case in FORBIDDEN)
