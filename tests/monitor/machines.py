"""Machines that may stop tomorrow: a small daily use case, its rows from a seed, and faults to plant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from include.features.build import features
from include.features.labels import training_set
from include.models import artifacts
from include.monitor.performance import publish_performance
from include.monitor.pipeline import monitor
from include.monitor.state import PublishedState
from include.references import digest_json
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.stats import profiles
from include.stats.profiles import Profile
from include.storage import schemas
from include.storage.lake import Lake
from include.train.monitoring_baselines import publish_reference_profiles
from tests.monitor import machines

SPEC = """
name: machines
problem: {kind: binary, statement: will it stop tomorrow, target: stopped}
schedule: {batch: "0 18 * * *", training: "0 20 * * *", timezone: UTC, start: "2024-01-01"}
sources:
  readings:
    kind: objects
    connection: plant
    path: readings/{day}.csv
    available_at: "12:00"
    key: [machine]
    columns:
      machine: {type: integer, required: true}
      temp: {type: number}
      load: {type: number}
      weekday: {type: number}
      kind: {type: string}
  stops:
    kind: objects
    connection: plant
    path: stops/{day}.csv
    available_at: "06:00"
    key: [machine]
    columns:
      machine: {type: integer, required: true}
      minutes: {type: number}
features: {spine: readings, lookback: 0, numeric: [temp, load, weekday], categorical: [kind]}
labels: {source: stops, sql: minutes > 15, delay: 2}
training:
  test: 6
  baselines: [{name: prior, estimator: prior}]
  candidates: [{name: logistic, estimator: logistic_regression}]
gate: {objective: log_loss, min_partitions: 2, block_partitions: 1}
scoring: {constant: 0.3}
monitoring: {window: 3, report_rows: 200, requirements: [{metric: roc_auc, at_least: 0.55}]}
retraining: {when: [degraded], consecutive: 2}
"""
SQL = "SELECT machine, partition, temp, load, weekday, kind FROM spine\n"
FIRST, TRAINED = "2024-01-01", "2024-01-24"  # of the history, whose last partition is the training's
ROWS = 120
Fault = Callable[[dict[str, Any]], dict[str, Any]]


def spec(folder: Path, **changes: str) -> UseCase:
    """Return the use case; ``changes`` replace a line's value, as ``retraining="{when: [drifted]}"``."""
    text = SPEC
    for name, value in changes.items():
        lines = [line for line in text.splitlines() if line.startswith(f"{name}:")]
        assert len(lines) == 1
        text = text.replace(lines[0], f"{name}: {value}")
    (folder / "machines").mkdir(exist_ok=True)
    (folder / "machines" / "usecase.yaml").write_text(text)
    (folder / "machines" / "features.sql").write_text(SQL)
    return read(folder / "machines" / "usecase.yaml")


def day(partition: str) -> tuple[list[dict[str, Any]], list[float | None]]:
    """Return a partition's readings, and the minutes that each machine stood still (None: no label)."""
    number = (np.datetime64(partition) - np.datetime64(FIRST)).astype(int)
    random = np.random.default_rng([3, number + 1000])
    warm = random.normal(0, 3)  # all machines of a day share its weather
    rows = [
        {
            "machine": machine,
            "temp": 20 + warm + random.normal(0, 2),
            "load": random.random(),
            "weekday": float(number % 7),
            "kind": str(random.choice(["pump", "fan", "belt"], p=[0.6, 0.3, 0.1])),
        }
        for machine in range(ROWS)
    ]
    risk = [1 / (1 + np.exp(1.5 - 3 * (row["load"] - 0.5) - (row["kind"] == "belt"))) for row in rows]
    minutes = [float(random.choice([60, 0], p=[p, 1 - p])) if random.random() > 0.05 else None for p in risk]
    return rows, minutes


def publish(
    lake: Lake, use: UseCase, source: str, partition: str, rows: list[dict[str, Any]], **said: Any
) -> None:
    """Publish a source's partition as ingest does; ``said`` replaces columns of its row in `partitions`."""
    _publish(lake, source, [partition], [_ingested(use, source, partition, rows, **said)])


def _ingested(
    use: UseCase, source: str, partition: str, rows: list[dict[str, Any]], **said: Any
) -> tuple[pa.Table, pa.Table]:
    """Return a partition's rows of a source, and its row of `partitions`."""
    known = use.clock.local(partition, use.sources[source].available_at)
    schema = schemas.validated_schema(use.sources[source])
    full = [
        {**row, "partition": partition, "revision": 0, "known_at": said.get("known_at", known)}
        for row in rows
    ]
    status = {
        "product": source,
        "partition": partition,
        "outcome": "published",
        "revision": 0,
        "rows": len(rows),
        "quarantined": 0,
        "duplicates": 0,
        "digest": digest_json(full),
        "inputs": "{}",
        "spec": use.digest,
        "code": "test",
        "note": "",
        **{k: v for k, v in said.items() if k != "known_at"},
    }
    return pa.Table.from_pylist(full, schema=schema), pa.Table.from_pylist(
        [status], schema=schemas.PARTITIONS
    )


def _publish(lake: Lake, source: str, partitions: list[str], made: list[tuple[pa.Table, pa.Table]]) -> None:
    rows, told = (pa.concat_tables(one) for one in zip(*made, strict=True))
    lake.publish(f"validated_{source}", rows, {"partition": partitions})
    lake.publish("partitions", told, {"product": source, "partition": partitions})


def readings(lake: Lake, use: UseCase, partition: str, fault: Fault = dict) -> None:
    """Publish a partition's readings, each row through a fault."""
    publish(lake, use, "readings", partition, [fault(row) for row in day(partition)[0]])


def stops(lake: Lake, use: UseCase, partition: str, **said: Any) -> None:
    """Publish what a partition brings: how the machines that were scored two partitions before did."""
    publish(lake, use, "stops", partition, _stopped(use, partition), **said)


def _stopped(use: UseCase, partition: str) -> list[dict[str, Any]]:
    minutes = day(use.clock.shift(partition, -use.labels.delay))[1]
    return [{"machine": m, "minutes": value} for m, value in enumerate(minutes) if m or value is not None]


def revise(lake: Lake, use: UseCase, partition: str, change: Fault, known: str) -> None:
    """Let the labels that a partition brought be others, as ingest does.

    A revision, known by a later partition.
    """
    rows = [row for row in lake.rows("validated_stops", {"partition": partition}) if row["revision"] == 0]
    own = {name: rows[0][name] for name in ("partition", "revision", "known_at")}
    later = {**own, "revision": 1, "known_at": use.clock.local(known, use.sources["stops"].available_at)}
    new = [{**change({k: v for k, v in row.items() if k not in own}), **later} for row in rows]
    schema = schemas.validated_schema(use.sources["stops"])
    lake.publish(
        "validated_stops", pa.Table.from_pylist([*rows, *new], schema=schema), {"partition": partition}
    )
    where = {"product": "stops", "partition": partition}
    row = lake.rows("partitions", where)[0] | {"revision": 1, "digest": digest_json([*rows, *new])}
    lake.publish("partitions", pa.Table.from_pylist([row], schema=schemas.PARTITIONS), where)


def fit(lake: Lake, use: UseCase) -> tuple[str, bytes]:
    """Fit a model on the history as training does, publish its reference, and return its digest and bytes."""
    rows = training_set(lake, use, TRAINED)
    last = use.clock.shift(TRAINED, -use.training.test)
    fitted = rows.filter(pa.array([partition <= last for partition in rows["partition"].to_pylist()]))
    held = rows.filter(pa.array([partition > last for partition in rows["partition"].to_pylist()]))
    both = ColumnTransformer(
        [
            ("numeric", make_pipeline(SimpleImputer()), list(use.features.numeric)),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), list(use.features.categorical)),
        ]
    )
    model = Pipeline([("columns", both), ("model", LogisticRegression(max_iter=2000))])
    model.fit(artifacts.model_input(fitted, use), fitted[use.problem.target].to_numpy())
    data = artifacts.serialize(model)
    digest = artifacts.store_model(lake, data)
    seen = profiles.build_profile("", TRAINED, fitted, use.features.numeric, use.features.categorical)
    predicted = pa.table({"prediction": artifacts.predict(model, held, use)})
    came = profiles.build_profile("", TRAINED, fitted, [use.problem.target], [])
    parts = [seen, came, profiles.build_profile("", TRAINED, predicted, ["prediction"], [])]
    publish_reference_profiles(lake, digest, TRAINED, parts)
    return digest, data


def promote(
    lake: Lake,
    digest: str,
    effective_from: str,
    version: str = "1",
    evidence: str = TRAINED,
    kind: str = "promoted",
) -> None:
    """Write a switch to `switches`."""
    rows = lake.rows("switches")
    row = {
        "switch": len(rows) + 1,
        "role": "champion",
        "version": version,
        "model": digest,
        "constant": 0.25,
        "effective_from": effective_from,
        "judged_on": evidence,
        "kind": kind,
        "by": "test",
        "reason": "",
        "attempt": version,
        "request": version,
    }
    table = pa.Table.from_pylist([row], schema=schemas.SWITCHES)
    lake.append_at("switches", table, lake.version("switches"))


def many_readings(lake: Lake, use: UseCase, partitions: list[str]) -> None:
    """Publish the readings of many partitions in one commit, as upkeep leaves them.

    A query costs by the file.
    """
    _publish(lake, "readings", partitions, [_ingested(use, "readings", n, day(n)[0]) for n in partitions])


def many_partitions(lake: Lake, use: UseCase, partitions: list[str]) -> None:
    """Publish the readings of many partitions, and what each of them brings."""
    many_readings(lake, use, partitions)
    _publish(lake, "stops", partitions, [_ingested(use, "stops", n, _stopped(use, n)) for n in partitions])


def history(lake: Lake, use: UseCase) -> None:
    """Publish every partition of the history."""
    many_partitions(lake, use, use.clock.keys(FIRST, TRAINED))


def plant(folder: Path, use: UseCase) -> Lake:
    """Return a lake with the history, and a champion from the first partition after it."""
    lake = Lake("machines", str(folder))
    history(lake, use)
    digest, _ = fit(lake, use)
    promote(lake, digest, use.clock.shift(TRAINED, 1))
    return lake


def run(lake: Lake, use: UseCase, *partitions: str) -> None:
    """Score and monitor partitions in this order."""
    for partition in partitions:
        score(lake, use, partition)
        monitor(lake, use, partition)


def forget_history(lake: Lake) -> None:
    """Take away the rows that the model learned from."""
    partitions = lake.read("validated_readings", columns=["partition"])["partition"].to_pylist()
    past = sorted({partition for partition in partitions if partition <= TRAINED})
    lake.publish("validated_readings", lake.read("validated_readings").slice(0, 0), {"partition": past})


def watch(lake: Lake, use: UseCase, partition: str) -> PublishedState:
    """Publish what has come true by a partition, as its monitoring does, and return what there is then."""
    state = PublishedState(lake, use, partition)
    if publish_performance(lake, use, state):
        state.refresh(lake)
    return state


def state(lake: Lake) -> dict[str, str]:
    """Return a digest of the rows of each table that monitoring writes."""
    own = {"drift", "monitor", "performance", "losses"}
    found = {name: lake.rows(name) for name in ("findings", "decisions", "drift", "performance", "losses")}
    found["labels"] = lake.rows("profiles", {"product": "labels"})
    found["partitions"] = [row for row in lake.rows("partitions") if row["product"] in own]
    return {name: digest_json(sorted(map(repr, rows))) for name, rows in found.items()}


def fitted_rows(lake: Lake, use: UseCase) -> int:
    """Return how many rows the reference has."""
    return features(lake, use, use.clock.keys(FIRST, use.clock.shift(TRAINED, -use.training.test))).num_rows


def profiled(values: list[Any]) -> Profile:
    """Return the profile of one column's values."""
    return profiles.merge_profiles([partition(values, "n")])["c"]


def partition(values: list[Any], key: str) -> dict[str, Any]:
    """Return a partition's row of `profiles`."""
    text = any(isinstance(value, str) for value in values)
    rows = pa.table({"c": pa.array(values, pa.string() if text else pa.float64())})
    return profiles.build_profile("p", key, rows, [] if text else ["c"], ["c"] if text else []).to_pylist()[0]


def truth(use: UseCase, lake: Lake, partitions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions of the rows that got a label, joined here by hand."""
    served = {(r["partition"], r["machine"]): r["prediction"] for r in lake.rows("predictions")}
    pairs = [
        (float(minutes > 15), served[partition, machine])
        for partition in partitions
        for machine, minutes in enumerate(machines.day(partition)[1])
        if minutes is not None
    ]
    target, predicted = np.array(pairs).T
    return target, predicted
