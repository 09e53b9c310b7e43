"""Tests of the Python that usecase.yaml declares; `python -m pytest` with this folder runs them."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from include.environment import Endpoint
from include.ingest.connectors import open_source
from include.ingest.connectors.request import NotAvailableYet, request
from include.judge.context import CheckContext
from include.judge.evidence import Losses
from include.spec.load import read
from include.validate.pipeline import errors

SPEC = read(Path(__file__).with_name("usecase.yaml"))


def load(path: str) -> Any:
    """Return the Python that the declaration names at a path."""
    (code,) = SPEC.python_of(path)
    return code.load()


def test_the_declaration_is_valid() -> None:
    """Its Python can be imported and called."""
    assert errors(SPEC) == []


def test_connector(tmp_path: Path) -> None:
    """A partition is the day's member; one that isn't in the archive may still come."""
    with ZipFile(tmp_path / "items.zip", "w") as archive:
        archive.writestr("2024-01-01.csv", "day,item\n2024-01-01,tea\n")
    fetch = open_source(SPEC.sources["items"], Endpoint("landing", tmp_path.as_uri()))
    assert list(fetch(request(SPEC, "items", "2024-01-01"))) == [
        ("2024-01-01.csv", b"day,item\n2024-01-01,tea\n")
    ]
    with pytest.raises(NotAvailableYet):
        list(fetch(request(SPEC, "items", "2024-01-02")))


def test_row_check() -> None:
    """Half a cent isn't a price."""
    check = load("sources.items.contract.row_checks")
    assert check(pa.table({"price": [1.25, 1.255]})).tolist() == [True, False]


def test_features() -> None:
    """The distance is from the median of the same partition."""
    rows = pa.table({"partition": ["a", "a", "a", "b"], "price": [1.0, 2.0, 6.0, 9.0]})
    result = load("features.python")({"features": duckdb.from_arrow(rows)})
    assert sorted(result["price_distance"]) == [-1.0, 0.0, 0.0, 4.0]


def test_estimators() -> None:
    """The mean of each item, and of all rows for a new one; trees predict as many values as rows."""
    rows = pd.DataFrame({"item": ["tea", "tea", "cake"]})
    model = load("training.item_mean")().fit(rows, np.array([1.0, 3.0, 8.0]))
    assert model.predict(pd.DataFrame({"item": ["tea", "cake", "pie"]})).tolist() == [2.0, 8.0, 4.0]
    trees = load("training.extra")(n_estimators=5, random_state=7).fit([[0], [1], [2]], [1.0, 2.0, 3.0])
    assert len(trees.predict([[1], [2]])) == 2


def test_metric_and_objective() -> None:
    """A missing unit counts three, one that is left over counts one."""
    actual, predicted = np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, 1.0])
    assert load("gate.objective")(actual, predicted).tolist() == [0.0, 2.0, 12.0]
    assert load("gate.requirements")(actual, predicted) == 0.5


def test_gate_check() -> None:
    """A hundred labeled rows are enough."""
    for rows, passed in ((49, False), (50, True)):
        losses = Losses(("2024-01-01", "2024-01-02"), (rows, rows), {"challenger": (9.0, 11.0)})
        evidence: Any = SimpleNamespace(losses=losses)
        (check,) = load("gate.checks")(CheckContext(evidence, SPEC.gate, has_champion=False))
        assert check.passed is passed


def test_alert_channel() -> None:
    """The chat receives the sentence and the findings, in lines."""
    received: list[bytes] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        endpoint = Endpoint("team_chat", f"http://127.0.0.1:{server.server_port}/")
        message = {"sentence": "Look.", "findings": [], "report": "", "partition": "2024-01-01"}
        load("alerts.channels")(endpoint, message, {})
        thread.join()
    assert json.loads(received[0])["text"].startswith("Look.")
