"""The compose stack as a test drives it: a project, secrets and ports of its own, all removed at the end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.airflow_api import AirflowApi, AirflowError, Json
from demo.home import REPOSITORY
from deploy import dotenv

FILES: tuple[str, ...] = ("docker-compose.yaml", "demo/compose.yaml", "tests/stack/rig.yaml")
PORTS = ("AIRFLOW_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "SERVE_PORT")
IMAGES = REPOSITORY / "tests" / "stack" / "images"
USECASE = "flight_delay"
BATCH = f"{USECASE}__batch"

# What a partition's tables hold; whether a secret on standard input is in the lake or a log; a log.
SCORED = """
import json, sys
from include.storage.lake import Lake
from include.spec import load
spec, lake, partition = load("flight_delay"), Lake("flight_delay"), {"partition": sys.argv[1]}
rows = lake.rows("predictions", partition)
print(json.dumps({
    "rows": len(rows), "distinct": len({tuple(str(r[k]) for k in spec.key) for r in rows}),
    "scheduled": len(lake.rows("validated_schedule", partition)),
    "served_by": sorted({r["served_by"] for r in rows}),
    "products": sorted(r["product"] for r in lake.rows("partitions",
        partition) if r["outcome"] == "published"),
}))
"""
FOUND = """
import sys, boto3
s3, secrets = boto3.client("s3"), [line.encode() for line in sys.stdin.read().split()]
looked = 0
for bucket in ("lake", "logs"):
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for one in page.get("Contents", []):
            data = s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
            looked += 1
            for number, secret in enumerate(secrets):
                if secret in data:
                    print(f"secret {number} in {bucket}/{one['Key']}")
print("looked at", looked, file=sys.stderr)
assert looked > 100
"""
LOG = """
import sys, boto3
s3 = boto3.client("s3")
for one in s3.list_objects_v2(Bucket="logs", Prefix=sys.argv[1])["Contents"]:
    sys.stdout.write(s3.get_object(Bucket="logs", Key=one["Key"])["Body"].read().decode())
"""


def engine() -> str:
    """Return why there is no Docker engine, or an empty text."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False, timeout=20)
    except FileNotFoundError:
        return "docker isn't installed"
    except subprocess.TimeoutExpired:
        return "docker info gave no answer in 20 s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["docker info failed"])[-1]


WHY_NOT = engine()
NEEDS_ENGINE = [
    pytest.mark.full,
    pytest.mark.airflow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        bool(WHY_NOT) and not os.environ.get("EVERGREEN_FULL"), reason=f"needs a Docker engine: {WHY_NOT}"
    ),
]


def span(tasks: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds from the first task's start to the last one's end."""
    begins, ends = ([datetime.fromisoformat(t[f"{side}_date"]) for t in tasks] for side in ("start", "end"))
    return (max(ends) - min(begins)).total_seconds()


def until(true: Callable[[], Any], what: str, timeout: float = 120) -> Any:
    """Wait for the first answer that isn't empty, through answers that don't come, and return it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            if found := true():
                return found
        except AirflowError:
            pass  # the API server may be without its database just now
        time.sleep(0.2)
    raise TimeoutError(f"{what} did not happen in {timeout:.0f} s")


class Composed:
    """The stack under a project name of its own.

    Parameters
    ----------
    folder : of its settings.
    files : of docker compose, from the repository's folder.
    settings : variables that the files name, beside the secrets and ports.
    """

    def __init__(self, folder: Path, files: Sequence[str] = FILES, **settings: str) -> None:
        self.files = files
        self.env_file = folder / ".env"
        dotenv.write(self.env_file)
        self.ports = {name: _free() for name in PORTS}
        self.settings = settings | {name: str(port) for name, port in self.ports.items()}
        lines = self.env_file.read_text().splitlines()
        self.secrets = dict(line.split("=", 1) for line in lines if not line.startswith(("#", "COMPOSE_")))
        self.project = f"evergreen-test-{os.getpid()}"
        self.api = AirflowApi(
            f"http://127.0.0.1:{self.ports['AIRFLOW_PORT']}", "admin", self.secrets["AIRFLOW_PASSWORD"]
        )

    @property
    def mlflow(self) -> str:
        """MLflow's address for a person."""
        return f"http://127.0.0.1:{self.ports['MLFLOW_PORT']}"

    def compose(self, *command: str, text: str | None = None) -> str:
        """Run a command of docker compose and return what it printed."""
        files = [part for name in self.files for part in ("-f", str(REPOSITORY / name))]
        where = ["--project-name", self.project, "--env-file", str(self.env_file), "--progress", "quiet"]
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MLFLOW", "COMPOSE"))
        }
        done = subprocess.run(
            ["docker", "compose", *where, *files, *command],
            env=environment | self.settings,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    def up(self, **scale: int) -> float:
        """Start what doesn't run, wait until all of it is healthy, and return the seconds that took."""
        begin = time.monotonic()
        many = [part for name, count in scale.items() for part in ("--scale", f"{name}={count}")]
        self.compose("up", "-d", "--wait", "--wait-timeout", "600", *many)
        return time.monotonic() - begin

    def python(self, script: str, *arguments: str, text: str = "") -> str:
        """Run a script in a worker, with a task's own environment."""
        return self.compose("exec", "-T", "worker", "python", "-c", script, *arguments, text=text)

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's running containers; their first 12 characters are the host's name."""
        return self.compose("ps", "-q", service).split()

    def partition(self, day: str) -> Json:
        """Return what the tables hold of a partition."""
        return dict(json.loads(self.python(SCORED, day)))

    def start(self, day: str, tag: str) -> str:
        """Start a partition and return its run's id."""
        self.api.trigger_run(BATCH, {"partition": day}, run_id=f"{tag}__{day}")
        return f"{tag}__{day}"

    def running(self, run_id: str, *tasks: str) -> Json:
        """Wait until one of these tasks runs, and return its task instance."""

        def look() -> Json | None:
            found = self.api.task_instances(BATCH, run_id)
            return next((t for t in found if t["task_id"] in tasks and t["state"] == "running"), None)

        return dict(until(look, f"{run_id}: {tasks} running"))

    def finished(self, run_id: str) -> str:
        """Wait until a partition's run is over, and return its state."""

        def look() -> str:
            run = self.api.get_run(BATCH, run_id)
            return run["state"] if run and run["state"] in ("success", "failed") else ""

        return str(until(look, f"{run_id} finished", 600))


def pulled_or_built(service: str) -> str:
    """Have a service's image, by its stand-in where it can't be pulled, and say which of the two it is."""
    image = yaml.safe_load((REPOSITORY / FILES[0]).read_text())["services"][service]["image"]
    for words in (["image", "inspect"], ["pull", "--quiet"]):
        if not subprocess.run(["docker", *words, image], capture_output=True, check=False).returncode:
            return f"{image} was there or pulled"
    docker("build", "--network", "host", "--quiet", "--tag", image, str(IMAGES / service))
    return f"{image} is a stand-in from Debian's package"


def docker(*command: str) -> None:
    """Run a command of docker itself."""
    subprocess.run(["docker", *command], capture_output=True, check=True)


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
