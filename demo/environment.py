"""Airflow and everything it runs are configured by environment variables alone, made here.

A container gets the same variables from its compose file, so nothing under `include/`, `plugins/` or `dags/`
knows whether it runs in the demo.
"""

from __future__ import annotations

import json
import os
import subprocess
from urllib.parse import quote

from demo.home import REPOSITORY, Home

REGION = "us-east-1"  # weed takes any; the clients want one

# No library reports its use to anybody.
SILENCE = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_ANALYTICS": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    "AIRFLOW__METRICS__STATSD_ON": "false",
    "AIRFLOW__METRICS__OTEL_ON": "false",
    "AIRFLOW__TRACES__OTEL_ON": "false",
}

# Parallel work is Airflow's: two fits with a thread per core were measured to stall each other. One thread
# also keeps OpenBLAS from starting some at import, which a process that forks must not have.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}

# Ten empty tasks in a row took 13 s by default and 3.2 s with the first three.
TUNED = {
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # the default asks DNS, which may be slow
    # A machine with more work than cores is slow, not broken: a task outlives an API server that is late.
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "30",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",  # a new file is seen in seconds, not in five minutes
}


def postgres_uri(home: Home, database: str) -> str:
    """The SQLAlchemy address of a database of the stack's PostgreSQL, over its Unix socket."""
    socket = quote(str(home.run / "pg"), safe="/")
    return f"postgresql+psycopg2://postgres:{home.secrets['postgres']}@/{database}?host={socket}"


def code_version() -> str:
    """The repository's commit, `-dirty` when files differ from it, or `unknown` outside git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if changes.stdout else "")


def airflow_environment(home: Home) -> dict[str, str]:
    """Every variable that Airflow's processes, and so the tasks, need beside the shell's own.

    Parameters
    ----------
    home : Home
        Whose servers they reach.

    Returns
    -------
    dict of str to str
        Secrets included; the warm parent's switch isn't, since only the scheduler gets that.
    """
    return SILENCE | ONE_THREAD | TUNED | _airflow(home) | _stores(home) | _sources(home)


def command_line_environment(home: Home) -> dict[str, str]:
    """What `python -m include` needs of it: all that a task sees but Airflow's own settings."""
    ours = SILENCE | ONE_THREAD | _stores(home) | _sources(home)
    return {name: value for name, value in ours.items() if not name.startswith("AIRFLOW__")}


def _airflow(home: Home) -> dict[str, str]:
    """Where Airflow finds its code and its database, and what it signs with."""
    settings = {
        "core__dags_folder": str(REPOSITORY / "dags"),
        "core__plugins_folder": str(REPOSITORY / "plugins"),
        "core__load_examples": "false",
        "core__fernet_key": home.secrets["airflow_fernet"],
        "core__simple_auth_manager_users": "admin:admin",
        "core__simple_auth_manager_passwords_file": str(home.airflow_users),
        "core__execution_api_server_url": f"{home.url('airflow')}/execution/",
        "database__sql_alchemy_conn": postgres_uri(home, "airflow"),
        "api__host": "127.0.0.1",
        "api__port": str(home.ports["airflow"]),
        "api__base_url": home.url("airflow"),
        "api__workers": "1",
        "api__secret_key": home.secrets["airflow_api"],
        "api_auth__jwt_secret": home.secrets["airflow_jwt"],
    }
    python_path = [str(REPOSITORY), str(REPOSITORY / "deploy" / "airflow")]
    return {
        "AIRFLOW_HOME": str(home.folder("airflow")),
        "PYTHONPATH": os.pathsep.join(python_path),
        **{f"AIRFLOW__{name.upper()}": value for name, value in settings.items()},
    }


def _stores(home: Home) -> dict[str, str]:
    """The lake, the registry, and as whom."""
    return {
        "EVERGREEN_HOME": str(home.root),
        "EVERGREEN_CODE": code_version(),
        "EVERGREEN_LAKE": "s3://lake",
        # beside it on the same disk: it shows how a backup is made and read, and saves nobody from a disaster
        "EVERGREEN_BACKUP": str(home.folder("backup")),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy()),
        "AWS_ACCESS_KEY_ID": home.secrets["s3_access_key"],
        "AWS_SECRET_ACCESS_KEY": home.secrets["s3_secret_key"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": home.url("s3"),
        "AWS_ALLOW_HTTP": "true",
        "MLFLOW_TRACKING_URI": home.url("mlflow"),
        "EVERGREEN_MLFLOW_UI": home.url("mlflow"),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": home.secrets["mlflow"],
    }


def _without_proxy() -> str:
    """Loopback, which the shell's proxy can't reach, before what the shell excepts in either spelling."""
    told = ",".join(os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")).split(",")
    return ",".join(dict.fromkeys(["127.0.0.1", "localhost", *filter(None, map(str.strip, told))]))


def _sources(home: Home) -> dict[str, str]:
    """The sources' Airflow connections in JSON: `host` is the full URI and `password` the secret or token."""
    landing = {
        "conn_type": "aws",
        "host": "s3://landing",
        "login": home.secrets["s3_access_key"],
        "password": home.secrets["s3_secret_key"],
        "extra": {"endpoint_url": home.url("s3"), "region_name": REGION},
    }
    weather = {"conn_type": "http", "host": home.url("weather"), "password": home.secrets["weather"]}
    # Four slashes: the path is absolute.
    fleet = {"conn_type": "sqlite", "host": f"sqlite:///{home.folder('world') / 'planes.sqlite'}"}
    named = {"LANDING": landing, "WEATHER": weather, "FLEET": fleet}
    return {f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in named.items()}
