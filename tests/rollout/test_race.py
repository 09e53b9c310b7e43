"""A partition's step and somebody else at the ledger at the same moment: one is first, the other sees it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from deltalake import DeltaTable

from include.monitor.performance import publish_performance
from include.monitor.state import PublishedState
from include.promote import ledger
from include.promote.promotion import force
from include.score.pipeline import score
from tests.promote.racing import processes
from tests.rollout.conftest import RolloutLake, fit, partitions
from tests.rollout.racing import act

PARTITION = "2024-03-10"
IMMEDIATE = {"kind": "immediate"}
SHADOW = {"kind": "shadow", "partitions": 2, "margin": 1.0}
Race = Callable[[Sequence[tuple[Any, ...]]], list[str]]


@pytest.fixture(scope="module")
def race() -> Iterator[Race]:
    """Lets processes act at the same moment and returns how each ended."""
    with processes(act) as together:
        yield together


@pytest.fixture(scope="module")
def depots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A watched champion due to go, a shadow due to serve, one worse than the prior, and somebody else."""
    folder = tmp_path_factory.mktemp("race")
    with patch.dict(os.environ, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):
        watch = RolloutLake(folder / "watch", **IMMEDIATE)
        watch.promote_in_turn("knows", "wrong")
        shadow = RolloutLake(folder / "shadow", **SHADOW)
        shadow.promote("wrong", "2024-03-04")
        key = shadow.judged("forgot", "2024-03-05")
        force(shadow.lake, shadow.spec, key, "ann", "it guesses less", registry=shadow.registry)
        shadow.partition("2024-03-06")
        shadow.promote("knows", "2024-03-06")
        broken = RolloutLake(folder / "broken", **IMMEDIATE)
        fit(broken, "2024-03-05")
        broken.promote("wrong", "2024-03-05")
        others = {}
        for name, made in (("watch", watch), ("shadow", shadow), ("broken", broken)):
            first = "2024-03-06" if name == "broken" else "2024-03-07"
            partitions(made, first, "2024-03-09")
            score(made.lake, made.spec, PARTITION)
            publish_performance(made.lake, made.spec, PublishedState(made.lake, made.spec, PARTITION))
            others[name] = made.judged("knows too", "2024-03-09")
    return folder, others


Switches = tuple[tuple[str, str], ...]
# kind and recipe of the switches that may follow; whoever came second decided on what it then saw
STEP = {
    "watch": ("rolled back", "knows"),
    "shadow": ("promoted", "knows"),
    "broken": ("replaced", "logistic"),
}
FORCED, AHEAD, BACK = ("forced", "knows too"), ("promoted", "knows too"), ("rolled back", "forgot")
MAY: dict[tuple[str, str], set[Switches]] = {
    ("watch", "rollback"): {(STEP["watch"],)},
    ("watch", "force"): {(FORCED,), (STEP["watch"], FORCED)},
    ("watch", "promote"): {(AHEAD,), (STEP["watch"],)},
    ("shadow", "rollback"): {(("rolled back", "wrong"),), (STEP["shadow"],), (STEP["shadow"], BACK)},
    ("shadow", "force"): {(FORCED,), (STEP["shadow"], FORCED)},
    ("shadow", "promote"): {(STEP["shadow"],)},  # while one is on trial no other begins
    ("broken", "rollback"): {(STEP["broken"],)},  # there is nobody to go back to
    ("broken", "force"): {(FORCED,), (STEP["broken"], FORCED)},
    ("broken", "promote"): {(AHEAD,), (STEP["broken"],)},
}


@pytest.mark.full
@pytest.mark.parametrize("first", [True, False], ids=["step first", "step last"])
@pytest.mark.parametrize(("trial", "what"), list(MAY))
def test_a_step_and_a_person_or_a_promotion_at_once(
    trial: str, what: str, first: bool, depots: tuple[Path, dict[str, str]], race: Race, tmp_path: Path
) -> None:
    """Two runs of the partition's step and one other: a switch is one commit, none is lost or doubled."""
    folder, others = depots
    shutil.copytree(folder / trial, tmp_path / trial)
    rollout = SHADOW if trial == "shadow" else IMMEDIATE
    made = RolloutLake(tmp_path / trial, **rollout)
    before, table = made.switches(), f"{made.lake.uri}/tables/switches"
    commits = len(DeltaTable(table).history())
    where = (str(tmp_path / trial),)
    subject = "" if what == "rollback" else others[trial]  # by nobody's name: to the champion before
    steps, other = [(*where, "advance", PARTITION)] * 2, [(*where, what, subject)]
    ends = race([*steps, *other] if first else [*other, *steps])
    rows = [row for row in ledger.switches(made.lake) if row["role"] != "baseline"]
    new = [(row["kind"], row["recipe"]) for row in rows[len(before) :]]
    assert tuple(new) in MAY[trial, what], ends
    numbers = sorted({row["switch"] for row in ledger.switches(made.lake)})
    assert numbers == list(range(1, len(made.switches()) + 1))
    assert len(DeltaTable(table).history()) - commits == len(new)
    assert len([end for end in ends if end.endswith(" steps")]) == 2, "neither step may fail"
