"""A small clinic: which visits will be missed, or by how many minutes late, or early, on time or late.

Forty visits a partition, the same at each call; what became of a partition's visits is published two
partitions later. One in ten has no outcome, one number in ten is missing, and a place that training never saw
opens at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from include.spec import UseCase
from include.spec.load import read
from include.storage import schemas
from include.storage.lake import Lake

FIRST, LAST = "2024-03-01", "2024-03-30"
SPEC = """
name: {name}
problem: {{kind: {kind}, statement: s, target: {target}{classes}}}
schedule: {{batch: "0 18 * * *", training: "0 20 * * 0", timezone: UTC, start: "2024-03-01"}}
sources:
  visits:
    kind: objects
    connection: clinic
    path: visits/{{day}}.csv
    available_at: "12:00"
    key: [visit]
    columns:
      visit: {{type: string, required: true}}
      distance: {{type: number}}
      earlier: {{type: number}}
      place: {{type: string}}
  outcomes:
    kind: objects
    connection: clinic
    path: outcomes/{{day}}.csv
    available_at: "06:00"
    key: [visit]
    columns:
      visit: {{type: string, required: true}}
      minutes: {{type: number}}
features: {{spine: visits, lookback: 0, numeric: [distance, earlier], categorical: [place]}}
labels: {{source: outcomes, sql: "{sql}", delay: 2}}
training:
  test: 8
  seed: 7
  baselines:
    - {{name: prior, estimator: prior}}
    - {{name: linear, estimator: {linear}}}
  candidates:
    - {{name: boosting, estimator: hist_gradient_boosting, params: {{max_iter: 15, min_samples_leaf: 10}}}}
    - {{name: forest, estimator: random_forest, params: {{n_estimators: 10, min_samples_leaf: 5}}}}
gate: {{objective: {objective}, min_partitions: 3, block_partitions: 1}}
scoring: {{constant: {constant}}}
"""
KINDS = {
    "binary": {
        "name": "missed_visits",
        "target": "missed",
        "sql": "minutes > 15",
        "linear": "logistic_regression",
        "objective": "log_loss",
    },
    "regression": {
        "name": "late_visits",
        "target": "lateness",
        "sql": "minutes",
        "linear": "ridge",
        "objective": "squared_error",
    },
    "multiclass": {
        "name": "timely_visits",
        "target": "band",
        "sql": "CASE WHEN minutes < -5 THEN 'early' WHEN minutes < 15 THEN 'on_time' "
        "WHEN minutes IS NOT NULL THEN 'late' END",
        "linear": "logistic_regression",
        "objective": "log_loss",
        "classes": ", classes: [early, on_time, late]",
        "constant": "{early: 0.2, on_time: 0.5, late: 0.3}",
    },
}


def usecase(folder: Path, kind: str = "binary", **changes: str) -> UseCase:
    """Declare the use case below a folder; ``changes`` replaces parts of its text."""
    given = KINDS[kind]
    text = SPEC.format(**{"kind": kind, "classes": "", "constant": "0.2", **given})
    for old, new in changes.items():
        text = text.replace(old, new)
    home = folder / given["name"]
    home.mkdir(parents=True, exist_ok=True)
    (home / "usecase.yaml").write_text(text)
    (home / "features.sql").write_text("SELECT visit, partition, distance, earlier, place FROM spine")
    return read(home / "usecase.yaml")


def fill(lake: Lake, spec: UseCase, first: str = FIRST, last: str = LAST) -> None:
    """Publish visits and outcomes of each partition, as ingest would."""
    partitions = spec.clock.keys(first, last)
    known_at = {
        name: [spec.clock.local(key, source.available_at) for key in partitions]
        for name, source in spec.sources.items()
    }
    visits = [row for key, at in zip(partitions, known_at["visits"], strict=True) for row in _visits(key, at)]
    outcomes = [
        {**row, "partition": key, "known_at": at}
        for key, at in zip(partitions, known_at["outcomes"], strict=True)
        for row in _outcomes(spec.clock.shift(key, -2))
    ]
    for name, rows in (("visits", visits), ("outcomes", outcomes)):
        table = pa.Table.from_pylist(rows, schema=schemas.validated_schema(spec.sources[name]))
        lake.publish(f"validated_{name}", table, {"partition": partitions})
        status = [{"product": name, "partition": key, "outcome": "published"} for key in partitions]
        where = {"product": name, "partition": partitions}
        lake.publish("partitions", pa.Table.from_pylist(status, schema=schemas.PARTITIONS), where)


def revise(lake: Lake, partitions: Sequence[str], *, later: int = 0) -> None:
    """Flip the outcomes in partitions of their source, in place or by a revision ``later`` days after."""
    rows = lake.read("validated_outcomes", {"partition": partitions})
    assert rows is not None
    flipped = rows.to_pylist()
    for row in flipped:
        row["minutes"] = None if row["minutes"] is None else 30 - row["minutes"]
        row["revision"] = int(later > 0)
        row["known_at"] += timedelta(days=later)
    new = pa.Table.from_pylist(flipped, schema=rows.schema)
    new = pa.concat_tables([rows, new]) if later else new
    lake.publish("validated_outcomes", new, {"partition": partitions})


def _world(partition: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(int(partition.replace("-", "")))
    distance, earlier = random.exponential(5, 40), random.poisson(1.0, 40).astype(float)
    places = ["north", "south", "east"] + (["new"] if partition >= "2024-03-24" else [])
    place = random.choice(places, 40)
    minutes = 4 * distance + 6 * earlier - 15 + 10 * (place == "south") + random.normal(0, 8, 40)
    return distance, earlier, place, minutes


def _visits(partition: str, known_at: datetime) -> list[dict[str, object]]:
    distance, earlier, place, _ = _world(partition)
    return [
        {
            "visit": f"v{i:02}",
            "distance": None if i % 10 == 3 else float(distance[i]),
            "earlier": float(earlier[i]),
            "place": None if i % 20 == 7 else str(place[i]),
            "partition": partition,
            "revision": 0,
            "known_at": known_at,
        }
        for i in range(40)
    ]


def _outcomes(partition: str) -> list[dict[str, object]]:
    if partition < FIRST:
        return []
    *_, minutes = _world(partition)
    return [
        {"visit": f"v{i:02}", "minutes": None if i % 10 == 9 else float(minutes[i]), "revision": 0}
        for i in range(40)
    ]
