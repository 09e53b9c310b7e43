"""The compose stack's files, without an engine: what is pinned, closed, bounded, and free of secrets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.environment import NO_TELEMETRY, ONE_THREAD, TUNED
from demo.home import REPOSITORY
from deploy import dotenv

FILES = ("docker-compose.yaml", "demo/compose.yaml")
LOGS = "deploy/logs/compose.yaml"
DOCKERFILE = (REPOSITORY / "deploy/airflow/Dockerfile").read_text()
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY$|ACCESS_KEY|FERNET|CONN$|BROKER_URL|RESULT_BACKEND")
FILE_NAMES = ("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",)  # a place, not a secret


def services() -> dict[str, dict[str, Any]]:
    """Return every service by name; what another file adds to one of docker-compose.yaml is left out."""
    merged: dict[str, dict[str, Any]] = {}
    for name in (LOGS, *FILES[::-1]):
        merged |= yaml.safe_load((REPOSITORY / name).read_text())["services"]
    return merged


ALL = services()
LASTING = [name for name, service in ALL.items() if not str(service["restart"]).startswith("on-failure")]


def unpinned(image: str) -> bool:
    """Whether an image's name leaves open which one it is."""
    tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
    return not re.search(r"\d", tag) and tag != "local"


def open_to_all(port: str) -> bool:
    """Whether a published port can be reached from another machine."""
    return not port.startswith("127.0.0.1:")


def given_away(name: str, value: str) -> bool:
    """Whether a setting that holds a secret has one in the file, or a default."""
    if name in FILE_NAMES or not SECRET.search(name):
        return False
    return not re.search(r"\$\{[A-Z0-9_]+:\?[^}]*\}", value)


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_pinned(name: str) -> None:
    """Each image has a version, and what is built here starts from one that has."""
    assert not unpinned(ALL[name]["image"])


@pytest.mark.parametrize(
    "file", ["deploy/airflow/Dockerfile", "deploy/logs/Dockerfile", "deploy/s3/Dockerfile"]
)
def test_a_base_image_is_pinned(file: str) -> None:
    """A Dockerfile's bases have a version, or are a stage of the same file."""
    lines = re.findall(r"^FROM (\S+)(?: AS (\S+))?", (REPOSITORY / file).read_text(), re.MULTILINE)
    stages = {stage for _, stage in lines}
    assert [base for base, _ in lines if base not in stages and unpinned(base)] == []


@pytest.mark.parametrize("name", ALL)
def test_ports_are_on_loopback(name: str) -> None:
    """What is published can be reached from this machine alone."""
    assert [port for port in ALL[name].get("ports", []) if open_to_all(port)] == []


@pytest.mark.parametrize("name", ALL)
def test_no_secret_has_a_default(name: str) -> None:
    """A secret comes from .env, and without one compose refuses to start."""
    environment = ALL[name].get("environment") or {}
    assert [key for key, value in environment.items() if given_away(key, str(value))] == []


@pytest.mark.parametrize("name", ALL)
def test_a_service_is_bounded_and_harmless(name: str) -> None:
    """Each has limits, a restart policy, a user that isn't root, no capability and bounded logs."""
    service = ALL[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["restart"] == "unless-stopped" or name == "setup"
    assert str(service["user"]).split(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "max-size" in service["logging"]["options"]
    assert set(service["networks"]) <= {"data", "people"}


@pytest.mark.parametrize("name", LASTING)
def test_a_server_has_a_health_check(name: str) -> None:
    """Each server says whether it works."""
    assert ALL[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", ALL)
def test_code_is_mounted_read_only(name: str) -> None:
    """What comes from the repository can't be written to; what is written lies in a named volume."""
    mounts = ALL[name].get("volumes", [])
    assert [mount for mount in mounts if mount.startswith((".", "/")) and not mount.endswith(":ro")] == []


def test_each_server_can_send_its_lines() -> None:
    """The file of the logs names each service but those that watch."""
    production, logs = (
        yaml.safe_load((REPOSITORY / name).read_text())["services"] for name in (FILES[0], LOGS)
    )
    watched = {name for name, one in production.items() if one.get("profiles") != ["monitoring"]}
    assert set(logs) == watched | {"logs"}
    assert all(logs[name]["logging"]["driver"] == "syslog" for name in watched)


def test_databases_have_no_way_out() -> None:
    """Databases, queue and objects are on the network without a way out alone, and publish no port."""
    networks = yaml.safe_load((REPOSITORY / FILES[0]).read_text())["networks"]
    assert networks["data"]["internal"] is True
    for name in ("postgres", "redis", "s3"):
        assert ALL[name]["networks"] == ["data"]
        assert "ports" not in ALL[name]


def test_make_starts_profiles_with_the_code_and_scale_of_the_stack() -> None:
    """A profile is added to the running stack, whose containers keep the commit and their number."""
    for target, files in (("up", FILES[:1]), ("up-demo", FILES)):
        command = ["make", "-n", target, "PROFILES=serve monitoring", "WORKERS=3"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        (line,) = [line for line in done.stdout.splitlines() if "docker compose" in line]
        assert line.startswith("EVERGREEN_CODE=")
        assert re.findall(r"-f (\S+)", line) == list(files)
        assert "--profile serve --profile monitoring up -d" in line
        assert "--scale worker=3" in line


@pytest.mark.parametrize("page", ["docs", "README.md", "docker-compose.yaml", "demo", "deploy"])
def test_nobody_is_told_to_start_the_stack_without_make(page: str) -> None:
    """`docker compose up` by hand would start all services again, with code `unknown` and one worker."""
    command = ["git", "grep", "-nE", r"docker compose.* up -d", "--", page]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_a_worker_holds_no_key_of_the_servers() -> None:
    """A task has neither the metadata database's key nor what seals connections and tokens."""
    held = " ".join(map(str, {**ALL["worker"]["environment"]}.values()))
    for secret in (
        "AIRFLOW_FERNET_KEY",
        "AIRFLOW_JWT_SECRET",
        "POSTGRES_AIRFLOW_PASSWORD",
        "S3_MLFLOW_SECRET",
    ):
        assert secret not in held
        assert f"${{{secret}:?" in (REPOSITORY / FILES[0]).read_text()


@pytest.mark.parametrize("name", ["worker", "triggerer"])
def test_what_opens_connections_reads_their_file(name: str) -> None:
    """Tasks read sources and alert; the triggerer waits for messages and alerts at deadlines."""
    assert ALL[name]["env_file"] == [{"path": "connections.env", "required": False}]


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (unpinned, ("postgres",), ("postgres:17",)),
        (unpinned, ("localhost:5000/a",), ("localhost:5000/a:1",)),
        (unpinned, ("redis:latest",), ("redis:8-alpine",)),
        (open_to_all, ("8080:8080",), ("127.0.0.1:8080:8080",)),
        (open_to_all, ("0.0.0.0:1:1",), ("127.0.0.1::1",)),
        (given_away, ("A_PASSWORD", "admin"), ("A_PASSWORD", "${B:?run make up}")),
        (given_away, ("A_PASSWORD", "${B:-admin}"), ("A_USER", "admin")),
        (given_away, ("SQL_ALCHEMY_CONN", "postgresql://a:b@c"), ("SQL_ALCHEMY_CONN", "x://a:${B:?no}@c")),
    ],
)
def test_a_planted_violation_is_found(rule: Any, bad: tuple[str, ...], good: tuple[str, ...]) -> None:
    """Each rule finds what it is for, and nothing once it is put right."""
    assert rule(*bad)
    assert not rule(*good)


def test_the_image_and_the_demo_agree() -> None:
    """What never varies between switches has the same value in the image as in the demo."""
    wanted = {**NO_TELEMETRY, **ONE_THREAD}
    told = dict(re.findall(r"^(?:ENV)?\s+([A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    assert {name: told.get(name) for name in wanted if "METRICS" not in name and "TRACES" not in name} == {
        name: value for name, value in wanted.items() if "METRICS" not in name and "TRACES" not in name
    }
    scheduler = ALL["scheduler"]["environment"]
    differ = {"AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CORE__PARALLELISM"}
    assert {name: scheduler[name] for name in TUNED if name not in differ} == {
        name: value for name, value in TUNED.items() if name not in differ
    }


def test_secrets_are_written_once(tmp_path: Path) -> None:
    """The file has every variable that compose asks for, for its owner alone, and stays as it is."""
    place = tmp_path / ".env"
    command = [sys.executable, str(REPOSITORY / "deploy/dotenv.py"), str(place)]
    assert "was written" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first = place.read_text()
    assert place.stat().st_mode & 0o777 == 0o600
    wanted = {v for f in FILES for v in re.findall(r"\$\{([A-Z0-9_]+):\?", (REPOSITORY / f).read_text())}
    held = dict(line.split("=", 1) for line in first.splitlines() if not line.startswith("#"))
    assert wanted <= set(held)
    assert re.fullmatch(r"evergreen-[0-9a-f]{8}", held.pop("COMPOSE_PROJECT_NAME"))
    assert len(set(held.values())) == len(held)
    assert all(len(value) >= 32 for value in held.values())
    assert "is unchanged" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert place.read_text() == first
    assert not dotenv.write(place)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_two_clones_are_two_projects() -> None:
    """A second clone on the same machine doesn't act on the first one's containers and volumes."""
    names = [re.findall(r"^COMPOSE_PROJECT_NAME=(.+)$", dotenv.content(), re.MULTILINE) for _ in range(2)]
    assert names[0] != names[1]


def test_secrets_are_in_neither_git_nor_image() -> None:
    """Git ignores .env and its like, and an image's context leaves out all that isn't named."""
    for name in (".env", ".env.x1", "connections.env"):
        done = subprocess.run(["git", "check-ignore", "-q", name], cwd=REPOSITORY, check=False)
        assert done.returncode == 0, name
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert not [line for line in lines if line.startswith("!") and "env" in line]
