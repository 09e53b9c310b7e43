"""What tells a person, what asks for a training, under which name, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.monitor.context import Finding, Outcome
from include.monitor.policy import (
    CAUSES,
    MONTH,
    AlertItem,
    Decision,
    PartitionState,
    decide,
    policy_window,
    requests_since,
)
from include.monitor.registry import CHECKS
from include.spec import UseCase
from include.spec.stages import Alerts, Retraining, SuddenChanges

CHAMPION = "0123456789abcdef"
Found = list[Finding]


def found(check: str, subject: str = "roc_auc", outcome: Outcome = "alarm") -> Found:
    """Return a partition with one finding."""
    return [Finding(check, subject, 0.5, 0.6, outcome, "a sentence")]


def told(use: UseCase, partitions: Sequence[Found], model: str = CHAMPION, **rules: Any) -> list[Decision]:
    """Decide partitions in their order, each after those before it."""
    changed = {"retraining": Retraining(**{"consecutive": 3, **rules}), "alerts": Alerts(quiet=3)}
    spec = use.model_copy(update=changed)
    history: list[PartitionState] = []
    for place, each in enumerate(partitions):
        alarms = tuple(finding for finding in each if finding.outcome == "alarm")
        history.append(PartitionState(f"n{place:03}", model, alarms))
        history[-1] = replace(history[-1], decision=decide(history, spec))
    return [partition.decision for partition in history if partition.decision]


def test_a_lasting_degradation_asks_once_for_its_cause(use: UseCase) -> None:
    """Three partitions in a row name a cause, and the fourth the same; another champion has its own."""
    bad = found("performance")
    *_, third, fourth = told(use, [bad] * 4)
    assert (third.decision, third.cause) == ("retrain", "degraded-0123456789ab-n002")
    assert third.reason.startswith("degraded: roc_auc for 3 partitions in a row")
    assert (fourth.decision, fourth.cause) == ("retrain", third.cause)
    assert "requested on n002" in fourth.reason
    assert told(use, [bad] * 3, "fedcba")[-1].cause == "degraded-fedcba-n002"


@pytest.mark.parametrize(
    "history",
    [
        [[]],
        [found("performance")] * 2,
        [found("performance"), [], found("performance")],
        [found("performance"), found("performance", outcome="not enough"), found("performance")],
        [found("performance"), found("performance"), found("performance", outcome="ok")],
        [found("performance", "a"), found("performance", "b"), found("performance", "a")],
    ],
)
def test_what_does_not_last_asks_for_no_training(use: UseCase, history: list[Found]) -> None:
    """Too few partitions, a gap, a partition that can't be judged, another metric: no training."""
    assert {decision.cause for decision in told(use, history)} == {""}


def test_a_streak_lasts_over_refits_but_not_over_recipes(use: UseCase) -> None:
    """A recipe that stays bad lacks something; what another recipe did says nothing of it."""
    alarms = tuple(found("performance"))
    history = [
        PartitionState("a", "old", alarms, recipe="boosting"),
        PartitionState("b", CHAMPION, alarms, recipe="boosting"),
    ]
    spec = use.model_copy(update={"retraining": Retraining(consecutive=2)})
    assert decide(history, spec).cause == "degraded-0123456789ab-b"
    assert decide([replace(history[0], recipe="logistic"), history[1]], spec).cause == ""


def test_a_partition_without_rows_ends_no_streak(use: UseCase) -> None:
    """Nothing was predicted that could be judged, though a source that is missing is an alarm there too."""
    alarms = tuple(found("performance"))
    empty = PartitionState("b", CHAMPION, tuple(found("data")), has_rows=False)
    history = [PartitionState("a", CHAMPION, alarms), empty, PartitionState("c", CHAMPION, alarms)]
    spec = use.model_copy(update={"retraining": Retraining(consecutive=2)})
    assert decide(history, spec).cause == "degraded-0123456789ab-c"
    assert decide(history[:2], spec).cause == ""


@pytest.mark.parametrize(("kind", "check"), [("drifted", "drift"), ("concept", "concept")])
def test_a_cause_asks_only_where_it_is_declared(use: UseCase, kind: Any, check: str) -> None:
    """Drift isn't degradation and a change of concept may be borne: each asks where the spec says so."""
    partitions = [found(check, "temp")] * 5
    assert {decision.cause for decision in told(use, partitions)} == {""}
    asked = told(use, partitions, when=("degraded", kind), consecutive=2)
    assert [decision.decision for decision in asked[1:]] == ["retrain"] * 4
    assert asked[-1].cause == f"{kind}-0123456789ab-n001"


def test_each_declared_cause_belongs_to_a_check() -> None:
    """What may stand under retraining.when is what the checks can request, each by one check."""
    declared = get_args(get_args(Retraining.model_fields["when"].annotation)[0])
    assert sorted(check.cause for check in CHECKS if check.cause) == sorted(declared)
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("check", ["missing", "unseen", "fallback", "data", "labels", "sudden_change"])
def test_a_broken_feed_never_asks(use: UseCase, check: str) -> None:
    """What is learned from a broken feed is as broken: a person is told instead."""
    decisions = told(use, [found(check)] * 3, when=tuple(CAUSES), consecutive=1)
    assert [decision.decision for decision in decisions] == ["alert", "nothing", "nothing"]


def test_rows_that_are_late_are_one_alert_with_the_predictions_that_they_miss(use: UseCase) -> None:
    """Predictions that are missing otherwise, also while rows with errors alarm, are one of their own."""
    spine = Finding("data", use.features.spine, 1.0, 0.05, "alarm", "readings is late")
    missing = Finding("data", "predictions", 1.0, 0.0, "alarm", "nothing was predicted")
    first, second, third = told(use, [[spine, missing], [spine, missing], [missing]])
    (item,) = first.alerts
    assert (item.subject, item.note) == (use.features.spine, "readings is late; nothing was predicted")
    assert second.alerts == ()
    assert [one.subject for one in third.alerts] == ["predictions"]
    (decision,) = told(use, [[replace(spine, value=0.2), missing]])
    assert len(decision.alerts) == 2


def test_every_check_but_drift_tells_a_person(use: UseCase) -> None:
    """Drift comes with each season: it alone is nothing, whatever the partition."""
    alerting = [check.name for check in CHECKS if check.alerts]
    assert {*alerting, "drift"} == {check.name for check in CHECKS}
    assert {decision.decision for decision in told(use, [found("drift", "temp")] * 20)} == {"nothing"}
    for check in alerting:
        [decision] = told(use, [found(check, "x")])
        assert decision.alerts == (AlertItem(check, "x", 0.5, 0.6, "a sentence"),), check


def test_without_a_champion_there_is_nothing_to_retrain(use: UseCase) -> None:
    """Before the first promotion the schedule trains; a source that fails is told all the same."""
    assert {d.cause for d in told(use, [found("performance")] * 9, "", consecutive=1)} == {""}
    assert told(use, [found("data", "sales")], "")[0].decision == "alert"


def test_a_reason_counts_the_partitions_so_far(use: UseCase) -> None:
    """The row says how far a streak has come, what is told, and what was told before."""
    first, second = told(use, [found("performance")] * 2)
    assert first.reason == "roc_auc degraded for 1 of 3 partitions in a row; alerts performance roc_auc"
    assert (
        second.reason
        == "roc_auc degraded for 2 of 3 partitions in a row; already alerted: performance roc_auc"
    )
    assert (second.alerts, second.quiet) == ((), first.alerts)


def test_a_training_carries_the_partitions_alerts(use: UseCase) -> None:
    """A partition that asks for a training tells as well, also what nobody would retrain for."""
    last = told(use, [[*found("performance"), *found("data", "sales")]], consecutive=1)[-1]
    assert last.decision == "retrain"
    assert {alert.check for alert in last.alerts} == {"performance", "data"}


def test_a_lasting_alarm_is_told_again_after_the_quiet(use: UseCase) -> None:
    """With three quiet partitions it is told on the first, fifth and ninth partition.

    Another subject at once.
    """
    partitions = [found("data", "sales")] * 9
    assert [len(decision.alerts) for decision in told(use, partitions)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    partitions[1] = [*partitions[1], *found("data", "shops")]
    assert [alert.subject for alert in told(use, partitions)[1].alerts] == ["shops"]


def test_jumps_are_told_once_whichever_columns(use: UseCase) -> None:
    """The promised rate of a year counts one alert in the quiet partitions over all columns."""
    spec = use.model_copy(
        update={"monitoring": use.monitoring.model_copy(update={"sudden_changes": SuddenChanges(quiet=2)})}
    )
    partitions = [
        found("sudden_change", "temp"),
        found("sudden_change", "load"),
        [],
        found("sudden_change", "load"),
    ]
    assert [len(decision.alerts) for decision in told(spec, partitions)] == [1, 0, 0, 1]


def test_a_switch_that_happened_is_told_and_not_done_again(use: UseCase) -> None:
    """A champion that was rolled back is an alert of its own, and first in the reason; the row says so."""
    switched = AlertItem(
        "switch", "v1", None, None, "rolled back: v1 serves again from this partition on (worse)"
    )
    decision = decide([PartitionState("a", CHAMPION, (), switched)], use)
    assert (decision.decision, decision.alerts) == ("roll back", (switched,))
    assert decision.reason.startswith("rolled back: v1 serves again")


def test_a_partition_on_which_the_champion_goes_may_ask_for_a_training_too(use: UseCase) -> None:
    """The decision is the weightier act, and the cause asks for the training all the same."""
    spec = use.model_copy(update={"retraining": Retraining(consecutive=1)})
    switched = AlertItem("switch", "v1", None, None, "replaced: ridge of v1 serves")
    partition = PartitionState("a", CHAMPION, tuple(found("performance")), switched, "replace")
    decision = decide([partition], spec)
    assert (decision.decision, decision.cause) == ("replace", "degraded-0123456789ab-a")
    assert [alert.check for alert in decision.alerts] == ["switch", "performance"]


def test_a_cooldown_holds_up_every_cause(use: UseCase) -> None:
    """After a training no other is asked for in the cool-down, also not for another cause; then again."""
    partitions = [*[found("drift", "temp")] * 2, *[found("performance")] * 8]
    asked = told(use, partitions, when=("degraded", "drifted"), consecutive=2, cooldown=5, max_per_month=9)
    causes = [decision.cause for decision in asked]
    drifted, degraded = "drifted-0123456789ab-n001", "degraded-0123456789ab-n007"
    assert causes == ["", drifted, *[""] * 5, *[degraded] * 3]
    assert "a training was requested on n001, the next is allowed 6 partitions later" in asked[4].reason


def test_what_lasts_is_tried_again_within_the_budget(use: UseCase) -> None:
    """A degradation of 70 partitions asks after each cool-down.

    But for a third time only 31 partitions later.
    """
    asked = told(use, [found("performance")] * 70, consecutive=1, cooldown=14, max_per_month=2)
    causes = dict.fromkeys(decision.cause for decision in asked if decision.cause)
    assert [cause[-4:] for cause in causes] == ["n000", "n015", "n031", "n046", "n062"]
    assert "2 trainings were requested in 30 partitions, at most 2 are allowed" in asked[30].reason
    assert asked[30].decision == "nothing"


def replaced(
    use: UseCase, count: int, first: str = "2024-03-01", refits: Sequence[int] = (), **rules: Any
) -> list[Decision]:
    """Decide partitions with a lasting degradation, from the fourth of which on the champion is another.

    Parameters
    ----------
    refits : the places of the partitions from which on a refit of its recipe serves.
    """
    spec = use.model_copy(update={"retraining": Retraining(**{"consecutive": 1, **rules})})
    keys = spec.clock.keys(first, spec.clock.shift(first, count - 1))
    history: list[PartitionState] = []
    for place, key in enumerate(keys):
        model = str(sum(place >= refit for refit in refits)) * 16 if place >= 3 else CHAMPION
        partition = PartitionState(key, model, tuple(found("performance")))
        history.append(replace(partition, requests_since=keys[3] if place >= 3 else ""))
        history[-1] = replace(history[-1], decision=decide(history, spec))
    return [partition.decision for partition in history if partition.decision]


def test_a_replacement_asks_for_a_training_on_its_first_partition_and_each_week(use: UseCase) -> None:
    """Neither a cool-down nor the month's budget holds it up, and within a week its cause stays the same."""
    asked = replaced(use, 40, cooldown=60, max_per_month=1)
    assert [decision.cause for decision in asked[:3]] == ["degraded-0123456789ab-2024-03-01"] * 3
    assert {decision.decision for decision in asked[3:]} == {"retrain"}
    causes = [decision.cause.removeprefix("replaced-2024-03-04-") for decision in asked[3:]]
    assert list(dict.fromkeys(causes)) == [
        f"2024-{day}" for day in ("03-04", "03-11", "03-18", "03-25", "04-01", "04-08")
    ]
    assert causes[:8] == ["2024-03-04"] * 7 + ["2024-03-11"]
    assert asked[3].reason.startswith("the champion was replaced on 2024-03-04; a better model is requested")
    assert "requested on 2024-03-04" in asked[9].reason


def test_a_refit_of_the_recipe_that_replaced_it_asks_no_sooner(use: UseCase) -> None:
    """The training that was asked for may only refresh the recipe: the next one still follows in a week."""
    refreshed = replaced(use, 20, refits=(5, 13))
    assert [one.cause for one in refreshed[3:]] == [one.cause for one in replaced(use, 20)[3:]]


def test_a_replacement_requests_trainings_for_a_week_and_as_long_as_a_baseline_serves(use: UseCase) -> None:
    """For another recipe scheduled trainings are enough; one that a training chose isn't a replacement."""

    def since_when(*switches: tuple[str, str]) -> tuple[str, ...]:
        """Return the answers within a week of the last switch, which is on 4 March, and after that week."""
        line = [
            {"kind": kind, "recipe": recipe, "effective_from": f"2024-03-0{day}"}
            for day, (kind, recipe) in enumerate(switches, 5 - len(switches))
        ]
        return tuple(requests_since(use, line, key) for key in ("2024-03-10", "2024-03-11"))

    assert since_when(("promoted", "model"), ("replaced", "prior")) == ("2024-03-04", "2024-03-04")
    assert since_when(("replaced", "prior"), ("replaced", "model")) == ("2024-03-04", "")
    assert since_when(("replaced", "prior"), ("replaced", "prior_30")) == ("2024-03-04", "2024-03-04")
    assert since_when(("replaced", "prior"), ("refreshed", "prior")) == ("2024-03-03", "2024-03-03")
    assert since_when(("replaced", "prior"), ("promoted", "prior")) == ("", "")


def test_a_replacement_of_weekly_partitions_asks_on_each(use: UseCase) -> None:
    """A week is what it is on the calendar, and not seven partitions."""
    schedule = use.schedule.model_copy(update={"batch": "0 18 * * 1"})
    weekly = UseCase.model_validate({**use.model_dump(by_alias=True), "schedule": schedule})
    asked = replaced(weekly, 6, first="2024-03-04")
    assert [decision.cause[-10:] for decision in asked[3:]] == ["2024-03-25", "2024-04-01", "2024-04-08"]


def test_requests_after_a_replacement_hold_up_no_later_champion(use: UseCase) -> None:
    """A champion that came of such a training has cool-down and budget to itself."""
    spec = use.model_copy(update={"retraining": Retraining(consecutive=1, cooldown=14, max_per_month=1)})
    keys = spec.clock.keys("2024-03-01", "2024-03-03")
    asked = Decision("retrain", f"replaced-{keys[0]}-{keys[0]}", "")
    history = [
        PartitionState(keys[0], "old", decision=asked),
        PartitionState(keys[1], CHAMPION, tuple(found("performance"))),
    ]
    assert decide(history, spec).cause == f"degraded-0123456789ab-{keys[1]}"


ALARMING = ["data", "sudden_change", "performance", "drift", "concept"]
SUBJECTS = ["a", "b"]
ALARMS = [*found("drift", "a"), *(f for check in ALARMING for s in SUBJECTS for f in found(check, s))]
PARTITIONS = st.lists(st.lists(st.sampled_from(ALARMS), unique=True), min_size=1, max_size=80)


@given(PARTITIONS, st.integers(0, 12), st.integers(1, 3))
def test_whatever_comes_quiet_cooldown_and_budget_hold(
    use: UseCase, partitions: list[Found], cooldown: int, max_per_month: int
) -> None:
    """No subject twice in the quiet partitions.

    Trainings apart, and no more in any 30 partitions than declared.
    """
    rules = {"when": tuple(CAUSES), "consecutive": 1, "cooldown": cooldown, "max_per_month": max_per_month}
    decisions = told(use, partitions, **rules)
    last: dict[tuple[str, str], int] = {}
    asked: dict[str, int] = {}
    for place, decision in enumerate(decisions):
        for alert in decision.alerts:
            key = (alert.check, alert.subject)
            assert place - last.get(key, -99) > 3
            last[key] = place
        if decision.cause:
            asked.setdefault(decision.cause, place)
    begun = sorted(asked.values())
    assert all(later - earlier > cooldown for earlier, later in pairwise(begun))
    assert all(sum(0 <= place - of <= MONTH for of in begun) <= max_per_month for place in begun)
    for decision in decisions:
        assert decision.decision == (
            "retrain" if decision.cause else "alert" if decision.alerts else "nothing"
        )


@given(st.lists(st.sampled_from(["data", "performance", ""]), min_size=60, max_size=70), st.integers(0, 5))
def test_a_decision_looks_no_further_back_than_it_says(use: UseCase, checks: list[Any], cut: int) -> None:
    """What happened before the declared reach changes nothing."""
    spec = use.model_copy(update={"retraining": Retraining(consecutive=2, cooldown=10)})
    history: list[PartitionState] = []
    for place, check in enumerate(checks):
        history.append(PartitionState(f"n{place:03}", CHAMPION, tuple(found(check)) if check else ()))
        history[-1] = replace(history[-1], decision=decide(history, spec))
    assert decide(history[-policy_window(spec) - 1 - cut :], spec) == history[-1].decision
