"""A challenger serves when the gate lets it, from a partition nobody has served; the way back is as short."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from include.errors import EvergreenError, ModelError, NotPublished, TrainingOutdated
from include.judge.judge import BLESSED, FORCED, NOT_BLESSED, NOT_ENOUGH, RUBBER_STAMPED
from include.models import artifacts
from include.models.registry import Registry
from include.ops import status
from include.promote import ledger, verdicts
from include.promote.ledger import trials_on
from include.promote.promotion import force, mirror_aliases, promote
from include.promote.rollback import rollback
from include.promote.verdicts import judge_and_record
from include.references import digest_bytes
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import ATTEMPTS, PARTITIONS, SWITCHES
from tests.promote.conftest import model, register

Attempt = Callable[..., str]
FIRST, SECOND, THIRD, FOURTH = "2024-03-04", "2024-03-11", "2024-03-18", "2024-03-25"  # Mondays


def _key(evaluation: str) -> str:
    return evaluation.removeprefix("evaluations/").removesuffix(".json")


def _serve(lake: Lake, *partitions: str) -> None:
    """Mark partitions as scored."""
    rows = [
        dict.fromkeys(PARTITIONS.names)
        | {"product": "predictions", "partition": partition, "outcome": "published"}
        for partition in partitions
    ]
    where = {"product": "predictions", "partition": list(partitions)}
    lake.publish("partitions", pa.Table.from_pylist(rows, PARTITIONS), where)


def _champion(lake: Lake, partition: str) -> str:
    return (ledger.serving(lake, partition).champion or {"version": ""})["version"]


def _three(lake: Lake, spec: UseCase, attempt: Attempt, registry: Registry) -> list[str]:
    """Promote versions 1, 2 and 3, a week after the other."""
    keys = []
    for version, partition in ((1, FIRST), (2, SECOND), (3, THIRD)):
        where = attempt(version, partition, champion=version - 1)
        judge_and_record(lake, spec, where)
        assert promote(lake, spec, _key(where), registry=registry).switch is not None
        keys.append(_key(where))
    return keys


@pytest.mark.full
def test_the_first_challenger_serves_from_the_next_partition(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """With nothing to compare with it is rubber-stamped; then models, ledger and alias all say version 1."""
    where = attempt(1, FIRST)
    verdict = judge_and_record(lake, weekly, where)
    assert verdict.verdict == RUBBER_STAMPED
    ref = promote(lake, weekly, _key(where), registry=registry).switch
    assert ref is not None
    assert (ref.partition, ref.digest) == (SECOND, digest_bytes(model(1)))
    assert len(str(ref.xcom())) < 1000
    rows = ledger.switches(lake)
    assert [(row["switch"], row["role"], row["kind"]) for row in rows] == [
        (1, "baseline", "promoted"),
        (1, "champion", "promoted"),
    ]
    assert [artifacts.load_model(lake, row["model"]).steps[0][1].constant for row in rows] == [0, 1]
    assert b'"constant": 0.2' in (lake.get(f"models/{ref.digest}.json") or b"")
    assert registry.aliases("weekly_sales") == {"champion": "1"}
    assert lake.version("switches") == 1  # made, and one commit


@pytest.mark.full
def test_judging_and_promoting_again_changes_nothing(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry, gone: Registry
) -> None:
    """Three times is once: one attempt, one switch, one reference, also when MLflow has gone meanwhile."""
    where = attempt(1, FIRST)
    recorded = [judge_and_record(lake, weekly, where) for _ in range(3)]
    refs = [promote(lake, weekly, _key(where), registry=r) for r in (registry, registry, gone)]
    assert recorded[0] == recorded[1] == recorded[2]
    assert refs[0] == refs[1] == refs[2]
    assert len(verdicts.attempts(lake)) == 1
    assert len(ledger.switches(lake)) == 2


def test_a_better_challenger_replaces_the_champion(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """A blessed challenger is champion, the one before it previous, in the ledger and in MLflow."""
    _three(lake, weekly, attempt, registry)
    assert [row["verdict"] for row in verdicts.attempts(lake)] == [RUBBER_STAMPED, BLESSED, BLESSED]
    serving = ledger.serving(lake, FOURTH)
    assert serving.champion is not None
    assert serving.previous is not None
    assert (serving.champion["version"], serving.previous["version"]) == ("3", "2")
    assert registry.aliases("weekly_sales") == {"champion": "3", "previous": "2"}


def test_an_unblessed_challenger_is_an_outcome(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """Worse, or judged on too few partitions: recorded with its sentence, and the champion stays in place."""
    where = attempt(1, FIRST)
    judge_and_record(lake, weekly, where)
    promote(lake, weekly, _key(where), registry=registry)
    before = lake.version("switches")
    worse = attempt(2, SECOND, champion=1, refused=True)
    thin = attempt(3, SECOND, champion=1, count=3)
    assert judge_and_record(lake, weekly, worse).verdict == NOT_BLESSED
    assert judge_and_record(lake, weekly, thin).verdict == NOT_ENOUGH
    assert promote(lake, weekly, _key(worse), registry=registry).switch is None
    assert promote(lake, weekly, _key(thin), registry=registry).switch is None
    assert lake.version("switches") == before
    assert registry.aliases("weekly_sales") == {"champion": "1"}
    assert lake.get(artifacts.model_key(digest_bytes(model(2)))) is None


def test_a_first_training_that_is_refused_leaves_its_baseline_in_service(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """The best baseline serves, a later refusal brings a newer one, and a champion ends it."""
    keys = [
        _key(attempt(version, partition, refused=True)) for version, partition in ((1, FIRST), (2, SECOND))
    ]
    for key in keys:
        judge_and_record(lake, weekly, f"evaluations/{key}.json")
    for _ in range(2):
        promotion = promote(lake, weekly, keys[0], registry=registry)
        assert promotion.switch is None
        assert promotion.blocker.startswith("not blessed: ")
    (row,) = ledger.switches(lake)
    assert (row["role"], row["kind"], row["version"], row["recipe"]) == (
        "baseline",
        "baseline only",
        "1",
        "prior",
    )
    assert (row["model"], row["effective_from"]) == (digest_bytes(model(0)), SECOND)
    assert row["reason"].startswith("there is no champion: not blessed: ")
    assert ledger.serving(lake, SECOND).baseline == row
    promote(lake, weekly, keys[1], registry=registry)
    promote(lake, weekly, keys[0], registry=registry)  # an older refusal again
    assert [row["version"] for row in ledger.switches(lake)] == ["1", "2"]
    good = attempt(3, THIRD)
    assert judge_and_record(lake, weekly, good).verdict == RUBBER_STAMPED
    assert promote(lake, weekly, _key(good), registry=registry).switch is not None
    late = _key(attempt(4, FOURTH, champion=3, refused=True))
    judge_and_record(lake, weekly, f"evaluations/{late}.json")
    promote(lake, weekly, late, registry=registry)
    rows = ledger.switches(lake)
    assert [(row["role"], row["kind"]) for row in rows[2:]] == [
        ("baseline", "promoted"),
        ("champion", "promoted"),
    ]


@pytest.mark.parametrize(
    ("evidence", "recipe", "served"),
    [
        ({"count": 3}, "ridge", ("ridge", 1)),
        ({"count": 3}, "boosting", ("ridge", 0)),
        ({"refused": True}, "ridge", ("ridge", 0)),
        ({"leak": True}, "boosting", ("prior", 4)),
        ({"leak": True}, "ridge", ("prior", 4)),
    ],
    ids=["baseline without evidence", "candidate without evidence", "broken", "leak", "leak in a baseline"],
)
def test_the_best_sound_baseline_serves_without_a_champion(
    lake: Lake,
    weekly: UseCase,
    attempt: Attempt,
    registry: Registry,
    evidence: dict[str, Any],
    recipe: str,
    served: tuple[str, int],
) -> None:
    """That is the chosen recipe if it is a baseline and only lacks evidence; and after a leak, the prior."""
    key = _key(attempt(1, FIRST, recipe=recipe, **evidence))
    judge_and_record(lake, weekly, f"evaluations/{key}.json")
    promotion = promote(lake, weekly, key, registry=registry)
    (row,) = ledger.switches(lake)
    name, number = served
    assert (row["role"], row["recipe"], row["model"]) == ("baseline", name, digest_bytes(model(number)))
    assert f"{name} serves as the baseline from {SECOND} on" in promotion.blocker
    assert ("what leaked" in promotion.blocker) == ("leak" in evidence)


def test_a_leak_that_a_second_look_finds_ends_the_service_of_a_baseline(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """The baseline of the same partition's first attempt is replaced by the prior, once."""
    first = _key(attempt(1, FIRST, refused=True, recipe="boosting"))
    second = _key(attempt(2, FIRST, leak=True, recipe="boosting"))
    for key in (first, second, second):
        judge_and_record(lake, weekly, f"evaluations/{key}.json")
        promote(lake, weekly, key, registry=registry)
    assert [row["recipe"] for row in ledger.switches(lake)] == ["ridge", "prior"]
    baseline = ledger.serving(lake, SECOND).baseline
    assert baseline is not None
    assert baseline["recipe"] == "prior"


@pytest.mark.full
@pytest.mark.parametrize("kind", ["immediate", "shadow", "canary"])
def test_a_refit_of_the_serving_recipe_serves_at_once(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry, kind: str
) -> None:
    """A refresh is neither tried nor watched, whatever the rollout declares; another recipe is."""
    rollout = weekly.gate.rollout.model_copy(update={"kind": kind})
    spec = weekly.model_copy(update={"gate": weekly.gate.model_copy(update={"rollout": rollout})})
    changes = ((1, FIRST, 0, False), (2, SECOND, 1, True), (3, THIRD, 2, False))
    for version, partition, champion, refresh in changes:
        where = attempt(version, partition, champion=champion, refresh=refresh, spec=spec)
        judge_and_record(lake, spec, where)
        assert promote(lake, spec, _key(where), registry=registry).switch is not None
        if refresh:
            live = ledger.live_champion(ledger.switches(lake)) or {}
            assert (live["version"], live["kind"], live["recipe"]) == ("2", "refreshed", "forest")
            assert trials_on(ledger.switches(lake), spec, THIRD) == []
            assert registry.aliases("weekly_sales") == {"champion": "2", "previous": "1"}
    (trial,) = trials_on(ledger.switches(lake), spec, FOURTH)
    assert trial.kind == ("watch" if kind == "immediate" else "shadow")


def test_a_promotion_in_between_changes_no_served_partition(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """A promotion takes effect after the last served partition.

    So that re-scoring that one finds who served.
    """
    first, second = attempt(1, FIRST), attempt(2, SECOND, champion=1)
    judge_and_record(lake, weekly, first)
    promote(lake, weekly, _key(first), registry=registry)
    _serve(lake, SECOND, THIRD)  # version 1 has served a week after version 2's evidence
    judge_and_record(lake, weekly, second)
    promote(lake, weekly, _key(second), registry=registry)
    assert [_champion(lake, partition) for partition in (FIRST, SECOND, THIRD, FOURTH)] == ["", "1", "1", "2"]


def test_a_backfilled_training_is_recorded_and_never_deployed(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """A training of a week before the champion's evidence may be blessed, and still isn't switched to."""
    for version, partition, champion in ((1, FIRST, 0), (3, THIRD, 1)):
        where = attempt(version, partition, champion=champion)
        judge_and_record(lake, weekly, where)
        promote(lake, weekly, _key(where), registry=registry)
    old = attempt(2, SECOND, champion=1)
    assert judge_and_record(lake, weekly, old).verdict == BLESSED
    assert promote(lake, weekly, _key(old), registry=registry).switch is None
    # nor after a rollback to a champion that is older than it
    rollback(lake, weekly, None, "ann", "version 3 is slow")
    assert promote(lake, weekly, _key(old), registry=registry).switch is None
    assert {row["version"] for row in ledger.switches(lake)} == {"1", "3"}
    assert len(verdicts.attempts(lake)) == 3


def test_a_verdict_about_another_champion_is_superseded(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Two challengers beat the same champion: the second, never compared with the first, is shown as such."""
    first = attempt(1, FIRST)
    judge_and_record(lake, weekly, first)
    promote(lake, weekly, _key(first), registry=registry)
    two, three = attempt(2, SECOND, champion=1), attempt(3, SECOND, champion=1)
    assert [judge_and_record(lake, weekly, where).verdict for where in (two, three)] == [BLESSED, BLESSED]
    assert promote(lake, weekly, _key(two), registry=registry).switch is not None
    with caplog.at_level("INFO"):
        assert promote(lake, weekly, _key(three), registry=registry).switch is None
    superseded = "superseded: judged against version 1 (forest), but version 2 (forest) serves: train again"
    assert superseded in caplog.text
    assert [row["outcome"] for row in status.attempts(lake, weekly)] == ["", "", superseded]
    force(lake, weekly, _key(three), "ann", "it is better", registry=registry)
    assert [row["outcome"] for row in status.attempts(lake, weekly)] == ["", "", "", ""]


def test_the_model_that_serves_is_not_promoted_again(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """A training without new labels fits the same model: the ledger doesn't call it a fresh one."""
    first = attempt(1, FIRST)
    judge_and_record(lake, weekly, first)
    promote(lake, weekly, _key(first), registry=registry)
    again = attempt(1, SECOND, champion=1)
    assert judge_and_record(lake, weekly, again).verdict == BLESSED
    promotion = promote(lake, weekly, _key(again), registry=registry)
    assert (promotion.switch, promotion.blocker) == (None, "nothing new: it is the model that serves as v1")
    assert [row["version"] for row in ledger.champions(ledger.switches(lake))] == ["1"]


def test_what_cannot_be_judged_is_refused(lake: Lake, weekly: UseCase, attempt: Attempt) -> None:
    """No evidence, or evidence of another declaration, is an error and no verdict."""
    with pytest.raises(NotPublished, match=r"run the training of that partition again, .*evaluate\.measure"):
        judge_and_record(lake, weekly, "evaluations/none.json")
    changed = weekly.model_copy(update={"labels": weekly.labels.model_copy(update={"sql": "units + 1"})})
    with pytest.raises(TrainingOutdated, match="train again"):
        judge_and_record(lake, changed, attempt(1, FIRST))
    assert verdicts.attempts(lake) == []


def test_a_damaged_model_is_not_switched_to(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """Damaged or unreadable bytes in the registry switch nothing; a damaged copy in the lake is replaced."""
    with registry.recording("weekly_sales", "key-5", "run 5") as run:
        files = {
            artifacts.model_key(digest_bytes(model(5))): b"half a mod",
            artifacts.model_key(digest_bytes(model(0))): model(0),
        }
        registry.put(run, files)
        register(registry, run, model(5))
    damaged, where = attempt(5, FIRST), attempt(1, FIRST)
    assert (
        judge_and_record(lake, weekly, damaged).verdict
        == judge_and_record(lake, weekly, where).verdict
        == RUBBER_STAMPED
    )
    with pytest.raises(ModelError, match="SHA-256"):
        promote(lake, weekly, _key(damaged), registry=registry)
    with registry.recording("weekly_sales", "key-6", "run 6") as run:
        registry.put(run, {artifacts.model_key(digest_bytes(b"no model")): b"no model"})
        register(registry, run, model(6))
    unreadable = attempt(6, FIRST, data=b"no model")
    judge_and_record(lake, weekly, unreadable)
    with pytest.raises(ModelError, match="a skops file"):
        promote(lake, weekly, _key(unreadable), registry=registry)
    assert ledger.switches(lake) == []
    assert lake.get(artifacts.model_key(digest_bytes(b"no model"))) is None
    lake.replace(artifacts.model_key(digest_bytes(model(1))), b"half a mod")
    assert promote(lake, weekly, _key(where), registry=registry).switch is not None
    assert artifacts.load_model(lake, digest_bytes(model(1))).steps[0][1].constant == 1


def test_a_switch_stands_without_mlflow(
    lake: Lake,
    weekly: UseCase,
    attempt: Attempt,
    registry: Registry,
    gone: Registry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the models in the lake a promotion needs no registry; the next that looks corrects the aliases."""
    where = attempt(1, FIRST)
    judge_and_record(lake, weekly, where)
    artifacts.store_model(lake, model(0))
    artifacts.store_model(lake, model(1))
    assert promote(lake, weekly, _key(where), registry=gone).switch is not None
    assert "MLflow's aliases aren't set" in caplog.text
    assert registry.aliases("weekly_sales") == {}
    assert mirror_aliases(lake, weekly, registry)
    assert registry.aliases("weekly_sales") == {"champion": "1"}
    version = MlflowClient(registry.uri, registry.uri).get_model_version("weekly_sales", "1")
    assert version.tags == {"serving_since": ledger.switches(lake)[0]["effective_from"]}


def test_the_way_back(lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry) -> None:
    """The one before serves from the next unserved partition, by one commit, in seconds.

    And it says by whom.
    """
    _three(lake, weekly, attempt, registry)
    _serve(lake, FIRST, SECOND, THIRD, FOURTH)
    version, began = lake.version("switches"), time.monotonic()
    ref = rollback(lake, weekly, None, "ann", "late by an hour", registry=registry)
    assert time.monotonic() - began < 10
    assert lake.version("switches") == version + 1
    assert ref.partition == "2024-04-01"
    assert ref.note == "rolled back to v2 by ann, champion from 2024-04-01 on: late by an hour"
    assert [_champion(lake, partition) for partition in (THIRD, FOURTH, "2024-04-01")] == ["2", "3", "2"]
    back = [row for row in ledger.switches(lake) if row["switch"] == 4]
    assert {(row["role"], row["kind"], row["by"]) for row in back} == {
        ("champion", "rolled back", "ann"),
        ("baseline", "rolled back", "ann"),
    }
    assert registry.aliases("weekly_sales") == {"champion": "2", "previous": "1"}
    with pytest.raises(
        NotPublished, match=r"the version to roll back to, .* rollback to v2 by ann serves from"
    ):
        rollback(lake, weekly, None, "ann", "asked for twice")
    _serve(lake, "2024-04-01")
    assert rollback(lake, weekly, None, "ann", "still late").note.startswith("rolled back to v1")
    with pytest.raises(NotPublished, match="a champion before the live one"):
        rollback(lake, weekly, None, "ann", "still late")
    # forward again, by name
    assert rollback(lake, weekly, "3", "bob", "it was the network").note.startswith(
        "rolled back to v3 by bob"
    )


def test_a_rollback_can_be_asked_for_twice(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """To what is live already it does nothing and says so; the same request again doesn't go further back."""
    _three(lake, weekly, attempt, registry)
    version = lake.version("switches")
    assert rollback(lake, weekly, "v3", "ann", "sure?").note.startswith("nothing to do: v3")
    assert lake.version("switches") == version
    refs = [rollback(lake, weekly, None, "ann", "slow", request="run 7") for _ in range(3)]
    assert [ref.digest for ref in refs] == [digest_bytes(model(2))] * 3
    assert refs[1].note.startswith("already carried out")
    assert lake.version("switches") == version + 1


def test_a_rollback_that_cannot_serve_is_refused(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """An unknown version, no name, no reason, or a model that can't be loaded: an error, and no switch."""
    with pytest.raises(NotPublished, match=r"no champion yet .*; there is no earlier champion: train again"):
        rollback(lake, weekly, None, "ann", "slow")
    _three(lake, weekly, attempt, registry)
    version = lake.version("switches")
    with pytest.raises(
        NotPublished, match=r"found v7, which was never champion .*; choose one of v1, v2, v3 as the version$"
    ):
        rollback(lake, weekly, "7", "ann", "slow")
    with pytest.raises(NotPublished, match=r"found 'abc', which was never champion"):
        rollback(lake, weekly, "vabc", "ann", "slow")
    for by, reason in (("", "slow"), ("ann", " ")):
        with pytest.raises(EvergreenError, match="a name and a reason"):
            rollback(lake, weekly, None, by, reason)
    lake.replace(artifacts.model_key(digest_bytes(model(2))), b"half a mod")
    with pytest.raises(ModelError, match="SHA-256"):
        rollback(lake, weekly, None, "ann", "slow")
    assert lake.version("switches") == version


def test_a_person_can_overrule_the_gate(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """Force deploys what the gate refused, once, and the name and reason are recorded with the verdict."""
    first, worse = attempt(1, FIRST), attempt(2, SECOND, champion=1, refused=True)
    judge_and_record(lake, weekly, first)
    promote(lake, weekly, _key(first), registry=registry)
    judge_and_record(lake, weekly, worse)
    with pytest.raises(EvergreenError, match="a name and a reason"):
        force(lake, weekly, _key(worse), "ann", "", registry=registry)
    ref = force(lake, weekly, _key(worse), "ann", "the champion leaks", registry=registry)
    assert "v2 forced by ann" in ref.note
    assert "the champion leaks; the gate said: not blessed: " in ref.note
    assert _champion(lake, THIRD) == "2"
    assert [row["verdict"] for row in verdicts.attempts(lake)] == [RUBBER_STAMPED, NOT_BLESSED, FORCED]
    assert [row["kind"] for row in ledger.champions(ledger.switches(lake))] == ["promoted", "forced"]
    assert registry.aliases("weekly_sales") == {"champion": "2", "previous": "1"}
    # what serves already is not forced once more, and what promoted it stays what it was
    again = force(lake, weekly, _key(worse), "bob", "me too", registry=registry)
    assert again.note == f"nothing to do: {ref.note}"


@pytest.mark.parametrize("act", ["force", "rollback"])
def test_a_switch_from_a_partition_that_was_withdrawn_can_be_repeated_to_serve_earlier(
    act: str, lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """A mistyped partition was the newest when version 1 was promoted; without it the next one is free."""
    where, far = attempt(1, FIRST), "2024-12-30"
    judge_and_record(lake, weekly, where)
    _serve(lake, FIRST, SECOND, far)
    promote(lake, weekly, _key(where), registry=registry)
    lake.publish("partitions", PARTITIONS.empty_table(), {"product": ["predictions"], "partition": [far]})
    assert _champion(lake, THIRD) == ""
    act_text = "v1 forced" if act == "force" else "rolled back to v1"
    for note in (f"{act_text} by ann", f"nothing to do: {act_text}"):
        if act == "force":
            ref = force(lake, weekly, _key(where), "ann", "it must serve now", registry=registry)
        else:
            ref = rollback(lake, weekly, "1", "ann", "it must serve now")
        assert ref.note.startswith(note)
        assert ref.partition == THIRD
    assert [_champion(lake, partition) for partition in (SECOND, THIRD, "2025-01-06")] == ["", "1", "1"]


def test_what_was_forced_can_be_forced_again(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """After another switch a second force of the same attempt switches; the same request does so once."""
    first, worse = attempt(1, FIRST), attempt(2, SECOND, champion=1, refused=True)
    judge_and_record(lake, weekly, first)
    promote(lake, weekly, _key(first), registry=registry)
    judge_and_record(lake, weekly, worse)
    key = _key(worse)
    force(lake, weekly, key, "ann", "a try", registry=registry, request="run 1")
    rollback(lake, weekly, "1", "ann", "no better")
    notes = [
        force(lake, weekly, key, by, reason, registry=registry, request=request).note
        for by, reason, request in (
            ("ann", "a try", "run 1"),
            ("bob", "fixed", "run 2"),
            ("bob", "x", "run 2"),
        )
    ]
    assert notes[0].startswith("nothing to do: v2 forced by ann")
    assert notes[1].startswith("v2 forced by bob, champion from 2024-03-18 on: fixed; the gate said: not")
    assert notes[2] == f"nothing to do: {notes[1]}"
    rows = ledger.champions(ledger.switches(lake))
    assert [(row["version"], row["kind"], row["by"]) for row in rows] == [
        ("1", "promoted", ""),
        ("2", "forced", "ann"),
        ("1", "rolled back", "ann"),
        ("2", "forced", "bob"),
    ]
    assert {row["attempt"] for row in rows if row["version"] == "2"} == {ledger.forced_key(key)}
    (forced,) = [row for row in verdicts.attempts(lake) if row["verdict"] == FORCED]
    assert forced["sentence"].startswith("forced by ann: a try")
    # evaluating it again finds the champion that it had to beat then, however often it was switched to
    assert (ledger.champion_to_beat(lake, SECOND, key) or {})["version"] == "1"
    # gone back to, it still shows as forced
    third = attempt(3, THIRD, champion=2)
    judge_and_record(lake, weekly, third)
    promote(lake, weekly, _key(third), registry=registry)
    rollback(lake, weekly, None, "ann", "late")
    assert ledger.was_forced(ledger.champions(ledger.switches(lake))[-1])
    assert not ledger.was_forced(ledger.champions(ledger.switches(lake))[0])


def test_the_way_back_is_short_however_long_the_ledger(
    lake: Lake, weekly: UseCase, attempt: Attempt, registry: Registry
) -> None:
    """After a thousand switches, with as many attempts and partitions served, a rollback takes seconds."""
    _three(lake, weekly, attempt, registry)
    pairs, last = ledger.switches(lake)[-4:], verdicts.attempts(lake)[-1]
    turns = [{**row, "switch": row["switch"] + 2 * turn} for turn in range(1, 500) for row in pairs]
    tries = [{**last, "recorded": number} for number in range(4, 1000)]
    for table, rows, schema in (("switches", turns, SWITCHES), ("attempts", tries, ATTEMPTS)):
        lake.append_at(table, pa.Table.from_pylist(rows, schema), lake.version(table))
    _serve(lake, *weekly.clock.keys(FIRST, "2043-12-28"))
    began = time.monotonic()
    ref = rollback(lake, weekly, None, "ann", "late by an hour", registry=registry)
    took = time.monotonic() - began
    assert ref.note.startswith("rolled back to v2 by ann, champion from 2044-01-04 on")
    assert took < 10
