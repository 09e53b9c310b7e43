"""XGBoost with and without external memory, from the lake: ``python -m benchmarks.external [ROWS ...]``.

So many generated rows with 20 features, two of them texts, and their labels lie in two Delta tables, a
hundred thousand rows a partition. A process of its own does what the task `train.fit` does of them: the
training set, its digest, the baseline `prior`, and ten rounds of XGBoost. *own* is the most memory of the
process's own (RssAnon), its imports included, and *mapped* the most of files' pages (RssFile), which the
system drops when others need the memory. ``TMPDIR`` needs about 1 kB a row.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.memory import Anonymous, apart
from include.features.labels import training_set
from include.spec import UseCase
from include.spec.load import read
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, require_learnable_labels

ROWS = (1_000_000, 20_000_000)
MODES = {"external memory": 1, "in memory": 0}
PARTITION = 100_000  # rows
FIRST = date(2024, 1, 1)
NUMBERS = [f"number_{index}" for index in range(18)]
TEXTS = ["text_0", "text_1"]
PLACES = np.array([f"place {number}" for number in range(100)])
KEY = {"id": {"type": "integer", "required": True}}
SOURCE = {"kind": "objects", "connection": "none", "path": "{day}.csv", "key": ["id"]}
DECLARED: dict[str, Any] = {
    "name": "many_rows",
    "problem": {"kind": "binary", "statement": "None.", "target": "y", "owner": "benchmarks"},
    "schedule": {"batch": "0 6 * * *", "training": "0 7 * * 1", "timezone": "UTC", "start": str(FIRST)},
    "sources": {
        "events": {
            **SOURCE,
            "available_at": "05:00",
            "columns": {
                **KEY,
                **{name: {"type": "number", "required": True} for name in NUMBERS},
                **{name: {"type": "string", "required": True} for name in TEXTS},
            },
        },
        "outcomes": {
            **SOURCE,
            "available_at": "05:00",
            "columns": {**KEY, "y": {"type": "number", "required": True}},
        },
    },
    "features": {"spine": "events", "lookback": 0, "numeric": NUMBERS, "categorical": TEXTS},
    "labels": {"source": "outcomes", "sql": "y", "delay": 1},
    "training": {
        "test": 8,
        "baselines": [{"name": "prior", "estimator": "prior"}],
        "candidates": [{"name": "xgboost", "estimator": "xgboost", "params": {"n_estimators": 10}}],
    },
    "gate": {"objective": "log_loss"},
    "scoring": {"deadline": "09:00", "constant": 0.5},
}


def declare(folder: Path) -> UseCase:
    """Return the use case, declared in a folder."""
    home = folder / "usecases" / str(DECLARED["name"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "usecase.yaml").write_text(yaml.safe_dump(DECLARED, sort_keys=False))
    columns = ", ".join(["id", "partition", *NUMBERS, *TEXTS])
    (home / "features.sql").write_text(f"SELECT {columns} FROM spine\n")  # noqa: S608
    return read(home / "usecase.yaml")


def prepare(folder: Path, rows: int) -> dict[str, Any]:
    """Publish the rows; each partition's follow from its number."""
    spec = declare(folder)
    lake, states = Lake(spec.name, str(folder / "lake")), []
    for number in range(rows // PARTITION):
        random, day = np.random.default_rng(number), FIRST + timedelta(days=number)
        events = {name: random.random(PARTITION) for name in NUMBERS}
        noise = random.normal(size=PARTITION)
        columns: dict[str, Any] = {"id": np.arange(PARTITION), **events}
        columns |= {name: random.choice(PLACES, PARTITION) for name in TEXTS}
        columns |= {"y": (sum(events.values()) + noise > len(NUMBERS) / 2).astype(float)}
        for source, partition in (("events", day), ("outcomes", day + timedelta(days=1))):
            shape = schemas.validated_schema(spec.sources[source])
            stamps: dict[str, Any] = {
                "partition": str(partition),
                "revision": 0,
                "known_at": np.datetime64(
                    spec.clock.local(str(partition), "05:00").replace(tzinfo=None), "us"
                ),
            }
            arrays = columns | {name: np.broadcast_to(value, PARTITION) for name, value in stamps.items()}
            table = pa.table([pa.array(arrays[field.name]).cast(field.type) for field in shape], schema=shape)
            lake.publish(f"validated_{source}", table, {"partition": str(partition)})
            same: dict[str, Any] = {"inputs": {}, "spec": "", "code": "", "note": "generated"}
            states.append(schemas.partition_row(source, str(partition), PARTITION, "", **same))
    table = pa.Table.from_pylist(states, schemas.PARTITIONS)
    lake.publish("partitions", table, {"product": list(spec.sources)})
    return {"last": states[-1]["partition"]}


def measure(folder: Path, last: str, external: int | None) -> dict[str, Any]:
    """Do in this process what a training does, and return what each part cost."""
    spec, costs = declare(folder), {}
    lake = Lake(spec.name, str(folder / "lake"))

    def cost(part: str, work: Callable[[], Any]) -> Any:
        begin, cpu = time.perf_counter(), time.process_time()
        with Anonymous() as memory:
            result = work()
        seconds = (time.perf_counter() - begin, time.process_time() - cpu)
        costs[part] = {"seconds": seconds, "own": memory.most, "mapped": memory.mapped}
        return result

    rows = cost("training set", lambda: training_set(lake, spec, last))
    cost("its digest", lambda: digest_table(rows))
    cost("its labels", lambda: require_learnable_labels(spec, last, rows))
    cost("`prior`", lambda: fit_recipe(spec, spec.training.baselines[0], rows))
    recipe = spec.training.candidates[0].model_copy(update={"external_memory": external})
    cost("`xgboost`", lambda: fit_recipe(spec, recipe, rows))
    return {"rows": rows.num_rows, "costs": costs}


def main(command: list[str]) -> None:
    """Measure each size both ways and print a table, or do the part that has a process of its own."""
    if command[:1] == ["prepare"]:
        print(json.dumps(prepare(Path(command[1]), int(command[2]))))
        return
    if command[:1] == ["measure"]:
        print(json.dumps(measure(Path(command[1]), command[2], int(command[3]) or None)))
        return
    print("| fit | rows | part | seconds (of CPU) | own MB | mapped MB |\n|---|---|---|---|---|---|")
    for rows in map(int, command or ROWS):
        with tempfile.TemporaryDirectory() as folder:
            last = apart("external", "prepare", folder, rows)["last"]
            for name, external in MODES.items():
                result = apart("external", "measure", folder, last, external)
                for part, cost in result["costs"].items():
                    wall, cpu = cost["seconds"]
                    figures = f"{wall:.0f} ({cpu:.0f}) | {cost['own']:,} | {cost['mapped']:,}"
                    print(f"| {name} | {result['rows']:,} | {part} | {figures} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
