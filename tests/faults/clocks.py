"""A partition and a week as their operators run them, without Airflow.

For tests that kill or reorder them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from include.cli import stages
from include.references import digest_json
from include.spec import UseCase
from include.storage.lake import Lake

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def partition(lake: Lake, spec: UseCase, key: str) -> None:
    """Ingest, score and monitor one partition."""
    for stage in ("ingest", "score", "monitor"):
        stages.run_stage(stage, lake, spec, [key], now=NOW)


def week(lake: Lake, spec: UseCase, key: str) -> None:
    """Train, evaluate, judge and promote."""
    stages.run_stage("train", lake, spec, [key], now=NOW)


def tables(lake: Lake) -> list[str]:
    """Return the names of the lake's tables."""
    return sorted({key.split("/")[1] for key in lake.keys("tables")})


def state(lake: Lake, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Return a digest of each table's rows, in any order, and of the raw objects' names.

    Parameters
    ----------
    without : columns that may differ between two runs of the same work, such as a model's digest.
    """
    found = {name: digest_json(sorted(map(repr, _plain(lake.rows(name), without)))) for name in tables(lake)}
    return {**found, "raw": digest_json(lake.keys("raw"))}


def _plain(rows: list[dict[str, Any]], without: tuple[str, ...]) -> list[list[tuple[str, Any]]]:
    return [sorted((k, v) for k, v in row.items() if k not in without) for row in rows]
