"""A published action is a fact: costs that are declared, changed or removed later leave it as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.ops.verify import verify
from include.score.erasure import republish_summary
from include.score.pipeline import rows_known_at, score
from include.spec import UseCase
from include.storage.lake import Lake
from tests.score.costs import COSTS, declare

Deploy = Callable[..., None]
PARTITION = "2024-03-08"
DEARER = {0: {"wait": 0, "warn": 9}, 1: {"wait": 1, "warn": 0}}


def state(lake: Lake) -> tuple[list[dict[str, Any]], str]:
    """Return the partition's predictions, actions included, and the recorded digest."""
    rows = sorted(
        lake.rows("predictions", {"partition": PARTITION}), key=lambda row: (row["depot"], row["parcel"])
    )
    (recorded,) = lake.rows("partitions", {"product": "predictions", "partition": PARTITION})
    return [row | {"action": row.get("action")} for row in rows], str(recorded["digest"])


def differences(lake: Lake, spec: UseCase) -> list[str]:
    """Return which predictions aren't as recorded."""
    return [text for text in verify(lake, spec, PARTITION).differences if "/predictions/" in text]


def test_each_prediction_has_its_action(lake: Lake, deploy: Deploy, tmp_path: Path) -> None:
    """Whoever serves a row, its action follows from its probability and the costs."""
    deploy(lake, "1", "2024-03-04")
    for folder, costs, threshold in (("a", COSTS, 0.5), ("b", DEARER, 0.9)):
        partition = {"a": PARTITION, "b": "2024-03-09"}[folder]
        spec = declare(tmp_path / folder, costs)
        score(lake, spec, partition)
        rows = lake.rows("predictions", {"partition": partition})
        assert [row["action"] for row in rows] == [
            "warn" if row["prediction"] > threshold else "wait" for row in rows
        ]
    assert {row["action"] for row in lake.rows("predictions", {"partition": PARTITION})} == {"wait", "warn"}


def test_a_constant_decides_too(lake: Lake, tmp_path: Path) -> None:
    """Before any model is promoted, the fallback's probability has an action."""
    spec = declare(tmp_path, COSTS)
    score(lake, spec, PARTITION)
    assert {row["action"] for row in lake.rows("predictions")} == {"warn" if spec.constant > 0.5 else "wait"}


def test_an_erasure_after_the_costs_were_removed_leaves_actions_and_their_digest(
    lake: Lake, deploy: Deploy, tmp_path: Path
) -> None:
    """What is left of a partition is described with the columns that it was published with."""
    deploy(lake, "1", "2024-03-04")
    score(lake, declare(tmp_path / "before", COSTS), PARTITION)
    served, now = state(lake), declare(tmp_path / "after", None)
    republish_summary(lake, now, PARTITION, rows_known_at(lake, now, PARTITION))
    assert state(lake) == served
    assert differences(lake, now) == []


@pytest.mark.full
@pytest.mark.parametrize("before", [None, COSTS])
@pytest.mark.parametrize("after", [None, COSTS, DEARER])
def test_other_costs_leave_what_was_decided(
    before: Any, after: Any, lake: Lake, deploy: Deploy, tmp_path: Path
) -> None:
    """A rerun changes no action, restates nothing, and nothing differs from its record."""
    deploy(lake, "1", "2024-03-04")
    score(lake, declare(tmp_path / "before", before), PARTITION)
    served = state(lake)
    assert all((row["action"] is None) == (before is None) for row in served[0])
    later = declare(tmp_path / "after", after)
    score(lake, later, PARTITION)
    assert state(lake) == served
    assert lake.rows("restated") == []
    assert differences(lake, later) == []


def test_an_action_that_was_changed_by_hand_is_found_and_repaired(
    lake: Lake, deploy: Deploy, tmp_path: Path
) -> None:
    """Actions are part of the digest."""
    deploy(lake, "1", "2024-03-04")
    spec = declare(tmp_path, COSTS)
    score(lake, spec, PARTITION)
    served, rows = state(lake), lake.read("predictions", {"partition": PARTITION})
    assert rows is not None
    place = rows.column_names.index("action")
    swapped = [{"wait": "warn", "warn": "wait"}[name] for name in rows["action"].to_pylist()]
    lake.publish("predictions", rows.set_column(place, "action", [swapped]), {"partition": PARTITION})
    assert len(differences(lake, spec)) == 1
    score(lake, spec, PARTITION)
    assert state(lake) == served
    assert differences(lake, spec) == []


def test_predictions_from_before_there_were_costs_are_repaired(
    lake: Lake, deploy: Deploy, tmp_path: Path
) -> None:
    """Lost rows come back as they were published, without an action."""
    deploy(lake, "1", "2024-03-04")
    score(lake, declare(tmp_path / "before", None), PARTITION)
    served, rows = state(lake), lake.read("predictions", {"partition": PARTITION})
    assert rows is not None
    lake.publish("predictions", rows[1:], {"partition": PARTITION})
    score(lake, declare(tmp_path / "after", COSTS), PARTITION)
    assert state(lake) == served
