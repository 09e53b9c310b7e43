"""Every row gets a prediction: each step of the fallback chain gives way to the next and states why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from include.errors import NotPublished
from include.features.build import features
from include.models import artifacts
from include.references import digest_bytes
from include.score.pipeline import score
from include.score.predictions import SERVED_BY
from include.spec import UseCase
from include.storage.lake import Lake
from tests.features import parcels

Deploy = Callable[..., None]
PARTITION = "2024-03-08"


def _served(lake: Lake, use: UseCase) -> dict[str, Any]:
    """Score the partition, and return what all of its rows say of who served them."""
    reference = score(lake, use, PARTITION)
    rows = lake.rows("predictions", {"partition": PARTITION})
    assert len(rows) == reference.rows == 12
    assert all(0 <= row["prediction"] <= 1 for row in rows)
    (said,) = {tuple(row[column] for column in SERVED_BY) for row in rows}
    return dict(zip(SERVED_BY, said, strict=True))


def _break(lake: Lake, data: bytes) -> None:
    lake.replace(artifacts.model_key(digest_bytes(data)), data[:-1] + b"?")


def test_the_champion(lake: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes]) -> None:
    """The champion serves, and its predictions are the stored model's for the partition's features."""
    deploy(lake, "1", "2024-03-04")
    deploy(lake, "2", PARTITION)
    model = digest_bytes(stored["2"])
    assert _served(lake, use) == {"served_by": "champion", "version": "2", "model": model, "reason": ""}
    seen = features(lake, use, [PARTITION])
    expected = artifacts.predict(artifacts.deserialize(stored["2"], digest_bytes(stored["2"])), seen, use)
    rows = sorted(
        lake.rows("predictions", {"partition": PARTITION}), key=lambda row: (row["depot"], row["parcel"])
    )
    assert [row["prediction"] for row in rows] == list(expected)
    assert [row["parcel"] for row in rows] == seen["parcel"].to_pylist()
    assert len({row["row_digest"] for row in rows}) == 12


def test_a_later_champion(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """A champion whose first partition is a later one doesn't serve this one."""
    deploy(lake, "1", "2024-03-04")
    deploy(lake, "2", "2024-03-09")
    assert _served(lake, use)["version"] == "1"


def test_a_broken_champion(lake: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes]) -> None:
    """A champion whose bytes were damaged gives way to the one before it."""
    deploy(lake, "1", "2024-03-04")
    deploy(lake, "2", PARTITION)
    _break(lake, stored["2"])
    said = _served(lake, use)
    assert (said["served_by"], said["version"]) == ("previous", "1")
    assert said["reason"].startswith("champion v2: model ")
    assert "SHA-256" in said["reason"]


def test_a_champion_that_fails_on_the_batch(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """A champion that can be loaded and then gives no number for the rows gives way."""
    deploy(lake, "1", "2024-03-04")
    deploy(lake, "nan", PARTITION)
    said = _served(lake, use)
    assert (said["served_by"], said["version"]) == ("previous", "1")
    assert said["reason"].startswith("champion vnan: parcels: model")


@pytest.mark.parametrize("outcome", ["refused", "unavailable"])
def test_a_source_that_is_missing(use: UseCase, deploy: Deploy, tmp_path: Path, outcome: str) -> None:
    """Without a source that they need, both champions give way to the baseline, which needs none."""
    lake = Lake("parcels", str(tmp_path))
    parcels.fill(lake, use, "2024-03-01", "2024-03-07")
    for source in ("orders", "arrivals"):
        parcels.publish(lake, use, source, PARTITION, [parcels.rows(use, source, PARTITION)])
    parcels.publish(lake, use, "roads", PARTITION, [], outcome)
    deploy(lake, "1", "2024-03-04")
    deploy(lake, "2", PARTITION)
    said = _served(lake, use)
    assert (said["served_by"], said["version"]) == ("baseline", "0")
    assert said["reason"] == f"champion v2, previous v1: roads is {outcome}"


def test_a_source_that_came_too_late(use: UseCase, deploy: Deploy, tmp_path: Path) -> None:
    """A source that came after the decision counts as missing, as it was when the partition was scored.

    A backfill can't do better.
    """
    lake = Lake("parcels", str(tmp_path))
    parcels.fill(lake, use, "2024-03-01", "2024-03-07")
    for source in ("orders", "arrivals"):
        parcels.publish(lake, use, source, PARTITION, [parcels.rows(use, source, PARTITION)])
    late = parcels.rows(use, "roads", PARTITION, after=timedelta(hours=2))
    parcels.publish(lake, use, "roads", PARTITION, [late])
    deploy(lake, "1", "2024-03-04")
    said = _served(lake, use)
    assert said["served_by"] == "baseline"
    assert "roads is published too late for this partition" in said["reason"]


def test_nobody_was_promoted(lake: Lake, use: UseCase) -> None:
    """Before the first promotion the declared constant serves; why is stated once for all steps."""
    said = _served(lake, use)
    assert (said["served_by"], said["version"], said["model"]) == ("constant", "", "")
    nobody = "no model had been promoted before this partition"
    assert said["reason"] == f"champion, previous, baseline: {nobody}"
    assert {row["prediction"] for row in lake.rows("predictions")} == {use.scoring.constant}


def test_all_models_are_lost(lake: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes]) -> None:
    """When no model can be loaded, the label's mean in the champion's training serves."""
    deploy(lake, "1", "2024-03-04")
    for data in stored.values():
        _break(lake, data)
    said = _served(lake, use)
    assert said["served_by"] == "constant"
    assert said["reason"].count("SHA-256") == 2
    assert {row["prediction"] for row in lake.rows("predictions")} == {0.4}


def test_no_rows_to_score(lake: Lake, use: UseCase, tmp_path: Path) -> None:
    """A partition without its rows to score is refused in a sentence that says what there is."""
    with pytest.raises(NotPublished, match=r"parcels/orders/2024-03-20: .* found nothing"):
        score(lake, use, "2024-03-20")
    empty = Lake("parcels", str(tmp_path / "empty"))
    parcels.publish(empty, use, "orders", PARTITION, [], "refused")
    with pytest.raises(NotPublished, match="found refused with 0 rows: refused by a test"):
        score(empty, use, PARTITION)
    assert empty.rows("predictions") == []
    late = parcels.rows(use, "orders", PARTITION, after=timedelta(hours=1))
    parcels.publish(empty, use, "orders", PARTITION, [late])
    with pytest.raises(NotPublished, match="known by 2024-03-08 17:00 UTC"):
        score(empty, use, PARTITION)
