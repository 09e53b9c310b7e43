"""What a shard of a partition costs beside the whole: ``python -m benchmarks.shards [ROWS ...]``.

A partition of the flights with so many generated rows, and a tenth of them in each outcome file of the four
weeks before, is scored by one task and then in 2, 4 and 8 shards by flight number. Each task is a process of
its own with one OpenMP thread, which has scored a small partition before: seconds of CPU of all its threads,
without imports. Of the whole it is the middle of three rounds, of the shards the least and the most. The
features are those of the flights that look at no other flight number.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks import batch
from benchmarks.memory import apart
from include.features.build import compute_features
from include.models import artifacts
from include.score import pipeline as scoring
from include.score.shards import VERIFIED, plan_shards, publish_shards, score_shard
from include.spec import UseCase
from include.spec.load import read
from include.storage import schemas, spill
from include.storage.lake import Lake
from include.train.fitting import fit_recipe

ROWS, SHARDS, ROUNDS, KIND = (400_000,), (2, 4, 8), 3, "boosting"
ALLOWED = 1.15
OWN = Path("include/usecases/flight_delay")
OTHERS = (
    *("flights_in_hour", "carrier_late_7", "carrier_late_28"),
    *("origin_late_2", "origin_late_7", "dest_late_28"),
)
COLUMNS = [
    "rows",
    "shards",
    "whole",
    "plan",
    "a shard",
    "allowed",
    "publish",
    "first three partitions: publish",
]


def declare(folder: Path, shards: int = 1) -> UseCase:
    """Return the flights' use case without the features that look at other flights."""
    copy = folder / f"usecases-{shards}" / OWN.name
    if not copy.is_dir():
        shutil.copytree(OWN, copy)
        raw = yaml.safe_load((OWN / "usecase.yaml").read_text())
        features = raw["features"]
        features["numeric"] = [name for name in features["numeric"] if name not in OTHERS]
        features |= {"entity": ["flight"], "groups": {}}
        raw["scoring"]["shards"] = shards
        (copy / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        sql = (OWN / "features.sql").read_text()
        theirs = [f" {name}," for name in OTHERS]
        theirs += ["LEFT JOIN busy b ", *(f" {alias} ON {alias}." for alias in "ocad")]  # and their tables
        lines = [line for line in sql.splitlines() if not any(text in line for text in theirs)]
        (copy / "features.sql").write_text("\n".join(lines).replace("5 * o.rate", "5 * 0.2"))
    return read(copy / "usecase.yaml")


def fill(lake: Lake, spec: UseCase, rows: int) -> None:
    """Publish the large partition, a small one and four weeks of outcomes."""
    batch.fill(lake, spec, rows)
    declared = spec.sources["outcomes"]
    for partition in spec.clock.keys(*batch.HISTORY):
        flights = batch.flights(spec, "outcomes", partition, rows // 10)
        table = spill.spill_table(schemas.validated_schema(declared), flights)
        table = spill.sort_rows(table, ("partition", "revision", *declared.key))
        lake.publish("validated_outcomes", table, {"partition": partition})


def prepare(folder: Path, rows: int) -> None:
    """Make the lake, with a model that learned noise from features like the large partition's."""
    spec = declare(folder)
    lake = Lake(spec.name, str(folder))
    fill(lake, spec, rows)
    inputs = compute_features(spec, scoring.rows_known_at(lake, spec, batch.SMALL), [batch.SMALL])
    late = np.random.default_rng(7).random(inputs.num_rows) < 0.2
    recipe = next(one for one in spec.training.candidates if one.name == KIND)
    fitted = fit_recipe(spec, recipe, inputs.append_column(spec.problem.target, pa.array(late.astype(float))))
    (folder / KIND).write_text(artifacts.store_model(lake, artifacts.serialize(fitted)))


def measure(folder: Path, shards: int, task: str, *keys: str) -> dict[str, Any]:
    """Do one task of the large partition after a small one, and return its seconds of CPU."""
    spec = declare(folder, shards)
    lake = Lake(spec.name, str(folder))
    if task in ("whole", "plan"):
        batch.promote(lake, str(folder), KIND)
    scoring.score(lake, spec, batch.SMALL)
    result: Any = None
    begin = time.process_time()
    if task == "whole":
        result = scoring.score(lake, spec, batch.LARGE).digest
    elif task == "plan":
        result = plan_shards(lake, spec, batch.LARGE)
    elif task == "shard":
        score_shard(lake, spec, keys[0])
    else:
        published = publish_shards(lake, spec, batch.LARGE, keys)
        result = published and published.digest
    return {"cpu": time.process_time() - begin, "result": result}


def sharded(folder: str, shards: int, whole: str) -> tuple[float, list[float], float, float]:
    """Return the seconds of the plan, of each shard, and of the commit with and without a verification."""
    commits = []
    for _ in range(2):  # the first compares the features with the whole
        plan = apart("shards", "measure", folder, shards, "plan")
        tasks = [apart("shards", "measure", folder, shards, "shard", key)["cpu"] for key in plan["result"]]
        publish = apart("shards", "measure", folder, shards, "publish", *plan["result"])
        assert publish["result"] == whole, "the shards' predictions differ from the whole's"
        commits.append(publish["cpu"])
        lake = Lake(declare(Path(folder)).name, folder)
        (verified,) = {key.rpartition("/")[0] for key in lake.keys(VERIFIED)}
        for number in range(3):
            lake.create(f"{verified}/{number}", b"")
    lake.remove(lake.keys(VERIFIED))
    return plan["cpu"], tasks, commits[1], commits[0]


def main(command: Sequence[str]) -> None:
    """Measure and print, or do the part that has a process of its own."""
    if command[:1] == ["prepare"]:
        prepare(Path(command[1]), int(command[2]))
        print("{}")
    elif command[:1] == ["measure"]:
        print(json.dumps(measure(Path(command[1]), int(command[2]), *command[3:])))
    else:
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for rows in map(int, command or ROWS):
            with tempfile.TemporaryDirectory() as folder:
                apart("shards", "prepare", folder, rows)
                rounds = [apart("shards", "measure", folder, 1, "whole") for _ in range(ROUNDS)]
                whole = median(one["cpu"] for one in rounds)
                for shards in SHARDS:
                    plan, tasks, commit, first = sharded(folder, shards, rounds[0]["result"])
                    seconds = [whole, plan, ALLOWED / shards * whole, commit, first]
                    texts = [f"{value:.2f}" for value in seconds]
                    spread = f"{min(tasks):.2f} to {max(tasks):.2f}"
                    cells = [f"{rows:,}", str(shards), *texts[:2], spread, *texts[2:]]
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
