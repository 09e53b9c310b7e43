"""The gate blesses only a challenger that passes every check; each check can block by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from include.judge.checks import CHECKS as GATE_CHECKS
from include.judge.checks import MIN_PAST_MOVES, MOVEMENT_ALPHA, movement_limit
from include.judge.evidence import EdgeCase, Evidence, Leakage, Losses, OnnxFile, Refit, ServingTest, Slice
from include.judge.evidence import Fairness as FairnessFound
from include.judge.judge import BLESSED, NOT_BLESSED, NOT_ENOUGH, RUBBER_STAMPED, Verdict, checks_of, judge
from include.spec import load
from include.spec.gate import (
    FairnessRequirement,
    FairnessRules,
    Gate,
    Requirement,
    ServingRequirement,
    Slices,
)
from include.stats.intervals import Gain
from tests.promote.conftest import evidence, facts, losses, partitions, selection

RATES = FairnessRules(
    columns=("origin",),
    requirements=(FairnessRequirement(metric="tpr_difference", at_most=0.2, hard=True),),
)
SHIPPED = load("flight_delay").gate
GATE = SHIPPED.model_copy(
    update={
        "requirements": tuple(rule.model_copy(update={"hard": True}) for rule in SHIPPED.requirements),
        "slices": Slices(columns=("carrier",), min_rows=200),
        "fairness": RATES,
        "robustness": 1.0,
        "serving": (ServingRequirement(metric="p95_ms", at_most=50, hard=True),),
        "onnx": True,
    }
)
ENOUGH = GATE.min_partitions
COUNT = ENOUGH + 2 - ENOUGH % 2
WAVE = np.random.default_rng(5).standard_normal(COUNT)
WAVE -= WAVE.mean()  # what a partition does to every model
PROVING = GATE.model_copy(update={"prove": True})
# a fit that moved as far as the ones before, and its twin on the newest week
ROWS = (100,) * 7
SERVING = tuple(50.0 + 0.5 * math.cos(partition) for partition in range(7))
HONEST_REFIT = Refit(
    0.05, (0.04, 0.06, 0.05), ROWS, SERVING, SERVING, seen_rows=ROWS, seen_now=SERVING, seen_before=SERVING
)


def _good(**changes: Any) -> Evidence:
    """Return evidence of a challenger that is better than all others on each partition."""
    partition = 0.5 + 0.1 * WAVE
    wave = 0.002 * np.cos(np.arange(COUNT) * 1.7)
    test_losses = losses(
        partition, partition + 0.02 + wave, prior=partition + 0.1 + wave, logistic=partition + 0.03 - wave
    )
    return _with_facts(evidence(test_losses, **changes))


def _with_facts(record: Evidence, **changes: Any) -> Evidence:
    """Return the evidence with passing facts, except for the changed ones."""
    challenger_means = record.losses.sums["challenger"]
    part = Slice(
        "carrier = AA",
        True,
        (20,) * len(challenger_means),
        tuple(v / 5 for v in challenger_means),
        tuple(v / 5 + 0.2 for v in challenger_means),
    )
    group = {"rows": 900.0, "tpr": 0.5}
    fair = FairnessFound("origin", {"EWR": group, "JFK": group}, {"tpr_difference": 0.1})
    passing = {"slices": (part,), "fairness": (fair,), "refit": HONEST_REFIT, "onnx": OnnxFile(1e-9)}
    return replace(record, facts=facts(record.losses, **passing | changes))


def _slice(worse: float, noise: float = 0.0, count: int = COUNT, rows: int = 20) -> Slice:
    """Return a declared slice whose loss per row is higher with the challenger."""
    rival_means = np.full(count, 0.5) + 0.01 * np.cos(np.arange(count))
    challenger_means = rival_means + worse + noise * WAVE[:count]
    return Slice(
        "carrier = AA", True, (rows,) * count, tuple(challenger_means * rows), tuple(rival_means * rows)
    )


def _with(record: Evidence, **sums: np.ndarray) -> Evidence:
    """Return the evidence with other losses of some models (mean a row, by partition)."""
    all_sums = dict(record.losses.sums)
    all_sums |= {name.replace("_", ":"): tuple(means * 100) for name, means in sums.items()}
    return replace(record, losses=replace(record.losses, sums=all_sums))


def _scaled(factor: float) -> tuple[float, ...]:
    """Return the serving model's losses times a factor."""
    return tuple(factor * loss for loss in SERVING)


def _twin(worse: float, **changes: Any) -> Evidence:
    """Return evidence whose twin loses more than the serving model on each of the newest partitions."""
    return _with_facts(_good(), refit=replace(HONEST_REFIT, twin=_scaled(1 + worse), **changes))


def _proven(low: float) -> Evidence:
    """Return evidence of a change of recipe whose gain has this lower bound."""
    return replace(_good(), selection={**selection("ridge"), "gain": (0.02, low)})


def _judge(record: Evidence, gate: Gate = GATE, champion: bool = True) -> Verdict:
    return judge(record, gate, champion=champion)


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if check.passed is False]


def test_a_sound_fit_of_the_chosen_recipe_is_blessed() -> None:
    """A challenger that passes every check is blessed, with the reason for which its recipe was chosen."""
    verdict = _judge(_good())
    assert verdict.verdict == BLESSED
    assert verdict.promotes
    assert all(check.passed for check in verdict.checks)
    assert verdict.sentence == "blessed: its weight is the largest"
    assert checks_of(verdict.checks_json()) == verdict.checks


def test_without_a_champion_it_is_a_rubber_stamp() -> None:
    """The first training always serves if nothing speaks against it: there is nothing to compare with."""
    good = _good()
    alone = {name: sums for name, sums in good.losses.sums.items() if name != "champion"}
    first = replace(good, champion="", losses=replace(good.losses, sums=alone), selection=selection())
    first = _with_facts(first, refit=None)
    assert _judge(first, champion=False).verdict == RUBBER_STAMPED
    assert _judge(first, champion=False).promotes
    assert _judge(first, PROVING, champion=False).promotes


def test_a_tie_with_the_champion_or_a_baseline_is_blessed() -> None:
    """Which recipe serves is decided by the walks and not by the losses of one test window."""
    for tie in ({"champion": LOSSES}, {"baseline_logistic": LOSSES}, {"champion": LOSSES - 0.02}):
        assert _judge(_with(_good(), **tie)).promotes, tie


LOSSES = 0.5 + 0.1 * WAVE
HONEST: Leakage = _good().facts.leakage
EDGE_CASES = _good().facts.edge_cases
CHECKS: dict[str, tuple[Evidence, str]] = {
    "a requirement missed": (
        _good(metrics={"challenger": {"roc_auc": 0.59, "calibration_gap": 0}}),
        "roc_auc",
    ),
    "an upper limit passed": (
        _good(metrics={"challenger": {"roc_auc": 0.7, "calibration_gap": 0.16}}),
        "calibration_gap",
    ),
    "a figure that isn't there": (_good(metrics={"challenger": {"roc_auc": 0.7}}), "calibration_gap"),
    "a figure that isn't a number": (
        _good(metrics={"challenger": {"roc_auc": float("inf"), "calibration_gap": 0.0}}),
        "roc_auc",
    ),
    "values that were never fitted on": (
        _with_facts(_good(), unseen_shares={"temp": 0.1, "dest": 0.31}),
        "values not seen in training",
    ),
    "unseen values not measured": (_with_facts(_good(), unseen_shares={}), "values not seen in training"),
    "a feature that decides alone": (
        _with_facts(_good(), leakage=replace(HONEST, single_feature={"temp": 0.6, "arr_delay": 0.985})),
        "strongest single feature",
    ),
    "no single feature": (
        _with_facts(_good(), leakage=replace(HONEST, single_feature={})),
        "strongest single feature",
    ),
    "features that decide together": (
        _with_facts(_good(), leakage=replace(HONEST, all_features={"challenger": 0.7, "linear": 0.98})),
        "all features together",
    ),
    "no score of all features": (
        _with_facts(_good(), leakage=replace(HONEST, all_features={})),
        "all features together",
    ),
    "shuffled labels that teach": (
        _with_facts(_good(), leakage=replace(HONEST, shuffled_losses=_good().losses.sums["challenger"])),
        "shuffled labels over a constant",
    ),
    "no shuffled labels": (
        _with_facts(_good(), leakage=replace(HONEST, shuffled_losses=())),
        "shuffled labels over a constant",
    ),
    "far better than ever before": (
        _with_facts(
            _good(), leakage=replace(HONEST, loss_reduction=0.4, past_loss_reductions=(0.1, 0.12, 0.09))
        ),
        "loss reduction against the prior",
    ),
    "no share that is saved": (
        _with_facts(_good(), leakage=replace(HONEST, loss_reduction=None)),
        "loss reduction against the prior",
    ),
    "a crash": (
        _with_facts(
            _good(), edge_cases=(*EDGE_CASES, EdgeCase("no rows", "rows", False, None, "ValueError"))
        ),
        "edge cases passed",
    ),
    "a feature that mustn't be missing": (
        _with_facts(_good(), edge_cases=(*EDGE_CASES, EdgeCase("dest missing", "missing", True, 1.01))),
        "worst edge case",
    ),
    "nothing that was harmed": (_with_facts(_good(), edge_cases=EDGE_CASES[:1]), "worst edge case"),
    "no edge cases": (_with_facts(_good(), edge_cases=()), "edge cases"),
    "another prediction in a fresh process": (
        _with_facts(_good(), serving=ServingTest(False, {"p95_ms": 5.0}, "row 3 differs")),
        "predictions in a fresh process",
    ),
    "too slow": (_with_facts(_good(), serving=ServingTest(True, {"p95_ms": 51.0})), "p95_ms"),
    "no latency": (_with_facts(_good(), serving=ServingTest(True, {"p50_ms": 1.0})), "p95_ms"),
    "no fresh process": (_with_facts(_good(), serving=None), "predictions in a fresh process"),
    "an ONNX file that predicts otherwise": (
        _with_facts(_good(), onnx=OnnxFile(1.01e-9)),
        "difference of the ONNX file's predictions",
    ),
    "a model that can't be an ONNX file": (
        _with_facts(_good(), onnx=OnnxFile(None, "there is no converter")),
        "difference of the ONNX file's predictions",
    ),
    "no ONNX file": (_with_facts(_good(), onnx=None), "difference of the ONNX file's predictions"),
    "an unfair difference": (
        _with_facts(_good(), fairness=(FairnessFound("origin", {}, {"tpr_difference": 0.21}),)),
        "origin tpr_difference",
    ),
    "no groups": (_with_facts(_good(), fairness=()), "origin tpr_difference"),
    "a slice that got worse": (_with_facts(_good(), slices=(_slice(0.05),)), "slices"),
    "a declared column without a slice": (_with_facts(_good(), slices=()), "slices"),
    "no slices": (_with_facts(_good(), slices=None), "slices"),
    "a recipe that nothing chose": (replace(_good(), selection={}), "recipe"),
    "a gain that isn't proven": (_proven(-0.01), "gain over ridge"),
    "no gain": (_proven(float("nan")), "gain over ridge"),
    "a fit that is worse on what both have seen": (
        _with_facts(_good(), refit=replace(HONEST_REFIT, seen_now=_scaled(1.05))),
        "loss over the previous fit, on rows that both have seen",
    ),
    "predictions that moved too far": (
        _with_facts(_good(), refit=replace(HONEST_REFIT, moved=0.3)),
        "movement of the predictions",
    ),
    "a twin that is worse": (_twin(0.05), "loss of a twin over the serving model"),
}


@pytest.mark.parametrize("case", CHECKS)
def test_each_check_refuses_by_itself(case: str) -> None:
    """With a single defect only its check fails, and the sentence names it."""
    record, name = CHECKS[case]
    verdict = _judge(record, PROVING if "gain over" in name else GATE)
    assert verdict.verdict == NOT_BLESSED
    assert not verdict.promotes
    assert len(_failed(verdict)) == 1
    assert _failed(verdict)[0].endswith(name)
    assert name in verdict.sentence


def test_without_a_prior_nothing_is_blessed() -> None:
    """Without the prior's losses there is nothing that shuffled labels could be compared with."""
    record = _good()
    alone = {name: sums for name, sums in record.losses.sums.items() if ":" not in name}
    verdict = _judge(replace(record, losses=replace(record.losses, sums=alone)))
    assert _failed(verdict) == ["gain of shuffled labels over a constant"]


def test_a_proof_is_required_of_another_recipe_only() -> None:
    """With ``prove`` a change needs a proven gain, and a refresh of the serving recipe needs none."""
    assert _judge(_proven(-0.01)).promotes
    assert not _judge(_proven(0.0), PROVING).promotes
    verdict = _judge(_proven(0.01), PROVING)
    assert verdict.promotes
    assert "log_loss gain over ridge 0.02 [0.01, inf), required > 0 at level 0.95, at any time" in [
        check.sentence() for check in verdict.checks
    ]
    assert _judge(replace(_good(), selection=selection("forest")), PROVING).promotes


# is the new fit broken


def test_a_fit_may_lose_a_little_more_on_what_both_have_seen() -> None:
    """What is within 1 % of the previous fit, or what chance explains, refuses no fit."""
    unsteady = tuple(loss + 8 * math.cos(math.pi * place) + 2 for place, loss in enumerate(SERVING))
    for losses_now in (_scaled(1.009), _scaled(0.8), unsteady):
        assert _judge(_with_facts(_good(), refit=replace(HONEST_REFIT, seen_now=losses_now))).promotes
    assert not _judge(_with_facts(_good(), refit=replace(HONEST_REFIT, seen_now=_scaled(1.011)))).promotes


def test_a_fit_on_more_rows_may_lose_what_they_cost() -> None:
    """That is the margin over the walk times the growth; one wild partition of the walk allows no more."""
    grown = replace(HONEST_REFIT, seen_now=_scaled(1.05), seen_walk=_scaled(2.0), growth=0.1)
    assert _judge(_with_facts(_good(), refit=grown)).promotes
    assert not _judge(_with_facts(_good(), refit=replace(grown, growth=0.01))).promotes
    wild = (1e9, *_scaled(1.0)[1:])
    assert not _judge(_with_facts(_good(), refit=replace(grown, seen_walk=wild))).promotes


@pytest.mark.parametrize("broken", [1e6, 1e300, math.inf, math.nan])
def test_a_fit_after_a_perfect_one_is_compared_as_well(broken: float) -> None:
    """However large its loss is, and whatever it is divided by."""
    nothing = (0.0,) * len(ROWS)
    refit = replace(HONEST_REFIT, seen_before=nothing, seen_now=(broken,) * len(ROWS))
    assert not _judge(_with_facts(_good(), refit=refit)).promotes


@pytest.mark.parametrize(("moved", "worse"), [(0.3, 1.0), (0.05, 1.05)])
def test_a_fit_may_differ_from_the_ones_before_if_the_relation_has_changed(
    moved: float, worse: float
) -> None:
    """Then neither its movement nor its loss on older rows tells anything, and the note says so."""
    refit = replace(HONEST_REFIT, moved=moved, seen_now=_scaled(worse))
    record = _with_facts(_good(), refit=refit)
    assert not _judge(record).promotes
    changed = replace(record, selection={**record.selection, "relation_changed": True})
    assert _judge(changed).promotes
    assert any(
        "the relation between features and label has changed" in c.note for c in _judge(changed).checks
    )


@given(st.lists(st.floats(1e-4, 0.5), min_size=MIN_PAST_MOVES, max_size=26))
def test_a_fit_that_moved_no_further_than_the_ones_before_passes(past: list[float]) -> None:
    """The limit is above every usual movement, and grows with them."""
    limit = movement_limit(past)
    assert limit > np.exp(np.log(past).mean())
    assert movement_limit([2 * move for move in past]) == pytest.approx(2 * limit)


def test_sound_fits_move_beyond_the_limit_as_rarely_as_stated() -> None:
    """Of 4000 fits that move as the ones before do, about one in a hundred is refused."""
    moves = np.exp(0.4 * np.random.default_rng(12).standard_normal((4000, 9)))
    beyond = sum(move[-1] > movement_limit(move[:-1]) for move in moves)
    assert beyond <= binom.ppf(0.999, 4000, MOVEMENT_ALPHA)


def test_equal_movements_leave_room() -> None:
    """A few fits that moved equally far by chance don't refuse the next one that moves a little further."""
    still = replace(HONEST_REFIT, past_moves=(0.05, 0.05, 0.05), moved=0.06)
    assert _judge(_with_facts(_good(), refit=still)).promotes


@pytest.mark.parametrize(
    "refit",
    [
        None,
        replace(HONEST_REFIT, moved=None),
        replace(HONEST_REFIT, moved=9.0, past_moves=(0.05,) * (MIN_PAST_MOVES - 1)),
        replace(HONEST_REFIT, twin=(90.0,), serving=(50.0,), rows=(100,)),
        replace(HONEST_REFIT, twin=(), serving=(), rows=()),
        replace(HONEST_REFIT, seen_now=(90.0,), seen_before=(50.0,), seen_rows=(100,)),
    ],
)
def test_what_cannot_be_compared_refuses_nothing(refit: Refit | None) -> None:
    """Neither a first fit, nor a short history, nor a single new partition, nor a champion that is gone."""
    assert _judge(_with_facts(_good(), refit=refit)).promotes


@pytest.mark.parametrize(
    ("fit", "name"),
    [
        (replace(HONEST_REFIT, moved=0.3), "movement of the predictions"),
        (
            replace(HONEST_REFIT, seen_now=_scaled(1.05)),
            "loss over the previous fit, on rows that both have seen",
        ),
    ],
)
@pytest.mark.parametrize("since", [1, 7])
def test_a_fit_that_differs_passes_once_a_refused_fit_has_been_right(
    fit: Refit, name: str, since: int
) -> None:
    """It was refused for the same, and has lost no more than what serves on the newest partitions since."""
    right, equal, wrong = (_scaled(factor)[-since:] for factor in (0.9, 1.0, 1.1))
    assert _judge(_with_facts(_good(), refit=replace(fit, refused=right))).promotes
    assert _judge(_with_facts(_good(), refit=replace(fit, refused=equal))).promotes
    assert _failed(_judge(_with_facts(_good(), refit=replace(fit, refused=wrong)))) == [name]


def test_a_twin_is_refused_only_if_it_is_shown_to_be_worse() -> None:
    """What chance explains, and what is within 1 %, refuses no fit."""
    assert _judge(_twin(0.009)).promotes
    assert _judge(_twin(-0.2)).promotes
    unsteady = tuple(loss + 8 * np.cos(np.pi * place) + 2 for place, loss in enumerate(SERVING))
    assert _judge(_with_facts(_good(), refit=replace(HONEST_REFIT, twin=unsteady))).promotes
    verdict = _judge(_twin(0.03))
    assert "required lower bound at most 0.005" in verdict.sentence
    assert "on the newest 7 partitions" in verdict.sentence


def test_what_chance_explains_refuses_no_slice() -> None:
    """A slice passes if it is worse by noise or within the tolerance, or has few rows."""
    for part in (_slice(0.02, noise=0.2), _slice(0.009), _slice(0.5, rows=4), _slice(0.5, count=8, rows=50)):
        padded = replace(
            part,
            **{
                name: (*getattr(part, name), *(0,) * (COUNT - len(part.rows)))
                for name in ("rows", "challenger", "rival")
            },
        )
        fine = _good().facts.slices or ()
        other = replace(padded, name="dest = XNA", declared=False)
        assert _judge(_with_facts(_good(), slices=(*fine, other))).promotes, part


def test_the_first_attempts_have_no_history_to_be_too_good_for() -> None:
    """With fewer than three earlier attempts the loss reduction is reported and not limited."""
    leakage = replace(HONEST, loss_reduction=0.9, past_loss_reductions=(0.1, 0.1))
    assert _judge(_with_facts(_good(), leakage=leakage)).promotes


def test_a_missing_figure_is_not_zero() -> None:
    """A missing figure fails with a list of the available ones, rather than counting as 0."""
    verdict = _judge(_good(metrics={"challenger": {"roc_auc": 0.7}}))
    assert "calibration_gap missing, required at most 0.15 (the evaluation has roc_auc)" in verdict.sentence


@pytest.mark.parametrize("count", [0, 1, 5, ENOUGH - 1])
def test_too_few_partitions_are_a_verdict_of_their_own(count: int) -> None:
    """With fewer partitions than declared there is no verdict, with or without a champion."""
    rising = np.arange(count) * 0.01
    record = evidence(losses(rising, rising + 1, prior=rising + 2))
    for champion in (True, False):
        verdict = _judge(record, champion=champion)
        assert verdict.verdict == NOT_ENOUGH
        assert not verdict.promotes
        assert f"matured test partitions {count}, required at least {ENOUGH}" in verdict.sentence
        assert f"{2 * ENOUGH} labeled ones are enough" in verdict.sentence
        assert [c.key for c in verdict.checks if c.passed is None] == list(GATE_CHECKS)


@pytest.mark.parametrize(
    ("labeled", "note"),
    [
        (2 * ENOUGH - 1, f"{2 * ENOUGH} labeled ones are enough and there are {2 * ENOUGH - 1}, and until"),
        (2 * ENOUGH, f"{2 * ENOUGH} partitions have labels, but too few of the newest; "),
    ],
)
def test_too_few_test_partitions_of_many_labeled_ones_are_not_for_want_of_history(
    labeled: int, note: str
) -> None:
    """Where labels are missing at the end, more history wouldn't help, and the verdict doesn't claim so."""
    few = np.arange(ENOUGH - 1) * 0.01
    record = _with_facts(evidence(losses(few, few + 1, prior=few + 2)), labeled=labeled)
    assert note in _judge(record, champion=False).sentence


def test_a_leak_that_is_measured_on_too_few_partitions_is_a_warning() -> None:
    """The sentence names it, no check counts as failed, and one without a leak isn't mentioned."""
    short = losses(np.arange(5) * 0.01, np.arange(5) * 0.01 + 1, prior=np.arange(5) * 0.01 + 2)
    record = evidence(short)
    leakage = replace(record.facts.leakage, all_features={"challenger": 0.985}, single_feature={"temp": 0.6})
    verdict = _judge(replace(record, facts=replace(record.facts, leakage=leakage)))
    assert verdict.verdict == NOT_ENOUGH
    assert "; warning: all features together ROC-AUC 0.985, required below 0.98 (" in verdict.sentence
    assert "strongest single feature" not in verdict.sentence
    assert _failed(verdict) == ["matured test partitions"]
    (leak,) = [check for check in verdict.checks if check.name == "all features together"]
    assert (leak.passed, leak.observed) == (None, "ROC-AUC 0.985")


@pytest.mark.parametrize(
    ("partitions", "rows", "is_enough"),
    [(7, 1, True), (6, 8, False), (2, 25, True), (2, 24, False), (1, 1000, False)],
)
def test_few_partitions_are_enough_by_default_if_they_have_many_rows(
    partitions: int, rows: int, is_enough: bool
) -> None:
    """Seven test partitions are, or two with fifty rows; what is declared counts whatever their rows."""
    rising = np.arange(partitions) * 0.01 + 1
    own = losses(rising, rising + 1, prior=rising + 2)
    record = evidence(replace(own, rows=(rows,) * partitions))
    gate = GATE.model_copy(update={"min_partitions": None})
    verdict = _judge(record, gate)
    assert (verdict.verdict != NOT_ENOUGH) == is_enough, verdict.sentence
    assert (
        is_enough or f"{partitions} with {rows * partitions:,} rows, required at least 7" in verdict.sentence
    )
    assert _judge(record, GATE.model_copy(update={"min_partitions": 8})).verdict == NOT_ENOUGH


def test_a_block_spans_at_most_half_of_the_partitions() -> None:
    """Longer ones are judged as two blocks."""
    half, longer = (GATE.model_copy(update={"block_partitions": COUNT // 2 + more}) for more in (0, 1))
    assert _judge(_good(), longer) == _judge(_good(), half)


@pytest.mark.parametrize("last", ["", "2013-02-01", "2013-02-05"])
def test_rows_that_were_fitted_are_no_evidence(last: str) -> None:
    """A test partition that a model was, or may have been, fitted on isn't evidence."""
    verdict = _judge(_good(last_fitted=last))
    assert verdict.verdict == NOT_ENOUGH
    assert _failed(verdict) == ["first test partition"]


def test_a_gain_that_is_too_small_by_little_is_printed_so() -> None:
    """The lower bound and the required gain have enough digits to show which is larger."""
    assert Gain(0.02, 0.0099996, 0.95).interval_and_limit(0.01) == ("0.02 [0.0099996, inf)", "0.01")
    assert Gain(0.02, 0.0112345678, 0.95).interval_and_limit(0.01) == ("0.02 [0.01123, inf)", "0.01")


def _from_rows(rows: list[tuple[int, float, float, float]]) -> Evidence:
    counts, challenger, champion, prior = zip(*rows, strict=True)
    sums = {"challenger": challenger, "champion": champion, "baseline:prior": prior}
    return _with_facts(evidence(Losses(partitions(len(rows)), counts, sums)))


loss_rows = st.lists(
    st.tuples(st.integers(1, 1000), st.floats(0, 50), st.floats(40, 100), st.floats(60, 100)),
    min_size=ENOUGH,
    max_size=ENOUGH + 12,
)


@pytest.mark.full
@given(loss_rows, st.floats(-0.1, 0.1), st.floats(0, 1), st.integers(0, 20), st.booleans())
def test_asking_more_never_turns_a_refusal_into_a_blessing(
    rows: list[tuple[int, float, float, float]], low: float, moved: float, more: int, champion: bool
) -> None:
    """A stricter policy never blesses what a laxer one refused, and verdicts are deterministic."""
    record = _with_facts(_from_rows(rows), refit=replace(HONEST_REFIT, moved=moved))
    record = replace(record, selection={**selection("ridge"), "gain": (max(low, 0.0), low)})
    verdict = _judge(record, GATE, champion)
    assert _judge(Evidence.from_json(record.to_json()), GATE, champion) == verdict
    stricter = [
        _judge(record, PROVING, champion),
        _judge(record, GATE.model_copy(update={"min_partitions": GATE.min_partitions + more}), champion),
        _judge(record, GATE.model_copy(update={"robustness": 0.05}), champion),
    ]
    if not verdict.promotes:
        assert not any(other.promotes for other in stricter)
    assert (verdict.verdict == BLESSED) == all(check.passed for check in verdict.checks)


def _soft(gate: Gate) -> Gate:
    """Return the gate with no hard requirement."""
    assert gate.fairness is not None

    def soft(rules: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
        return tuple(rule.model_copy(update={"hard": False}) for rule in rules)

    fairness = gate.fairness.model_copy(update={"requirements": soft(gate.fairness.requirements)})
    changes = {"requirements": soft(gate.requirements), "serving": soft(gate.serving), "fairness": fairness}
    return gate.model_copy(update=changes)


@pytest.mark.parametrize(
    "case", ["a requirement missed", "a figure that isn't there", "too slow", "an unfair difference"]
)
def test_a_requirement_that_is_not_hard_is_reported_and_does_not_block(case: str) -> None:
    """A sound challenger that misses a requirement is blessed, and the sentence names what isn't met."""
    record, name = CHECKS[case]
    verdict = _judge(record, _soft(GATE))
    assert verdict.verdict == BLESSED
    assert [check.outcome for check in verdict.checks if not check.passed] == ["not met (not blocking)"]
    assert name in verdict.sentence.partition("; not met: ")[2]


def test_a_requirement_that_is_not_hard_does_not_hide_what_blocks() -> None:
    """Of two failed checks the sentence of the rejection names the blocking one."""
    record = replace(CHECKS["a requirement missed"][0], facts=CHECKS["a twin that is worse"][0].facts)
    verdict = _judge(record, _soft(GATE))
    assert verdict.verdict == NOT_BLESSED
    assert "loss of a twin" in verdict.sentence
    assert "roc_auc" not in verdict.sentence


def test_checks_that_earlier_code_stored_are_blocking() -> None:
    """A stored check without the field is read as a blocking one."""
    (check,) = checks_of('[{"name": "a", "required": "b", "observed": "c", "passed": false, "note": ""}]')
    assert check.blocking
