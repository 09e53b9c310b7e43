"""A partition says of each column whether it jumps away from the weeks before.

By what the last training knew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.features.build import features
from include.monitor.pipeline import monitor
from include.monitor.state import PublishedState
from include.ops.verify import verify
from include.score.pipeline import score
from include.spec import UseCase
from include.stats import profiles
from include.storage import schemas
from include.storage.lake import Lake
from include.train import monitoring_baselines
from tests.monitor import machines

TRAINED = "2024-02-10"  # 41 partitions of history, where 7 + 21 are needed
PARTITIONS = 5


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The machines, compared with a week."""
    folder = tmp_path_factory.mktemp("spec")
    return machines.spec(folder, monitoring="{window: 3, report_rows: 200, sudden_changes: {past: 7}}")


@pytest.fixture(scope="module")
def trained(shorter: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history that nobody scored, and what a training on its last partition publishes of it."""
    folder = tmp_path_factory.mktemp("trained")
    lake = Lake("machines", str(folder))
    partitions = shorter.clock.keys(machines.FIRST, TRAINED)
    machines.many_readings(lake, shorter, partitions)
    publish(lake, shorter, partitions, "m" * 64)
    return folder


def publish(lake: Lake, use: UseCase, partitions: list[str], model: str, seen: str = "load") -> None:
    """Publish limits as a training does whose model predicts what a column says."""
    rows = features(lake, use, partitions)
    numeric, categorical = use.features.numeric, use.features.categorical
    learned = profiles.merge_profiles(
        profiles.build_profile("reference", TRAINED, rows, numeric, categorical).to_pylist()
    )
    said = profiles.build_profile(
        "reference", TRAINED, rows.select([seen]).rename_columns(["prediction"]), ["prediction"], []
    )
    learned |= profiles.merge_profiles(said.to_pylist())
    challenger = SimpleNamespace(digest=model)
    record: Any = SimpleNamespace(
        partition=TRAINED, data="d", spec=use.digest, code="c", challenger=challenger
    )
    monitoring_baselines.publish_alarm_limits(
        lake, use, record, learned, rows, np.asarray(rows[seen].to_numpy())
    )


@pytest.fixture
def lake(trained: Path, tmp_path: Path) -> Lake:
    """A copy of it."""
    return Lake("machines", str(shutil.copytree(trained, tmp_path / "lake")))


def lived(
    lake: Lake, use: UseCase, fault: dict[int, machines.Fault], *, backwards: bool = False
) -> list[str]:
    """Score and monitor the partitions after the training, some through a fault."""
    partitions = use.clock.keys(use.clock.shift(TRAINED, 1), use.clock.shift(TRAINED, PARTITIONS))
    for place, partition in enumerate(partitions):
        machines.readings(lake, use, partition, fault.get(place, dict))
    for partition in reversed(partitions) if backwards else partitions:
        score(lake, use, partition)
        monitor(lake, use, partition)
    return partitions


def jumped(lake: Lake, partition: str, outcome: str = "alarm") -> set[str]:
    """Return the columns that a partition says this of."""
    rows = lake.rows("findings", {"partition": partition, "check": "sudden_change"})
    return {row["subject"] for row in rows if row["outcome"] == outcome}


def hotter(row: dict[str, Any]) -> dict[str, Any]:
    """Read degrees of another scale."""
    return {**row, "temp": row["temp"] * 1.8 + 32}


@pytest.mark.full
def test_a_column_that_jumps_is_an_alarm_from_its_second_partition(lake: Lake, shorter: UseCase) -> None:
    """Another unit from the fourth partition on; the columns that it leaves alone are like before."""
    partitions = lived(lake, shorter, {3: hotter, 4: hotter})
    assert [jumped(lake, partition) for partition in partitions] == [set(), set(), set(), set(), {"temp"}]
    assert {"load", "kind", "weekday"} <= jumped(lake, partitions[4], "ok")
    (row,) = lake.rows("findings", {"partition": partitions[4], "check": "sudden_change", "subject": "temp"})
    assert row["value"] > row["threshold"]
    assert row["note"].startswith("temp changed suddenly against the 7 partitions before: score ")
    assert row["note"].endswith(", exceeded on at least 2 of the last 3 partitions")


def test_one_odd_partition_is_no_alarm(lake: Lake, shorter: UseCase) -> None:
    """It is further than the limit, which is said, and no person is called."""
    partitions = lived(lake, shorter, {3: hotter})
    assert [jumped(lake, partition) for partition in partitions] == [set()] * PARTITIONS
    (row,) = lake.rows("findings", {"partition": partitions[3], "check": "sudden_change", "subject": "temp"})
    assert "exceeds its limit" in row["note"]


@pytest.mark.full
def test_the_order_of_the_partitions_makes_no_difference(
    lake: Lake, shorter: UseCase, tmp_path: Path
) -> None:
    """Backwards, each partition is judged again when those before it are there, and ends as in order."""
    other = Lake("machines", str(shutil.copytree(tmp_path / "lake", tmp_path / "other")))
    partitions = lived(lake, shorter, {3: hotter, 4: hotter})
    lived(other, shorter, {3: hotter, 4: hotter}, backwards=True)
    same = [
        {
            partition: lake_.rows("findings", {"partition": partition, "check": "sudden_change"})
            for partition in partitions
        }
        for lake_ in (lake, other)
    ]
    assert [sorted(map(repr, rows)) for rows in same[0].values()] == [
        sorted(map(repr, rows)) for rows in same[1].values()
    ]
    assert jumped(lake, partitions[4]) == {"temp"}


def test_without_limits_nothing_is_judged(tmp_path: Path, shorter: UseCase) -> None:
    """Before the first training a partition says that it can't tell."""
    bare = Lake("machines", str(tmp_path / "bare"))
    (first, *_) = lived(bare, shorter, {})
    assert jumped(bare, first, "not enough") == {"features"}


def test_predictions_of_a_lower_rung_are_no_jump(lake: Lake, shorter: UseCase) -> None:
    """A champion that can't be loaded leaves its partitions to a constant, which isn't how it predicts."""
    machines.promote(lake, "m" * 64, shorter.clock.shift(TRAINED, 1), evidence=TRAINED)
    partitions = lived(lake, shorter, {})
    (row,) = lake.rows(
        "findings", {"partition": partitions[-1], "check": "sudden_change", "subject": "prediction"}
    )
    assert (row["outcome"], row["note"]) == (
        "not enough",
        "prediction isn't compared: the champion didn't serve this partition",
    )


@pytest.mark.full
def test_the_champions_own_limits_are_among_the_inputs(lake: Lake, shorter: UseCase) -> None:
    """A partition by a newer training's limits is made again when the champion's training was repeated."""
    machines.promote(lake, "m" * 64, shorter.clock.shift(TRAINED, 1), evidence=TRAINED)
    newer = shorter.clock.shift(TRAINED, 2)
    partitions = lived(lake, shorter, {})
    (row,) = lake.rows("partitions", {"product": "limits"})
    for partition, digest in ((newer, row["digest"]), (TRAINED, "another")):
        made = pa.Table.from_pylist(
            [{**row, "partition": partition, "digest": digest}], schema=schemas.PARTITIONS
        )
        lake.publish("partitions", made, {"product": "limits", "partition": partition})
        assert PublishedState(lake, shorter, partitions[-1]).stale(partitions[-1])
        monitor(lake, shorter, partitions[-1])


def test_a_repeated_training_leaves_the_champion_its_limits(lake: Lake, shorter: UseCase) -> None:
    """A training that is repeated on other code gives another model; the one that serves is judged on."""
    machines.promote(lake, "m" * 64, shorter.clock.shift(TRAINED, 1), evidence=TRAINED)
    (before,) = lake.rows("limits", {"model": "m" * 64, "column": "prediction"})
    publish(lake, shorter, shorter.clock.keys(machines.FIRST, TRAINED), "n" * 64, "temp")
    assert lake.rows("limits", {"model": "m" * 64, "column": "prediction"}) == [before]
    assert not [line for line in verify(lake, shorter).differences if f"limits/{TRAINED}" in line]
    (row,) = lake.rows("partitions", {"product": "limits"})
    assert json.loads(row["inputs"])["model"] == "n" * 64
    assert row["rows"] == len(lake.rows("limits"))


def test_a_column_of_another_kind_is_not_compared(lake: Lake, tmp_path: Path) -> None:
    """A feature that was numeric in the training and is categorical now is told, and fails nothing."""
    (tmp_path / "spec").mkdir()
    features = "{spine: readings, lookback: 0, numeric: [temp, load], categorical: [kind, weekday]}"
    rules = "{window: 3, report_rows: 200, sudden_changes: {past: 7}}"
    other = machines.spec(tmp_path / "spec", features=features, monitoring=rules)
    partitions = lived(lake, other, {})
    (row,) = lake.rows(
        "findings", {"partition": partitions[-1], "check": "sudden_change", "subject": "weekday"}
    )
    assert (row["outcome"], row["value"]) == ("not enough", None)
    assert "of another kind" in row["note"]


def test_limits_that_were_altered_are_seen(lake: Lake, shorter: UseCase) -> None:
    """`verify` recomputes their digest."""
    assert not [line for line in verify(lake, shorter).differences if f"limits/{TRAINED}" in line]
    rows = lake.read("limits", {"partition": TRAINED})
    assert rows is not None
    changed = [{**row, "spreads": row["spreads"] + 1} for row in rows.to_pylist()]
    lake.publish("limits", rows.from_pylist(changed, schema=rows.schema), {"partition": TRAINED})
    assert [line for line in verify(lake, shorter).differences if f"limits/{TRAINED}" in line]
