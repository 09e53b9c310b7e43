"""A person who reads a figure beside its limit sees which of them is larger."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from include.stats.formatting import figure_and_limit

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.mark.parametrize(
    ("value", "limit", "style", "texts"),
    [
        (0.749996, 0.75, "{:.#g}", ("0.749996", "0.75")),
        (0.75, 0.75, "{:.#g}", ("0.75", "0.75")),
        (0.123456, 0.75, "{:.#g}", ("0.1235", "0.75")),
        (0.5, 0.123456, "{:.#g}", ("0.5", "0.123456")),  # declared, and printed so
        (0.5, 1 / 3, "{:.#g}", ("0.5", "0.3333")),
        (math.nextafter(1, 0), 1, "{:.#g}", ("0.9999999999999999", "1")),
        (math.inf, 0.1, "{:.#g}", ("inf", "0.1")),
        (math.nan, 0.1, "{:.#g}", ("nan", "0.1")),
        (0.0501, 0.05, "{:.#%}", ("5.01%", "5.00%")),
    ],
)
def test_a_figure_has_the_digits_that_it_needs(
    value: float, limit: float, style: str, texts: tuple[str, str]
) -> None:
    """Four digits mostly, and more where the limit would else look reached or missed."""
    assert figure_and_limit(value, limit, 1 if "%" in style else 4, style) == texts


def test_neighboring_shares_are_told_apart() -> None:
    """A hundred times each of them is the same float, and yet one is the larger."""
    value, limit = 1 / 6, math.nextafter(1 / 6, 0)
    assert 100 * value == 100 * limit
    one, two = (Decimal(text.rstrip("%")) for text in figure_and_limit(value, limit, 1, "{:.#%}"))
    assert one > two


@given(FLOATS, st.integers(-2, 2), FLOATS, st.sampled_from(["{:.#g}", "{:,.#g}", "{:+.#f}", "{:.#%}"]))
@example(0.05, 1, 0.05, "{:.#%}")
def test_texts_compare_as_the_numbers(value: float, steps: int, other: float, style: str) -> None:
    """However near two numbers are, their texts are in the same order."""
    near = value
    for _ in range(abs(steps)):
        near = math.nextafter(near, math.copysign(math.inf, steps))
    for limit in (near, other):
        one, two = (
            float(text.replace(",", "").rstrip("%")) for text in figure_and_limit(value, limit, 3, style)
        )
        assert (one < two, one > two) == (value < limit, value > limit)
