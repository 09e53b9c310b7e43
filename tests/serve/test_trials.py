"""A canary and models in shadow follow the rollout's rules, as in batch scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demo.process import until
from include.features.build import features
from include.models import artifacts
from include.promote import ledger
from include.references import digest_bytes
from include.score.pipeline import score
from include.serve.request_log import RequestLog
from include.serve.service import Service
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import SWITCHES
from tests.features import parcels
from tests.score.conftest import FIRST, LAST, Deploy
from tests.serve.conftest import FEATURES, ROW
from tests.serve.requests import NOW
from tests.serve.server import PATIENCE, serving


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The use case, whose canary serves half of the parcels."""
    gate = {"objective": "log_loss", "rollout": {"kind": "canary", "share": 0.5}}
    return parcels.spec(tmp_path_factory.mktemp("halves"), gate=gate)


def put_on_trial(lake: Lake, stored: dict[str, bytes], kind: str) -> None:
    """Put version 2 on trial, as a shadow or a canary."""
    artifacts.store_model(lake, stored["2"])
    row: dict[str, Any] = dict.fromkeys(SWITCHES.names, "")
    row |= {"role": "challenger", "version": "2", "model": digest_bytes(stored["2"]), "constant": 0.4}
    row |= {"effective_from": LAST, "judged_on": FIRST, "kind": kind, "by": "a test"}
    ledger.record_switch(lake, lambda rows: [row])


class Asked:
    """What a service answered and logged."""

    def __init__(self, lake: Lake, spec: UseCase, folder: Path) -> None:
        self.log = RequestLog(folder, lake, spec, lambda: NOW)
        self.service = Service(lake, spec, lambda: NOW, self.log)
        self.service.follower.refresh()
        self.file = folder / "parcels" / "open.jsonl"

    def ask(self, rows: Any) -> list[dict[str, Any]]:
        """Return the predictions of rows, after their shadows were scored."""
        answer = self.service.answer(json.dumps({"rows": rows}).encode())
        if self.service.has_shadows(answer):
            self.service.score_shadows(answer)
        predictions: list[dict[str, Any]] = json.loads(answer.content)["predictions"]
        return predictions

    def logged(self, *, shadows: bool) -> list[dict[str, Any]]:
        """Return the rows in the log."""
        rows = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [row for row in rows if (row["served_by"] == "shadow") == shadows]


@pytest.mark.parametrize("kind", [ledger.CANARY, ledger.SHADOW])
def test_a_trial_is_as_in_batch_scoring(
    lake: Lake,
    halves: UseCase,
    deploy: Deploy,
    stored: dict[str, bytes],
    tmp_path: Path,
    kind: str,
) -> None:
    """The same keys get the canary, and the shadows' predictions are in the log and in no answer."""
    deploy(lake, "1", "2024-03-01")
    put_on_trial(lake, stored, kind)
    score(lake, halves, LAST)
    asked, where = Asked(lake, halves, tmp_path / "log"), {"partition": LAST}
    rows = features(lake, halves, [LAST]).drop_columns(["partition"]).to_pylist()

    def of(table: str) -> dict[Any, tuple[str, Any]]:
        return {
            (row["depot"], row["parcel"], row["version"]): (
                row["served_by"],
                pytest.approx(row["prediction"]),
            )
            for row in lake.rows(table, where)
        }

    served = asked.ask(rows)
    by_key = {
        (row["depot"], row["parcel"], one["version"]): (one["served_by"], one["prediction"])
        for row, one in zip(rows, served, strict=True)
    }
    assert by_key == of("predictions")
    assert {one["served_by"] for one in served} == (
        {"champion", "canary"} if kind == ledger.CANARY else {"champion"}
    )
    shadows = {
        (row["depot"], row["parcel"], row["served_version"]): (row["served_by"], row["prediction"])
        for row in asked.logged(shadows=True)
    }
    assert shadows == of("shadows")
    answers = {row["request_row"] for row in asked.logged(shadows=False)}
    assert len(answers) == len(rows)
    assert answers.isdisjoint(row["request_row"] for row in asked.logged(shadows=True))


def test_a_row_without_its_key_gets_no_canary(
    lake: Lake, halves: UseCase, deploy: Deploy, stored: dict[str, bytes], tmp_path: Path
) -> None:
    """Nobody could say in whose share it is, so the champion serves it."""
    deploy(lake, "1", LAST)
    put_on_trial(lake, stored, ledger.CANARY)
    asked = Asked(lake, halves, tmp_path / "log")
    assert {one["served_by"] for one in asked.ask([FEATURES] * 50)} == {"champion"}
    keyed = [{**ROW, "parcel": parcel} for parcel in range(50)]
    assert {one["served_by"] for one in asked.ask(keyed)} == {"champion", "canary"}


def test_a_canary_that_cannot_be_loaded_leaves_its_rows_to_the_champion(
    lake: Lake, halves: UseCase, deploy: Deploy, stored: dict[str, bytes], tmp_path: Path
) -> None:
    """Its rows say why, and the order of the rows stays."""
    deploy(lake, "1", LAST)
    put_on_trial(lake, stored, ledger.CANARY)
    (tmp_path / "lake" / "parcels" / artifacts.model_key(digest_bytes(stored["2"]))).unlink()
    asked = Asked(lake, halves, tmp_path / "log")
    rows = [{**ROW, "parcel": parcel, "weight": parcel / 4} for parcel in range(50)]
    served = asked.ask(rows)
    assert {one["served_by"] for one in served} == {"champion"}
    assert {one["reason"].partition(":")[0] for one in served} == {"", "canary v2"}
    alone = [asked.ask([row])[0]["prediction"] for row in rows]
    assert [one["prediction"] for one in served] == pytest.approx(alone)
    assert asked.logged(shadows=True) == []  # the incumbent has served all rows


def test_a_server_scores_shadows_after_the_answer(
    lake: Lake, halves: UseCase, deploy: Deploy, stored: dict[str, bytes], tmp_path: Path
) -> None:
    """Its metrics count them apart, and a stop waits for them."""
    deploy(lake, "1", LAST)
    put_on_trial(lake, stored, ledger.SHADOW)
    settings = {"EVERGREEN_USECASES": str(halves.folder.parent)}
    with serving(tmp_path, "--log-requests", str(tmp_path / "log"), **settings) as server:
        assert server.health()["on_trial"] == [f"shadow of v2 against v1 since {LAST}"]
        assert server.predict([ROW])[0]["version"] == "1"
        name = 'evergreen_serve_rows_total{served_by="shadow",version="2"}'
        assert until(lambda: server.metric(name) == 1, PATIENCE)
        assert server.metric("evergreen_serve_logged_rows_total") == 2
        for _ in range(20):
            server.predict([ROW])
        server.stop()
    rows = [row for key in lake.keys("requests") for row in json.loads(lake.get(key) or b"")]
    assert sorted(row["served_by"] for row in rows) == ["champion"] * 21 + ["shadow"] * 21
