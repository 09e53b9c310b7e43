"""What deploy/ ships holds in real servers: a broken feed ends as an alert, each panel shows something."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from include.monitor.registry import CHECKS
from include.ops.prometheus import HELP, exposition_text, scrape
from tests.ops.prometheus.conftest import TOKEN, Outside, Plant
from tests.ops.prometheus.servers import DEPLOY, Server, alertmanager, needs_servers, prometheus, soon

BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
PANELS = [
    (panel, target["expr"])
    for file in BOARDS
    for panel in json.loads(file.read_text())["panels"]
    for target in panel.get("targets", [])
]
FEED = {"alertname": "EvergreenFeedBroken", "check": "missing", "subject": "temp", "usecase": "machines"}


@dataclass
class Watched:
    """Servers that see the plant."""

    prometheus: Server
    alertmanager: Server

    def alerts(self) -> list[dict[str, str]]:
        """Return the labels of what Alertmanager holds."""
        return [one["labels"] for one in self.alertmanager.get("/api/v2/alerts")]


@pytest.fixture(scope="module")
def watched(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Prometheus and Alertmanager, as shipped, with the plant's partitions so far."""
    folder = tmp_path_factory.mktemp("servers")
    with (
        alertmanager(folder, f"{outside.url}/told") as alerts,
        prometheus(folder, outside.url, TOKEN, alerts) as server,
    ):
        soon(lambda: server.query("evergreen_readable == 1"), "use case that is scraped")
        yield Watched(server, alerts)


@pytest.fixture(scope="module")
def broken(watched: Watched, plant: Plant) -> Watched:
    """The same after a partition on which no machine said its temperature."""
    before = watched.alerts()
    assert [one for one in before if one["alertname"] == FEED["alertname"]] == []
    plant.partition(lambda row: {**row, "temp": None})
    soon(lambda: watched.prometheus.query('ALERTS{alertstate="firing", check="missing"}'), "firing alert")
    return watched


@pytest.mark.full
@needs_servers
def test_a_broken_feed_ends_as_an_alert(broken: Watched, outside: Outside) -> None:
    """A column that comes empty is in Alertmanager after the next scrape, and who is to know is told."""
    found = soon(lambda: [one for one in broken.alerts() if FEED.items() <= one.items()], "alert")
    posted = soon(
        lambda: [
            one for said in outside.told for one in said["alerts"] if FEED.items() <= one["labels"].items()
        ],
        "message",
    )

    assert len(found) == 1
    assert found[0]["severity"] == "critical"
    assert posted[0]["status"] == "firing"
    assert posted[0]["annotations"]["summary"] == "machines: missing of temp"


@pytest.mark.full
@needs_servers
def test_drift_alone_tells_nobody(broken: Watched) -> None:
    """No alert of the shipped rules is about drift, and a past that is replayed isn't overdue."""
    names = {one["alertname"] for one in broken.alerts()}

    assert broken.prometheus.query('evergreen_alarm{check="drift"} == 1')
    assert not [one for one in broken.alerts() if one.get("check") == "drift"]
    assert not names & {"EvergreenDown", "EvergreenUnreadable", "EvergreenPartitionOverdue"}


@pytest.mark.full
@needs_servers
@pytest.mark.parametrize(("panel", "expr"), PANELS, ids=[f"{p['title']}: {e[:40]}" for p, e in PANELS])
def test_a_panel_shows_something(broken: Watched, panel: dict[str, Any], expr: str) -> None:
    """Prometheus has data for each query of the dashboards, with every label that its legend names."""
    # a scrape may fall between a partition's estimates and the planted one
    found = soon(lambda: broken.prometheus.query(expr.replace("$usecase", ".*")), "data")
    legend = next(t["legendFormat"] for t in panel["targets"] if t["expr"] == expr)
    named = {part.split("}}")[0] for part in legend.split("{{")[1:]}
    assert all(named <= set(one["metric"]) for one in found)


@needs_servers
@pytest.mark.parametrize(
    "file", sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml")), ids=lambda f: f.name
)
def test_the_rules_fire_when_they_should(file: Any) -> None:
    """Promtool runs the rules on series that are planted."""
    checked("promtool", "test", "rules", str(file))


@needs_servers
def test_what_is_shipped_is_read_by_its_tools(plant: Plant) -> None:
    """Rules, both configurations and the page that is scraped are valid to the servers' own checkers."""
    checked("promtool", "check", "rules", *map(str, (DEPLOY / "prometheus" / "rules").glob("*.yaml")))
    checked("promtool", "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yaml"))
    checked("amtool", "check-config", str(DEPLOY / "alertmanager" / "alertmanager.yaml"))
    checked("promtool", "check", "metrics", said=exposition_text(scrape("machines"), HELP))


def test_every_rule_is_tested() -> None:
    """Each alert fires in one of promtool's tests."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules" / "evergreen.yaml").read_text())
    tests = (DEPLOY / "prometheus" / "tests" / "evergreen.yaml").read_text()
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]

    assert len(names) == len(set(names)) > 0
    assert [name for name in names if name not in tests] == []


def test_what_a_partition_tells_people_has_an_alert() -> None:
    """Each check that the partition's policy tells is in exactly one rule, and drift in none."""
    rules = (DEPLOY / "prometheus" / "rules" / "evergreen.yaml").read_text()
    named = [check for found in re.findall(r'check=~?"([^"]+)"', rules) for check in found.split("|")]

    assert sorted(named) == sorted(check.name for check in CHECKS if check.alerts)


@pytest.mark.parametrize("file", BOARDS, ids=lambda f: f.name)
def test_a_dashboard_can_be_provisioned(file: Any) -> None:
    """It names the datasource that is provisioned, and no two panels share a number or a place."""
    board = json.loads(file.read_text())
    folder = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "evergreen.yaml").read_text())["datasources"]
    used = [
        one["datasource"]["uid"]
        for panel in board["panels"]
        for one in (panel, *panel.get("targets", []))
        if "datasource" in one
    ]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert set(used) == {source["uid"]}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24  # columns that Grafana has
    assert {panel["title"] for panel in board["panels"] if panel["type"] == "row"} == {
        "Data",
        "Model",
        "Pipeline",
    }


def test_nothing_that_is_shipped_holds_a_secret() -> None:
    """Tokens and secret addresses come from files, so none of these keys is in what is committed."""
    forbidden = {
        "password",
        "credentials",
        "bearer_token",
        "basic_auth",
        "url",
        "api_url",
        "smtp_auth_password",
    }
    for name in ("prometheus/prometheus.yaml", "alertmanager/alertmanager.yaml"):
        assert not forbidden & set(keys(yaml.safe_load((DEPLOY / name).read_text()))), name


def keys(value: Any) -> Iterator[str]:
    """Return each key, however deep."""
    if isinstance(value, dict):
        yield from value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(one)


def checked(*command: str, said: str | None = None) -> None:
    """Run a tool that ends with another number than 0 where something is wrong."""
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
