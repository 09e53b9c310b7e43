"""An erasure that is killed anywhere and repeated ends as one that wasn't, in a folder and in a store."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from include.ops.verify import verify
from tests.faults import clocks
from tests.ops.erasure.conftest import Clinic
from tests.ops.erasure.killer import CHANCE
from tests.ops.erasure.test_erase import erased, keys_with
from tests.warm import ALL, stand_in

ROOT = Path(__file__).parents[3]


@pytest.mark.full
@pytest.mark.parametrize(("address", "step"), [("folder", 9), ("az", 99)], indirect=["address"])
@pytest.mark.timeout(1800)
def test_killed_before_any_write_and_repeated_it_ends_the_same(
    address: str, step: int, lived: Path, tmp_path: Path
) -> None:
    """SIGKILL before every so many writes: the tables, the raw objects and the search end as without it."""
    shutil.copytree(lived, tmp_path / "base")
    command = [stand_in(ALL), "-m", "tests.ops.erasure.killer", str(tmp_path), str(step)]
    if "://" in address:
        command.append(address)
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    whole, killed, *points = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]

    assert whole["writes"] > 30
    assert (whole["state"]["places"], whole["state"]["differences"]) == ([], [])
    assert len(points) == len(range(1, whole["writes"] + 1, step))
    assert killed["ended"] == -signal.SIGKILL
    for point in (killed, *points):
        assert point["state"] == whole["state"], f"killed before write {point['point']}"


@pytest.mark.full
@pytest.mark.parametrize("address", ["s3", "az"], indirect=True)
def test_in_a_store_every_object_is_searched_and_rewritten(clinic: Clinic, address: str) -> None:
    """The same lake on a real S3 or Azure server: no object has the key in any byte, nor has a folder's."""
    moved = clinic.move(address)

    assert erased(moved).remaining == ()
    assert keys_with(moved.lake) == []
    erased(clinic)
    assert clocks.state(moved.lake, CHANCE) == clocks.state(clinic.lake, CHANCE)
    assert verify(moved.lake, clinic.spec).differences == ()
