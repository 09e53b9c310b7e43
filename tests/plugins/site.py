"""What a small site consists of: settings, users, a DAG, and a lake that has something to show."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor.hook import claim

ROOT = Path(__file__).parents[2]
AIRFLOW = [sys.executable, "-m", "airflow"]
USERS = {"boss": "admin", "clerk": "user", "reader": "viewer", "sales": "viewer", "nobody": ""}
PARTITIONS = {"weekly_sales": ("2024-03-04", "2024-03-11"), "flight_delay": ("2013-03-01", "2013-03-02")}
ATTEMPT = "0a1b2c3d" * 8
# a value for each part that a route's path may have; a new route with another part has to add it here
PARTS = {
    "usecase": "weekly_sales",
    "partition": PARTITIONS["weekly_sales"][1],
    "column": "price",
    "path": f"verdict/{PARTITIONS['weekly_sales'][0]}-{ATTEMPT[:8]}.html",
}
SOURCES = {"weekly_sales": "sales", "flight_delay": "outcomes"}
PLANTED = "<script>alert('planted')</script>"

DAG_ID = "weekly_sales__links"
SHIPPED = "evergreen"  # the bundle of our own DAGs, which only some tests have Airflow read
# one task of each kind that has a link, as the operators have them
DAG = f"""
from airflow.sdk import DAG
from evergreen.links import MlflowLink, OverviewLink, ReportLink, VerdictLink
from evergreen.operators.base import EvergreenOperator
from include.references import Ref


class Returns(EvergreenOperator):
    operator_extra_links = (OverviewLink(), ReportLink(), MlflowLink())

    def execute(self, context):
        return self.to_xcom(Ref("0a1b2c", "2024-03-11", rows=1, note="made"))


class Judges(EvergreenOperator):
    operator_extra_links = (VerdictLink(),)

    def execute(self, context):
        return self.to_xcom(Ref("{ATTEMPT}", "2024-03-04", note="judged"))


class Skips(EvergreenOperator):
    operator_extra_links = (VerdictLink(),)
    template_fields = ("verdict",)

    def __init__(self, *, verdict, **kwargs):
        super().__init__(**kwargs)
        self.verdict = verdict

    def execute(self, context):
        self.skip_task("the champion is better")


class Fails(Returns):
    def execute(self, context):
        raise RuntimeError("planted")


with DAG("{DAG_ID}", schedule=None, default_args=dict(usecase="weekly_sales")):
    Returns(task_id="returns")
    Fails(task_id="fails")
    Skips(task_id="skips", verdict=Judges(task_id="judges").output)
"""


@dataclass(frozen=True)
class Site:
    """A running Airflow."""

    url: str
    home: Path
    lake: str

    def token(self, user: str) -> str:
        """Log in."""
        answer = httpx.post(f"{self.url}/auth/token", json={"username": user, "password": f"{user}-password"})
        return str(answer.raise_for_status().json()["access_token"])

    def get(self, path: str, user: str | None = None, *, by: str = "bearer") -> httpx.Response:
        """Ask for a page as nobody, by a bearer token, or with a browser's cookie."""
        if user is None:
            return self.ask(path)
        if by == "cookie":
            return self.ask(path, cookies={"_token": self.token(user)})
        return self.ask(path, headers={"Authorization": f"Bearer {self.token(user)}"})

    def ask(
        self, path: str, *, method: str = "GET", json: Any = None, **credentials: dict[str, str]
    ) -> httpx.Response:
        """Send one request."""
        with httpx.Client(cookies=credentials.get("cookies"), timeout=60) as client:
            return client.request(method, self.url + path, headers=credentials.get("headers"), json=json)


def environment(home: Path, port: int) -> dict[str, str]:
    """The settings of the processes, all from the environment."""
    settings = {
        "core__dags_folder": home / "dags",
        "dag_processor__dag_bundle_config_list": json.dumps(
            [_bundle("dags-folder", home / "dags"), _bundle(SHIPPED, ROOT / "dags")]
        ),
        "core__plugins_folder": ROOT / "plugins",
        "core__load_examples": False,
        "core__auth_manager": "narrow.Narrow",
        "core__simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "core__simple_auth_manager_passwords_file": home / "passwords.json",
        "database__sql_alchemy_conn": f"sqlite:///{home}/airflow.db",
        "api__base_url": f"http://127.0.0.1:{port}",
        "api__secret_key": "secret-of-a-test-that-is-long-enough",
        "api_auth__jwt_secret": "another-secret-of-a-test-that-is-long-enough",
    }
    shell = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "EVERGREEN_", "AWS_"))}
    return shell | {
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "EVERGREEN_LAKE": str(home / "lake"),
        "EVERGREEN_USECASES": os.pathsep.join([str(ROOT / "tests" / "usecases"), str(home / "usecases")]),
        "EVERGREEN_MLFLOW_UI": "http://mlflow.example/",
        "NO_PROXY": "127.0.0.1",
        **{f"AIRFLOW__{name.upper()}": str(value) for name, value in settings.items()},
    }


def _bundle(name: str, path: Path) -> dict[str, Any]:
    bundle = "airflow.dag_processing.bundles.local.LocalDagBundle"
    return {"name": name, "classpath": bundle, "kwargs": {"path": str(path)}}


def prepare(home: Path) -> None:
    """Lay out a DAG, the users, two use cases with partitions, one that can't be read.

    One whose lake can't.
    """
    (home / "dags").mkdir()
    (home / "dags" / "links.py").write_text(DAG)
    (home / "passwords.json").write_text(json.dumps({user: f"{user}-password" for user in USERS}))
    for usecase in PARTITIONS:
        fill(Lake(usecase, str(home / "lake")), usecase)
    shipped = ROOT / "tests" / "usecases" / "weekly_sales"
    for usecase in ("mistyped", "torn", "untrained", "alerted"):
        folder = home / "usecases" / usecase
        folder.mkdir(parents=True)
        declared = (shipped / "usecase.yaml").read_text().replace("name: weekly_sales", f"name: {usecase}", 1)
        mistyped = declared.replace("owner:", "ownr:", 1)
        (folder / "usecase.yaml").write_text(mistyped if usecase == "mistyped" else declared)
        (folder / "features.sql").write_text((shipped / "features.sql").read_text())
    log = "tables/partitions/_delta_log/00000000000000000000.json"
    Lake("torn", str(home / "lake")).replace(log, b"torn")


def fill(lake: Lake, usecase: str) -> None:
    """Publish two partitions: the first went well, in the second rows were set aside and a column drifted."""
    first, second = PARTITIONS[usecase]
    source = SOURCES[usecase]
    made = {"revision": 0, "duplicates": 0, "digest": "d" * 64, "inputs": "{}", "spec": "s" * 64}
    for partition, outcome, bad in ((first, "published", 0), (second, "refused", 2)):
        rows = [
            {**made, "product": product, "partition": partition, "rows": 100, "code": "abc",
             "outcome": outcome if product == source else "published",
             "quarantined": bad if product == source else 0, "note": f"{product} of {partition}: {PLANTED}"}
            for product in (source, "predictions")
        ]  # fmt: skip
        for row in rows:
            at = {"product": row["product"], "partition": partition}
            lake.publish("partitions", _table([row], schemas.PARTITIONS), at)
        scored = [
            {"partition": partition, "prediction": 0.25, "served_by": rung, "reason": "", "version": "3",
             "model": "m" * 64, "row_digest": "r" * 64}
            for rung in ("champion", "champion", "champion", "constant" if bad else "champion")
        ]  # fmt: skip
        lake.publish("predictions", _table(scored, schemas.PREDICTIONS), {"partition": partition})
        note = f"price: {PLANTED}"
        found = {"partition": partition, "check": "drift", "subject": "price", "value": 0.4 if bad else 0.1,
                 "threshold": 0.25, "outcome": "alarm" if bad else "ok", "note": note}  # fmt: skip
        lake.publish("findings", _table([found], schemas.FINDINGS), {"partition": partition})
        alert = {"check": "data", "subject": source, "value": None, "threshold": None,
                 "note": f"{source} was refused: {PLANTED}"}  # fmt: skip
        decided = {"partition": partition, "decision": "alert", "cause": "",
            "reason": ("tells of " "data " f"{source}"),
                   "alerts": json.dumps([alert])}  # fmt: skip
        lake.publish("decisions", _table([decided], schemas.DECISIONS), {"partition": partition})
    measured = {"partition": first, "as_of": second, "metric": "r2", "value": 0.4321, "rows": 96,
        "unlabeled": 4,
                "served_by": '{"champion": 4}', "versions": '{"3": 4}'}  # fmt: skip
    lake.publish("performance", _table([measured], schemas.PERFORMANCE), {"partition": first})
    for recipient, outcome in (
        ("ops", "notified"),
        ("chat", "failed"),
    ):  # the second partition was backfilled
        sent = claim(outcome, (alert["check"], alert["subject"]))
        lake.create(f"state/alerts/{first}-0123456789ab/{recipient}-0", sent)
    _quarantine(lake, source, second)
    _ledgers(lake, first)
    lake.replace(f"reports/{PARTS['path']}", b"<!doctype html><script>1</script><p>drifted: price</p>")


def _quarantine(lake: Lake, source: str, partition: str) -> None:
    bad = [
        {"source": source, "partition": partition, "revision": 0, "part": "0", "row": number,
            "rule": "between",
         "column": "price", "value": PLANTED if number == 7 else str(-number),
         "record": json.dumps({"store": PLANTED, "price": -number})}
        for number in range(250)
    ]  # fmt: skip
    where = {"source": source, "partition": partition}
    lake.publish("quarantine", _table(bad, schemas.QUARANTINE), where)


def _ledgers(lake: Lake, partition: str) -> None:
    verdict = f"blessed: squared_error 3.1 [3.0, 3.2], champion v2 3.4 {PLANTED}"
    attempt = {"key": ATTEMPT, "partition": partition, "verdict": "blessed", "sentence": verdict,
        "checks": "[]",
               "evidence": "{}", "version": "3", "model": "m" * 64, "spec": "s" * 64, "data": "d" * 64,
               "code": "abc", "recorded": 1}  # fmt: skip
    lake.append_at("attempts", _table([attempt], schemas.ATTEMPTS), -1)
    switch = {"switch": 1, "role": "champion", "version": "3", "model": "m" * 64, "constant": 30.0,
              "effective_from": partition, "judged_on": partition, "kind": "promoted", "by": "gate",
                  "reason": verdict,
              "attempt": ATTEMPT, "request": ATTEMPT, "recipe": "boosting"}  # fmt: skip
    lake.append_at("switches", _table([switch], schemas.SWITCHES), -1)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)
