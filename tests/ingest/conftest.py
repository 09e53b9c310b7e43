"""A shop whose files, API and database a test can spoil, and a use case that a test can declare otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from include.environment import Connect, Endpoint
from include.spec import UseCase
from include.storage.lake import Lake
from tests.usecases.edited import read_edited
from tests.usecases.weekly_sales import world

DECLARED = Path(world.__file__).parent
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., UseCase]:
    """Return weekly_sales as a test edits it; ``edit`` gets the whole file, as a dict."""

    def declared(edit: Edit = lambda raw: None) -> UseCase:
        return read_edited(DECLARED, tmp_path / "usecases", edit)

    return declared


@pytest.fixture
def spec(declare: Callable[..., UseCase]) -> UseCase:
    """Return weekly_sales as it is."""
    return declare()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return an empty lake."""
    return Lake("weekly_sales", str(tmp_path / "lake"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return the shop's folder, with six weeks of files."""
    world.write(tmp_path / "shop", 6)
    return tmp_path / "shop"


@pytest.fixture
def connect(shop: Path) -> Connect:
    """Return the way to the shop."""
    return lambda name: Endpoint(name, shop.absolute().as_uri())


class Api(ThreadingHTTPServer):
    """An API whose answers a test plants: each is a status and a body, by path; the last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def plant(self, path: str, *answers: tuple[int, Any]) -> None:
        """Answer a path, its query included, with each answer in turn."""
        self.answers[path] = [(s, b if isinstance(b, bytes) else json.dumps(b).encode()) for s, b in answers]


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        planted = self.server.answers.get(self.path, [(404, b"{}")])
        status, body = planted.pop(0) if len(planted) > 1 else planted[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    """Return a real server on loopback."""
    server = Api()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
