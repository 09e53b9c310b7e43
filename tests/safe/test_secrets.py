"""What is secret stays where the user put it: not in the lake, a log, a traceback, XCom, MLflow or a page."""

from __future__ import annotations

import gzip
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from evergreen.operators.ingest import IngestOperator
from evergreen.operators.monitor import AlertOperator
from include.cli import stages
from include.cli.status_text import status_text as told
from include.environment import Endpoint, endpoint, lake_uri
from include.errors import SettingError
from include.models.registry import Registry
from include.monitor.report import drift_report
from include.ops.doctor import _probe, _source, run_checks
from include.ops.status import status
from include.reports.history import draw_history
from include.spec import UseCase, load
from include.storage.lake import Lake
from include.storage.schemas import DECISIONS
from include.train.pipeline import train
from tests.safe import plant
from tests.train import visits
from tests.usecases.weekly_sales import world

PARTITIONS = world.partitions(3)
NOW = datetime(2024, 2, 1, tzinfo=UTC)
S3 = {"host": "s3://landing/world", "login": plant.LOGIN, "password": plant.PASSWORD}
HTTP = {"kind": "http", "path": "sales/{day}", "format": None}
SQL = {"kind": "sql", "query": "SELECT 1 AS week", "format": None, "path": None}
# what the connection says, and how the source is declared otherwise; {dead} and {echo} are servers
FAILING: dict[str, tuple[Any, dict[str, Any]]] = {
    "a store that nobody answers for": (
        {**S3, "extra": {"endpoint_url": "{dead}", "note": plant.EXTRA}},
        {},
    ),
    "a store that repeats what it was asked": ({**S3, "extra": {"endpoint_url": "{echo}"}}, {}),
    "a store's address that is none": ({**S3, "extra": {"endpoint_url": f"{plant.EXTRA} x"}}, {}),
    "a folder that isn't there": ({"host": "file:///nowhere", "password": plant.PASSWORD}, {}),
    "another scheme": ({"host": f"ftp://{plant.ADDRESS}"}, {}),
    "no JSON": (plant.ADDRESS, {}),
    "no host": ({"password": plant.PASSWORD}, {}),
    "an extra that is none": ({"host": "s3://a", "extra": plant.EXTRA}, {}),
    "an API that repeats what it was asked": ({"host": "{echo}", "password": plant.TOKEN}, HTTP),
    "an API that nobody answers for": (
        {"host": f"{{dead}}/?key={plant.ADDRESS}", "password": plant.TOKEN},
        HTTP,
    ),
    "an API's address that is none": ({"host": f"http://[{plant.ADDRESS}", "password": plant.TOKEN}, HTTP),
    "an API with a user in its address": (
        {"host": f"http://me:{plant.MARK}@127.0.0.1:9", "password": plant.TOKEN},
        HTTP,
    ),
    "a token with a line break": ({"host": "{echo}", "password": f"{plant.TOKEN}\n"}, HTTP),
    "a token that no header carries": ({"host": "{echo}", "password": f"{plant.TOKEN}→"}, HTTP),
    "a database that nobody answers for": (
        {"host": "postgresql+psycopg2://127.0.0.1:9/db", "login": plant.LOGIN, "password": plant.PASSWORD},
        SQL,
    ),
    "a database with an @ in its password": ({"host": f"postgresql+psycopg2://me:a@{plant.MARK}@h/db"}, SQL),
    "a database with a secret in its query": (
        {"host": f"postgresql+psycopg2://127.0.0.1:9/db?sslkey={plant.MARK}&{plant.MARK}=1"},
        SQL,
    ),
    "a database's address that is none": ({"host": plant.ADDRESS, "password": plant.PASSWORD}, SQL),
    "a database that can't be opened": (
        {"host": f"sqlite:////nowhere/{plant.MARK}.db", "password": plant.PASSWORD},
        SQL,
    ),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """Return a folder with the shop and an empty lake, in an environment full of secrets, all logs kept."""
    for name, value in plant.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    world.write(tmp_path / "shop", 3)
    connection = {**json.loads(world.connection(tmp_path / "shop")), "password": plant.PASSWORD}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))
    caplog.set_level(logging.DEBUG)
    return tmp_path


@pytest.fixture
def servers() -> Iterator[Callable[[Any], Any]]:
    """Return what fills the addresses of a server that refuses, and of none, into a connection."""
    with plant.echo(403) as address:

        def filled(connection: Any) -> Any:
            if isinstance(connection, dict):
                return {name: filled(value) for name, value in connection.items()}
            return connection.replace("{echo}", address).replace("{dead}", "http://127.0.0.1:9")

        yield filled


def declared(site: Path, source: dict[str, Any] | None = None, **other: Any) -> UseCase:
    """Declare weekly_sales with another source, and what else is given."""
    raw = yaml.safe_load((Path(world.__file__).parent / "usecase.yaml").read_text())
    sales = {**raw["sources"]["sales"], **(source or {})}
    raw["sources"]["sales"] = {name: value for name, value in sales.items() if value is not None}
    raw["sources"]["sales"]["columns"]["store"]["hashed"] = True
    raw["sources"]["sales"]["contract"]["expectations"] = []
    folder = site / "usecases" / "weekly_sales"
    folder.mkdir(parents=True)
    (folder / "usecase.yaml").write_text(yaml.safe_dump({**raw, **other}, sort_keys=False))
    (folder / "features.sql").write_text((Path(world.__file__).parent / "features.sql").read_text())
    return load("weekly_sales")


def of(act: Callable[[], Any]) -> str:
    """Return what a call gives, or its whole traceback with all causes."""
    try:
        return repr(act())
    except Exception as error:
        return f"{error!r} {traceback.format_exc()}"


@pytest.mark.full
@pytest.mark.parametrize("name", FAILING)
def test_a_source_that_fails_tells_no_secret(
    name: str,
    site: Path,
    servers: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By task and by command line it fails in a sentence, and nothing that is left has what was planted."""
    connection, source = FAILING[name]
    spec, filled = declared(site, source), servers(connection)
    value = filled if isinstance(filled, str) else json.dumps({"conn_type": "generic", **filled})
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", value)
    run = SimpleNamespace(partition_key=PARTITIONS[0], run_type="scheduled")
    context = {"dag_run": run, "params": {}}
    said = [
        of(lambda: IngestOperator(task_id="i", usecase=spec.name, source="sales").execute(context)),  # type: ignore[arg-type]
        of(lambda: stages.run_stage("ingest", Lake(spec.name), spec, PARTITIONS[1:2], now=NOW)),
        of(lambda: endpoint("shop")),
        of(lambda: _probe("source", lambda: _source(spec, "sales"), "")),
        of(lambda: told(status(Lake(spec.name), spec))),
    ]
    assert "Error" in said[0] or "Airflow" in said[0]
    assert plant.leaks("\n".join([*said, caplog.text, *capsys.readouterr()])) == []
    assert plant.found(site / "lake") == {}


@pytest.mark.full
def test_partitions_that_go_well_keep_no_secret(
    site: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lake, pages and references of ingest, score and monitor have nothing of it, nor has the status."""
    spec = declared(site)
    lake, said = Lake(spec.name), []
    for stage in ("ingest", "score", "monitor"):
        said += [str(ref.xcom()) for ref in stages.run_stage(stage, lake, spec, PARTITIONS, now=NOW)]
    said += [told(status(lake, spec)), spec.digest, draw_history(lake, spec)[1]]
    said += [drift_report(lake, spec, partition) for partition in PARTITIONS]
    assert lake.count("validated_sales") == 120
    assert plant.leaks("\n".join([*said, caplog.text, *capsys.readouterr()])) == []
    looked = [name for name, _ in plant.texts(site)]
    for kind in (".parquet!", "snapshots/"):
        assert any(kind in name for name in looked), kind
    assert plant.found(site) == {}


@pytest.mark.full
def test_a_training_keeps_no_secret(
    site: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither MLflow's tables and artifacts nor the model's file nor the doctor have anything of it."""
    clinic = visits.usecase(site / "usecases")
    visits.fill(Lake(clinic.name), clinic)
    registry = Registry(artifacts=f"file://{site}/artifacts")
    ref = train(Lake(clinic.name), clinic, visits.LAST, registry=registry)
    said = [str(ref.xcom()), of(lambda: list(run_checks()))]
    assert plant.leaks("\n".join([*said, caplog.text, *capsys.readouterr()])) == []
    looked = [name for name, _ in plant.texts(site)]
    for kind in (".skops!schema.json", "mlflow.db!", "artifacts/"):
        assert any(kind in name for name in looked), kind
    assert plant.found(site) == {}


@pytest.mark.parametrize("status_code", [200, 404])
@pytest.mark.parametrize("kind", ["slackwebhook", "http"])
def test_an_alert_tells_no_secret(
    kind: str,
    status_code: int,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether it is taken or not, neither the address nor the password is in a log or in the lake."""
    spec = declared(site, alerts={"to": ["ops"]})
    row = {"partition": PARTITIONS[0], "decision": "alert", "cause": "", "reason": "of data"}
    finding = {"check": "data", "subject": "sales", "value": 1.0, "threshold": 0.1, "note": "n"}
    rows = pa.Table.from_pylist([{**row, "alerts": json.dumps([finding])}], schema=DECISIONS)
    Lake(spec.name).publish("decisions", rows, {"partition": PARTITIONS[0]})
    run = SimpleNamespace(partition_key=PARTITIONS[0], run_type="scheduled")
    operator = AlertOperator(task_id="a", usecase=spec.name)
    with plant.echo(status_code) as address:
        connection = {"conn_type": kind, "host": f"{address}/{plant.ADDRESS}", "password": plant.PASSWORD}
        monkeypatch.setenv("AIRFLOW_CONN_OPS", json.dumps(connection))
        said = of(lambda: operator.execute({"dag_run": run, "params": {}}))  # type: ignore[typeddict-item]
    log = caplog.text + "".join(capsys.readouterr())
    assert ("could not notify ops" in said) == (status_code != 200)
    assert f"{spec.name} {PARTITIONS[0]}: of data" in said + log
    assert plant.leaks(said + log) == []
    assert plant.found(site / "lake") == {}


@pytest.mark.parametrize("status_code", [401, 500])
def test_a_registry_that_refuses_tells_no_secret(
    status_code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a password in the address nor one beside it is in the error."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name, value in plant.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with plant.echo(status_code) as address:
        host = address.removeprefix("http://")
        for uri in (address, f"http://{plant.MARK}:{plant.MARK}@{host}", "http://127.0.0.1:9"):
            said = of(lambda uri=uri: Registry(uri).aliases("weekly_sales"))
            assert "include.errors.EvergreenError: registry: " in said
            assert plant.leaks(said + caplog.text) == []


def test_a_store_that_refuses_tells_no_secret(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S3's own answer to a wrong signature repeats the session token: the error doesn't."""
    lake = Lake("weekly_sales", "s3://lake")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with plant.echo(403) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for act in (lambda: lake.get("a"), lambda: lake.rows("partitions")):
            said = of(act)
            assert "StoreUnavailable" in said
            assert plant.leaks(said + caplog.text) == []


@pytest.mark.parametrize("uri", [f"s3://me:{plant.MARK}@lake", f"s3://lake?key={plant.MARK}"])
def test_a_lakes_address_with_a_secret_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """References and reports repeat the address, so it may hold none; the refusal doesn't repeat it."""
    monkeypatch.setenv("EVERGREEN_LAKE", uri)
    with pytest.raises(SettingError, match="without a user, a password or a query") as refused:
        lake_uri()
    assert plant.leaks(str(refused.value)) == []


def test_an_endpoint_is_printed_by_its_name() -> None:
    """Its address, login, password and extra are not in its printed form."""
    shown = repr(Endpoint("shop", plant.ADDRESS, plant.LOGIN, plant.PASSWORD, {"key": plant.EXTRA}))
    assert shown == "Endpoint(name='shop')"


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    """A secret in a plain file, in Parquet, in gzip, in a zip, or in basic authentication is found."""
    (tmp_path / "a.json").write_text(plant.TOKEN)
    pyarrow.parquet.write_table(
        pa.table({"c": [plant.TOKEN] * 9}), tmp_path / "b.parquet", compression="zstd"
    )
    (tmp_path / "c.gz").write_bytes(gzip.compress(plant.TOKEN.encode()))
    with ZipFile(tmp_path / "d.zip", "w", compression=8) as packed:
        packed.writestr("e.gz", gzip.compress(plant.BASIC.encode()))
    (tmp_path / "f.txt").write_text("nothing")
    assert {name.split("!")[0] for name in plant.found(tmp_path)} == {"a.json", "b.parquet", "c.gz", "d.zip"}
