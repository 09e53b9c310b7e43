"""OpenLineage's events name what a task read and wrote, and are off unless a transport is set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.serde import Serde
from referencing import Registry, Resource

from evergreen import lineage
from include.promote import ledger
from include.references import Ref
from include.score.pipeline import score
from include.storage import schemas
from include.storage.lake import Lake
from tests.train import visits

KEY, MODEL, ROWS = "2024-03-01", "a" * 64, "d" * 64
# copied from github.com/OpenLineage/OpenLineage, Apache-2.0; the client's package doesn't contain them
SPEC = [json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "spec").glob("*.json"))]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return a lake with a scored partition, and the switch of the model that scored it."""
    lake = Lake("clinic", str(tmp_path))
    predictions = pa.table({"partition": [KEY], "visit": ["v1"], "prediction": [0.5]})
    lake.publish("predictions", predictions, {"partition": KEY})
    lake.publish("validated_visits", predictions.select(["partition", "visit"]), {"partition": KEY})
    inputs = {"visits": "e" * 64, "model": MODEL}
    row = schemas.partition_row(
        "predictions", KEY, 1, ROWS, inputs=inputs, spec="5" * 64, code="c0de", note="one row"
    )
    where = {"product": "predictions", "partition": KEY}
    lake.publish("partitions", pa.Table.from_pylist([row], schema=schemas.PARTITIONS), where)
    switch: Any = dict.fromkeys(schemas.SWITCHES.names, "") | {"role": "champion", "version": "7"}
    switch |= {
        "model": MODEL,
        "recipe": "linear",
        "effective_from": KEY,
        "judged_on": "2024-02-25",
        "constant": 0.3,
    }
    ledger.record_switch(lake, lambda rows: [switch | {"kind": "promoted", "by": "a test"}])
    return lake


def event(products: list[lineage.Published]) -> dict[str, Any]:
    """Return the event of a task's end, as the provider builds it."""
    found = lineage.to_openlineage(products)
    sent = RunEvent(
        eventTime=datetime(2024, 3, 1, tzinfo=UTC).isoformat(),
        eventType=RunState.COMPLETE,
        run=Run(runId="01890a5d-ac96-774b-bcce-b302099a8057"),
        job=Job(namespace="evergreen", name="clinic__batch.score.predict", facets={}),
        producer="https://example.org",
        inputs=found.inputs,
        outputs=found.outputs,
    )
    return dict(json.loads(Serde.to_json(sent)))


def facets(part: Any) -> list[dict[str, Any]]:
    """Return every facet anywhere in an event."""
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    own = [part] if isinstance(part, dict) and "_schemaURL" in part else []
    return own + [facet for one in parts for facet in facets(one)]


def test_an_event_follows_the_standard(lake: Lake) -> None:
    """The event and each of its facets are valid under the published JSON Schema."""
    ref = Ref("x", KEY, ROWS, 1, "one row")
    registry = Registry().with_resources((one["$id"], Resource.from_contents(one)) for one in SPEC)
    sent = event([lineage.describe(lake, "predictions", "predictions", ref)])

    core = next(one["$id"] for one in SPEC if one["$id"].endswith("OpenLineage.json"))
    Draft202012Validator({"$ref": f"{core}#/$defs/RunEvent"}, registry=registry).validate(sent)
    used = facets(sent)
    assert len(used) == 7
    for facet in used:
        Draft202012Validator({"$ref": facet["_schemaURL"]}, registry=registry).validate(facet)


def test_data_model_and_code_are_named(lake: Lake, tmp_path: Path) -> None:
    """The partition, the table's version, digests, the model that predicted, the declaration and the code."""
    ref = Ref("x", KEY, ROWS, 1, "one row")
    sent = event([lineage.describe(lake, "predictions", "predictions", ref)])

    (written,) = sent["outputs"]
    assert (written["namespace"], written["name"]) == ("file", f"{tmp_path}/clinic/tables/predictions")
    assert written["facets"]["version"]["datasetVersion"] == "1"
    assert tags(written) == {"partition": KEY, "digest": ROWS, "code": "c0de", "spec": "5" * 64}
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 1
    (part,) = written["outputFacets"]["subset"]["outputCondition"]["partitions"]
    assert part["dimensions"] == {"partition": KEY}
    rows, model = sent["inputs"]
    assert rows["name"].endswith("/tables/validated_visits")
    assert tags(rows) == {"digest": "e" * 64}
    assert model["name"].endswith(f"/models/{MODEL}.skops")
    assert tags(model) == {
        "digest": MODEL,
        "model_version": "7",
        "recipe": "linear",
        "trained": "2024-02-25",
    }
    assert sent["outputs"][0]["facets"]["schema"]["fields"][0] == {
        "fields": [],
        "name": "partition",
        "type": "string",
    }


def tags(part: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a dataset or a job."""
    return {tag["key"]: tag["value"] for tag in part["facets"]["tags"]["tags"]}


def test_a_trainings_model_names_what_it_was_fitted_on(lake: Lake) -> None:
    """The tables with their versions, the recipe and the digest of the training set."""
    fit = dict.fromkeys(schemas.FITS.names) | {
        "partition": KEY,
        "recipe": "linear",
        "model": MODEL,
        "data": ROWS,
    }
    lake.publish("fits", pa.Table.from_pylist([fit], schema=schemas.FITS), {"partition": KEY})

    sent = event([lineage.describe_model(lake, ["visits"], Ref("a run", KEY, MODEL, 40, "trained"))])

    (model,), (rows,) = sent["outputs"], sent["inputs"]
    assert model["name"].endswith(f"/models/{MODEL}.skops")
    assert tags(model) == {
        "partition": KEY,
        "digest": MODEL,
        "recipe": "linear",
        "training_set": ROWS,
        "run": "a run",
    }
    assert rows["name"].endswith("/tables/validated_visits")
    assert tags(rows) == {"table_version": "1"}


KILLED = """
import os, signal, sys
from pathlib import Path
from include.score.pipeline import score
from include.spec.load import read
from include.storage.lake import Lake
publish = Lake.publish

def kill_before_the_record(lake, table, *args, **kwargs):
    if table == "partitions":
        os.kill(os.getpid(), signal.SIGKILL)
    return publish(lake, table, *args, **kwargs)

Lake.publish = kill_before_the_record
spec = read(Path(sys.argv[1]))
score(Lake(spec.name, sys.argv[2]), spec, sys.argv[3])
"""


def test_a_task_that_was_killed_in_the_middle_has_the_event_of_one_that_was_not(tmp_path: Path) -> None:
    """Killed after the predictions' commit and tried again, it describes them once, with the same digests."""
    spec, partition = visits.usecase(tmp_path / "usecases"), visits.LAST
    events = []
    for name, killed in (("quiet", False), ("killed", True)):
        folder = str(tmp_path / name)
        lake = Lake(spec.name, folder)
        visits.fill(lake, spec)
        if killed:
            command = [sys.executable, "-c", KILLED, str(spec.folder / "usecase.yaml"), folder, partition]
            assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
            assert lake.count("predictions", {"partition": partition})
            assert not lake.count("partitions", {"product": "predictions", "partition": partition})
        ref = score(lake, spec, partition)
        sent = event([lineage.describe(lake, "predictions", "predictions", ref)])
        assert sent["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == ref.rows > 0
        events.append(json.dumps(sent).replace(folder, ""))
    assert events[0] == events[1]


def test_a_bucket_is_a_namespace() -> None:
    """The standard names data on S3 by its bucket and its key."""
    published = lineage.Published("s3://lake/clinic", "tables/t", KEY, ROWS, 1, "", (), (), {})
    (written,) = event([published])["outputs"]
    assert (written["namespace"], written["name"]) == ("s3://lake", "clinic/tables/t")


def test_nothing_is_collected_without_a_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider may be installed; it takes a transport, too."""
    assert not lineage.is_enabled()
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", '{"type": "file", "log_file_path": "/tmp/events"}')
    from airflow.providers.openlineage import conf

    for cached in (conf.transport, conf.is_disabled):
        getattr(cached, "cache_clear", lambda: None)()
    assert lineage.is_enabled()
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__DISABLED", "true")
    assert not lineage.is_enabled()
