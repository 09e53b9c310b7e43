"""A webhook on loopback that keeps what it was told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook(ThreadingHTTPServer):
    """A webhook that answers with one status after the other; the last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = [200]
        self.got: list[tuple[str, str, Any]] = []
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.asked, self.answer = threading.Event(), threading.Event()
        self.answer.set()  # a test clears it to make senders wait


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, self.headers.get("Authorization", ""), body))
        self.server.asked.set()
        self.server.answer.wait(60)
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if statuses[1:] else statuses[0])
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def claim(outcome: str, *alerts: tuple[str, str]) -> bytes:
    """Return what a try to deliver a message leaves in the lake."""
    items = [{"check": check, "subject": subject} for check, subject in alerts]
    return json.dumps({"outcome": outcome, "alerts": items}).encode()


def serving(server: Any) -> Iterator[Any]:
    """Let a server run for a test."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
