"""The profile `monitoring` for real: Prometheus scrapes Airflow as its own viewer, and tells Alertmanager.

It needs a Docker engine, as `test_stack.py` does; no scheduler and no worker is started. Where an image can't
be pulled, `images/` has a stand-in from Debian's package. Grafana has none: `tests/ops/prometheus` reads its
files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml

from demo.home import REPOSITORY
from tests.stack.engine import NEEDS_ENGINE, WHY_NOT, Composed, pulled_or_built, until

pytestmark = NEEDS_ENGINE
ALERTMANAGERS = "/api/v1/alertmanagers"
WHO = """
import base64, json
body = open("/run/evergreen/airflow_token").read().split(".")[1]
print(json.loads(base64.urlsafe_b64decode(body + "==")).get("sub"))
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """Prometheus and Alertmanager, and what they need: an api-server, its database and an empty lake."""
    assert not WHY_NOT, f"EVERGREEN_FULL is set, and there is no engine: {WHY_NOT}"
    made = Composed(tmp_path_factory.mktemp("watched"))
    for service in ("prometheus", "alertmanager"):
        print(pulled_or_built(service))
    try:
        made.compose("build", "s3", "setup")
        wanted = ("prometheus", "alertmanager")  # and what they need
        made.compose("--profile", "monitoring", "up", "-d", "--wait", "--wait-timeout", "900", *wanted)
        yield made
    finally:
        made.compose("--profile", "monitoring", "down", "--volumes", "--timeout", "5")


def got(watched: Composed, port: str, path: str) -> Any:
    """Return the JSON that one of the two answers."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://127.0.0.1:{watched.ports[port]}{path}", timeout=30)
    answer.raise_for_status()
    return answer.json()


def test_prometheus_scrapes_airflow_as_its_own_viewer(watched: Composed) -> None:
    """The scrape succeeds with a token of the user `prometheus`, not an admin, and brings the gauges."""

    def target() -> Any:
        found = got(watched, "PROMETHEUS_PORT", "/api/v1/targets")["data"]["activeTargets"]
        return next((one for one in found if one["health"] == "up"), None)

    found = until(target, "a scrape that succeeds", 240)
    assert found["scrapeUrl"] == "http://airflow-apiserver:8080/evergreen/metrics"
    query = "/api/v1/query?query=evergreen_readable"
    (gauge,) = got(watched, "PROMETHEUS_PORT", query)["data"]["result"]
    assert (gauge["metric"]["usecase"], gauge["value"][1]) == ("flight_delay", "1")
    assert watched.compose("exec", "-T", "prometheus-token", "python", "-c", WHO).strip() == "prometheus"
    held = watched.compose("exec", "-T", "prometheus-token", "env")
    assert watched.secrets["PROMETHEUS_PASSWORD"] in held
    assert watched.secrets["AIRFLOW_PASSWORD"] not in held


def test_its_user_may_look_and_not_touch(watched: Composed) -> None:
    """With the same password it reads the gauges, and is refused where it would change something."""
    login = {"username": "prometheus", "password": watched.secrets["PROMETHEUS_PASSWORD"]}
    with requests.Session() as session:
        session.trust_env = False
        token = session.post(f"{watched.api.url}/auth/token", json=login, timeout=30).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        assert session.get(f"{watched.api.url}/evergreen/metrics", timeout=60).status_code == 200
        made = {"connection_id": "mine", "conn_type": "http"}
        refused = session.post(f"{watched.api.url}/api/v2/connections", json=made, timeout=30)
    assert refused.status_code == 403


def test_the_rules_are_loaded_and_alertmanager_is_connected(watched: Composed) -> None:
    """Each rule of the file is judged, and Prometheus has Alertmanager, which has our receiver."""
    page = yaml.safe_load((REPOSITORY / "deploy/prometheus/rules/evergreen.yaml").read_text())
    wanted = {rule["alert"] for group in page["groups"] for rule in group["rules"] if "alert" in rule}
    assert wanted

    def judged() -> Any:
        groups = got(watched, "PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
        rules = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        return rules if rules and "unknown" not in rules.values() else None

    rules = until(judged, "a look at each rule", 180)
    assert {name: rules.get(name) for name in wanted} == dict.fromkeys(wanted, "ok")
    (one,) = until(
        lambda: got(watched, "PROMETHEUS_PORT", ALERTMANAGERS)["data"]["activeAlertmanagers"], "Alertmanager"
    )
    assert one["url"] == "http://alertmanager:9093/api/v2/alerts"
    config = yaml.safe_load(got(watched, "ALERTMANAGER_PORT", "/api/v2/status")["config"]["original"])
    assert [receiver["name"] for receiver in config["receivers"]] == ["team"]
