"""A lake with a year of a use case of 20 columns, as scoring and monitoring would leave it, made in seconds.

The last `SINGLE` partitions of a table are commits of their own, and the others one commit, as after upkeep.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from include.spec import UseCase
from include.spec.load import read
from include.stats.drift_measures import BY_KIND
from include.stats.profiles import build_profile
from include.storage import schemas
from include.storage.lake import DELTA_PARTITIONS, Lake
from include.train.monitoring_baselines import REFERENCE
from include.train.recipes import recipe_key, recipes, recipes_by_name

USECASE = "year"
FIRST, PARTITIONS, ROWS, SINGLE = date(2024, 1, 1), 365, 100, 7
NUMERIC = [f"number_{place}" for place in range(15)]
CATEGORICAL = [f"category_{place}" for place in range(5)]
SOURCES = ("visits", "outcomes")
METRICS = ("roc_auc", "log_loss", "brier", "constant:roc_auc", "constant:log_loss", "constant:brier")
BROKEN = 200  # the position of the partition from which category_0 drifts
DECLARED = f"""
name: {USECASE}
problem: {{kind: binary, statement: who comes too late, target: late, owner: team}}
schedule: {{batch: "0 18 * * *", training: "0 20 * * 0", timezone: UTC, start: "{FIRST}"}}
sources:
  visits:
    kind: objects
    connection: clinic
    path: visits/{{day}}.csv
    available_at: "12:00"
    key: [visit]
    columns: {{visit: {{type: string, required: true}}}}
    contract: {{tolerance: 0.05}}
  outcomes:
    kind: objects
    connection: clinic
    path: outcomes/{{day}}.csv
    available_at: "06:00"
    key: [visit]
    columns: {{visit: {{type: string, required: true}}, minutes: {{type: number}}}}
features:
  spine: visits
  lookback: 0
  numeric: {json.dumps(NUMERIC)}
  categorical: {json.dumps(CATEGORICAL)}
labels: {{source: outcomes, sql: "minutes > 15", delay: 2}}
training:
  test: 28
  baselines:
    - {{name: prior, estimator: prior}}
    - {{name: linear, estimator: logistic_regression}}
  candidates:
    - {{name: boosting, estimator: hist_gradient_boosting, params: {{max_iter: 80}}}}
    - {{name: forest, estimator: random_forest, params: {{n_estimators: 40}}}}
gate: {{objective: log_loss}}
scoring: {{constant: 0.2}}
monitoring: {{requirements: [{{metric: roc_auc, at_least: 0.7}}]}}
"""
KEYS = [(FIRST + timedelta(days=place)).isoformat() for place in range(PARTITIONS)]
TRAININGS = KEYS[6::7]


def digest(*parts: object) -> str:
    """Return a made-up digest."""
    return f"{'-'.join(map(str, parts)):x<64}"


def declare(folder: Path) -> UseCase:
    """Write the declaration below a folder of use cases."""
    own = folder / USECASE
    own.mkdir(parents=True)
    (own / "usecase.yaml").write_text(DECLARED)
    (own / "features.sql").write_text("SELECT * FROM spine")
    return read(own / "usecase.yaml")


def fill(lake: Lake, spec: UseCase) -> None:
    """Publish the year."""
    random = np.random.default_rng(7)
    _partitions(lake)
    _profiles(lake, random)
    _monitoring(lake, random)
    _trainings(lake, spec, random)
    _predictions(lake, random)
    _quarantine(lake, random)


def _publish(lake: Lake, table: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    """Publish rows as weekly upkeep leaves them: the newest partitions in commits of their own."""
    by_partition: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_partition.setdefault(row["partition"], []).append(row)
    keys = sorted(by_partition)
    own = DELTA_PARTITIONS.get(table, [])
    for block in (keys[:-SINGLE], *([key] for key in keys[-SINGLE:])):
        of_block = [row for key in block for row in by_partition[key]]
        if not of_block:
            continue
        where: dict[str, Any] = {name: sorted({row[name] for row in of_block}) for name in own}
        lake.publish(table, pa.Table.from_pylist(of_block, schema), {**where, "partition": block})


def _partitions(lake: Lake) -> None:
    rows = []
    for place, key in enumerate(KEYS):
        for product in (*SOURCES, "predictions", "performance", "losses", "drift", "monitor", "features"):
            row = schemas.partition_row(
                product, key, ROWS, digest(product, key), inputs={}, spec="s", code="c", note=f"{ROWS} rows"
            )
            if product == "visits" and place % 50 == 49:
                row |= {"outcome": "refused", "rows": 0, "quarantined": ROWS, "note": "too many bad rows"}
            if product == "predictions":
                row["inputs"] = json.dumps({name: digest("input", name) for name in SOURCES})
            rows.append(row)
    _publish(lake, "partitions", schemas.PARTITIONS, rows)
    for source in SOURCES:
        schema = pa.schema(
            {"visit": pa.string(), "partition": pa.string(), "revision": pa.int32(), "known_at": schemas.TIME}
        )
        hour = "T12:00:00+00:00" if source == "visits" else "T06:00:00+00:00"
        table = pa.table(
            {
                "visit": [f"v{row}" for row in range(ROWS)] * PARTITIONS,
                "partition": np.repeat(KEYS, ROWS),
                "revision": pa.array([0] * ROWS * PARTITIONS, pa.int32()),
                "known_at": pa.array(
                    np.repeat([np.datetime64(f"{key}{hour[:9]}", "us") for key in KEYS], ROWS)
                ),
            }
        )
        lake.publish(f"validated_{source}", table.cast(schema), {"partition": KEYS})


def _profiles(lake: Lake, random: np.random.Generator) -> None:
    def columns(shifted: bool) -> pa.Table:
        values: dict[str, Any] = {name: random.normal(size=ROWS) for name in NUMERIC}
        values["number_1"] = [None if place < 10 else 1.0 for place in range(ROWS)]
        values |= {name: random.choice(["a", "b", "c"], ROWS).tolist() for name in CATEGORICAL}
        if shifted:
            values["category_0"] = ["new"] * ROWS
        return pa.table(values)

    tables = {shifted: columns(shifted) for shifted in (False, True)}
    output = pa.table({"prediction": random.uniform(size=ROWS)})
    label = pa.table({"late": (random.uniform(size=ROWS) < 0.3).astype(float)})
    made: dict[bool, list[dict[str, Any]]] = {}
    for shifted, table in tables.items():
        profiles = [
            build_profile("features", "", table, NUMERIC, CATEGORICAL),
            build_profile("predictions", "", output, ["prediction"], []),
            build_profile("labels", "", label, ["late"], []),
        ]
        made[shifted] = [row for profile in profiles for row in profile.to_pylist()]
    rows = [{**row, "partition": key} for place, key in enumerate(KEYS) for row in made[place >= BROKEN]]
    for key in TRAININGS:
        own = {"product": REFERENCE, "partition": key, "model": digest("boosting", key)}
        rows += [{**row, **own} for row in made[False]]
    _publish(lake, "profiles", schemas.PROFILES, rows)


def _monitoring(lake: Lake, random: np.random.Generator) -> None:
    findings, drift, decisions, performance, losses = [], [], [], [], []
    for place, key in enumerate(KEYS):
        for column in (*NUMERIC, *CATEGORICAL, "prediction"):
            broken = column == "category_0" and place >= BROKEN
            kind = "categorical" if column in CATEGORICAL else "numeric"
            for measure in BY_KIND[kind]:
                value = 2.0 if broken else float(random.uniform(0, 0.2))
                drift.append(
                    {"partition": key, "column": column, "measure": measure, "value": value, "rows": ROWS,
                     "partitions": 7}
                )  # fmt: skip
            for check in ("drift", "missing", "unseen", "sudden_change"):
                value = 2.0 if broken and check == "drift" else 0.05
                outcome = "alarm" if broken and check == "drift" else "ok"
                findings.append(
                    {"partition": key, "check": check, "subject": column, "value": value, "threshold": 0.25,
                     "outcome": outcome, "note": f"{column}: {check} {value}"}
                )  # fmt: skip
        decisions.append(
            {
                "partition": key,
                "decision": "nothing",
                "cause": "",
                "reason": "no performance alarm",
                "alerts": "[]",
            }
        )
        version = str(place // 7 or "")
        performance += [
            {"partition": key, "as_of": key, "metric": metric, "value": float(random.uniform(0.5, 0.8)),
             "rows": ROWS, "unlabeled": 0, "served_by": f'{{"champion": {ROWS}}}',
             "versions": json.dumps({version: ROWS})}
            for metric in METRICS
        ]  # fmt: skip
        model = digest("boosting", TRAININGS[place // 7 - 1]) if place >= 7 else ""
        losses.append(
            {"partition": key, "as_of": key, "model": model, "version": version, "rows": ROWS,
             "loss": 50.0, "baseline": 60.0, "constant": 65.0, "against": "constant", "expected": 50.0,
             "observed": 30.0, "predicted": 30.0}
        )  # fmt: skip
    _publish(lake, "findings", schemas.FINDINGS, findings)
    _publish(lake, "drift", schemas.DRIFT, drift)
    _publish(lake, "decisions", schemas.DECISIONS, decisions)
    _publish(lake, "performance", schemas.PERFORMANCE, performance)
    _publish(lake, "losses", schemas.LOSSES, losses)


def _trainings(lake: Lake, spec: UseCase, random: np.random.Generator) -> None:
    fits, walks, attempts, switches = [], [], [], []
    for place, key in enumerate(TRAININGS):
        for recipe in recipes(spec):
            last = KEYS[KEYS.index(key) - 2]
            fits.append(
                {"partition": key, "recipe": recipe.name, "recipe_key": recipe_key(spec, recipe),
                 "model": digest(recipe.name, key), "data": digest("data", key), "rows": ROWS * place,
                 "last_fitted": last, "moved": 0.01}
            )  # fmt: skip
        version, effective_from = str(place + 1), KEYS[min(KEYS.index(key) + 1, PARTITIONS - 1)]
        attempts.append(
            {"key": digest("attempt", key), "partition": key, "verdict": "blessed",
             "sentence": "blessed: well",
             "checks": "[]", "evidence": json.dumps({"recipe": "boosting", "padding": "x" * 20_000}),
             "version": version, "model": digest("boosting", key), "spec": "s", "data": digest("data", key),
             "code": "c", "recorded": place + 1}
        )  # fmt: skip
        for role, name in (("champion", "boosting"), ("baseline", "linear")):
            switches.append(
                {"switch": place + 1, "role": role, "version": version, "model": digest(name, key),
                 "constant": 0.3, "class_shares": None, "effective_from": effective_from, "judged_on": key,
                 "kind": "refreshed" if place else "promoted", "by": "", "reason": "blessed: well",
                 "attempt": digest("attempt", key), "request": digest("attempt", key), "recipe": name}
            )  # fmt: skip
    for place, key in enumerate(KEYS[7:], start=7):
        fitted = TRAININGS[place // 7 - 1]
        for name, mean in (("prior", 0.65), ("linear", 0.6), ("boosting", 0.5), ("forest", 0.52)):
            loss = ROWS * (mean + float(random.normal(0, 0.02)))
            key_of = recipe_key(spec, recipes_by_name(spec)[name])
            walks.append(
                {"partition": key, "as_of": key, "recipe": name, "recipe_key": key_of, "fitted_on": fitted,
                 "model": digest(name, fitted), "rows": ROWS, "loss": loss, "metrics": "{}"}
            )  # fmt: skip
    _publish(lake, "fits", schemas.FITS, fits)
    _publish(lake, "walks", schemas.WALKS, walks)
    lake.append_at("attempts", pa.Table.from_pylist(attempts, schemas.ATTEMPTS), -1)
    lake.append_at("switches", pa.Table.from_pylist(switches, schemas.SWITCHES), -1)


def _predictions(lake: Lake, random: np.random.Generator) -> None:
    models = [
        digest("boosting", TRAININGS[place // 7 - 1]) if place >= 7 else "" for place in range(PARTITIONS)
    ]
    table = pa.table(
        {
            "partition": np.repeat(KEYS, ROWS),
            "prediction": random.uniform(size=ROWS * PARTITIONS),
            "served_by": np.repeat(["champion" if model else "constant" for model in models], ROWS),
            "reason": np.repeat(["" if model else "no champion" for model in models], ROWS),
            "version": np.repeat([str(place // 7 or "") for place in range(PARTITIONS)], ROWS),
            "model": np.repeat(models, ROWS),
            "row_digest": ["r" * 32] * ROWS * PARTITIONS,
        },
        schema=schemas.PREDICTIONS,
    )
    lake.publish("predictions", table, {"partition": KEYS})


def _quarantine(lake: Lake, random: np.random.Generator) -> None:
    rows = [
        {"source": "visits", "partition": key, "revision": 0, "part": "0", "row": row,
         "rule": "between" if row % 2 else "unique", "column": "visit", "value": "x", "record": "{}"}
        for place, key in enumerate(KEYS)
        for row in range(ROWS if place % 50 == 49 else int(random.integers(0, 4)))
    ]  # fmt: skip
    _publish(lake, "quarantine", schemas.QUARANTINE, rows)


class Client:
    """A client of the pages for which Airflow's login and permissions are already checked."""

    def get(self, path: str) -> httpx.Response:
        """Request a page."""
        return asyncio.run(self._get(path))

    async def _get(self, path: str) -> httpx.Response:
        from evergreen.view.app import app

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://pages") as client:
            return await client.get(path)


@contextmanager
def client() -> Iterator[Client]:
    """Let everybody read the year and start nothing, for as long as the client is used."""
    from evergreen.view import access
    from evergreen.view.app import app

    app.dependency_overrides |= {access.may_enter: lambda: None, access.may_read: lambda: None}
    app.dependency_overrides |= {access.readable: lambda: [USECASE], access.may_operate: lambda: False}
    try:
        yield Client()
    finally:
        app.dependency_overrides.clear()
