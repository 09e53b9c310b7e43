"""Features: from the tables that the SQL sees, and its result, to one row for each row of the spine."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from duckdb import DuckDBPyRelation


def build(tables: Mapping[str, DuckDBPyRelation]) -> pd.DataFrame:
    """Return the SQL's features, and the distance of each price from the median of its day."""
    rows: pd.DataFrame = tables["features"].df()
    rows["price_distance"] = rows["price"] - rows.groupby("partition")["price"].transform("median")
    return rows
