"""An erasure that is killed anywhere and repeated ends as one that wasn't, on a folder and on S3."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.home import Home
from include.ops.verify import verify
from include.storage.lake import Lake
from tests.faults import clocks
from tests.ops.erasure.conftest import PATIENT, Clinic
from tests.ops.erasure.killer import CHANCE
from tests.ops.erasure.test_erase import contents, erased

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("step", [44, pytest.param(9, marks=pytest.mark.full)])
@pytest.mark.timeout(1800)
def test_killed_before_any_write_and_repeated_it_ends_the_same(
    step: int, lived: Path, tmp_path: Path
) -> None:
    """SIGKILL before every so many writes: the tables, the raw objects and the search end as without it."""
    shutil.copytree(lived, tmp_path / "base")
    command = [sys.executable, "-m", "tests.ops.erasure.killer", str(tmp_path), str(step)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    whole, killed, *points = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]

    assert whole["writes"] > 30
    assert (whole["state"]["places"], whole["state"]["differences"]) == ([], [])
    assert len(points) == len(range(1, whole["writes"] + 1, step))
    assert killed["ended"] == -signal.SIGKILL
    for point in (killed, *points):
        assert point["state"] == whole["state"], f"killed before write {point['point']}"


def test_on_s3_every_object_is_searched_and_rewritten(
    clinic: Clinic, s3: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lake on a real S3 server: no object has the key in any byte, and a rerun leaves it alone."""
    for name, value in {
        "ACCESS_KEY_ID": s3.secrets["s3_access_key"],
        "SECRET_ACCESS_KEY": s3.secrets["s3_secret_key"],
        "REGION": "us-east-1",
        "ENDPOINT_URL": s3.url("s3"),
        "ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    lake, local = Lake("clinic", "s3://lake"), clinic.lake
    for key in local.keys(""):
        lake.create(key, local.get(key) or b"")

    result = erased(clinic, lake)

    assert result.remaining == ()
    stored = {key: lake.get(key) or b"" for key in lake.keys("")}
    assert [k for k, data in stored.items() if any(PATIENT.encode() in part for part in contents(data))] == []
    erased(clinic)
    assert clocks.state(lake, CHANCE) == clocks.state(clinic.lake, CHANCE)
    assert verify(lake, clinic.spec).differences == ()
