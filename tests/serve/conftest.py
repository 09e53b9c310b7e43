"""The parcels of tests/score, whose models are promoted by real switches, and a server of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.spec import UseCase
from tests.features import parcels
from tests.score.conftest import deploy, lake, stored, use  # noqa: F401 - fixtures of the tests here
from tests.serve.server import Server, serving

Serve = Callable[..., AbstractContextManager[Server]]
FEATURES: dict[str, Any] = {
    **{"weight": 9.5, "express": 1, "ice": 4.25, "late_share": 0.5, "known_arrivals": 20},
    **{"depot": "north", "road": "snow"},
}
KEY: dict[str, Any] = {"depot": "north", "parcel": 3}
ROW = {**FEATURES, **KEY}
TEXTS = ("request", "for_partition", "features_partition", "served_by", "served_version", "served_model")
# the log as a source
REQUESTS: dict[str, Any] = {
    **{"kind": "objects", "connection": "requests", "path": "{partition}/*.json", "format": "json"},
    **{"available_at": "+0m", "sparse": True, "key": ["request_row"]},
    "columns": {
        "request_row": {"type": "string", "required": True},
        **{name: {"type": "string"} for name in (*TEXTS, "served_reason", "depot", "road")},
        "requested_at": {"type": "timestamp", "required": True},
        "parcel": {"type": "integer"},
        **{
            name: {"type": "number"}
            for name in ("prediction", "weight", "express", "ice", "late_share", "known_arrivals")
        },
    },
}


@pytest.fixture(scope="session")
def logging_use(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The use case with its log as a source."""
    sources = {**yaml.safe_load(parcels.SPEC)["sources"], "requests": REQUESTS}
    return parcels.spec(tmp_path_factory.mktemp("logging"), sources=sources)


@pytest.fixture
def serve(use: UseCase, tmp_path: Path) -> Serve:  # noqa: F811 - the fixture above
    """Starts a server of the lake below the test's folder: ``with serve() as server``."""

    def start(*options: str, **settings: str) -> AbstractContextManager[Server]:
        settings.setdefault("EVERGREEN_USECASES", str(use.folder.parent))
        return serving(tmp_path, *options, **settings)

    return start
