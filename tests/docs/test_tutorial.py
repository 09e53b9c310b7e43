"""The tutorial works as it is written, from an empty folder to a run in Airflow."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from demo.airflow_api import AirflowApi, AirflowError
from tests.docs.pages import DOCS, Reader, blocks
from tests.stores import free_port

PAGE = DOCS / "tutorial.md"
PASSWORDS = "simple_auth_manager_passwords.json.generated"
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Somebody who has followed the page to its end, but for what Airflow shows."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "NO_PROXY": "127.0.0.1",
        # nobody edits a DAG, and other tests want the cores as well
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    }
    reader = Reader(tmp_path_factory.mktemp("tutorial"), environment=environment)
    reader.follow(PAGE)
    return reader


@pytest.mark.full
def test_every_command_prints_what_the_page_shows(reader: Reader) -> None:
    """Each block was carried out, in order; there were some."""
    assert sum(block.language == "bash" for block in blocks(PAGE.read_text())) > 8
    assert (reader.folder / "tutorial" / "lake" / "coffee_sales" / "tables" / "predictions").is_dir()


@pytest.mark.full
@pytest.mark.airflow
def test_airflow_runs_the_next_day_as_the_page_says(reader: Reader) -> None:
    """Standalone Airflow, with the page's settings, runs the day that the page has delivered."""
    text, url = PAGE.read_text(), reader.environment["AIRFLOW__API__BASE_URL"]
    assert "\nairflow standalone " in text
    command = re.search(r"`(\.venv/bin/python tutorial/deliver\.py (\S+))`", text)
    assert command, "the page says how to deliver one more day"
    reader.run(command[1])
    with _standalone(reader, url) as api:
        api.wait_dag("coffee_sales__batch", timeout=300)
        api.unpause("coffee_sales__batch")
        api.trigger_run("coffee_sales__batch", {"partition": command[2]}, run_id="by_hand")
        run = api.wait_run("coffee_sales__batch", "by_hand", timeout=600)
        assert run["state"] == "success", api.task_instances("coffee_sales__batch", "by_hand")
    reader.run("env -u PYTHONPATH .venv/bin/python -m include status coffee_sales")
    assert "served so far: 35 rows by champion" in reader.output


@contextmanager
def _standalone(reader: Reader, url: str) -> Iterator[AirflowApi]:
    """Run Airflow's standalone mode as the page says, and log in."""
    script = f". {reader.folder / '.shell'}\nexec airflow standalone"
    with (reader.folder / "standalone.log").open("wb") as log:
        server = subprocess.Popen(
            ["bash", "-c", script],
            cwd=reader.folder,
            env=reader.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield _logged_in(reader, url, server)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _logged_in(reader: Reader, url: str, server: subprocess.Popen[bytes]) -> AirflowApi:
    file, until = reader.folder / "tutorial" / "airflow" / PASSWORDS, time.monotonic() + 300
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            password = re.search(r'"admin": "(\w+)"', file.read_text()) if file.exists() else None
            if password:
                api = AirflowApi(url, "admin", password[1])
                api.call("GET", "/dags")
                return api
        except AirflowError:
            pass
        time.sleep(1)  # between two looks at a server that starts
    log = (reader.folder / "standalone.log").read_text()[-3000:]
    raise AssertionError(f"airflow standalone did not come up:\n{log}")
