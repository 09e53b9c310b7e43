"""A night and a week as their operators run them, without Airflow, for tests that kill or reorder them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from include.environment import Connect
from include.evaluate.run import evaluate
from include.ingest.run import ingest
from include.ingest.settle import settle
from include.lake import Lake
from include.monitor.run import monitor
from include.promote.run import decide, promote
from include.refs import digest_json
from include.registry import Registry
from include.score.run import score
from include.spec import UseCase
from include.train.run import train


def night(lake: Lake, spec: UseCase, key: str, connect: Connect) -> None:
    """Ingest, score and monitor one night."""
    for source in spec.sources:
        ingest(lake, spec, source, [key], connect, now=datetime(2030, 1, 1, tzinfo=UTC))
    settle(lake, spec, key, connect)
    score(lake, spec, key)
    monitor(lake, spec, key)


def week(lake: Lake, spec: UseCase, key: str) -> str:
    """Train, evaluate, judge and promote; return the verdict."""
    registry = Registry()
    run = train(lake, spec, key, registry=registry)
    evidence = evaluate(lake, spec, key, run.uri, registry=registry)
    verdict = decide(lake, spec, evidence.uri)
    promote(lake, spec, PurePosixPath(evidence.uri).stem, registry=registry)
    return verdict.verdict


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
