"""Compare the rates of the groups of a sensitive column, pair by pair, with confidence bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from include.judge.context import Check, check_requirement, requirement_text
from include.judge.evidence import Fairness, GroupSums
from include.spec.gate import Gate, Requirement
from include.stats.formatting import figure_and_limit
from include.stats.intervals import Rate, RateComparison, compare_rates, partitions_needed


def group_pairs(groups: Iterable[str], reference: str | None) -> list[tuple[str, str]]:
    """Return the pairs of groups that are compared: with the reference, or else all of them."""
    return [pair for pair in combinations(groups, 2) if reference is None or reference in pair]


@dataclass(frozen=True)
class Pair:
    """Two groups, and the figure that compares them; ``larger`` has the larger rate."""

    larger: str
    smaller: str
    figure: RateComparison


def check_groups(measured: Fairness, requirement: Requirement, gate: Gate) -> Check:
    """Check that no pair of groups is shown to break a bound, at gate.alpha over all pairs (Bonferroni).

    A group is compared if it has rows for the rate on enough partitions to estimate an interval. Without
    such a pair the check fails.
    """
    if not measured.sums:  # evidence of earlier code has the figures only
        return check_requirement(measured.figures, requirement, f"{measured.column} ")
    rate, _, kind = requirement.metric.rpartition("_")
    all_rates = {group: _rate(sums, rate) for group, sums in measured.sums.items()}
    rates = {group: values for group, values in all_rates.items() if _comparable(values, gate)}
    left_out = ", ".join(group for group in all_rates if group not in rates)
    notes = [f"on too few partitions to compare: {left_out}"] if left_out else []
    pairs = _compare_pairs(measured.column, rates, gate, ratio=kind == "ratio")
    required, observed, passed = requirement_text(requirement, None)[1], "missing", False
    if pairs:
        worst, required, observed, passed = _worst_pair(pairs, requirement)
        groups = (f"{group} {_text(rates[group])}" for group in (worst.larger, worst.smaller))
        notes = [f"{rate} of {' and '.join(groups)}", *notes]
    else:
        notes = [f"two groups with this rate are needed, but found {', '.join(rates) or 'none'}", *notes]
    name = f"{measured.column} {requirement.metric}"
    return Check(name, required, observed, passed, "; ".join(notes), requirement.hard)


def _compare_pairs(column: str, rates: Mapping[str, Rate], gate: Gate, *, ratio: bool) -> list[Pair]:
    """Compare the groups of a column; a pair without a ratio, since both rates are 0, is left out."""
    assert gate.fairness is not None  # its requirement is being checked
    pairs = [
        sorted(pair, key=lambda group: rates[group].value)
        for pair in group_pairs(rates, gate.fairness.reference.get(column))
    ]
    pairs = [pair for pair in pairs if not ratio or rates[pair[1]].value > 0]
    alpha, block = gate.alpha / max(len(pairs), 1), gate.block_partitions
    return [
        Pair(b, a, compare_rates(rates[b], rates[a], ratio=ratio, block=block, alpha=alpha)) for a, b in pairs
    ]


def _worst_pair(pairs: Sequence[Pair], requirement: Requirement) -> tuple[Pair, str, str, bool]:
    """Return the most extreme pair, of those that break the bound if any does, and its check's texts."""
    if (limit := requirement.at_most) is not None:
        broken = [pair for pair in pairs if pair.figure.low > limit]
        worst = max(broken or pairs, key=lambda pair: pair.figure.value)
        low, limit_text = figure_and_limit(worst.figure.low, limit)
        required, interval = f"lower bound at most {limit_text}", f"[{low}, inf)"
    else:
        assert requirement.at_least is not None  # a requirement has exactly one of the two
        broken = [pair for pair in pairs if pair.figure.high < requirement.at_least]
        worst = min(broken or pairs, key=lambda pair: pair.figure.value)
        high, limit_text = figure_and_limit(worst.figure.high, requirement.at_least)
        required, interval = f"upper bound at least {limit_text}", f"(-inf, {high}]"
    return worst, required, f"{worst.figure.value:.4g} {interval}", not broken


def _text(rate: Rate) -> str:
    return f"{rate.value:.4g} ({rate.rows.sum():,.0f} rows)"


def _rate(sums: GroupSums, name: str) -> Rate:
    """Return one of a group's rates, by partition."""
    counts = (sums.rows, sums.positives, sums.selected, sums.selected_positives)
    rows, positives, selected, hits = (np.array(values, float) for values in counts)
    if name == "calibration":
        return Rate(np.array(sums.excess), rows, positives)
    numerator, denominator = {
        "selection_rate": (selected, rows),
        "tpr": (hits, positives),
        "fpr": (selected - hits, rows - positives),
    }[name]
    return Rate(numerator, denominator, numerator)


def _comparable(rate: Rate, gate: Gate) -> bool:
    needed = min(len(rate.rows), 2 * partitions_needed(gate.block_partitions))
    return int(np.count_nonzero(rate.rows)) >= needed
