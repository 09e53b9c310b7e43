"""Prefetched predictions are used only for the serving model and its exact rows; others are made again."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from demo import process
from include.errors import SpecError, StoreUnavailable
from include.features import build
from include.features.build import features
from include.models import artifacts
from include.promote.ledger import CANARY
from include.promote.trials import Trial
from include.references import digest_bytes
from include.score import pipeline, prefetch
from include.score.pipeline import score
from include.score.prefetch import Prefetch
from include.spec import UseCase
from include.storage import spill
from include.storage.lake import Lake
from tests.faults.clocks import state
from tests.features import parcels
from tests.score.large import orders

Deploy = Callable[..., None]
NIGHT = "2024-03-08"
ROWS = 10_000  # five parts of DuckDB's own batches, of which the last is no whole one
Asked = dict[str, list[int]]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "BATCH", 2048)
    monkeypatch.setattr(spill, "WORKERS", 2)  # where there is one core as well


@pytest.fixture
def large(lake: Lake, use: UseCase, deploy: Deploy) -> Lake:
    """A lake with a champion and a partition of several batches."""
    lake.publish("validated_orders", orders(use, ROWS), {"partition": NIGHT})
    deploy(lake, "1", "2024-03-04")
    return lake


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """How many rows a model was asked of at once, before its features were there and after."""
    found: Asked = {"early": [], "after": []}
    real = artifacts.batch_predictor

    def counted(*of: Any) -> Callable[[pa.Table], Any]:
        ask = real(*of)

        def count(rows: pa.Table) -> Any:
            early = threading.current_thread().name.startswith("prefetch")
            found["early" if early else "after"].append(rows.num_rows)
            return ask(rows)

        return count

    monkeypatch.setattr(artifacts, "batch_predictor", counted)
    return found


def _expected(lake: Lake, use: UseCase, data: bytes) -> dict[tuple[str, int], float]:
    rows = features(lake, use, [NIGHT])
    said = artifacts.predict(artifacts.deserialize(data, digest_bytes(data)), rows, use)
    keys = zip(rows["depot"].to_pylist(), rows["parcel"].to_pylist(), strict=True)
    return dict(zip(keys, said.tolist(), strict=True))


def _served(lake: Lake) -> dict[tuple[str, int], float]:
    return {
        (r["depot"], r["parcel"]): r["prediction"] for r in lake.rows("predictions", {"partition": NIGHT})
    }


def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be begun."""
    monkeypatch.setattr(Prefetch, "watch", lambda self, batches: iter(batches))


def test_a_partition_begun_early_is_the_same_partition(
    large: Lake, use: UseCase, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables and reference are those of a partition that is predicted afterwards.

    No row is asked of twice.
    """
    shutil.copytree(tmp_path / "lake", tmp_path / "other")
    ref, found = score(large, use, NIGHT), state(large)
    assert asked["early"]
    assert sum(asked["early"] + asked["after"]) == ROWS
    _late(monkeypatch)
    other = Lake("parcels", str(tmp_path / "other"))
    plain = score(other, use, NIGHT)
    assert (ref.digest, ref.rows, ref.note) == (plain.digest, plain.rows, plain.note)
    assert found == state(other)


def test_rows_that_come_in_another_order_are_asked_again(
    large: Lake, use: UseCase, stored: dict[str, bytes], asked: Asked, tmp_path: Path
) -> None:
    """A SQL may sort as it likes: each row has the prediction of its own features."""
    other = parcels.spec(tmp_path / "spec", sql=f"{parcels.SQL} ORDER BY s.parcel % 7, s.parcel DESC")
    score(large, other, NIGHT)
    assert asked["early"]
    assert sum(asked["after"]) == ROWS
    assert _served(large) == _expected(large, use, stored["1"])


def test_who_is_promoted_meanwhile_serves(
    large: Lake,
    use: UseCase,
    deploy: Deploy,
    stored: dict[str, bytes],
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that the one before was asked is taken for what the new one says."""
    real = pipeline.compute_features

    def promoted(*args: Any, **how: Any) -> pa.Table:
        found = real(*args, **how)
        deploy(large, "2", NIGHT)
        return found

    monkeypatch.setattr(pipeline, "compute_features", promoted)
    assert score(large, use, NIGHT).note == f"{ROWS} rows by champion v2"
    assert asked["early"]
    assert sum(asked["after"]) == 2 * ROWS  # the one before is watched
    assert _served(large) == _expected(large, use, stored["2"])


@pytest.mark.parametrize("what", ["load_model", "model_input"])
def test_what_fails_early_fails_nobody(
    large: Lake, use: UseCase, asked: Asked, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that doesn't answer who begins, and rows for which it has no memory, are for who serves."""
    real = getattr(artifacts, what)

    def failing(*args: Any, **how: Any) -> Any:
        if threading.current_thread().name.startswith("prefetch"):
            raise {
                "load_model": StoreUnavailable("the lake", found="no answer"),
                "model_input": MemoryError(),
            }[what]
        return real(*args, **how)

    monkeypatch.setattr(artifacts, what, failing)
    assert score(large, use, NIGHT).note == f"{ROWS} rows by champion v1"
    assert asked["after"] == [2048] * 4 + [ROWS - 4 * 2048]


@pytest.mark.parametrize(("version", "why"), [("nan", "2048 that are not"), ("2", "SHA-256")])
def test_a_champion_that_fails_gives_way_as_ever(
    large: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes], version: str, why: str
) -> None:
    """One that says no numbers and one whose bytes were damaged give way for the reasons they always had."""
    deploy(large, version, NIGHT)
    if version == "2":
        large.replace(artifacts.model_key(digest_bytes(stored["2"])), stored["2"][:-1] + b"?")
    note = score(large, use, NIGHT).note
    assert note.startswith(f"{ROWS} rows by previous v1: champion v{version}: ")
    assert why in note


def _batches(rows: pa.Table) -> list[pa.RecordBatch]:
    return rows.combine_chunks().to_batches(spill.BATCH)


def test_a_guess_is_for_its_own_model_and_rows(large: Lake, use: UseCase, stored: dict[str, bytes]) -> None:
    """Another model, other rows and rows at another place get nothing of it."""
    rows, model = features(large, use, [NIGHT]), digest_bytes(stored["1"])
    with Prefetch(large, use, NIGHT, {}) as early:
        assert pa.Table.from_batches(early.watch(_batches(rows))) == rows
        expected = artifacts.predict(artifacts.deserialize(stored["1"], model), rows, use)
        assert early.pop(digest_bytes(stored["2"])) is None
        ready = early.pop(model)
        assert ready
        assert np.array_equal(ready.predict_batch(rows.slice(0, 2048)), expected[:2048])
        assert np.array_equal(ready.precomputed(0, rows.slice(0, 2048)), expected[:2048])
        assert ready.precomputed(0, rows.slice(1, 2048)) is None
        assert ready.precomputed(0, rows.slice(0, 2047)) is None
        assert ready.precomputed(2047, rows.slice(2047, 2048)) is None
        assert early.pop(model) is None  # it is kept by who took it


def test_a_guess_goes_by_what_the_partition_is_without(
    large: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes]
) -> None:
    """Without orders the champion can't serve, and who was champion before is asked."""
    deploy(large, "2", NIGHT)
    rows = features(large, use, [NIGHT])
    with Prefetch(large, use, NIGHT, {"orders": "failed"}) as early:
        list(early.watch(_batches(rows)))
        assert early.pop(digest_bytes(stored["1"]))


@pytest.mark.parametrize("why", ["served", "a canary", "nobody promoted"])
def test_there_is_no_guess_where_not_one_model_serves_all(
    large: Lake, use: UseCase, stored: dict[str, bytes], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that was served, one whose rows two models share, and one that a constant serves."""
    rows, model = features(large, use, [NIGHT]), digest_bytes(stored["1"])
    if why == "served":
        score(large, use, NIGHT)
    elif why == "a canary":
        trial = Trial(CANARY, {"model": model, "version": "1"}, {})
        monkeypatch.setattr(prefetch, "trials_on", lambda *of: [trial])
    partition = "2024-03-03" if why == "nobody promoted" else NIGHT
    with Prefetch(large, use, partition, {}) as early:
        list(early.watch(_batches(rows)))
        assert early.pop(model) is None
        assert early.pop("") is None


@pytest.mark.parametrize("first", [100, 2040])
def test_batches_that_are_no_whole_parts_are_let_by(
    large: Lake, use: UseCase, stored: dict[str, bytes], first: int
) -> None:
    """What is asked at once doesn't depend on how rows came: a prediction's last bit may depend on it."""
    rows = features(large, use, [NIGHT])
    with Prefetch(large, use, NIGHT, {}) as early:
        batches = _batches(rows.slice(0, first)) + _batches(rows.slice(first))
        assert pa.Table.from_batches(early.watch(batches)) == rows
        assert not early._batches


def test_what_is_kept_is_bounded(large: Lake, use: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a partition is, predictions of so many parts are in memory."""
    monkeypatch.setattr(prefetch, "MAX_BATCHES", 1)
    with Prefetch(large, use, NIGHT, {}) as early:
        list(early.watch(_batches(features(large, use, [NIGHT]))))
        assert list(early._batches) == [0]


@pytest.mark.parametrize("version", ["1", "nan"])
def test_what_was_asked_keeps_no_rows(large: Lake, use: UseCase, deploy: Deploy, version: str) -> None:
    """Neither predictions nor failures hold on to the batches that they were asked of."""
    deploy(large, version, NIGHT)
    rows, kept = features(large, use, [NIGHT]), []

    def fresh() -> Iterator[pa.RecordBatch]:
        for start in range(0, 4 * 2048, 2048):
            weights = np.arange(2048.0)  # Arrow refers to it
            kept.append(weakref.ref(weights))
            part = rows.slice(start, 2048).combine_chunks()
            place = part.column_names.index("weight")
            yield part.set_column(place, "weight", pa.array(weights)).to_batches()[0]

    with Prefetch(large, use, NIGHT, {}) as early:
        assert sum(batch.num_rows for batch in early.watch(fresh())) == 4 * 2048
        wait(early._batches.values())
        gc.collect()
        assert [one() for one in kept] == [None] * 4


def test_joining_never_waits_for_a_slow_model(
    large: Lake, use: UseCase, stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no core is free for is let by, so that no more rows wait than cores work."""
    rows, going = features(large, use, [NIGHT]), threading.Event()

    def slow(*of: Any) -> Callable[[pa.Table], Any]:
        return lambda rows: going.wait(60)

    monkeypatch.setattr(artifacts, "batch_predictor", slow)
    with Prefetch(large, use, NIGHT, {}) as early:
        assert len(list(early.watch(_batches(rows)))) == 5
        assert list(early._batches) == [0, 2048]
        going.set()


def test_a_system_without_a_thread_to_give_fails_nobody(
    large: Lake, use: UseCase, stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are joined as if nothing could be begun."""

    def none(*of: Any) -> None:
        raise RuntimeError("can't start new thread")

    with Prefetch(large, use, NIGHT, {}) as early:
        monkeypatch.setattr(early._workers, "submit", none)
        assert len(list(early.watch(_batches(features(large, use, [NIGHT]))))) == 5
        assert early.pop(digest_bytes(stored["1"])) is None


def test_a_refused_partition_waits_for_no_model(
    large: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun is given up: the part that runs is let run, the next isn't asked, no thread stays."""
    before, begun, going, released = threading.active_count(), threading.Event(), threading.Event(), []
    check = build._require_spine_rows

    def slow(*of: Any) -> Callable[[pa.Table], Any]:
        def predict(rows: pa.Table) -> None:
            begun.set()
            released.append(going.wait(20))

        return predict

    def refuse(*of: Any) -> None:
        assert begun.wait(20)
        check(*of)

    monkeypatch.setattr(artifacts, "batch_predictor", slow)
    monkeypatch.setattr(build, "_require_spine_rows", refuse)
    twice = parcels.spec(tmp_path / "spec", sql=f"FROM ({parcels.SQL}) UNION ALL FROM ({parcels.SQL})")
    with pytest.raises(SpecError, match="exactly one row"):
        score(large, twice, NIGHT)
    going.set()
    assert process.until(lambda: threading.active_count() == before, 30)
    assert released == [True]
    assert large.count("predictions") == 0
