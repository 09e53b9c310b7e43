"""The other checks pass at their declared bound, and fail beyond it or without a measurement."""

from __future__ import annotations

import math
from typing import Any

import pytest

from include.judge import checks
from include.judge.context import Check, CheckContext, CheckFunction
from include.judge.evidence import EdgeCase, ServingTest
from include.spec.gate import SERVING, Gate, ServingRequirement
from tests.promote.conftest import evidence, facts, losses

GATE = Gate(
    objective="log_loss",
    max_unseen=0.25,
    robustness=0.5,
    serving=(
        ServingRequirement(metric="p95_ms", at_most=50),
        ServingRequirement(metric="rows_per_second", at_least=1000),
    ),
)
FAST = {"p95_ms": 50.0, "rows_per_second": 1000.0}
ABOVE, BELOW = math.nextafter(0.5, 1), math.nextafter(0.25, 1)


def run(rule: CheckFunction, **changes: Any) -> list[Check]:
    """Return a check's results for these facts."""
    results = losses([0.5, 0.5])
    return list(
        rule(CheckContext(evidence(results, facts=facts(results, **changes)), GATE, has_champion=False))
    )


def failed(results: list[Check]) -> list[str]:
    """Return the sentences of the failed checks."""
    assert results
    assert all(isinstance(check.passed, bool) for check in results)
    return [check.sentence() for check in results if not check.passed]


def cases(*rises: float | None) -> tuple[EdgeCase, ...]:
    """Return cases that hold."""
    return tuple(EdgeCase(f"case {i}", "missing", True, rise) for i, rise in enumerate(rises))


@pytest.mark.parametrize("rises", [(0.5,), (-0.1, 0.5, None), (0.0,), (-0.3,)])
def test_harm_that_costs_what_is_declared_passes(rises: tuple[float | None, ...]) -> None:
    """A loss increase up to the bound passes."""
    assert failed(run(checks.robustness, edge_cases=cases(*rises))) == []


@pytest.mark.parametrize("rise", [ABOVE, 7.0, math.inf])
def test_harm_that_costs_more_refuses_by_its_name(rise: float) -> None:
    """The worst case is named, wherever it is in the list."""
    results = failed(run(checks.robustness, edge_cases=cases(0.1, rise, 0.4)))
    assert len(results) == 1
    assert results[0].startswith(f"loss increase in the worst edge case {rise:.16g}, required at most 0.5")
    assert results[0].endswith("(case 1)")


def test_a_case_that_does_not_hold_refuses_by_its_note() -> None:
    """A crash or an invalid prediction fails the check."""
    broke = EdgeCase("temp extreme", "extreme", passed=False, note="at 1e+12: 1.2 as a probability")
    results = failed(run(checks.robustness, edge_cases=(*cases(0.1), broke)))
    assert results == ["edge cases passed 1 of 2; temp extreme: at 1e+12: 1.2 as a probability, required all"]


AGAIN = "clear `evaluate.measure` in Airflow to evaluate again"


def test_harm_that_was_not_measured_refuses() -> None:
    """Missing cases, or cases without a loss, fail the check."""
    assert failed(run(checks.robustness, edge_cases=())) == [
        f"edge cases missing, required measured ({AGAIN})"
    ]
    assert "none was measured" in failed(run(checks.robustness, edge_cases=cases(None, None)))[0]


def test_serving_at_the_bounds_passes() -> None:
    """Identical predictions at the declared bounds pass."""
    assert failed(run(checks.serving, serving=ServingTest(True, FAST))) == []


@pytest.mark.parametrize(
    ("name", "value"), [("p95_ms", math.nextafter(50, 51)), ("rows_per_second", math.nextafter(1000, 0))]
)
def test_serving_beyond_a_bound_refuses(name: str, value: float) -> None:
    """Any amount beyond a bound fails."""
    results = failed(run(checks.serving, serving=ServingTest(True, FAST | {name: value})))
    assert [sentence.split(" ")[0] for sentence in results] == [name]


@pytest.mark.parametrize(
    ("rule", "changes", "sentence"),
    [
        (checks.robustness, {"edge_cases": cases(0.500004)}, "0.500004, required at most 0.5 "),
        (checks.robustness, {"edge_cases": cases(ABOVE)}, "0.5000000000000001, required at most 0.5 "),
        (checks.unseen_values, {"unseen_shares": {"temp": 0.250004}}, "0.250004, required at most 0.25 "),
        (
            checks.serving,
            {"serving": ServingTest(True, FAST | {"p95_ms": 50.004})},
            "50.004, required at most 50",
        ),
        (
            checks.serving,
            {"serving": ServingTest(True, FAST | {"rows_per_second": 999.96})},
            "999.96, required at least 1000",
        ),
    ],
)
def test_a_refusal_by_little_shows_by_how_little(
    rule: CheckFunction, changes: dict[str, Any], sentence: str
) -> None:
    """A sentence never prints a refused figure as equal to its bound."""
    (message,) = failed(run(rule, **changes))
    assert sentence in f"{message} "


@pytest.mark.parametrize("name", FAST)
def test_a_serving_figure_that_is_missing_refuses(name: str) -> None:
    """A required figure that is missing or NaN fails."""
    left = {other: value for other, value in FAST.items() if other != name}
    (message,) = failed(run(checks.serving, serving=ServingTest(True, left)))
    assert message.startswith(f"{name} missing")
    assert len(failed(run(checks.serving, serving=ServingTest(True, FAST | {name: math.nan})))) == 1


def test_another_prediction_in_a_fresh_process_refuses() -> None:
    """Different predictions fail with a note, and so does a missing measurement."""
    results = failed(run(checks.serving, serving=ServingTest(False, FAST, "1 of 9 predictions differ")))
    assert results == [
        "predictions in a fresh process different, required identical (1 of 9 predictions differ)"
    ]
    assert failed(run(checks.serving, serving=None)) == [
        f"predictions in a fresh process missing, required identical ({AGAIN})"
    ]


@pytest.mark.parametrize("name", SERVING)
def test_each_figure_of_serving_can_be_required(name: str) -> None:
    """Every figure in `SERVING` can have a requirement."""
    assert (
        Gate(objective="brier", serving=(ServingRequirement(metric=name, at_most=1),)).serving[0].metric
        == name
    )


@pytest.mark.parametrize(
    ("shares", "refused"),
    [
        ({"temp": 0.25, "place": 0.0}, False),
        ({"temp": 0.0}, False),
        ({"place": 0.0, "temp": BELOW}, True),
        ({"temp": 1.0, "place": 0.3}, True),
        ({"temp": math.nan}, True),
    ],
)
def test_unseen_values_pass_at_their_bound_and_names_the_worst(
    shares: dict[str, float], refused: bool
) -> None:
    """A single feature beyond the bound fails the check and is named."""
    results = failed(run(checks.unseen_values, unseen_shares=shares))
    assert bool(results) == refused
    assert all(sentence.endswith("(temp)") for sentence in results)


@pytest.mark.parametrize(
    ("champion_shares", "sentence"),
    [
        ({"temp": 0.4, "place": 0.0}, ""),
        ({"temp": 0.5, "place": 1.0}, ""),
        ({"temp": 0.399, "place": 1.0}, "0.4, required at most 0.399, as with the champion (temp)"),
        ({"place": 1.0}, "0.4, required at most 0.25 (temp)"),
    ],
)
def test_a_gap_that_the_champion_has_as_well_is_no_refusal(
    champion_shares: dict[str, float], sentence: str
) -> None:
    """A share above the bound fails only if it is also above the champion's share of the same feature."""
    shares = {"temp": 0.4, "place": 0.2}
    results = failed(run(checks.unseen_values, unseen_shares=shares, champion_unseen_shares=champion_shares))
    assert [result.removeprefix("rows with values not seen in training ") for result in results] == (
        [sentence] if sentence else []
    )


def test_unseen_values_that_were_not_measured_refuse() -> None:
    """Missing shares fail the check."""
    (results,) = failed(run(checks.unseen_values, unseen_shares={}))
    assert results == f"rows with values not seen in training missing, required at most 0.25 ({AGAIN})"
