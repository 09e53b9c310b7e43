"""The environment variables of the demo's Airflow and of its tasks, which are their only configuration.

A container gets the same variables from its compose file. So nothing under `include/`, `plugins/` or `dags/`
depends on the demo.
"""

from __future__ import annotations

import json
import os
import subprocess
from urllib.parse import quote

from demo.home import REPOSITORY, Home

REGION = "us-east-1"  # weed accepts any; the clients need one

# Turns off the telemetry of all libraries.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_ANALYTICS": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    "AIRFLOW__METRICS__STATSD_ON": "false",
    "AIRFLOW__METRICS__OTEL_ON": "false",
    "AIRFLOW__TRACES__OTEL_ON": "false",
}

# Airflow runs tasks in parallel, and two fits with a thread per core slowed each other down. One thread also
# keeps OpenBLAS from starting threads at import, which a process that forks must not have.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}

# Ten empty tasks in a row took 13 s by default and 3.2 s with the first three settings.
TUNED = {
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # the default uses DNS, which may be slow
    # On an overloaded machine a task must survive a slow API server.
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "30",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",  # new files are parsed within seconds, not five minutes
}


def postgres_uri(home: Home, database: str) -> str:
    """Return the SQLAlchemy URL of a database of the stack's PostgreSQL, over its Unix socket."""
    socket = quote(str(home.run / "pg"), safe="/")
    return f"postgresql+psycopg2://postgres:{home.secrets['postgres']}@/{database}?host={socket}"


def code_version() -> str:
    """Return the repository's commit, with `-dirty` if files differ from it, or `unknown` outside git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if changes.stdout else "")


def airflow_environment(home: Home) -> dict[str, str]:
    """Return the variables that Airflow's processes and tasks need besides the shell's.

    Parameters
    ----------
    home : Home
        The home of the servers.

    Returns
    -------
    dict of str to str
        Including secrets, without EVERGREEN_WARM, which only the scheduler gets.
    """
    return NO_TELEMETRY | ONE_THREAD | TUNED | _airflow(home) | _stores(home) | _sources(home)


def command_line_environment(home: Home) -> dict[str, str]:
    """Return the variables for `python -m include`: those of a task without Airflow's own settings."""
    variables = NO_TELEMETRY | ONE_THREAD | _stores(home) | _sources(home)
    return {name: value for name, value in variables.items() if not name.startswith("AIRFLOW__")}


def _airflow(home: Home) -> dict[str, str]:
    """Return Airflow's own settings: code, database, server and keys."""
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
    """Return the settings of the lake, the backup store and the registry."""
    return {
        "EVERGREEN_HOME": str(home.root),
        "EVERGREEN_CODE": code_version(),
        "EVERGREEN_LAKE": "s3://lake",
        # on the same disk, so it only shows how backups work
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
    """Return the hosts without a proxy: loopback, and those of the shell in either spelling."""
    hosts = ",".join(os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")).split(",")
    return ",".join(dict.fromkeys(["127.0.0.1", "localhost", *filter(None, map(str.strip, hosts))]))


def _sources(home: Home) -> dict[str, str]:
    """Return the sources' Airflow connections as JSON: `host` is the full URI, `password` the secret."""
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
    connections = {"LANDING": landing, "WEATHER": weather, "FLEET": fleet}
    return {f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in connections.items()}
