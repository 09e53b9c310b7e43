"""A real Airflow api-server with the plugin, for the tests of what a person sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from include.storage.lake import Lake
from tests.plugins import year
from tests.plugins.site import AIRFLOW, DAG_ID, PARTS, ROOT, SHIPPED, Site, environment, prepare
from tests.stores import free_port

# what a process has loaded after importing the plugin, as each task does, and then the pages, as the
# api-server does
FRESH = """
import json, sys
from airflow._shared.module_loading import find_path_from_directory as find
watched = ["evergreen.view.app", "pandas", "pyarrow", "deltalake", "duckdb", "sklearn", "mlflow", "evidently"]
loaded = lambda: [name for name in watched if name in sys.modules]
import evergreen_plugin
with_plugin = loaded()
from evergreen.view.app import app
print(json.dumps({
    "with_plugin": with_plugin,
    "with_pages": loaded(),
    "routes": [[r.path, type(r).__name__, sorted(getattr(r, "methods", []))] for r in app.routes],
    "scanned": [path for path in find(sys.argv[1], ".airflowignore", "glob") if path.endswith(".py")],
}))
"""


@pytest.fixture(scope="session")
def year_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a lake and the declaration of a year of 20 columns, which no test changes."""
    folder = tmp_path_factory.mktemp("year")
    spec = year.declare(folder / "usecases")
    year.fill(Lake(spec.name, str(folder / "lake")), spec)
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, year_folder: Path) -> Iterator[Site]:
    """Start an api-server once, on a free port of the loopback; stop it at the end."""
    home = tmp_path_factory.mktemp("airflow")
    port = free_port()
    env = environment(home, port)
    prepare(home)
    shutil.copytree(year_folder, home, dirs_exist_ok=True)
    subprocess.run([*AIRFLOW, "db", "migrate"], env=env, check=True, capture_output=True)
    with (home / "tasks.log").open("wb") as log:
        command = [*AIRFLOW, "dags", "test", "--bundle-name", "dags-folder", DAG_ID]
        tasks = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*AIRFLOW, "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        found = Site(f"http://127.0.0.1:{port}", home, str(home / "lake"))
        _wait_for(found, server)
        tasks.wait(timeout=120)  # one of them fails, and so does the command
        yield found
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process has after importing the plugin and the pages, and what there is in them."""
    env = environment(tmp_path_factory.mktemp("fresh"), 1)
    folder = str(ROOT / "plugins")
    env["PYTHONPATH"] += os.pathsep + folder
    done = subprocess.run(
        [sys.executable, "-c", FRESH, folder], env=env, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="session")
def routes(processes: dict[str, Any]) -> list[str]:
    """The path of every route that the app has, filled in; each answers GET alone."""
    found = processes["routes"]
    # anything mounted, or added beside the router, would have another type and know no dependency
    assert {(kind, *methods) for _, kind, methods in found} == {("APIRoute", "GET")}
    assert len(found) >= 5
    return ["/evergreen" + path.replace(":path}", "}").format(**PARTS) for path, _, _ in found]


@pytest.fixture(scope="session")
def forms(site: Site) -> list[str]:
    """Have Airflow read our own DAGs, whose forms are then there; returns their ids."""
    env = environment(site.home, urlsplit(site.url).port or 0)
    command = [*AIRFLOW, "dags", "reserialize", "--bundle-name", SHIPPED]
    subprocess.run(command, env=env, check=True, capture_output=True)
    dags = site.get("/api/v2/dags?limit=100", "boss").json()["dags"]
    return [dag["dag_id"] for dag in dags if dag["bundle_name"] == SHIPPED]


@pytest.fixture(scope="session")
def run(site: Site) -> str:
    """The address of the run of the site's DAG."""
    [found] = site.get(f"/api/v2/dags/{DAG_ID}/dagRuns", "boss").json()["dag_runs"]
    return f"/api/v2/dags/{DAG_ID}/dagRuns/{found['dag_run_id']}"


def _wait_for(site: Site, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"{site.url}/api/v2/version").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError((site.home / "server.log").read_text()[-3000:])
