"""A real server in a process of its own, and clients that talk to it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from demo.process import until
from tests.architecture.tree import ROOT
from tests.warm import Process

JSON = {"Content-Type": "application/json"}
PATIENCE = 90  # seconds


@dataclass
class Server:
    """A server of the parcels.

    Parameters
    ----------
    log : what it prints.
    """

    process: Process
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    def connection(self) -> HTTPConnection:
        """Return a connection to it."""
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and text of a page."""
        connection = self.connection()
        connection.request("GET", path, headers={**self.headers, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def health(self) -> Any:
        """Return what it says of itself."""
        status, text = self.get("/health")
        assert status == 200, text
        return json.loads(text)

    def metric(self, name: str) -> float:
        """Return the value of a metric with its labels, as in the text."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)

    def post(
        self, rows: Any, connection: HTTPConnection | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Return the status of a request and its answer."""
        client = connection or self.connection()
        body = json.dumps({"rows": rows})
        client.request("POST", "/predict", body, {**JSON, **self.headers, **headers})
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())

    def predict(self, rows: Any, connection: HTTPConnection | None = None) -> list[dict[str, Any]]:
        """Return the predictions of rows."""
        status, answer = self.post(rows, connection)
        assert status == 200, answer
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions

    def until_serving(self, version: str, row: dict[str, Any]) -> None:
        """Wait until a version serves a row."""
        assert until(lambda: self.predict([row])[0]["version"] == version, PATIENCE), self.log.read_text()

    def stop(self) -> int:
        """End it as a container's runtime does, and return how it ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Return the settings that lead to the lake and the declaration below a folder."""
    usual = {"PYTHONPATH": str(ROOT), "EVERGREEN_LAKE": str(folder / "lake")}
    return {**os.environ, **usual, **settings}


def command(*options: str) -> list[str]:
    """Return the arguments of ``python`` that serve the parcels."""
    return ["-m", "include", "serve", "parcels", "--port", "0", *options]


@contextmanager
def serving(folder: Path, *options: str, token: str = "", **settings: str) -> Iterator[Server]:
    """Start a server, wait until it is ready, and kill it at the end if it still runs."""
    secret = {"EVERGREEN_SERVE_TOKEN": token} if token else {}
    log = folder / "serve.log"
    reader, writer = os.pipe()
    with log.open("w") as stderr, os.fdopen(reader) as stdout:
        with os.fdopen(writer, "w") as printed:
            env = environment(folder, **secret, **settings)
            process = Process(command(*options), folder, env, printed, stderr)
        line = stdout.readline()
    try:
        assert " on http://" in line, f"{line}{log.read_text()}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        server = Server(process, int(line.rpartition(":")[2]), log, headers)
        assert until(lambda: _ready(server), PATIENCE), log.read_text()
        yield server
    finally:
        process.kill()


def _ready(server: Server) -> bool:
    try:
        return server.get("/health/ready")[0] == 200
    except OSError:
        return False


class Load:
    """Clients that send a row again and again until they are stopped, each on one connection."""

    def __init__(self, server: Server, row: dict[str, Any], clients: int = 3) -> None:
        self.answers: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in range(clients)]
        self.errors: list[str] = []
        self._server, self._row, self._stop = server, row, threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(each,)) for each in self.answers]

    def _send(self, answers: list[tuple[int, dict[str, Any]]]) -> None:
        connection = self._server.connection()
        try:
            while not self._stop.is_set():
                answers.append(self._server.post([self._row], connection))
        except Exception as error:
            self.errors.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def statuses(self) -> set[int]:
        """The statuses of all answers."""
        return {status for answers in self.answers for status, _ in answers}
