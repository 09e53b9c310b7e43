"""`benchmarks.calibration alarms` says how often a column alarms without a fault, and how soon with one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.calibration.__main__ import app
from benchmarks.calibration.alarms import Rate
from benchmarks.calibration.planted import REFIT, walked
from include.errors import EvergreenError
from include.spec import UseCase
from include.spec.stages import SuddenChanges
from include.stats.alarms import alarm_limits
from include.storage.lake import Lake
from tests.stats.feeds import feed


def test_the_command_measures_a_lake(home: Path, spec: UseCase) -> None:
    """It prints the rates and the faults, writes the page twice the same, and stores it in the lake."""
    pages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(home / "usecases"))
        patch.setenv("EVERGREEN_LAKE", str(home / "lake"))
        for _ in range(2):
            asked = [
                "alarms",
                spec.name,
                "--years",
                "1",
                "--page",
                str(home / "alarms.html"),
                "--json",
            ]
            done = CliRunner().invoke(app, asked, catch_exceptions=False)
            pages.append((home / "alarms.html").read_bytes())
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert pages[0] == pages[1] == Lake(spec.name, str(home / "lake")).get("reports/alarms.html")
    assert found["promised"] == spec.monitoring.sudden_changes.false_alarms_per_year
    assert found["made_up"]["low"] <= found["made_up"]["false_alarms_per_year"] <= found["made_up"]["high"]
    sizes = {fault["size"]: fault["found"] for fault in found["faults"] if fault["fault"].startswith("moved")}
    assert sizes[2.0] >= sizes[0.5]
    assert sizes[2.0] > 0.5
    assert found["sentence"].encode() in pages[0]


def test_too_few_partitions_are_named(tmp_path: Path, spec: UseCase) -> None:
    """A lake with nothing in it says how many partitions are needed, and how to get them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(spec.folder.parent))
        patch.setenv("EVERGREEN_LAKE", str(tmp_path))
        with pytest.raises(
            EvergreenError, match=r"expected 77 partitions of visits, but found 0.*run ingest"
        ):
            CliRunner().invoke(app, ["alarms", spec.name], catch_exceptions=False)


def test_a_partition_is_judged_by_limits_of_partitions_before_it_alone() -> None:
    """The limits of each four weeks are those that a training on their first partition would publish."""
    rules, counts = SuddenChanges(), feed(200, 3)
    walk = walked(counts, rules, 90, 7)
    for place in (90, 90 + REFIT - 1, 90 + REFIT, 199):
        first = 90 + (place - 90) // REFIT * REFIT
        assert walk.by[place] == alarm_limits({name: rows[:first] for name, rows in counts.items()}, rules, 7)
    assert len(walk.alarm) == 110


@pytest.mark.parametrize(("found", "low", "high"), [(0, 0.0, 3.689), (4, 1.090, 10.242)])
def test_the_interval_of_a_rate_is_the_exact_one(found: int, low: float, high: float) -> None:
    """Garwood's, as tabled, for one year."""
    rate = Rate(found, 1.0)
    assert np.allclose((rate.low, rate.high), (low, high), atol=1e-3)
