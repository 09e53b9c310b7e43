"""The parcels of tests/score, whose models are promoted by real switches, and a server of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from include.spec import UseCase
from tests.score.conftest import deploy, lake, stored, use  # noqa: F401 - fixtures of the tests here
from tests.serve.server import Server, serving

Serve = Callable[..., AbstractContextManager[Server]]
FEATURES: dict[str, Any] = {
    **{"weight": 9.5, "express": 1, "ice": 4.25, "late_share": 0.5, "known_arrivals": 20},
    **{"depot": "north", "road": "snow"},
}
ROW = {**FEATURES, "parcel": 3}


@pytest.fixture
def serve(use: UseCase, tmp_path: Path) -> Serve:  # noqa: F811 - the fixture above
    """Starts a server of the lake below the test's folder: ``with serve() as server``."""

    def start(*options: str, **settings: str) -> AbstractContextManager[Server]:
        settings.setdefault("EVERGREEN_USECASES", str(use.folder.parent))
        return serving(tmp_path, *options, **settings)

    return start
