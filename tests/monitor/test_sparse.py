"""Partitions without data aren't a fault of a sparse source: sixty days of which half have no rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from include.cli.stages import run_stage
from include.environment import Endpoint
from include.features.labels import training_set
from include.ingest.late_sources import refresh_lookback
from include.ingest.pipeline import ingest
from include.monitor.state import PublishedState
from include.ops.health import health
from include.ops.status import status
from include.ops.verify import verify
from include.promote import ledger
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.train.split import partitions_of, split, walk_origins
from tests.usecases.hourly_rides import world

pytestmark = pytest.mark.full  # sixty days through all stages; each rule has tests of its own
HISTORY, DAYS, SHARE = 200, 60, 0.5
CHANGES = {
    '"5 * * * *"': '"5 6 * * *"',
    'available_at: "-3m"': 'available_at: "06:00"\n    sparse: true',
    "window: 336": "window: 70",
    "test: 48": "test: 15",
    "min_partitions: 24": "min_partitions: 10",
    "block_partitions: 6": "block_partitions: 2",
    "window: 24": "window: 7\n  unseen: 0.7",  # of six rows with one rain
    "at_least: 0.3": "at_least: -9",
    "at_least: 0.2": "at_least: -9",
    "    - {name: ridge, estimator: ridge, params: {alpha: 1.0}}\n": "",
    "name: boosting, estimator: hist_gradient_boosting, params: {max_iter: 40, min_samples_leaf: 10}": (
        "name: linear, estimator: ridge, params: {alpha: 1.0}"
    ),
    'start: "2024-02-28"': 'start: "2024-01-01"',
    'end: "2024-05-31"': 'end: "2024-12-31"',
}


class Sparse(NamedTuple):
    """A use case of days, of which half have a file."""

    lake: Lake
    spec: UseCase
    keys: list[str]
    files: set[str]
    folder: Path


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sparse]:
    """Return it after a training and sixty days that followed, each run by itself."""
    folder = tmp_path_factory.mktemp("rare")
    declared = shutil.copytree(Path(world.__file__).parent, folder / "usecases" / "hourly_rides")
    text = (declared / "usecase.yaml").read_text()
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    (declared / "usecase.yaml").write_text(text)
    spec = read(declared / "usecase.yaml")
    keys = spec.clock.keys("2024-01-01", "2024-12-31")[: HISTORY + DAYS]
    present = np.random.default_rng(5).random(len(keys)) < SHARE
    present[-3:] = (True, False, False)
    (folder / "counts").mkdir()
    for number, key in enumerate(keys):
        if present[number]:
            write(folder, spec, key, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_TAXIS", world.connection(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        lake, trained = Lake("hourly_rides", str(folder / "lake")), keys[HISTORY - 1]
        run_stage("ingest", lake, spec, keys[:HISTORY], now=spec.clock.decision_time(trained))
        run_stage("train", lake, spec, [trained], now=spec.clock.decision_time(trained))
        for key in keys[HISTORY:]:
            for stage in ("ingest", "score", "monitor", "rollout"):
                run_stage(stage, lake, spec, [key], now=spec.clock.decision_time(key))
        files = {key for number, key in enumerate(keys) if present[number]}
        yield Sparse(lake, spec, keys, files, folder)


def write(folder: Path, spec: UseCase, key: str, number: int) -> None:
    """Write a day's file."""
    local = f"{spec.clock.local_time(key):%Y-%m-%dT%H:%M:%S}"
    lines = [f"{local},{line.split(',', 1)[1]}" for line in world.hour(24 * number)]
    (folder / "counts" / f"{key}.csv").write_text("\n".join([world.HEADER, *lines]) + "\n")


def test_a_day_without_a_file_is_green_and_has_no_rows(rare: Sparse) -> None:
    """It is published and scored with 0 rows, and says why; the others are served by the champion."""
    scored = rare.keys[HISTORY:]
    rows = {row["partition"]: row for row in rare.lake.rows("partitions", {"product": "predictions"})}
    assert sorted(rows) == scored
    assert {key for key in scored if rows[key]["rows"]} == rare.files & set(scored)
    empty = min(set(scored) - rare.files)
    (source,) = rare.lake.rows("partitions", {"product": "counts", "partition": empty})
    assert (source["outcome"], source["rows"]) == ("published", 0)
    assert source["note"] == "0 rows: the source has no data for this partition"
    assert rows[empty]["note"] == "0 rows: counts was published without rows for this partition"
    assert empty in rare.lake.published("predictions")
    assert {row["served_by"] for row in rare.lake.rows("predictions")} == {"champion"}


def test_sixty_days_alarm_nobody(rare: Sparse) -> None:
    """Neither a day without rows nor rows whose label never comes is an alarm, and nothing is unhealthy."""
    decisions = rare.lake.rows("decisions")
    assert {row["partition"]: row["alerts"] for row in decisions if row["decision"] != "nothing"} == {}
    assert len(decisions) == DAYS
    alarms = rare.lake.rows("findings", {"outcome": "alarm"})
    assert {row["check"] for row in alarms} <= {"drift"}, alarms
    assert status(rare.lake, rare.spec)["not_published"] == []
    state = health(
        rare.spec,
        rare.spec.clock.decision_time(rare.keys[-1]) + timedelta(hours=1),
        partitions=rare.lake.rows("partitions"),
        switches=ledger.switches(rare.lake),
        served_by={},
        findings=rare.lake.rows("findings", {"partition": rare.keys[-1]}),
    )
    assert state.status in ("fresh", "aging"), state
    assert verify(rare.lake, rare.spec).differences == ()


def test_windows_count_days_with_rows(rare: Sparse) -> None:
    """Those of drift, performance, familiar values and sudden changes, up to the newest day with rows."""
    newest = max(rare.files)
    days = sorted(rare.files)
    state = PublishedState(rare.lake, rare.spec, rare.keys[-1])
    assert state.window(newest) == days[-7:]
    assert {row["partitions"] for row in rare.lake.rows("drift", {"partition": newest})} >= {7}
    labeled = [key for key in days if rare.spec.clock.shift(key, 1) in rare.files]
    assert state.labels_due(rare.keys[-1]) == [key for key in days[-14:] if key in labeled]
    rules = rare.spec.monitoring.sudden_changes
    served = [key for key in days if key >= rare.keys[HISTORY]]
    assert state.familiar_partitions(newest) == served[-rules.past - rules.of : -rules.of]


def test_a_training_counts_days_with_rows(rare: Sparse) -> None:
    """Its window and test partitions have rows, and so has each partition on which a recipe's walk begins."""
    trained = rare.keys[HISTORY - 1]
    earlier = [key for key in sorted(rare.files) if key < trained]
    rows = training_set(rare.lake, rare.spec, trained)
    assert min(partitions_of(rows)) >= earlier[-70]
    labeled = [key for key in earlier[-70:] if rare.spec.clock.shift(key, 1) in rare.files]
    assert partitions_of(rows) == labeled
    assert partitions_of(split(rows, rare.spec, trained).test) == labeled[-14:]
    assert set(walk_origins(labeled, rare.spec, trained)) <= set(labeled)
    (attempt,) = rare.lake.rows("attempts")
    assert json.loads(attempt["evidence"])["losses"]["partitions"] == labeled[-14:]


def test_a_file_that_comes_late_is_taken_for_three_partitions(rare: Sparse, tmp_path: Path) -> None:
    """A day that was scored without rows stays so, but later partitions see its rows from then on."""
    lake = Lake("hourly_rides", str(shutil.copytree(rare.folder / "lake", tmp_path / "lake")))
    empty, following = rare.keys[-1], rare.spec.clock.shift(rare.keys[-1], 1)
    folder = tmp_path / "late"
    (folder / "counts").mkdir(parents=True)
    write(folder, rare.spec, empty, 1)

    def connect(name: str) -> Endpoint:
        return Endpoint(name, folder.as_uri())

    outcomes = refresh_lookback(lake, rare.spec, following, connect)
    assert (empty, "published", 6) in {(one.partition, one.outcome, one.rows) for one in outcomes}
    (known,) = {row["known_at"] for row in lake.rows("validated_counts", {"partition": empty})}
    assert known == rare.spec.clock.local(following, "06:00")


def test_an_outage_is_a_fault_and_takes_nothing_back(rare: Sparse, tmp_path: Path) -> None:
    """A source that fails to answer is unavailable; a day that was known to be empty stays published."""
    lake = Lake("hourly_rides", str(shutil.copytree(rare.folder / "lake", tmp_path / "lake")))
    before = lake.rows("partitions", {"product": "counts"})

    def connect(name: str) -> Endpoint:
        return Endpoint(name, (tmp_path / "nowhere").as_uri())

    following = rare.spec.clock.shift(rare.keys[-1], 1)
    outcomes = ingest(lake, rare.spec, "counts", [rare.keys[-1], following], connect)
    assert [one.outcome for one in outcomes] == ["unavailable", "unavailable"]
    after = lake.rows("partitions", {"product": "counts"})
    assert [row for row in after if row["partition"] != following] == before
