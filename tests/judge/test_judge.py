"""The gate blesses what is better for good reasons and nothing else; each check can refuse by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.judge.checks import RULES
from include.judge.context import attempt_alpha
from include.judge.evidence import EdgeCase, Evidence, Leak, Losses, Serving, Slice
from include.judge.evidence import Fairness as FairnessFound
from include.judge.judge import BLESSED, NOT_BLESSED, NOT_ENOUGH, RUBBER_STAMPED, Verdict, checks_of, judge
from include.spec import load
from include.spec.gate import Fairness, Gate, Requirement, Slices
from include.stats.intervals import Gain
from tests.promote.conftest import evidence, facts, losses, partitions

RATES = Fairness(
    columns=("origin",),
    requirements=(Requirement(metric="tpr_difference", at_most=0.2),),
)
SHIPPED = load("flight_delay").gate
GATE = SHIPPED.model_copy(
    update={
        "slices": Slices(columns=("carrier",), min_rows=200),
        "fairness": RATES,
        "robustness": 1.0,
        "serving": (Requirement(metric="p95_ms", at_most=50),),
    }
)
ENOUGH = GATE.min_partitions
NIGHTS = ENOUGH + 2 - ENOUGH % 2
WAVE = np.random.default_rng(5).standard_normal(NIGHTS)
WAVE -= WAVE.mean()  # what a partition does to every model
REFIT = "loss of the refitted model"


def _good(**changes: Any) -> Evidence:
    """Return evidence of a challenger that is better than all others on each partition."""
    partition = 0.5 + 0.1 * WAVE
    rest = 0.002 * np.cos(np.arange(NIGHTS) * 1.7)
    found = losses(
        partition, partition + 0.02 + rest, prior=partition + 0.1 + rest, logistic=partition + 0.03 - rest
    )
    return _with_facts(evidence(found, **changes))


def _with_facts(made: Evidence, **changes: Any) -> Evidence:
    """Return the evidence with facts that pass, but for the changed ones."""
    now = made.losses.sums["challenger"]
    part = Slice(
        "carrier = AA", True, (20,) * len(now), tuple(v / 5 for v in now), tuple(v / 5 + 0.2 for v in now)
    )
    group = {"rows": 900.0, "tpr": 0.5}
    fair = FairnessFound("origin", {"EWR": group, "JFK": group}, {"tpr_difference": 0.1})
    return replace(made, facts=facts(made.losses, **{"slices": (part,), "fairness": (fair,)} | changes))


def _slice(worse: float, noise: float = 0.0, count: int = NIGHTS, rows: int = 20) -> Slice:
    """Return a declared slice that loses more with the challenger, by so much a row."""
    then = np.full(count, 0.5) + 0.01 * np.cos(np.arange(count))
    now = then + worse + noise * WAVE[:count]
    return Slice("carrier = AA", True, (rows,) * count, tuple(now * rows), tuple(then * rows))


def _with(made: Evidence, **sums: np.ndarray) -> Evidence:
    """Return the evidence with other losses of some models (mean a row, by partition)."""
    kept = dict(made.losses.sums)
    kept |= {name.replace("_", ":"): tuple(means * 100) for name, means in sums.items()}
    return replace(made, losses=replace(made.losses, sums=kept))


def _judge(made: Evidence, gate: Gate = GATE, attempt: int = 1, champion: bool = True) -> Verdict:
    return judge(made, gate, attempt, champion=champion)


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if check.passed is False]


def test_a_better_challenger_is_blessed() -> None:
    """A challenger that reaches what is required and loses less than all others is blessed, in a sentence."""
    verdict = _judge(_good())
    assert verdict.verdict == BLESSED
    assert verdict.promotes
    assert all(check.passed for check in verdict.checks)
    assert verdict.sentence.startswith("blessed: log_loss gain over champion aaaaaaaa 0.0")
    assert "required > 0 at level 0.969604 (attempt 1)" in verdict.sentence
    assert checks_of(verdict.checks_json()) == verdict.checks


def test_without_a_champion_it_is_a_rubber_stamp() -> None:
    """With nothing to compare with it may serve, under a verdict of its own, if it beats the baselines."""
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


NIGHT = 0.5 + 0.1 * WAVE
HONEST: Leak = _good().facts.leak
HELD = _good().facts.edge_cases
CHECKS: dict[str, tuple[Evidence, str]] = {
    "as good as the champion": (_with(_good(), champion=NIGHT), "champion aaaaaaaa"),
    "worse than the champion": (_with(_good(), champion=NIGHT - 0.02), "champion aaaaaaaa"),
    "one lucky partition": (_with(_good(), champion=NIGHT + np.eye(NIGHTS)[3]), "champion aaaaaaaa"),
    "lucky on the whole": (_with(_good(), champion=NIGHT + 0.01 + 0.03 * WAVE), "champion aaaaaaaa"),
    "as good as the strongest baseline": (_with(_good(), baseline_logistic=NIGHT), "baseline logistic"),
    "as good as the prior": (_with(_good(), baseline_prior=NIGHT), "baseline prior"),
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
        "values never fitted on",
    ),
    "no coverage": (_with_facts(_good(), coverage={}), "values never fitted on"),
    "a feature that decides alone": (
        _with_facts(_good(), leak=replace(HONEST, alone={"temp": 0.6, "arr_delay": 0.985})),
        "strongest single feature",
    ),
    "no single feature": (_with_facts(_good(), leak=replace(HONEST, alone={})), "strongest single feature"),
    "shuffled labels that teach": (
        _with_facts(_good(), leak=replace(HONEST, shuffled=_good().losses.sums["challenger"])),
        "shuffled labels over the prior",
    ),
    "no shuffled labels": (
        _with_facts(_good(), leak=replace(HONEST, shuffled=())),
        "shuffled labels over the prior",
    ),
    "far better than ever before": (
        _with_facts(_good(), leak=replace(HONEST, saved=0.4, history=(0.1, 0.12, 0.09))),
        "the prior's loss that is saved",
    ),
    "no share that is saved": (
        _with_facts(_good(), leak=replace(HONEST, saved=None)),
        "the prior's loss that is saved",
    ),
    "a crash": (
        _with_facts(_good(), edge_cases=(*HELD, EdgeCase("no rows", "rows", False, None, "ValueError"))),
        "edge cases that hold",
    ),
    "a feature that mustn't be missing": (
        _with_facts(_good(), edge_cases=(*HELD, EdgeCase("dest missing", "missing", True, 1.01))),
        "worst edge case",
    ),
    "nothing that was harmed": (_with_facts(_good(), edge_cases=HELD[:1]), "worst edge case"),
    "no edge cases": (_with_facts(_good(), edge_cases=()), "edge cases"),
    "another prediction in a fresh process": (
        _with_facts(_good(), serving=Serving(False, {"p95_ms": 5.0}, "row 3 differs")),
        "a fresh process",
    ),
    "too slow": (_with_facts(_good(), serving=Serving(True, {"p95_ms": 51.0})), "p95_ms"),
    "no latency": (_with_facts(_good(), serving=Serving(True, {"p50_ms": 1.0})), "p95_ms"),
    "no fresh process": (_with_facts(_good(), serving=None), "a fresh process"),
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
    """Where one thing alone is wrong, that check alone fails, and the sentence names it."""
    made, name = CHECKS[case]
    verdict = _judge(made)
    assert verdict.verdict == NOT_BLESSED
    assert not verdict.promotes
    assert len(_failed(verdict)) == 1
    assert _failed(verdict)[0].endswith(name)
    assert name in verdict.sentence


def test_without_a_baseline_nothing_is_blessed() -> None:
    """A challenger that was compared with no baseline is refused, and so is its test on shuffled labels."""
    made = _good()
    alone = {name: sums for name, sums in made.losses.sums.items() if ":" not in name}
    verdict = _judge(replace(made, losses=replace(made.losses, sums=alone)))
    assert _failed(verdict) == ["gain of shuffled labels over the prior", "log_loss gain over baseline"]


def test_a_walk_forward_deploys_what_is_no_worse_on_the_rows_it_has_seen() -> None:
    """The refitted model's loss is at most the walk's, and must be known; a held-out model has no refit."""
    gate, mean = GATE.model_copy(update={"evidence": "walk_forward"}), float(NIGHT.mean())
    for refit, failed in ((mean, []), (mean * 1.001, [REFIT]), (None, [REFIT])):
        verdict = _judge(_with_facts(_good(), refit=refit), gate)
        assert _failed(verdict) == failed
        assert verdict.promotes is not bool(failed)


def test_what_chance_explains_refuses_no_slice() -> None:
    """A slice that looks worse by noise, or by less than the tolerance, or has few rows, stands in no way."""
    for part in (_slice(0.02, noise=0.2), _slice(0.009), _slice(0.5, rows=4), _slice(0.5, count=8, rows=50)):
        padded = replace(
            part,
            **{
                name: (*getattr(part, name), *(0,) * (NIGHTS - len(part.rows)))
                for name in ("rows", "challenger", "rival")
            },
        )
        fine = _good().facts.slices or ()
        other = replace(padded, name="dest = XNA", declared=False)
        assert _judge(_with_facts(_good(), slices=(*fine, other))).promotes, part


def test_the_first_attempts_have_no_history_to_be_too_good_for() -> None:
    """With fewer than three earlier attempts the share that is saved is shown and not bounded."""
    leak = replace(HONEST, saved=0.9, history=(0.1, 0.1))
    assert _judge(_with_facts(_good(), leak=leak)).promotes


def test_a_missing_figure_is_not_zero() -> None:
    """The check on a figure that isn't there says what is, and compares no default."""
    verdict = _judge(_good(metrics={"challenger": {"roc_auc": 0.7}}))
    assert "calibration_gap missing, required at most 0.15 (the evaluation has roc_auc)" in verdict.sentence


@pytest.mark.parametrize("count", [0, 1, 5, ENOUGH - 1])
def test_too_few_partitions_are_a_verdict_of_their_own(count: int) -> None:
    """However good it looks, with fewer partitions than declared nothing is judged, champion or not."""
    rising = np.arange(count) * 0.01
    made = evidence(losses(rising, rising + 1, prior=rising + 2))
    for champion in (True, False):
        verdict = _judge(made, champion=champion)
        assert verdict.verdict == NOT_ENOUGH
        assert not verdict.promotes
        assert f"matured test partitions {count}, required at least {ENOUGH}" in verdict.sentence
        assert [c.name for c in verdict.checks if c.passed is None] == list(RULES)


def test_a_block_needs_a_second_one() -> None:
    """Two blocks of partitions are needed whatever the declared minimum, since one has no spread."""
    made = _good()
    assert _judge(made, GATE.model_copy(update={"block_partitions": NIGHTS // 2})).verdict != NOT_ENOUGH
    assert _judge(made, GATE.model_copy(update={"block_partitions": NIGHTS // 2 + 1})).verdict == NOT_ENOUGH


@pytest.mark.parametrize("last", ["", "2013-02-01", "2013-02-05"])
def test_rows_that_were_fitted_are_no_evidence(last: str) -> None:
    """A test partition that either model was fitted or tuned on, or that may have been, can't bless."""
    verdict = _judge(_good(last_fitted=last))
    assert verdict.verdict == NOT_ENOUGH
    assert _failed(verdict) == ["first test partition"]


def test_a_small_gain_can_be_too_small() -> None:
    """With a minimal gain the bound must lie above that share of the champion's loss."""
    made = _good()  # gains .02 of about .52, which is 3.8 %
    assert _judge(made, GATE.model_copy(update={"min_gain": 0.03})).verdict == BLESSED
    refused = _judge(made, GATE.model_copy(update={"min_gain": 0.045}))
    assert refused.verdict == NOT_BLESSED
    assert _failed(refused) == ["log_loss gain over champion aaaaaaaa"]


def test_a_gain_that_is_too_small_by_little_is_printed_so() -> None:
    """The lower bound beside the required gain has the digits that show which is larger."""
    assert Gain(0.02, 0.0099996, 0.95).interval_and_limit(0.01) == ("0.02 [0.0099996, inf)", "0.01")
    assert Gain(0.02, 0.0112345678, 0.95).interval_and_limit(0.01) == ("0.02 [0.01123, inf)", "0.01")


def test_trying_again_must_show_more() -> None:
    """What a first attempt shows is not enough for a tenth; baselines aren't paid for."""
    partition = NIGHT + 0.01 + 0.015 * WAVE
    made = _with(_good(), champion=partition)
    assert _judge(made).verdict == BLESSED
    refused = _judge(made, attempt=10)
    assert refused.verdict == NOT_BLESSED
    assert "(attempt 10)" in refused.sentence
    baselines = [[c for c in v.checks if "baseline" in c.name] for v in (_judge(made), refused)]
    assert baselines[0] == baselines[1]


def test_all_attempts_together_spend_alpha() -> None:
    """The shares of however many attempts sum to alpha and not more."""
    shares = [attempt_alpha(0.05, k) for k in range(1, 100_000)]
    assert sum(shares) < 0.05
    assert sum(shares) == pytest.approx(0.05, rel=1e-4)
    assert shares == sorted(shares, reverse=True)
    with pytest.raises(ValueError, match="from 1"):
        attempt_alpha(0.05, 0)


def test_a_loop_that_retries_promotes_noise_as_rarely_as_declared() -> None:
    """Of 400 loops that try twelve equally good challengers on new partitions, at most alpha promote one."""
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(400):
        for attempt in range(1, 13):
            partition = 0.5 + 0.1 * random.standard_normal(ENOUGH)
            champion = partition + 0.02 * random.standard_normal(ENOUGH)
            prior = partition + 1 + 0.01 * random.standard_normal(ENOUGH)
            made = _with_facts(evidence(losses(partition, champion, prior=prior)))
            if _judge(made, attempt=attempt).promotes:
                wrong += 1
                break
    assert wrong <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def _any(rows: list[tuple[int, float, float, float]]) -> Evidence:
    counts, challenger, champion, prior = zip(*rows, strict=True)
    sums = {"challenger": challenger, "champion": champion, "baseline:prior": prior}
    return _with_facts(evidence(Losses(partitions(len(rows)), counts, sums)))


losses_of_partitions = st.lists(
    st.tuples(st.integers(1, 1000), st.floats(0, 50), st.floats(40, 100), st.floats(60, 100)),
    min_size=ENOUGH,
    max_size=ENOUGH + 12,
)


@given(losses_of_partitions, st.integers(1, 40), st.floats(0.01, 0.2), st.floats(0, 0.5), st.booleans())
def test_asking_more_never_turns_a_refusal_into_a_blessing(
    rows: list[tuple[int, float, float, float]], attempt: int, alpha: float, least: float, champion: bool
) -> None:
    """More attempts, a smaller alpha or a larger minimal gain refuse at least as much, each time alike."""
    made, gate = _any(rows), GATE.model_copy(update={"alpha": alpha, "min_gain": least})
    verdict = _judge(made, gate, attempt, champion)
    assert _judge(Evidence.from_json(made.to_json()), gate, attempt, champion) == verdict
    stricter = [
        _judge(made, gate, attempt + 1, champion),
        _judge(made, gate.model_copy(update={"alpha": alpha / 2}), attempt, champion),
        _judge(made, gate.model_copy(update={"min_gain": least + 0.1}), attempt, champion),
    ]
    if not verdict.promotes:
        assert not any(other.promotes for other in stricter)
    assert (verdict.verdict == BLESSED) == all(check.passed for check in verdict.checks)
