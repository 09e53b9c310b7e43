"""A server predicts what batch scoring does, and says who served each row."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from demo.process import until
from include.export import convert
from include.features.build import features
from include.models import artifacts
from include.promote import ledger
from include.references import digest_bytes
from include.score.pipeline import score
from include.serve import models
from include.serve.models import ONNX, PIPELINE, load_served
from include.serve.rows import RequestRefused
from include.spec import UseCase
from include.storage.lake import Lake
from tests.features import parcels
from tests.score.conftest import LAST, Deploy
from tests.score.costs import COSTS, declare
from tests.serve.conftest import FEATURES, KEY, ROW, Serve
from tests.serve.requests import predictions, service
from tests.serve.server import PATIENCE


def test_a_prediction_has_its_action(lake: Lake, deploy: Deploy, tmp_path: Path) -> None:
    """Where actions have costs, the answer has the one that costs least, as the table has."""
    deploy(lake, "1", LAST)
    spec = declare(tmp_path / "costs", COSTS)
    (one,) = predictions(service(lake, spec), ROW)
    assert one["action"] == ("warn" if one["prediction"] > 0.5 else "wait")


def test_a_real_server_predicts_what_batch_scoring_did(
    lake: Lake, use: UseCase, deploy: Deploy, serve: Serve
) -> None:
    """By key and by features, ONNX Runtime gives the champion's predictions of the newest partition."""
    deploy(lake, "1", LAST)
    score(lake, use, LAST)
    stored = {(row["depot"], row["parcel"]): row for row in lake.rows("predictions", {"partition": LAST})}
    rows = features(lake, use, [LAST]).drop_columns(["partition"]).to_pylist()
    with serve() as server:
        champion = {"served_by": "champion", "version": "1", "available": True, "reason": ""}
        assert server.health()["chain"][0] == {**champion, "runtime": ONNX, "note": ""}
        keys = [{name: row[name] for name in use.key} for row in rows]
        for asked in (rows, keys):
            for row, answer in zip(rows, server.predict(asked), strict=True):
                expected = stored[row["depot"], row["parcel"]]
                assert answer["prediction"] == pytest.approx(expected["prediction"], rel=1e-9)
                assert {name: answer[name] for name in ("served_by", "version", "model", "reason")} == {
                    name: expected[name] for name in ("served_by", "version", "model", "reason")
                }
        status, answer = server.post([KEY])
        assert (status, answer["features"]["partition"], answer["features"]["stale"]) == (200, LAST, True)
        assert "features" not in server.post([FEATURES])[1]
        status, answer = server.post([KEY, {"depot": "north", "parcel": 99}])
        assert status == 404
        assert answer["error"].startswith("rows[1]: expected a key (depot, parcel) of partition 2024-03-10")
        assert server.metric('evergreen_serve_rows_total{served_by="champion",version="1"}') == 26
        assert "Bearer" not in server.log.read_text()


def test_features_are_stale_once_the_next_partitions_deadline_has_passed(
    lake: Lake, use: UseCase, deploy: Deploy
) -> None:
    """Until then there are no newer ones; the age counts from the decision, 18:00 in Berlin."""
    deploy(lake, "1", LAST)
    newest = service(lake, use).loaded.features
    assert newest is not None
    before, after = (datetime(2024, 3, 11, 22, 59, second, tzinfo=UTC) for second in (0, 1))
    assert newest.age(before) == {"partition": LAST, "age_seconds": 107940, "stale": False}
    assert newest.age(after)["stale"]


def test_the_newest_features_come_with_the_next_partition(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """They are computed again once a source has published, and not before."""
    deploy(lake, "1", LAST)
    served = service(lake, use)
    first = served.loaded.features
    deploy(lake, "2", LAST)
    served.follower.refresh()
    assert served.loaded.features is first
    parcels.fill(lake, use, "2024-03-11", "2024-03-11")
    served.follower.refresh()
    newest = served.loaded.features
    assert newest is not None
    assert newest.partition == "2024-03-11"
    assert newest.look_up(served.reader.read(b'{"rows": [{"depot": "north", "parcel": 3}]}').table).select(
        use.features.columns
    ) == features(lake, use, ["2024-03-11"]).slice(3, 1).select(use.features.columns)


def test_the_newest_features_come_with_what_they_look_back_on(
    lake: Lake, use: UseCase, deploy: Deploy
) -> None:
    """A source that was down and is loaded later changes them, and a restarted server would have them."""
    deploy(lake, "1", LAST)
    arrivals, before = parcels.rows(use, "arrivals", "2024-03-09"), {"partition": "2024-03-09"}
    lake.publish("validated_arrivals", arrivals[:0], before)
    parcels.publish(lake, use, "arrivals", "2024-03-09", [], outcome="unavailable")
    served = service(lake, use)
    first = served.loaded.features
    parcels.publish(lake, use, "arrivals", "2024-03-09", [arrivals])
    served.follower.refresh()
    newest = served.loaded.features
    assert first is not None
    assert newest is not None
    assert newest.table == features(lake, use, [LAST]) != first.table


def test_a_partition_beyond_the_memory_bound_has_no_features_by_key(
    lake: Lake, use: UseCase, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says so, and a request with features is answered all the same."""
    deploy(lake, "1", LAST)
    monkeypatch.setattr("include.serve.features.MAX_FEATURE_ROWS", 11)
    served = service(lake, use)
    with pytest.raises(RequestRefused, match="memory: expected at most 11 rows, but found 12"):
        predictions(served, KEY)
    assert predictions(served, FEATURES)[0]["version"] == "1"


def test_a_source_that_is_missing_counts_by_key_as_in_batch(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """Without the roads neither champion nor previous champion serve a key; features are complete."""
    deploy(lake, "1", "2024-03-02")
    deploy(lake, "2", LAST)
    parcels.publish(lake, use, "roads", LAST, [], outcome="unavailable")
    served = service(lake, use)
    (by_key,), (by_features,) = predictions(served, KEY), predictions(served, FEATURES)
    assert by_key["served_by"] == "baseline"
    assert by_key["reason"] == "champion v2, previous v1: roads is unavailable"
    assert (by_features["served_by"], by_features["reason"]) == ("champion", "")


def test_before_the_first_model_the_constant_serves(lake: Lake, use: UseCase) -> None:
    """It is the declaration's, as in batch scoring."""
    (answer,) = predictions(service(lake, use), FEATURES)
    assert (answer["prediction"], answer["served_by"], answer["version"]) == (0.25, "constant", "")
    assert answer["reason"].startswith("champion, previous, baseline: no model had been promoted")


def test_a_model_that_cannot_be_loaded_leaves_the_next_one(
    lake: Lake, use: UseCase, deploy: Deploy, serve: Serve, tmp_path: Path, stored: dict[str, bytes]
) -> None:
    """Rows, health and a metric say so."""
    deploy(lake, "1", "2024-03-02")
    deploy(lake, "2", LAST)
    file = tmp_path / "lake" / "parcels" / artifacts.model_key(digest_bytes(stored["2"]))
    file.write_bytes(b"damaged")
    with serve() as server:
        (answer,) = server.predict([ROW])
        assert (answer["served_by"], answer["version"]) == ("previous", "1")
        assert "champion v2: model" in answer["reason"]
        champion = server.health()["chain"][0]
        assert not champion["available"]
        assert "expected SHA-256" in champion["reason"]
        name = "evergreen_serve_step_available"
        assert server.metric(f'{name}{{served_by="champion",version="2"}}') == 0
        assert server.metric(f'{name}{{served_by="previous",version="1"}}') == 1


def test_a_model_that_fails_on_a_row_leaves_it_to_the_next_one(
    lake: Lake, use: UseCase, deploy: Deploy
) -> None:
    """A prediction that isn't a number is never an answer."""
    deploy(lake, "1", "2024-03-02")
    deploy(lake, "nan", LAST)
    (answer,) = predictions(service(lake, use), ROW)
    assert (answer["served_by"], answer["version"]) == ("previous", "1")
    assert "that are not finite" in answer["reason"]


def test_what_onnx_runtime_gets_wrong_the_pipeline_serves(
    lake: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another model differs, a broken one can't be opened; without the extra there is none."""
    deploy(lake, "1", LAST)
    deploy(lake, "2", LAST)
    digest, sample = digest_bytes(stored["2"]), features(lake, use, [LAST])

    def load() -> models.ServedModel:
        return load_served(lake, use, digest, onnx=True, sample=sample)

    assert (load().runtime, load().note) == (ONNX, "")
    expected = artifacts.predict(artifacts.load_model(lake, digest), sample, use)
    other = convert.to_onnx(artifacts.load_model(lake, digest_bytes(stored["1"])), use)
    for data, note in ((other, "within 1e-09, but found a difference of"), (b"x", "InvalidProtobuf")):
        monkeypatch.setattr(models, "to_onnx", lambda estimator, spec, data=data: data)
        assert load().runtime == PIPELINE
        assert note in load().note
        assert np.array_equal(load().predict_batch(sample), expected)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "requirements-onnx.txt" in load().note
    assert load().runtime == PIPELINE


def test_the_champion_is_compared_once_there_are_features(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """Without rows to compare it is served by its pipeline, and by ONNX Runtime as soon as there are some."""
    deploy(lake, "1", LAST)
    rows = lake.read("partitions")
    assert rows is not None
    products = {"product": [*use.sources]}
    lake.publish("partitions", rows.slice(0, 0), products)
    served = service(lake, use)
    runtime = served.health()["chain"][0]
    assert (runtime["runtime"], "no features in memory" in runtime["note"]) == (PIPELINE, True)
    lake.publish("partitions", rows, products)
    served.follower.refresh()
    assert served.health()["chain"][0]["runtime"] == ONNX


@pytest.mark.full
def test_a_ledger_that_cannot_be_read_leaves_what_is_loaded(
    lake: Lake, use: UseCase, deploy: Deploy, serve: Serve, tmp_path: Path
) -> None:
    """Health and a metric say so until it can be read again, and then the switch that was missed counts."""
    deploy(lake, "1", LAST)
    log = tmp_path / "lake" / "parcels" / "tables" / "switches" / "_delta_log"
    with serve() as server:
        file = log / f"{lake.version('switches') + 1:020}.json"
        file.write_text("no commit")
        assert until(lambda: bool(server.health()["ledger"]["error"]), PATIENCE)
        assert server.metric("evergreen_serve_following") == 0
        assert server.get("/health/ready")[0] == 200
        assert server.predict([ROW])[0]["version"] == "1"
        file.unlink()
        deploy(lake, "2", LAST)
        server.until_serving("2", ROW)
        assert server.health()["ledger"] == {"error": "", "switch": 2}


def test_the_command_line_does_not_import_the_server() -> None:
    """Who doesn't serve pays nothing for it."""
    code = (
        "import sys, include.cli.app\nassert not {'fastapi', 'uvicorn', 'include.serve'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_recorded_switch_counts_at_once(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """Also one that takes effect in batch scoring only from a later partition on."""
    deploy(lake, "1", LAST)
    deploy(lake, "2", "2024-03-20")
    assert ledger.serving(lake, LAST).champion is not None
    assert predictions(service(lake, use), ROW)[0]["version"] == "2"
