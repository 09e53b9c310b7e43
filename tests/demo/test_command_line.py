"""A shell in which nothing is set, in the folder of a demo that is up, uses that demo and says so."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from demo.environment import airflow_environment
from demo.home import REPOSITORY, Home, is_free
from demo.stack import Stack
from tests.warm import stand_in


def include(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, as from a shell that has these settings and no other of ours."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("EVERGREEN_")}
    return subprocess.run(
        [stand_in(), "-m", "include", *arguments],
        cwd=folder,
        env={**bare, "PYTHONPATH": str(REPOSITORY), **settings},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.full
def test_the_command_line_uses_the_demo_that_is_up(stack: Stack, home: Home, tmp_path: Path) -> None:
    """Status reads the demo's lake and says whose it is; a shell's own settings win; no secret is printed.

    A machine's certificates aren't such a setting.
    """
    (tmp_path / ".evergreen").symlink_to(home.root)

    done = include(tmp_path, "status", "flight_delay", AWS_CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt")

    assert (done.returncode, done.stdout) == (
        0,
        "flight_delay: nothing in the lake yet (s3://lake/flight_delay)\n",
    )
    assert (
        done.stderr == f"using the demo in {tmp_path / '.evergreen'}: this shell has no Evergreen settings\n"
    )
    own = include(tmp_path, "status", "flight_delay", EVERGREEN_LAKE=str(tmp_path / "own"))
    assert (own.returncode, own.stderr) == (0, "")
    assert str(tmp_path / "own") in own.stdout
    assert not any(secret in done.stdout + done.stderr for secret in home.secrets.values())


def test_what_the_command_line_reads_is_private_and_complete(stack: Stack, home: Home) -> None:
    """The file has what a task has of ours, nothing of Airflow's own, and only its owner may read it."""
    file = home.root / "secrets" / "environment.json"
    ours = ("EVERGREEN_", "AWS_", "MLFLOW_TRACKING_", "AIRFLOW_CONN_")

    assert file.stat().st_mode & 0o777 == 0o600
    settings = json.loads(file.read_text())
    assert not [name for name in settings if name.startswith(("AIRFLOW__", "AIRFLOW_HOME", "PYTHONPATH"))]
    tasks = airflow_environment(home)
    assert {n: v for n, v in tasks.items() if n.startswith(ours)}.items() <= settings.items()


def test_a_stop_takes_the_settings_away(tmp_path: Path) -> None:
    """After `down` the command line can't take the demo for one that is up."""
    home = Home(tmp_path)
    file = home.folder("secrets") / "environment.json"
    file.write_text("{}")

    Stack(home).down()

    assert not file.exists()


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
def test_a_demo_that_is_down_is_named_beside_the_lacking_setting(killed: bool, tmp_path: Path) -> None:
    """The lake's setting is missing as without a demo, and the remedy is to start it."""
    home = Home(tmp_path / ".evergreen")
    assert home.ports
    if killed:
        port = next(port for port in range(19_000, 20_000) if is_free(port))
        file = home.folder("secrets") / "environment.json"
        file.touch(mode=0o600)
        lake = {"EVERGREEN_LAKE": "s3://lake", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        file.write_text(json.dumps(lake))

    done = include(tmp_path, "status", "flight_delay")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("EVERGREEN_LAKE: expected an environment variable")
    assert done.stderr.endswith(f"; the demo in {tmp_path / '.evergreen'} is down: `make demo` starts it\n")
    assert len(done.stderr.splitlines()) == 1


def test_settings_that_others_may_write_are_not_taken(stack: Stack, home: Home, tmp_path: Path) -> None:
    """A file that isn't private doesn't count as a demo's, whatever it holds."""
    secrets = tmp_path / ".evergreen" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "environment.json").write_text((home.root / "secrets" / "environment.json").read_text())
    (secrets / "environment.json").chmod(0o666)
    (tmp_path / ".evergreen" / "ports.json").write_text("{}")

    done = include(tmp_path, "status", "flight_delay")

    assert done.returncode == 1
    assert done.stderr.startswith("EVERGREEN_LAKE: expected an environment variable")
