"""Real servers on free ports of the loopback: Prometheus and Alertmanager with what deploy/ ships."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.stores import free_port

DEPLOY = Path(__file__).parents[3] / "deploy"
BINARIES = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
MISSING = [name for name in BINARIES if not shutil.which(name)]
needs_servers = pytest.mark.skipif(
    bool(MISSING),
    reason=f"no {', '.join(MISSING)} here; .ci/run installs them (prometheus, prometheus-alertmanager) "
    "and runs this",
)
OFTEN = "500ms"  # in place of a minute: a test waits for what is declared, and not as long
WAIT = 30  # seconds, for what takes one


@dataclass(frozen=True)
class Server:
    """One that runs."""

    url: str

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of an answer."""
        with httpx.Client(trust_env=False) as client:
            return client.get(self.url + path, params=query).raise_for_status().json()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return what Prometheus finds at the moment."""
        return list(self.get("/api/v1/query", query=expr)["data"]["result"])


@contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[Server]:
    """Run Alertmanager with the shipped configuration; only waiting and the secret are the test's."""
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yaml").read_text())
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    (folder / "webhook").write_text(webhook)
    for receiver in config["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url_file"] = str(folder / "webhook")
    file = _written(folder / "alertmanager.yaml", config)
    with _running(folder, "prometheus-alertmanager", file, "--cluster.listen-address=") as server:
        yield server


@contextmanager
def prometheus(
    folder: Path, target: str, token: str, alerts: Server | None = None, job: str = "evergreen"
) -> Iterator[Server]:
    """Run Prometheus with a shipped job and the rules, against other addresses and more often."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": OFTEN, "evaluation_interval": OFTEN}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    (folder / "token").write_text(token)
    [scrape] = [one for one in config["scrape_configs"] if one["job_name"] == job]
    config["scrape_configs"] = [scrape]
    scrape["authorization"]["credentials_file"] = str(folder / "token")
    scrape["static_configs"] = [{"targets": [target.removeprefix("http://")]}]
    found = [alerts.url.removeprefix("http://")] if alerts else []
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": found}]}]
    with _running(folder, "prometheus", _written(folder / "prometheus.yaml", config)) as server:
        yield server


def soon(look: Callable[[], Any], what: str) -> Any:
    """Return what a look finds, once it finds something."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {WAIT} s: no {what}")


def _written(file: Path, config: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(config))
    return file


@contextmanager
def _running(folder: Path, binary: str, config: Path, *arguments: str) -> Iterator[Server]:
    server = Server(f"http://127.0.0.1:{free_port()}")
    storage = "--storage.tsdb.path" if binary == "prometheus" else "--storage.path"
    command = [binary, f"--config.file={config}", f"{storage}={folder / binary}-data", *arguments]
    command.append(f"--web.listen-address={server.url.removeprefix('http://')}")
    log = folder / f"{binary}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        soon(lambda: process.poll() is not None or _ready(server), f"answer of {binary}")
        assert process.poll() is None, log.read_text()[-3000:]
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def _ready(server: Server) -> bool:
    try:
        with httpx.Client(trust_env=False) as client:
            return client.get(f"{server.url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
