"""Any task may be killed at any moment and run again: the last commit stands or the new one, never half."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.copies import LIGHT, copy
from tests.usecases.weekly_sales import world
from tests.warm import ALL, stand_in

ROOT = Path(__file__).parents[2]
WEEKS = 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A shop with twenty weeks of history and an empty registry whose tables are made."""
    folder = tmp_path_factory.mktemp("kill")
    world.write(folder / "shop", WEEKS + 2)
    copy(folder / "usecases", "weekly_sales", *LIGHT)  # of each kind of write there is one
    env = {
        **os.environ,
        "AIRFLOW_CONN_SHOP": world.connection(folder / "shop"),
        "EVERGREEN_USECASES": str(folder / "usecases"),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/base/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }
    (folder / "base").mkdir()
    code = (
        "import sys; from mlflow import MlflowClient; from include.environment import endpoint\n"
        "from include.ingest.pipeline import ingest\n"
        "from include.storage.lake import Lake; from include.spec import load\n"
        "MlflowClient().search_experiments()\n"
        "spec = load('weekly_sales'); lake = Lake(spec.name, sys.argv[1])\n"
        "found = ingest(lake, spec, 'sales', sys.argv[2:], endpoint)\n"
        "assert {o.outcome for o in found} == {'published'}, found"
    )
    lake = folder / "base" / "lake"
    command = [stand_in(ALL), "-c", code, str(lake), *world.partitions(WEEKS)]
    subprocess.run(command, env=env, cwd=folder, check=True)
    return folder, env


def _killed(what: str, key: str, prepared: tuple[Path, dict[str, str]]) -> list[dict[str, Any]]:
    folder, env = prepared
    own = folder / what
    shutil.copytree(folder / "base", own / "base")
    return _lines(env, "tests.faults.killer", what, str(own), key)


def _lines(env: dict[str, str], *module: str) -> list[dict[str, Any]]:
    command = [stand_in(ALL), "-m", *module]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.full
@pytest.mark.timeout(2700)  # 7 minutes for the week on an idle machine, twice that beside other tests
@pytest.mark.parametrize(("what", "least"), [("partition", 10), ("week", 10)])
def test_a_kill_before_any_write_and_a_rerun_leave_the_same_state(
    what: str, least: int, prepared: tuple[Path, dict[str, str]]
) -> None:
    """Killed before each of its writes and run again.

    A partition or a week ends as if nothing had happened.
    """
    untouched, killed, *points = _killed(
        what, world.partitions(1, WEEKS)[0] if what == "partition" else world.partitions(WEEKS)[-1], prepared
    )
    assert len(points) >= least, "too few writes were seen for this to prove anything"
    assert len(points) == untouched["writes"]
    assert killed["ended"] == -signal.SIGKILL
    if what == "week":
        assert {served_by for *_, served_by in untouched["state"]["predictions"]} == {"champion"}
    for point in (killed, *points):
        assert point["state"] == untouched["state"], f"killed before write {point['point']}"


CHAMPION, CHALLENGER = "champion", "challenger"
# of each scene the steps that are taken, and the aliases and who serves on that partition
STEPS: dict[str, list[tuple[list[str], dict[str, str], set[str]]]] = {
    "forward": [
        ([CHALLENGER, "canary", "2"], {"champion": "1"}, {"champion 1"}),
        ([CHAMPION, "promoted", "2"], {"champion": "2", "previous": "1"}, {"champion 1", "canary 2"}),
    ],
    "back": [([CHAMPION, "rolled back", "2"], {"champion": "2"}, {"champion 3"})],
    # a fit of another recipe than the version's isn't a version of the registry
    "broken": [([CHAMPION, "replaced", "3"], {}, {"champion 3"})],
}


@pytest.mark.full
@pytest.mark.timeout(2700)
@pytest.mark.parametrize("scene", list(STEPS))
def test_a_kill_around_any_write_of_a_trials_partition_and_a_rerun_leave_the_same_state(
    scene: str, tmp_path: Path
) -> None:
    """From shadow to canary, to champion, and back, and replaced: rows, switch and aliases are whole."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    lines = _lines(env, "tests.faults.rollout", scene, str(tmp_path / "trial"))
    quiet = [line for line in lines if line["point"] == 0]
    found = [line["state"] for line in quiet]
    assert [(one["switches"][-1], one["aliases"], {*one["served"]}) for one in found] == STEPS[scene]
    tables = {"predictions", "walks" if scene == "broken" else "shadows"}
    assert all(tables <= set(one) for one in found)
    assert len(lines) == sum(2 + line["writes"] for line in quiet)
    for line in lines:
        if line["point"] == 0:
            untouched = line
            continue
        assert line["state"] == untouched["state"], f"killed before write {line['point']}"
        assert line["steps"] == 1, f"killed before write {line['point']}: who runs again tells of no step"
