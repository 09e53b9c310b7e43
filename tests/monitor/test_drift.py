"""The figures behind a drift, against hand-made ones, and where each alarm begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.monitor.checks import drift
from include.monitor.reference import ReferenceColumn
from include.spec.stages import Monitoring
from include.stats import drift_measures
from include.stats.drift_measures import Binning
from tests.monitor.machines import partition, profiled

RULES = Monitoring()


def column(values: list[Any]) -> ReferenceColumn:
    """Return a reference that isn't known by partition."""
    of = profiled(values)
    return ReferenceColumn(of, Binning.of(of))


def test_psi_is_the_sum_over_the_bins() -> None:
    """Two bins, 99.5 and .5 rows against 49.5 and 50.5 after half a row is added to each."""
    found = drift_measures.psi(np.array([99.0, 0.0]), np.array([49.0, 50.0]))
    p, q = [0.995, 0.005], [0.495, 0.505]
    assert found == pytest.approx(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)))


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=20))
def test_psi_is_never_negative_and_takes_either_side_first(pairs: list[tuple[int, int]]) -> None:
    """Whatever the counts, PSI is finite, at least nought, symmetric, and nought for equal counts."""
    a, b = np.array(pairs, dtype=float).T
    assert 0 <= drift_measures.psi(a, b) < math.inf
    assert drift_measures.psi(a, b) == pytest.approx(drift_measures.psi(b, a))
    assert drift_measures.psi(a, a) == 0


def test_noise_bounds_what_samples_of_one_distribution_reach() -> None:
    """Of 10,000 pairs of samples the mean PSI is (bins - 1)(1/n + 1/m), and about ten pass the bound."""
    random = np.random.default_rng(1)
    shares = np.full(10, 0.1)
    found = [
        drift_measures.psi(random.multinomial(5000, shares), random.multinomial(900, shares))
        for _ in range(10_000)
    ]
    assert np.mean(found) == pytest.approx(9 * (1 / 900 + 1 / 5000), rel=0.1)
    beyond = np.mean(np.array(found) > drift.sampling_noise("psi", 10, 5000, 900))
    assert 0 < beyond < 3 * drift.ALPHA


def test_an_own_window_is_compared_with_the_rest() -> None:
    """A window's rows are taken out of the reference that it is compared with, where they are part of it."""
    partitions = np.array([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
    found = drift.own_windows(partitions[:2].sum(axis=0), partitions, np.array([True, True, False]), 1)
    expected = [([0, 10], [10, 0]), ([10, 0], [0, 10]), ([10, 10], [5, 5])]
    assert found == pytest.approx([drift_measures.psi(np.array(a), np.array(b)) for a, b in expected])


@given(
    st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=300), st.lists(st.floats(-9, 9), max_size=50)
)
def test_a_profile_counts_as_its_rows_do(reference: list[float], values: list[float]) -> None:
    """The counts by bin from a profile are those from the rows, edges and repeated values included."""
    cut = Binning.of(profiled(reference))
    places = cut.bin_indexes(pa.array(values, pa.float64()))
    assert cut.profile_counts(profiled(values)) == pytest.approx(np.bincount(places, minlength=cut.bins))


def test_rare_categories_are_counted_together() -> None:
    """Categories below a hundredth of the reference share the last bin with those that it never had."""
    cut = Binning.of(profiled(["a"] * 500 + ["b"] * 495 + ["rare"] * 5))
    assert cut.names == ("a", "b")
    assert cut.profile_counts(profiled(["b", "rare", "new"])).tolist() == [0, 1, 2]
    assert cut.bin_indexes(pa.array(["b", "rare", "new"])).tolist() == [1, 2, 2]


def test_a_calendar_column_is_judged_by_windows_like_its_own() -> None:
    """One partition holds one weekday, as each of the reference's partitions does.

    A week of one weekday is drift.
    """
    days = [float(partition % 7) for partition in range(35) for _ in range(50)]
    of = profiled(days)
    cut = Binning.of(of)
    partitions = np.array(
        [np.bincount(cut.bin_indexes(pa.array([float(n % 7)] * 50)), minlength=cut.bins) for n in range(35)]
    )
    weekdays = ReferenceColumn(
        of, cut, partitions.astype(float), np.ones(35, dtype=bool), np.zeros(35), np.zeros(35)
    )
    one_partition = profiled([3.0] * 50)
    assert drift.check_distribution("weekday", column(days), one_partition, 1, RULES).outcome == "alarm"
    assert drift.check_distribution("weekday", weekdays, one_partition, 1, RULES).outcome == "ok"
    finding = drift.check_distribution("weekday", weekdays, profiled([3.0] * 350), 7, RULES)
    assert (finding.outcome, " over 7 partitions is beyond" in finding.note) == ("alarm", True)


def test_few_rows_raise_no_alarm() -> None:
    """Three rows of one bin are noise; three hundred aren't."""
    reference = column([float(v) for v in range(1000)])
    assert drift.check_distribution("c", reference, profiled([5.0] * 3), 1, RULES).outcome == "ok"
    assert drift.check_distribution("c", reference, profiled([5.0] * 300), 1, RULES).outcome == "alarm"


@pytest.mark.parametrize("check", ["check_distribution", "check_unseen", "check_missing"])
@pytest.mark.parametrize(
    ("reference", "values"),
    [
        ([None] * 50, [1.0] * 50),
        ([1.0] * 50, [None] * 50),
        ([None] * 50, [None] * 50),
        ([7.0] * 50, [7.0]),
        (["a"] * 50, [None, None, "a"]),
        ([f"k{n}" for n in range(10_000)], [f"k{n}" for n in range(5_000, 15_000)]),
    ],
)
def test_odd_columns_are_judged_or_not_enough(check: str, reference: list[Any], values: list[Any]) -> None:
    """Constant, empty, one row, 10,000 categories: a finding with a sentence, never an error or a NaN."""
    like = reference if any(v is not None for v in reference) else [1.0]
    text = isinstance(next(v for v in like if v is not None), str)
    empty = [None if v is None else v for v in values]
    partition = profiled(empty if not text or any(empty) else [""])
    arguments = (1, RULES) if check == "check_distribution" else (RULES,)
    found = getattr(drift, check)("c", column(reference), partition, *arguments)
    assert found.note.startswith("c")
    assert found.value is None or math.isfinite(found.value)
    assert (found.value is None) == (found.outcome == "not enough")


def test_a_constant_column_that_changes_is_seen() -> None:
    """A column that was always 7 and is now 8, or 6, is beyond the reference's range."""
    for other in (6.0, 8.0):
        found = drift.check_unseen("c", column([7.0] * 500), profiled([other] * 100), RULES)
        assert (found.outcome, found.value) == ("alarm", 1.0)


def test_a_warm_partition_is_expected_and_another_unit_is_not() -> None:
    """What a partition of the reference reached beyond the others isn't an alarm.

    A partition wholly beyond all is.
    """
    of = profiled([float(v) for v in range(1000)])
    with_warm_partition = ReferenceColumn(of, Binning.of(of), unseen=np.array([0.0, 0.0, 0.3, 0.0, 0.0]))
    warm = profiled([500.0] * 75 + [2000.0] * 25)
    assert drift.check_unseen("c", column([float(v) for v in range(1000)]), warm, RULES).outcome == "alarm"
    assert drift.check_unseen("c", with_warm_partition, warm, RULES).outcome == "ok"
    assert drift.check_unseen("c", with_warm_partition, profiled([2000.0] * 100), RULES).outcome == "alarm"


def test_new_categories_are_seen() -> None:
    """A fifth of rows in categories that the reference lacks is an alarm, a rare one isn't."""
    reference = column(["a", "b"] * 500)
    assert drift.check_unseen("c", reference, profiled(["a"] * 80 + ["new"] * 20), RULES).outcome == "alarm"
    assert drift.check_unseen("c", reference, profiled(["a"] * 98 + ["new"] * 2), RULES).outcome == "ok"


@pytest.mark.parametrize(
    ("known", "unknown", "outcome"), [(760, 10, "not enough"), (5, 5000, "alarm"), (760, 100, "not enough")]
)
def test_more_categories_than_are_listed_are_new_only_if_the_known_ones_cannot_be_among_them(
    known: int, unknown: int, outcome: str
) -> None:
    """A few unknown among many known ones aren't an alarm; a column of five that fills with ids is one."""
    names = [f"shop {number}" for number in range(known + unknown)]
    random = np.random.default_rng(0)
    reference, current = column(names[:known] * 10), profiled(list(random.permutation(names * 10)))
    found = drift.check_unseen("c", reference, current, RULES)
    assert found.outcome == outcome
    assert found.value is None or found.value <= unknown / len(names)


@pytest.mark.parametrize(("usual", "other"), [([1.0, 9.0], [20.0]), (["a", "b"], ["c"])])
def test_what_two_of_the_last_partitions_had_is_not_new(usual: list[Any], other: list[Any]) -> None:
    """A season is told once; one broken partition among the last doesn't hide that it comes again."""
    reference, current = column(usual * 500), profiled(other * 100)
    plain, broken = partition(usual * 50, "1"), partition(other * 50, "2")
    for known, outcome in (([plain], "alarm"), ([plain, broken], "alarm"), ([plain, broken, broken], "ok")):
        lately = [{**row, "partition": str(place)} for place, row in enumerate(known)]
        assert drift.check_unseen("c", reference, current, RULES, lately).outcome == outcome


@pytest.mark.parametrize(("usual", "stray", "new"), [(5.0, -999.0, -500.0), ("a", "??", "??")])
def test_stray_values_of_two_partitions_make_nothing_known(usual: Any, stray: Any, new: Any) -> None:
    """One row in 500 that was wrong on two partitions doesn't excuse a partition that is wholly so."""
    lately = [partition([usual] * 499 + [stray], str(n)) for n in range(20)]
    found = drift.check_unseen("c", column([usual] * 500), profiled([new] * 100), RULES, lately)
    assert (found.outcome, found.value) == ("alarm", 1.0)


@pytest.mark.parametrize(("usual", "new"), [(5.0, 400.0), ("a", "z")])
def test_a_feed_that_stays_broken_stays_an_alarm(usual: Any, new: Any) -> None:
    """What began from one partition to the next isn't known for having lasted."""
    whole = [partition([usual] * 100, str(n)) for n in range(8)] + [partition([new] * 100, "b")] * 20
    lately = [{**row, "partition": f"{n:02}"} for n, row in enumerate(whole)]
    assert (
        drift.check_unseen("c", column([usual] * 500), profiled([new] * 100), RULES, lately).outcome
        == "alarm"
    )


@pytest.mark.parametrize(("totals", "new"), [(True, "ok"), (False, "alarm")])
def test_a_record_of_one_value_per_partition_is_an_alarm_only_the_third_time_in_a_row(
    totals: bool, new: str
) -> None:
    """A record is ok where partitions have one value each, and an alarm where they have several."""
    usual = [[float(n)] * 50 if totals else [0.0, float(n)] * 25 for n in range(20)]
    of = profiled([value for one in usual for value in one])
    counts = np.full((20, 1), 50.0)
    distinct = np.array([len(set(one)) for one in usual])
    learned = ReferenceColumn(of, Binning.of(of), partitions=counts, distinct=distinct)
    record = [99.0] * 50
    for window, outcome in (
        ([usual[3], usual[4], record], new),
        ([record, usual[4], record], new),
        ([record], new),
        ([record, record, record], "alarm"),
    ):
        rows = [partition(values, str(place)) for place, values in enumerate(window)]
        assert drift.check_unseen("c", learned, profiled(record), RULES, [], rows).outcome == outcome
    assert drift.check_unseen("c", learned, profiled(record), RULES).outcome == "alarm"


@pytest.mark.parametrize(
    ("values", "trend"),
    [
        (range(20), "risen"),
        (range(0, -20, -1), "fallen"),
        ([0, 9, 2, 8, 3, 20, 21, 22], ""),
        ([7, 8, 20, 21, 22], ""),
    ],
)
def test_an_alarm_of_a_counter_says_what_ends_it(values: Sequence[int], trend: str) -> None:
    """Each partition is beyond those before it, and each reference too: so the alert would come for ever."""
    rows = [partition([float(value)] * 50, f"{place:02}") for place, value in enumerate(values)]
    reference = column([float(value) for value in values[:2]] * 100)
    newest = profiled([float(values[-1])] * 50)
    finding = drift.check_unseen("c", reference, newest, RULES, rows[:-3], rows[-3:])
    assert finding.outcome == "alarm"
    assert (f"it has {trend} on each of the last 6 partitions, as a counter does" in finding.note) == bool(
        trend
    )
    assert ("make the feature a difference or a ratio, or acknowledge" in finding.note) == bool(trend)


def test_a_season_is_no_alarm() -> None:
    """Partitions that grow warmer by a little each are known one after the other.

    And the warmest isn't an alarm.
    """
    warm = [partition([20 + n / 8 + v / 10 for v in range(100)], f"{n:02}") for n in range(28)]
    current = profiled([23.5 + v / 10 for v in range(100)])
    cold = column([float(v % 15) for v in range(500)])
    assert drift.check_unseen("c", cold, current, RULES).outcome == "alarm"
    assert drift.check_unseen("c", cold, current, RULES, warm).outcome == "ok"


def test_the_last_partitions_of_another_kind_and_empty_ones_say_nothing() -> None:
    """Partitions on which the column was text, or had no value, make nothing known and fail nothing."""
    lately = [partition(["x", "y"], "1"), partition([None], "2"), partition([], "3"), partition(["x"], "4")]
    found = drift.check_unseen("c", column([1.0, 9.0] * 500), profiled([20.0] * 100), RULES, lately)
    assert (found.outcome, found.value) == ("alarm", 1.0)


def test_a_rise_of_missing_values_is_seen() -> None:
    """A rise beyond the threshold is an alarm.

    Unless few rows make it by chance or its own partitions had it.
    """
    usual = [None] * 200 + [1.0] * 800
    risen = drift.check_missing("c", column(usual), profiled([None] * 40 + [1.0] * 60), RULES)
    assert risen.outcome == "alarm"
    assert "a rise of 20.0 percentage points, expected at most 10.0" in risen.note
    assert drift.check_missing("c", column(usual), profiled([None] * 2 + [1.0] * 3), RULES).outcome == "ok"
    assert drift.check_missing("c", column(usual), profiled([None] * 25 + [1.0] * 75), RULES).outcome == "ok"
    of = profiled(usual)
    stormy = ReferenceColumn(of, Binning.of(of), missing=np.array([0.0, 0.6, 0.1, 0.2, 0.1]))
    assert drift.check_missing("c", stormy, profiled([None] * 40 + [1.0] * 60), RULES).outcome == "ok"
    assert drift.check_missing("c", stormy, profiled([None] * 100), RULES).outcome == "alarm"


def test_what_looks_back_to_partitions_without_rows_is_missing_in_whole_partitions_without_an_alarm() -> None:
    """Where a fifth of the reference's partitions were so, five in a row alarm; without a window one does."""
    of = profiled([None] * 200 + [1.0] * 800)
    resting = ReferenceColumn(of, Binning.of(of), missing=np.array([0.0, 0.0, 1.0, 0.0, 0.0]))
    gap, usual = (partition([value] * 100, str(number)) for number, value in enumerate((None, 1.0)))
    rules = RULES.model_copy(update={"window": 7})

    def outcome(*window: dict[str, Any]) -> str:
        return drift.check_missing("c", resting, profiled([None] * 100), rules, window).outcome

    assert outcome() == "alarm"
    assert outcome(usual, usual, usual, usual, gap) == "ok"
    assert outcome(usual, gap, gap, gap, gap) == "ok"
    assert outcome(gap, gap) == "ok"
    assert outcome(usual, gap, gap, gap, gap, gap) == "alarm"
