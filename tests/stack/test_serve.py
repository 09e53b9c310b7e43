"""The profile `serve` for real: it answers with the token alone, and its log is in the lake once it ends.

It needs a Docker engine, as `test_stack.py` does; of other servers only store and database are started.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from include.spec import load
from tests.stack.engine import NEEDS_ENGINE, USECASE, WHY_NOT, Composed

pytestmark = NEEDS_ENGINE
LOGGED = """
import sys; from include.storage.lake import Lake
lake = Lake(sys.argv[1])
print(*(lake.get(key).decode() for key in lake.keys("requests")))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """A server of online predictions over an empty lake."""
    assert not WHY_NOT, f"EVERGREEN_FULL is set, and there is no engine: {WHY_NOT}"
    made = Composed(tmp_path_factory.mktemp("served"))
    try:
        made.compose("build", "s3", "setup")
        made.compose("--profile", "serve", "up", "-d", "--wait", "--wait-timeout", "900", "serve")
        yield made
    finally:
        made.compose("--profile", "serve", "down", "--volumes", "--timeout", "5")


def ask(served: Composed, token: str) -> requests.Response:
    """Return the answer to a request for one row without any number."""
    features = load(USECASE).features
    row: dict[str, Any] = {**dict.fromkeys(features.numeric), **dict.fromkeys(features.categorical, "9E")}
    row |= {"carrier": "9E", "flight": 3314, "origin": "JFK"}  # the key
    with requests.Session() as session:
        session.trust_env = False
        url = f"http://127.0.0.1:{served.ports['SERVE_PORT']}/predict"
        headers = {"Authorization": f"Bearer {token}"}
        return session.post(url, json={"rows": [row]}, headers=headers, timeout=30)


def test_it_answers_with_the_token_alone_and_logs_to_the_lake(served: Composed) -> None:
    """Before any model the prior serves; the process holds the lake's key and none of Airflow's."""
    assert ask(served, "another-token-of-somebody").status_code == 401
    answer = ask(served, served.secrets["SERVE_TOKEN"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["served_by"] == "constant"

    held = served.compose("exec", "-T", "serve", "env")
    assert {name for name, secret in served.secrets.items() if secret in held} == {
        "SERVE_TOKEN",
        "S3_LAKE_KEY",
        "S3_LAKE_SECRET",
    }
    served.compose("--profile", "serve", "stop", "serve")
    command = ("run", "--rm", "--no-deps", "-T", "serve", "python", "-c", LOGGED, USECASE)
    logged = served.compose("--profile", "serve", *command).splitlines()
    (row,) = json.loads("".join(logged))
    assert (row["request"], row["served_by"]) == (answer.json()["request"], "constant")
