"""Each how-to page about an extension does what it says: it is followed in a copy of the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from include.reports.onnx_card import SCORE
from tests.docs.pages import DOCS, Reader, blocks
from tests.usecases.weekly_sales import world

HOW_TO = DOCS / "how-to"
# tested beside what they describe
OPERATING = {
    *("aws", "back-up-and-restore", "deploy", "erase-a-person", "kubernetes", "logs", "openlineage"),
    "prometheus",
    "serve-online",
}
EXTENDING = sorted(page.stem for page in HOW_TO.glob("*.md") if page.stem not in OPERATING)
pytestmark = pytest.mark.timeout(900)

# a lake with one partition of predictions, and an operator of the page's on it
EXPORT = """
import pyarrow as pa
from types import SimpleNamespace
from evergreen.operators.export import ExportOperator
from include.storage import schemas
from include.storage.lake import Lake

row = {"partition": "2013-03-01", "prediction": 0.5, "served_by": "champion", "reason": "", "version": "1"}
row |= {"model": "m", "row_digest": "d"}
rows = pa.Table.from_pylist([row], schema=schemas.PREDICTIONS)
Lake("flight_delay").publish("predictions", rows, {"partition": "2013-03-01"})
task = ExportOperator(task_id="write", usecase="flight_delay", folder="exported")
run = SimpleNamespace(partition_key="2013-03-01", run_type="scheduled")
for _ in range(2):
    file = task.execute({"dag_run": run, "params": {}})
print(file, open(file).read())
"""

# the channel of a page, at a real webhook
TEAMS = """
import json, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from evergreen.alert_channels import sender

class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass

server = HTTPServer(("127.0.0.1", 0), Hook)
threading.Thread(target=server.serve_forever, daemon=True).start()
import os
host = f"http://127.0.0.1:{server.server_port}/hook"
os.environ["AIRFLOW_CONN_TEAM_CHAT"] = json.dumps({"conn_type": "msteams", "host": host})
finding = {"check": "data", "subject": "sales", "value": 1.0, "threshold": 0.1, "note": "sales is missing"}
message = {"usecase": "u", "partition": "p", "decision": "alert", "sentence": "u p: look"}
message |= {"findings": [finding], "report": "http://airflow.example/report"}
from include.spec import load
sender({}, load("coffee_sales"))("team_chat", message)
"""

# the DAGs of a page that wait for messages, and what each listens to
EVENTS = """
import runpy
from airflow.sdk import DAG

dags = {name: dag for name, dag in runpy.run_path("dags/events.py").items() if isinstance(dag, DAG)}
for name, dag in dags.items():
    (asset,) = dag.timetable.asset_condition.objects
    (watcher,) = asset.watchers
    print(name, *watcher.trigger.serialize()[1].values())
"""
WATCHED = "coffee_sales__events coffee_sales kafka queue items-ready 5"

# the check of a page, on a lake whose newest partition is small
VOLUME = """
import pyarrow as pa
from types import SimpleNamespace
from include.monitor.checks.volume import check_volume
from include.spec import load
from include.storage import schemas
from include.storage.lake import Lake

lake, spec = Lake("flight_delay"), load("flight_delay")
partitions = spec.clock.keys("2013-02-01", "2013-02-10")
for partition in partitions:
    rows = 300 if partition == partitions[-1] else 900
    row = schemas.partition_row("predictions", partition, rows, "d", inputs={}, spec="s", code="c", note="n")
    table = pa.Table.from_pylist([row], schema=schemas.PARTITIONS)
    lake.publish("partitions", table, {"product": "predictions", "partition": partition})
for partition in (partitions[3], partitions[-2], partitions[-1]):
    (finding,) = check_volume(SimpleNamespace(lake=lake, spec=spec, partition=partition))
    print(finding.outcome, finding.note)
"""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Somebody with a copy of the repository, and settings of their own for it."""
    environment = {
        "PYTHONPATH": f"{tmp_path}:{tmp_path / 'plugins'}",
        "EVERGREEN_LAKE": str(tmp_path / "lake"),
    }
    return Reader(tmp_path, environment=environment)


def python(reader: Reader, code: str) -> str:
    """Run Python in the copy, and return what it prints."""
    (reader.folder / "extra.py").write_text(code)
    return reader.run(".venv/bin/python extra.py")


def test_every_page_is_followed_by_a_test() -> None:
    """A page about an extension that no test follows would be a promise that nothing holds."""
    names = set(re.findall(r'"[a-z-]+(?:\.md)?"', Path(__file__).read_text()))
    assert [page for page in EXTENDING if not {f'"{page}"', f'"{page}.md"'} & names] == []
    for page in EXTENDING:
        assert {"diff", "python"} & {block.language for block in blocks((HOW_TO / f"{page}.md").read_text())}


@pytest.mark.full
def test_commands_run_the_readers_code_as_python_would(reader: Reader) -> None:
    """The process that runs them imports none of ours; input, settings and exit codes are their own."""
    (reader.folder / "include" / "__main__.py").write_text(
        "import os, sys\nsys.exit(f'{sys.argv[1:]} {sys.stdin.read()} {os.environ.get(\"OWN\")}')"
    )
    reader.run("export OWN=mine")
    assert reader.run(".venv/bin/python -m include a b <<<input || [ $? = 1 ]") == "['a', 'b'] input\n mine\n"
    assert reader.run(".venv/bin/python -c 'import sys; sys.exit(7)' || echo $?") == "7\n"


@pytest.mark.full
@pytest.mark.parametrize(
    "page",
    [
        "add-a-connector",
        "add-a-gate-check",
        "add-a-metric",
        "add-a-row-check",
        "add-an-estimator",
        "decide-by-cost",
        "forecast-several-horizons",
        "shard-a-partition",
        "train-on-dask",
        "use-python",
        "write-features-in-python",
    ],
)
def test_what_a_page_adds_works(page: str, reader: Reader) -> None:
    """Its files are written, its changes apply, and its commands print what it shows."""
    reader.follow(HOW_TO / f"{page}.md")


@pytest.mark.full
def test_add_a_task(reader: Reader) -> None:
    """The task waits for the score, and writes the same file again when it is run again."""
    reader.follow(HOW_TO / "add-a-task.md")
    printed = python(reader, EXPORT)
    assert "exported/flight_delay/2013-03-01.csv" in printed
    assert '"2013-03-01",0.5,"champion"' in printed


@pytest.mark.full
def test_add_an_alert_channel(reader: Reader) -> None:
    """A recipient with a channel of the use case's own is sent the page's form."""
    reader.follow(HOW_TO / "add-an-alert-channel.md")
    body = json.loads(python(reader, TEAMS).splitlines()[-1])
    texts = [block["text"] for block in body["attachments"][0]["content"]["body"]]
    assert texts == ["u p: look", "data sales: sales is missing", "http://airflow.example/report"]


def test_add_a_monitoring_check(reader: Reader) -> None:
    """The check says that there is too little to judge, that all is well, and that rows are missing."""
    reader.follow(HOW_TO / "add-a-monitoring-check.md")
    printed = python(reader, VOLUME).splitlines()[-3:]
    assert [line.split()[0] for line in printed] == ["not", "ok", "alarm"]
    assert printed[-1] == "alarm 300 rows, 900 in the median of 9 earlier partitions"


@pytest.mark.full
def test_start_on_an_event(reader: Reader) -> None:
    """The page's use case has a DAG that waits for messages; those without a queue have none."""
    reader.follow(HOW_TO / "start-on-an-event.md")
    assert python(reader, EVENTS).splitlines()[-1] == WATCHED


@pytest.mark.full
@pytest.mark.airflow
def test_build_a_dag(reader: Reader) -> None:
    """The page's DAG of our operators loads, trains and promotes, by Airflow's own test run."""
    weeks = world.write(reader.folder / "shop", 16)
    reader.environment |= {
        "AIRFLOW_HOME": str(reader.folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(reader.folder / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(reader.folder / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW_CONN_SHOP": world.connection(reader.folder / "shop"),
        "EVERGREEN_USECASES": str(reader.folder / "tests" / "usecases"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{reader.folder}/mlflow.db",
    }
    page = HOW_TO / "build-a-dag.md"
    reader.follow(page)
    (command,) = [
        block.text for block in blocks(page.read_text()) if block.text.startswith("airflow dags test")
    ]
    assert weeks[-1] in command
    reader.run(".venv/bin/python -m airflow db migrate")
    reader.run(f".venv/bin/python -m {command}")
    reader.run(".venv/bin/python -m include status weekly_sales")
    assert "champion v1" in reader.output


@pytest.mark.full
def test_export_to_onnx(reader: Reader) -> None:
    """The gate blesses a champion, whose file is scored by the page's script, which the card has too."""
    weeks = world.write(reader.folder / "shop", 15)
    reader.environment |= {
        "AIRFLOW_CONN_SHOP": world.connection(reader.folder / "shop"),
        "EVERGREEN_USECASES": str(reader.folder / "tests" / "usecases"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{reader.folder}/mlflow.db",
    }
    reader.run(f".venv/bin/python -m include run ingest weekly_sales --from {weeks[0]} --until {weeks[-1]}")
    page = HOW_TO / "export-to-onnx.md"
    reader.follow(page)
    units = json.loads(reader.output)
    assert len(units) == 2
    assert all(0 < number < 200 for number in units)
    (script,) = [block.text for block in blocks(page.read_text()) if block.language == "python"]
    _, _, code = script.partition("\n")
    assert len(code.splitlines()) == 15
    assert code == SCORE
    assert f"```python\n{code}```" in (reader.folder / "sales.md").read_text()
