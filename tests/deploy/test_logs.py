"""The collector of deploy/logs brings lines to OpenSearch's bulk API, now or when it is back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.process import until
from tests.architecture.tree import ROOT
from tests.stores import free_port

CONF = ROOT / "deploy" / "logs" / "syslog-ng.conf"
HEAD = "<30>1 2026-11-30T12:00:00.123456+00:00 host evergreen-worker-1 77 evergreen-worker-1 - "
PATIENCE = 30  # seconds
pytestmark = pytest.mark.skipif(
    not shutil.which("syslog-ng"),
    reason="no syslog-ng here; .ci/run installs it (syslog-ng-core, syslog-ng-mod-http)",
)


class Bulk(ThreadingHTTPServer):
    """Takes what is sent to OpenSearch's bulk API, or is out of order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.works, self.refused, self.bodies = True, 0, list[tuple[str, str, str]]()

    def documents(self) -> list[dict[str, Any]]:
        """Return each document, with the index that the line above it names."""
        lines = [json.loads(line) for _, _, body in self.bodies for line in body.splitlines()]
        return [
            {**document, "_index": action["index"]["_index"]}
            for action, document in zip(lines[::2], lines[1::2], strict=True)
        ]


class Answer(BaseHTTPRequestHandler):
    """Answers as OpenSearch does when every document was taken, or as a proxy whose server is down."""

    server: Bulk

    def do_POST(self) -> None:
        """Take a request."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send_response(200 if self.server.works else 503)
        self.end_headers()
        self.wfile.write(b'{"errors": false, "items": []}')
        if self.server.works:
            self.server.bodies.append((self.path, self.headers["Content-Type"], body))
        else:
            self.server.refused += 1

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def bulk() -> Iterator[Bulk]:
    """A server of the bulk API."""
    with Bulk() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def collector(folder: Path, bulk: Bulk, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run syslog-ng with the shipped configuration and its queue in a folder; kill it at the end."""
    settings = {
        "LOG_PORT": str(port),
        "LOG_QUEUE": str(folder),
        "OPENSEARCH_URL": f"http://127.0.0.1:{bulk.server_port}",
        "OPENSEARCH_USER": "writer",
        "OPENSEARCH_PASSWORD": "secret",
    }
    places = [
        "--persist-file",
        folder / "persist",
        "--control",
        folder / "control",
        "--pidfile",
        folder / "pid",
    ]
    with subprocess.Popen(
        ["syslog-ng", "-F", "--no-caps", "-f", CONF, *places], env={**os.environ, **settings}
    ) as process:
        ready = ["syslog-ng-ctl", "healthcheck", "--control", folder / "control"]
        try:
            assert until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, PATIENCE)  # noqa: PLW1510
            yield process
        finally:
            process.kill()


def send(port: int, *messages: str) -> None:
    """Send lines as Docker's syslog driver does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for message in messages:
            client.sendto((HEAD + message).encode(), ("127.0.0.1", port))


def test_a_line_becomes_a_document(bulk: Bulk, tmp_path: Path) -> None:
    """Airflow's JSON has its fields, what isn't JSON is a message as it is, and the whole line stays."""
    line = '{"event": "a \\"quoted\\" text", "level": "error", "dag_id": "sales__batch", "count": {"n": 1}}'
    port = free_port()
    with collector(tmp_path, bulk, port):
        send(port, line, "plain", '{"no": "event"}')
        assert until(lambda: len(bulk.documents()) == 3, PATIENCE)
    common = {"@timestamp": "2026-11-30T12:00:00+00:00", "service": "evergreen-worker-1"}
    common["_index"] = "evergreen-2026.11"
    assert bulk.bodies[0][:2] == ("/_bulk", "application/x-ndjson")
    assert bulk.documents() == [
        {**common, "message": 'a "quoted" text', "level": "error", "dag_id": "sales__batch", "line": line},
        {**common, "message": "plain", "line": "plain"},
        {**common, "message": '{"no": "event"}', "line": '{"no": "event"}'},
    ]


@pytest.mark.full
def test_lines_outlive_an_outage_and_a_kill(bulk: Bulk, tmp_path: Path) -> None:
    """While OpenSearch is down lines wait on the disk, over a kill too, and they come once both are back."""
    bulk.works, port = False, free_port()
    with collector(tmp_path, bulk, port) as process:
        send(port, "first", "second")
        assert until(lambda: bulk.refused > 0, PATIENCE)
        process.kill()
    bulk.works = True
    with collector(tmp_path, bulk, port):
        assert until(lambda: [one["message"] for one in bulk.documents()] == ["first", "second"], PATIENCE)
