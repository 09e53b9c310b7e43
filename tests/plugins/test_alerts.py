"""The alerts page shows what is open or silenced; its buttons are requests that Airflow decides on."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from include.monitor.silences import record_silence
from include.spec.load import read
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor.hook import claim
from tests.plugins.site import PLANTED, Site

pytestmark = pytest.mark.airflow
WEEKS = ("2024-03-04", "2024-03-11", "2024-03-18")
PAGE = "/evergreen/alerts/alerted"
DAG = "alerted__operate"


@pytest.fixture(scope="module")
def lake(site: Site) -> Lake:
    """Return a lake with two open alerts: one of all partitions, and one that is muted."""
    lake = Lake("alerted", site.lake)
    for partition in WEEKS:
        subjects = ["sales"] if partition == WEEKS[0] else ["sales", "it's"]
        items = [
            {"check": "data", "subject": subject, "value": 1.0, "threshold": 0.1, "note": f"late {PLANTED}"}
            for subject in subjects
        ]
        rows = [{"partition": partition, "outcome": "alarm", **item} for item in items]
        lake.publish("findings", pa.Table.from_pylist(rows, schemas.FINDINGS), {"partition": partition})
        row = {"product": "monitor", "partition": partition, "outcome": "published"}
        lake.publish("partitions", pa.Table.from_pylist([row], schemas.PARTITIONS), row)
        decision = {"partition": partition, "decision": "alert", "alerts": json.dumps(items)}
        table = pa.Table.from_pylist([decision], schemas.DECISIONS)
        lake.publish("decisions", table, {"partition": partition})
    sales = ("data", "sales")
    lake.create(f"state/alerts/{WEEKS[0]}-0123456789ab/ops-0", claim("notified", sales))
    lake.create(f"state/alerts/{WEEKS[1]}-0123456789ab/ops-0", claim("failed", sales))
    # another message of a partition with the alert is none about it
    lake.create(f"state/alerts/{WEEKS[2]}-ba9876543210/ops-0", claim("notified", ("deadline", "predictions")))
    spec = read(site.home / "usecases" / "alerted" / "usecase.yaml")
    at = datetime(2024, 3, 19, 8, tzinfo=UTC)
    record_silence(lake, spec, "data: it's", "ada", f"known {PLANTED}", at=at, until="2024-03-25")
    return lake


def rows_of(site: Site) -> dict[str, list[str]]:
    """Return the texts of each open alert's cells, by the alert."""
    table = site.get(PAGE, "reader").text.split("<table>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr>")[2:]]
    texts = [[html.unescape(" ".join(re.sub(r"<[^>]+>", " ", cell).split())) for cell in row] for row in rows]
    return {row[0]: row[1:-1] for row in texts}


def test_the_page_shows_what_is_open_and_who_was_notified(site: Site, lake: Lake) -> None:
    """Each alert has its first partition, their number, the newest note, the recipients and its state."""
    rows = rows_of(site)
    assert list(rows) == ["data: it's", "data: sales"]
    since, partitions, note, notified, state = rows["data: sales"]
    assert (since, partitions, note, state) == (WEEKS[0], "3", f"late {PLANTED}", "open")
    assert notified == f"ops failed, {WEEKS[1]} ops notified, {WEEKS[0]}"
    *_, notified, state = rows["data: it's"]
    assert state == f"muted by ada, 2024-03-19 08:00 UTC, until 2024-03-25 known {PLANTED}"
    assert PLANTED not in site.get(PAGE, "reader").text


@pytest.mark.full
def test_a_button_is_a_request_that_airflow_decides_on(site: Site, lake: Lake, forms: list[str]) -> None:
    """The DAG's form takes what a button carries from a User, and refuses a Viewer and a stranger."""
    assert DAG in forms
    assert "<button" not in site.get(PAGE, "reader").text
    button = r'data-dag="(.*?)" data-conf="(.*?)"'
    buttons = [(dag, html.unescape(conf)) for dag, conf in re.findall(button, site.get(PAGE, "clerk").text)]
    assert [json.loads(conf) for _, conf in buttons] == [
        {"action": "acknowledge", "alert": "data: it's"},
        {"action": "mute", "alert": "data: it's", "partition": "2024-05-06"},
        {"action": "acknowledge", "alert": "data: sales"},
        {"action": "mute", "alert": "data: sales", "partition": "2024-05-06"},
    ]
    path = f"/api/v2/dags/{DAG}/dagRuns"
    for (dag, conf), minute in zip(buttons, range(4), strict=True):
        assert dag == DAG
        when = f"2026-01-01T00:0{minute}:00Z"
        body = {"logical_date": when, "conf": json.loads(conf) | {"reason": "planned"}}
        statuses = {
            user: site.ask(
                path, method="POST", json=body, headers={"Authorization": f"Bearer {site.token(user)}"}
            ).status_code
            for user in ("reader", "clerk")
        }
        assert statuses == {"reader": 403, "clerk": 200}
        assert site.ask(path, method="POST", json=body).status_code == 401
