"""The servers of the demo: command lines, order of start, and readiness checks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from signal import SIGINT, SIGTERM

import psutil  # type: ignore[import-untyped]  # it comes without types, and one call doesn't need them
import requests
from botocore.exceptions import BotoCoreError, ClientError

from demo import postgres, process
from demo.environment import postgres_uri
from demo.home import PORTS, REPOSITORY, Home
from demo.world import s3_client

PYTHON = sys.executable
BUCKETS = ("lake", "landing", "mlflow")
WEED_PORTS = tuple(name for name in PORTS if name not in ("airflow", "mlflow", "weather"))


def nothing(home: Home) -> None:
    """Do nothing: the default of `prepare` and `finish`."""


@dataclass(frozen=True)
class Server:
    """A process of the stack, or a step that runs to its end (`once`).

    `needs` are the servers that are up before it starts. `started_with` start together with it; its readiness
    check asks them.
    """

    name: str
    argv: Callable[[Home], list[str]]
    ready: Callable[[Home], bool]
    needs: tuple[str, ...] = ()
    started_with: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    uses: tuple[str, ...] = ("",)  # prefixes of variables whose change restarts it; tasks use all
    prepare: Callable[[Home], None] = nothing
    finish: Callable[[Home], None] = nothing  # after it is up
    env: Callable[[Home], Mapping[str, str]] = field(default=lambda home: {})
    cwd: tuple[str, ...] = ()
    once: bool = False
    as_postgres: bool = False
    stop_signal: int = SIGTERM


def pid_file(home: Home, name: str) -> Path:
    """Return the file with the server's process id and creation time."""
    return home.folder("pids") / f"{name}.json"


def log_file(home: Home, name: str) -> Path:
    """Return the file with the server's output."""
    return home.folder("logs") / f"{name}.log"


def answers(port: str, path: str) -> Callable[[Home], bool]:
    """Return a check that GET on the path succeeds."""

    def check(home: Home) -> bool:
        return _get(home.url(port) + path) is not None

    return check


def accepts_objects(home: Home) -> bool:
    """Return whether weed has its buckets and would accept an object now.

    After a crash it answers at once, but its master had no writable volume for 4 to 14 s. A put in that time
    fails or hangs for 19 s, so the check asks the master to assign a volume.
    """
    if _get(home.url("master") + "/dir/assign?collection=lake") is None:
        return False
    try:
        buckets = s3_client(home).list_buckets()["Buckets"]
    except (ClientError, BotoCoreError):
        return False
    return {bucket["Name"] for bucket in buckets} >= set(BUCKETS)


def has_heartbeat(name: str, job: str) -> Callable[[Home], bool]:
    """Return a check that Airflow has had a heartbeat of this job since its process started."""

    def check(home: Home) -> bool:
        answer = _get(home.url("airflow") + "/api/v2/monitor/health")
        running = process.running(pid_file(home, name))
        if answer is None or running is None:
            return False
        health = answer.json().get(job) or {}
        beat = health.get(f"latest_{job}_heartbeat")
        try:
            since = running.create_time()
        except psutil.NoSuchProcess:
            return False
        # Airflow considers a job healthy for 30 s after its last heartbeat, even if it was restarted since.
        fresh = beat is not None and datetime.fromisoformat(beat).timestamp() >= since
        return fresh and health.get("status") == "healthy"

    return check


def build_execution_api(home: Home) -> None:
    """Send a first request to the tasks' API, which builds its routes then; a first task waited over 5 s."""
    _get(home.url("airflow") + "/execution/health", timeout=60)


def _get(url: str, timeout: float = 5) -> requests.Response | None:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no .netrc
            answer = session.get(url, timeout=timeout)
    except requests.RequestException:
        return None
    return answer if answer.ok else None


def _weed(home: Home) -> list[str]:
    flags = {
        "dir": str(home.folder("s3")),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "bucket": ",".join(BUCKETS),
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        **{f"{role}.localSocket": str(home.run / f"{role}.sock") for role in ("filer", "s3")},
    }
    for name in WEED_PORTS:
        role, grpc = name.removesuffix("-grpc"), name.endswith("-grpc")
        flags[f"{role}.port" + (".grpc" if grpc else "")] = str(home.ports[name])
    return [str(Path(PYTHON).with_name("weed")), "mini", *(f"-{k}={v}" for k, v in flags.items())]


def _weed_environment(home: Home) -> dict[str, str]:
    """Return keys with which weed's filer and volume ports refuse requests without a token.

    The master's and the gRPC ports stay open to all local users: the demo is for a single-user machine.
    """
    kinds = ("JWT_SIGNING", "JWT_SIGNING_READ", "JWT_FILER_SIGNING", "JWT_FILER_SIGNING_READ")
    return {f"WEED_{kind}_KEY": f"{home.secrets['weed']}.{kind}" for kind in kinds}


def _mlflow(home: Home) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(home.ports["mlflow"]), "--workers", "1"]
    app = ["--app-dir", str(REPOSITORY / "deploy" / "mlflow"), "--factory", "mlflow_app:create"]
    return [PYTHON, "-m", "uvicorn", *app, *where, "--log-level", "warning"]


def _mlflow_environment(home: Home) -> dict[str, str]:
    """Return the variables that `mlflow server` sets for uvicorn; its app can't be replaced otherwise."""
    return {
        "_MLFLOW_SERVER_FILE_STORE": postgres_uri(home, "mlflow"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "s3://mlflow/artifacts",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_S3_ENDPOINT_URL": home.url("s3"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _migration_marker(home: Home) -> Path:
    """Return the marker of a migrated database: next to the cluster, and one per version of Airflow."""
    return home.root / "postgres" / f"airflow-{version('apache-airflow')}"


def _airflow(*command: str) -> Callable[[Home], list[str]]:
    return lambda home: [PYTHON, "-m", "airflow", *command]


def _world(action: str) -> Callable[[Home], list[str]]:
    return lambda home: [PYTHON, "-m", "demo.world", action]


def _job(name: str, job: str, *options: str) -> Server:
    return Server(
        name,
        argv=_airflow(name, *options),
        ready=has_heartbeat(name, job),
        needs=("airflow-db",),
        started_with=("api-server",),
        cwd=("airflow",),
    )


# In order of their needs. The log servers are off, because the API server reads the same folder.
SERVERS = (
    Server(
        "postgres",
        argv=postgres.argv,
        ready=postgres.is_ready,
        prepare=postgres.prepare,
        finish=postgres.create_databases,
        uses=(),
        cwd=("postgres",),
        as_postgres=True,
        stop_signal=SIGINT,  # fast shutdown; SIGTERM would wait for the clients
    ),
    Server(
        "s3",
        argv=_weed,
        ready=accepts_objects,
        ports=WEED_PORTS,
        uses=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        env=_weed_environment,
        cwd=("s3",),
    ),
    Server(
        "airflow-db",
        argv=_airflow("db", "migrate"),
        ready=lambda home: _migration_marker(home).exists(),
        needs=("postgres",),
        finish=lambda home: _migration_marker(home).touch(),
        once=True,
    ),
    Server(
        "api-server",
        argv=_airflow("api-server"),
        ready=answers("airflow", "/api/v2/version"),
        needs=("airflow-db",),
        ports=("airflow",),
        finish=build_execution_api,
    ),
    _job("scheduler", "scheduler", "--skip-serve-logs"),
    _job("dag-processor", "dag_processor"),
    _job("triggerer", "triggerer", "--skip-serve-logs"),
    Server(
        "mlflow",
        argv=_mlflow,
        ready=answers("mlflow", "/health"),
        needs=("postgres", "s3"),
        ports=("mlflow",),
        uses=("AWS_", "MLFLOW_", "PYTHONPATH"),
        env=_mlflow_environment,
    ),
    Server("weather", _world("serve"), answers("weather", "/healthz"), ports=("weather",), uses=()),
    Server("landing", _world("deliver"), ready=lambda home: False, needs=("s3",), once=True),
)

BY_NAME = {server.name: server for server in SERVERS}
ALL = tuple(BY_NAME)
