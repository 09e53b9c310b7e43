"""What came true, against figures computed by hand with scikit-learn from the same rows."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from include.models import artifacts
from include.monitor.checks import live_performance
from include.monitor.context import PartitionContext
from include.monitor.performance import publish_performance
from include.monitor.pipeline import monitor
from include.monitor.state import PublishedState
from include.promote.ledger import BASELINE_ONLY, REFRESHED
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.gate import Requirement
from include.storage import schemas
from include.storage.lake import Lake
from tests.corrections import empty
from tests.monitor import machines
from tests.monitor.machines import run, truth


@pytest.mark.full
def test_a_matured_partition_has_the_figures_of_scikit_learn(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """Each metric of the partition that matured is scikit-learn's; rows without a label are counted."""
    run(quick, use, *week[:3])
    rows = {row["metric"]: row for row in quick.rows("performance")}
    target, predicted = truth(use, quick, week[:1])
    assert rows["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(target, predicted))
    assert rows["average_precision"]["value"] == pytest.approx(sk.average_precision_score(target, predicted))
    assert rows["log_loss"]["value"] == pytest.approx(sk.log_loss(target, predicted))
    assert rows["brier"]["value"] == pytest.approx(sk.brier_score_loss(target, predicted))
    assert rows["constant:roc_auc"]["value"] == 0.5
    assert rows["constant:log_loss"]["value"] == pytest.approx(
        sk.log_loss(target, np.full(len(target), 0.25))
    )
    row = rows["roc_auc"]
    assert (row["partition"], row["as_of"]) == (week[0], week[2])
    assert (row["rows"], row["unlabeled"]) == (len(target), machines.ROWS - len(target))
    assert (json.loads(row["served_by"]), json.loads(row["versions"])) == ({"champion": 120}, {"1": 120})


@pytest.mark.full
def test_what_is_required_is_judged_on_the_pooled_window(quick: Lake, use: UseCase, week: list[str]) -> None:
    """With three partitions matured the finding is the ROC-AUC of their rows together; before, not enough."""
    run(quick, use, *week[:5])
    found = {r["partition"]: r for r in quick.rows("findings") if r["subject"] == "roc_auc"}
    assert found[week[3]]["outcome"] == "not enough"
    assert found[week[3]]["note"] == "2 of 3 partitions of the champion's recipe have matured"
    target, predicted = truth(use, quick, week[:3])
    assert found[week[4]]["value"] == pytest.approx(sk.roc_auc_score(target, predicted))
    assert found[week[4]]["outcome"] == "ok"


@pytest.mark.full
def test_requirements_are_judged_across_the_refits_of_a_recipe(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """A recipe that is refitted before a window has matured is judged on the partitions of all its fits.

    A fit's rows count only on the partitions that it is the champion of, and not those of a canary.
    """
    model = deepcopy(artifacts.load_model(quick, quick.rows("switches")[0]["model"]))  # that one is kept
    model[-1].intercept_ = model[-1].intercept_ + 0.5
    refit = artifacts.store_model(quick, artifacts.serialize(model))
    machines.promote(quick, refit, week[1], version="2", kind=REFRESHED)
    run(quick, use, *week[:5])
    found = {row["partition"]: row for row in quick.rows("findings") if row["subject"] == "roc_auc"}
    target, predicted = truth(use, quick, week[:3])
    assert {row["model"] for row in quick.rows("predictions", {"partition": week[1:3]})} == {refit}
    assert found[week[3]]["outcome"] == "not enough"
    assert found[week[4]]["value"] == pytest.approx(sk.roc_auc_score(target, predicted))
    canary = quick.read("predictions", {"partition": week[0]})
    served = pa.array([refit] * 60 + canary["model"].to_pylist()[60:])
    canary = canary.set_column(canary.column_names.index("model"), "model", served)
    quick.publish("predictions", canary, {"partition": week[0]})
    (finding,) = live_performance.check_requirements(
        PartitionContext(quick, use, PublishedState(quick, use, week[4]), week[4])
    )
    left = len(target) - sum(minutes is not None for minutes in machines.day(week[0])[1][:60])
    assert finding.note.split("; ")[0].endswith(f"{week[0]} to {week[2]}, {left} rows")


@pytest.mark.parametrize(
    ("required", "value", "note"),
    [
        ({"at_least": 0.75}, 0.74996, "roc_auc 0.74996 over a week; required at least 0.75"),
        ({"at_least": 0.12345}, 0.5, "roc_auc 0.5 over a week; required at least 0.12345"),
        ({"at_most": 2.0}, 2.0000001, "roc_auc 2.0000001 over a week; required at most 2"),
    ],
)
def test_a_finding_prints_on_which_side_of_its_limit_a_figure_is(
    required: dict[str, float], value: float, note: str
) -> None:
    """A figure that misses its limit by little has the digits that show it."""
    rule = Requirement(metric="roc_auc", **required)
    assert live_performance.judge_requirement(rule, value, "over a week").note == note


@pytest.mark.full
def test_labels_that_come_late_are_known_later(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A partition whose labels came two partitions late matures then, and its row says on which partition."""
    nobody = quick.read("partitions").slice(0, 0)
    quick.publish("partitions", nobody, {"product": "stops", "partition": week[2]})
    run(quick, use, *week[:4])
    assert {row["partition"] for row in quick.rows("performance")} == {week[1]}
    machines.stops(quick, use, week[2], known_at=use.clock.local(week[4], "06:00"))
    run(quick, use, week[4])
    assert {(r["partition"], r["as_of"]) for r in quick.rows("performance")} == {
        (week[0], week[4]),
        (week[1], week[3]),
        (week[2], week[4]),
    }


def test_labels_that_a_correction_withdrew_no_longer_count(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """The partition's figures are published again, although the digest of its labels' source is as before."""
    for partition in week[:4]:
        score(quick, use, partition)
    publish_performance(quick, use, PublishedState(quick, use, week[2]))
    empty(quick, "stops", week[2], use.clock.local(week[3], "06:00"))
    publish_performance(quick, use, PublishedState(quick, use, week[3]))
    figures = quick.rows("performance", {"partition": week[0], "metric": "roc_auc"})
    labeled = len(truth(use, quick, week[:1])[0])
    assert {row["as_of"]: row["rows"] for row in figures} == {week[2]: labeled, week[3]: 0}


@pytest.mark.full
def test_another_champions_partitions_are_not_its_own(quick: Lake, use: UseCase, week: list[str]) -> None:
    """After a switch the new champion has no matured partitions yet, however bad the old one was."""
    run(quick, use, *week[:5])
    served = quick.rows("switches")[0]
    other = machines.spec(use.folder.parent)
    digest = served["model"]
    machines.promote(quick, digest[::-1], week[5], version="2")
    score(quick, other, week[5])
    monitor(quick, other, week[5])
    found = [r for r in quick.rows("findings", {"partition": week[5]}) if r["subject"] == "roc_auc"]
    assert [r["note"] for r in found] == ["0 of 3 partitions of the champion's recipe have matured"]


def test_without_a_champion_the_findings_say_so_and_who_serves(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """While the baseline of a refused training serves, nothing is judged, and nothing is requested."""
    row = quick.rows("switches")[0] | {"role": "baseline", "kind": BASELINE_ONLY}
    quick.publish("switches", pa.Table.from_pylist([row], schema=schemas.SWITCHES), {"switch": 1})
    run(quick, use, *week[:4])
    assert {row["served_by"] for row in quick.rows("predictions")} == {"baseline"}
    note = "there is no champion: no model was promoted yet, and baseline v1 serves instead"
    found = quick.rows("findings", {"partition": week[3], "check": ["performance", "concept"]})
    assert {(row["note"], row["outcome"]) for row in found} == {(note, "not enough")}
    (decision,) = quick.rows("decisions", {"partition": week[3]})
    assert decision["cause"] == ""


def test_a_partition_of_one_class_has_no_auc(quick: Lake, use: UseCase, week: list[str]) -> None:
    """What the labels can't give is null and not nought.

    A partition without any label has no figure at all.
    """
    score(quick, use, week[0])
    score(quick, use, week[1])
    still = [{"machine": m, "minutes": 0.0} for m in range(machines.ROWS)]
    none = [{"machine": m, "minutes": None} for m in range(machines.ROWS)]
    machines.publish(quick, use, "stops", week[2], still)
    machines.publish(quick, use, "stops", week[3], none)
    run(quick, use, week[2], week[3])
    values = {(r["partition"], r["metric"]): (r["value"], r["rows"]) for r in quick.rows("performance")}
    assert values[week[0], "roc_auc"] == (None, machines.ROWS)
    assert values[week[0], "log_loss"][0] > 0
    assert {v for (partition, _), v in values.items() if partition == week[1]} == {(None, 0)}
