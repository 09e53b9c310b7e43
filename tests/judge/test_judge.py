"""The gate blesses only a challenger that passes every check; each check can block by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.judge.checks import CHECKS as GATE_CHECKS
from include.judge.context import attempt_alpha
from include.judge.evidence import EdgeCase, Evidence, Leakage, Losses, Serving, Slice
from include.judge.evidence import Fairness as FairnessFound
from include.judge.judge import BLESSED, NOT_BLESSED, NOT_ENOUGH, RUBBER_STAMPED, Verdict, checks_of, judge
from include.spec import load
from include.spec.gate import Fairness, Gate, Requirement, Slices
from include.stats.intervals import Gain
from tests.promote.conftest import evidence, facts, losses, partitions

RATES = Fairness(
    columns=("origin",),
    requirements=(Requirement(metric="tpr_difference", at_most=0.2, hard=True),),
)
SHIPPED = load("flight_delay").gate
GATE = SHIPPED.model_copy(
    update={
        "requirements": tuple(rule.model_copy(update={"hard": True}) for rule in SHIPPED.requirements),
        "slices": Slices(columns=("carrier",), min_rows=200),
        "fairness": RATES,
        "robustness": 1.0,
        "serving": (Requirement(metric="p95_ms", at_most=50, hard=True),),
    }
)
ENOUGH = GATE.min_partitions
COUNT = ENOUGH + 2 - ENOUGH % 2
WAVE = np.random.default_rng(5).standard_normal(COUNT)
WAVE -= WAVE.mean()  # what a partition does to every model
REFIT = "loss of the refitted model"


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
    return replace(record, facts=facts(record.losses, **{"slices": (part,), "fairness": (fair,)} | changes))


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


def _judge(record: Evidence, gate: Gate = GATE, attempt: int = 1, champion: bool = True) -> Verdict:
    return judge(record, gate, attempt, champion=champion)


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if check.passed is False]


def test_a_better_challenger_is_blessed() -> None:
    """A challenger that meets the requirements and has the lowest loss is blessed, with a reason."""
    verdict = _judge(_good())
    assert verdict.verdict == BLESSED
    assert verdict.promotes
    assert all(check.passed for check in verdict.checks)
    assert verdict.sentence.startswith("blessed: log_loss gain over champion aaaaaaaa 0.0")
    assert "required > 0 at level 0.969604 (attempt 1)" in verdict.sentence
    assert checks_of(verdict.checks_json()) == verdict.checks


def test_without_a_champion_it_is_a_rubber_stamp() -> None:
    """Without a champion, a challenger that beats the baselines is rubber-stamped."""
    good = _good()
    alone = {name: sums for name, sums in good.losses.sums.items() if name != "champion"}
    first = replace(good, champion="", losses=replace(good.losses, sums=alone))
    assert _judge(first, champion=False).verdict == RUBBER_STAMPED
    assert _judge(first, champion=False).promotes
    partition = np.array(good.losses.sums["challenger"]) / 100
    weak = _with(first, baseline_logistic=partition)
    assert _judge(weak, champion=False).verdict == NOT_BLESSED
    # and evidence without the champion's losses is no way round the champion that serves
    assert _judge(first, champion=True).verdict == NOT_BLESSED
    assert _failed(_judge(first, champion=True)) == ["log_loss gain over champion"]
    assert _judge(replace(first, note="v1 is damaged")).sentence.endswith("(v1 is damaged)")


LOSSES = 0.5 + 0.1 * WAVE
HONEST: Leakage = _good().facts.leakage
EDGE_CASES = _good().facts.edge_cases
CHECKS: dict[str, tuple[Evidence, str]] = {
    "as good as the champion": (_with(_good(), champion=LOSSES), "champion aaaaaaaa"),
    "worse than the champion": (_with(_good(), champion=LOSSES - 0.02), "champion aaaaaaaa"),
    "one lucky partition": (_with(_good(), champion=LOSSES + np.eye(COUNT)[3]), "champion aaaaaaaa"),
    "lucky on the whole": (_with(_good(), champion=LOSSES + 0.01 + 0.03 * WAVE), "champion aaaaaaaa"),
    "as good as the strongest baseline": (_with(_good(), baseline_logistic=LOSSES), "baseline logistic"),
    "as good as the prior": (_with(_good(), baseline_prior=LOSSES), "baseline prior"),
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
        _with_facts(_good(), coverage={"temp": 0.1, "dest": 0.31}),
        "values not seen in training",
    ),
    "no coverage": (_with_facts(_good(), coverage={}), "values not seen in training"),
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
        "shuffled labels over the prior",
    ),
    "no shuffled labels": (
        _with_facts(_good(), leakage=replace(HONEST, shuffled_losses=())),
        "shuffled labels over the prior",
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
        _with_facts(_good(), serving=Serving(False, {"p95_ms": 5.0}, "row 3 differs")),
        "predictions in a fresh process",
    ),
    "too slow": (_with_facts(_good(), serving=Serving(True, {"p95_ms": 51.0})), "p95_ms"),
    "no latency": (_with_facts(_good(), serving=Serving(True, {"p50_ms": 1.0})), "p95_ms"),
    "no fresh process": (_with_facts(_good(), serving=None), "predictions in a fresh process"),
    "an unfair difference": (
        _with_facts(_good(), fairness=(FairnessFound("origin", {}, {"tpr_difference": 0.21}),)),
        "origin tpr_difference",
    ),
    "no groups": (_with_facts(_good(), fairness=()), "origin tpr_difference"),
    "a slice that got worse": (_with_facts(_good(), slices=(_slice(0.05),)), "slices"),
    "a declared column without a slice": (_with_facts(_good(), slices=()), "slices"),
    "no slices": (_with_facts(_good(), slices=None), "slices"),
}


@pytest.mark.parametrize("case", CHECKS)
def test_each_check_refuses_by_itself(case: str) -> None:
    """With a single defect only its check fails, and the sentence names it."""
    record, name = CHECKS[case]
    verdict = _judge(record)
    assert verdict.verdict == NOT_BLESSED
    assert not verdict.promotes
    assert len(_failed(verdict)) == 1
    assert _failed(verdict)[0].endswith(name)
    assert name in verdict.sentence


def test_without_a_baseline_nothing_is_blessed() -> None:
    """Without a baseline, the baseline check and the shuffled-label check fail."""
    record = _good()
    alone = {name: sums for name, sums in record.losses.sums.items() if ":" not in name}
    verdict = _judge(replace(record, losses=replace(record.losses, sums=alone)))
    assert _failed(verdict) == ["gain of shuffled labels over the prior", "log_loss gain over baseline"]


def test_a_walk_forward_deploys_what_is_no_worse_on_the_rows_it_has_seen() -> None:
    """The refitted model's loss must be known and at most the walk's."""
    gate, mean = GATE.model_copy(update={"evidence": "walk_forward"}), float(LOSSES.mean())
    for refit, failed in ((mean, []), (mean * 1.001, [REFIT]), (None, [REFIT])):
        verdict = _judge(_with_facts(_good(), refit_loss=refit), gate)
        assert _failed(verdict) == failed
        assert verdict.promotes is not bool(failed)


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
        assert [c.name for c in verdict.checks if c.passed is None] == list(GATE_CHECKS)


def test_a_block_needs_a_second_one() -> None:
    """Two blocks of partitions are needed whatever the declared minimum."""
    record = _good()
    assert _judge(record, GATE.model_copy(update={"block_partitions": COUNT // 2})).verdict != NOT_ENOUGH
    assert _judge(record, GATE.model_copy(update={"block_partitions": COUNT // 2 + 1})).verdict == NOT_ENOUGH


@pytest.mark.parametrize("last", ["", "2013-02-01", "2013-02-05"])
def test_rows_that_were_fitted_are_no_evidence(last: str) -> None:
    """A test partition that a model was, or may have been, fitted on is no evidence."""
    verdict = _judge(_good(last_fitted=last))
    assert verdict.verdict == NOT_ENOUGH
    assert _failed(verdict) == ["first test partition"]


def test_a_small_gain_can_be_too_small() -> None:
    """The lower bound of the gain must exceed the declared share of the champion's loss."""
    record = _good()  # gains .02 of about .52, which is 3.8 %
    assert _judge(record, GATE.model_copy(update={"min_gain": 0.03})).verdict == BLESSED
    refused = _judge(record, GATE.model_copy(update={"min_gain": 0.045}))
    assert refused.verdict == NOT_BLESSED
    assert _failed(refused) == ["log_loss gain over champion aaaaaaaa"]


def test_a_gain_that_is_too_small_by_little_is_printed_so() -> None:
    """The lower bound and the required gain have enough digits to show which is larger."""
    assert Gain(0.02, 0.0099996, 0.95).interval_and_limit(0.01) == ("0.02 [0.0099996, inf)", "0.01")
    assert Gain(0.02, 0.0112345678, 0.95).interval_and_limit(0.01) == ("0.02 [0.01123, inf)", "0.01")


def test_trying_again_must_show_more() -> None:
    """A tenth attempt must show more than a first; with a champion, baselines are unaffected."""
    partition = LOSSES + 0.01 + 0.015 * WAVE
    record = _with(_good(), champion=partition)
    assert _judge(record).verdict == BLESSED
    refused = _judge(record, attempt=10)
    assert refused.verdict == NOT_BLESSED
    assert "(attempt 10)" in refused.sentence
    baselines = [[c for c in v.checks if "baseline" in c.name] for v in (_judge(record), refused)]
    assert baselines[0] == baselines[1]


def test_all_attempts_together_spend_alpha() -> None:
    """The shares of all attempts sum to at most alpha."""
    shares = [attempt_alpha(0.05, k) for k in range(1, 100_000)]
    assert sum(shares) < 0.05
    assert sum(shares) == pytest.approx(0.05, rel=1e-4)
    assert shares == sorted(shares, reverse=True)
    with pytest.raises(ValueError, match="from 1"):
        attempt_alpha(0.05, 0)


def test_a_loop_that_retries_promotes_noise_as_rarely_as_declared() -> None:
    """Of 400 loops of twelve equally good challengers, at most a share of alpha promote one."""
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(400):
        for attempt in range(1, 13):
            partition = 0.5 + 0.1 * random.standard_normal(ENOUGH)
            champion = partition + 0.02 * random.standard_normal(ENOUGH)
            prior = partition + 1 + 0.01 * random.standard_normal(ENOUGH)
            record = _with_facts(evidence(losses(partition, champion, prior=prior)))
            if _judge(record, attempt=attempt).promotes:
                wrong += 1
                break
    assert wrong <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def _from_rows(rows: list[tuple[int, float, float, float]]) -> Evidence:
    counts, challenger, champion, prior = zip(*rows, strict=True)
    sums = {"challenger": challenger, "champion": champion, "baseline:prior": prior}
    return _with_facts(evidence(Losses(partitions(len(rows)), counts, sums)))


loss_rows = st.lists(
    st.tuples(st.integers(1, 1000), st.floats(0, 50), st.floats(40, 100), st.floats(60, 100)),
    min_size=ENOUGH,
    max_size=ENOUGH + 12,
)


@given(loss_rows, st.integers(1, 40), st.floats(0.01, 0.2), st.floats(0, 0.5), st.booleans())
def test_asking_more_never_turns_a_refusal_into_a_blessing(
    rows: list[tuple[int, float, float, float]], attempt: int, alpha: float, least: float, champion: bool
) -> None:
    """A stricter policy never blesses what a laxer one refused, and verdicts are deterministic."""
    record, gate = _from_rows(rows), GATE.model_copy(update={"alpha": alpha, "min_gain": least})
    verdict = _judge(record, gate, attempt, champion)
    assert _judge(Evidence.from_json(record.to_json()), gate, attempt, champion) == verdict
    stricter = [
        _judge(record, gate, attempt + 1, champion),
        _judge(record, gate.model_copy(update={"alpha": alpha / 2}), attempt, champion),
        _judge(record, gate.model_copy(update={"min_gain": least + 0.1}), attempt, champion),
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
    """A better challenger that misses a requirement is blessed, and the sentence names what isn't met."""
    record, name = CHECKS[case]
    verdict = _judge(record, _soft(GATE))
    assert verdict.verdict == BLESSED
    assert [check.outcome for check in verdict.checks if not check.passed] == ["not met (not blocking)"]
    assert name in verdict.sentence.partition("; not met: ")[2]


def test_a_requirement_that_is_not_hard_does_not_hide_what_blocks() -> None:
    """Of two failed checks the sentence of the rejection names the blocking one."""
    record = replace(CHECKS["a requirement missed"][0], losses=CHECKS["worse than the champion"][0].losses)
    verdict = _judge(record, _soft(GATE))
    assert verdict.verdict == NOT_BLESSED
    assert "champion aaaaaaaa" in verdict.sentence
    assert "roc_auc" not in verdict.sentence


def test_checks_that_earlier_code_stored_are_blocking() -> None:
    """A stored check without the field is read as a blocking one."""
    (check,) = checks_of('[{"name": "a", "required": "b", "observed": "c", "passed": false, "note": ""}]')
    assert check.blocking
