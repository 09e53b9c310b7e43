"""The machines' plant behind a small server that wants a token, and what is told of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest

from include.monitor.pipeline import monitor
from include.ops.prometheus import CONTENT_TYPE, HELP, exposition_text, scrape
from include.score.pipeline import score
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines

TOKEN = "token-of-a-test"
ESTIMATED = {"value": 0.7, "error": 0.05, "reason": ""}
PARTITIONS = 3  # that go well: labels take two


@dataclass
class Plant:
    """A use case whose partitions are done one by one."""

    spec: UseCase
    lake: Lake
    done: list[str] = field(default_factory=list)

    def partition(self, fault: machines.Fault = dict) -> str:
        """Do the next partition, each reading of which went through a fault."""
        shift = self.spec.clock.shift
        partition = shift(machines.TRAINED, len(self.done) + 1)
        machines.readings(self.lake, self.spec, partition, fault)
        machines.stops(self.lake, self.spec, partition)
        score(self.lake, self.spec, partition)
        monitor(self.lake, self.spec, partition)
        self._estimate(partition)
        self.done.append(partition)
        return partition

    def _estimate(self, partition: str) -> None:
        """Plant an estimate of one metric: this champion had no gate, so none can be told of it."""
        rows = self.lake.rows("estimates", {"partition": partition})
        told = [row | ESTIMATED if row["metric"] == "roc_auc" else row for row in rows]
        table = pa.Table.from_pylist(told, schema=schemas.ESTIMATES)
        self.lake.publish("estimates", table, {"partition": partition})


@dataclass
class Outside:
    """Where the gauges are scraped and alerts are told."""

    url: str
    told: list[dict[str, Any]]


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A plant whose first partitions went well, made once."""
    folder = tmp_path_factory.mktemp("plant")
    spec = machines.spec(folder)
    found = Plant(spec, machines.plant(folder / "lake", spec))
    machines.forget_history(found.lake)
    for _ in range(PARTITIONS):
        found.partition()
    return found


@pytest.fixture(scope="module")
def plant(planted: Plant) -> Iterator[Plant]:
    """The same, where the environment says it is; a test may do another partition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(planted.spec.folder.parent))
        patch.setenv("EVERGREEN_LAKE", planted.lake.uri.removesuffix("/machines"))
        yield planted


@pytest.fixture(scope="module")
def outside(plant: Plant) -> Iterator[Outside]:
    """Serve the plant's gauges to who has the token, and take what is posted."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
            known = allowed and self.path == "/evergreen/metrics"
            body = exposition_text(scrape("machines"), HELP).encode() if known else b""
            self._answer(200 if known else 404 if allowed else 401, body)

        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(200, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Outside(f"http://127.0.0.1:{server.server_port}", told)
    server.shutdown()
    server.server_close()
