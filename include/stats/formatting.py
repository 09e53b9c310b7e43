"""Formats a figure and its limit with enough digits to show on which side of the limit the figure is."""

from __future__ import annotations

import math
from decimal import Decimal

FLOAT_DIGITS = 17  # tell any two floats apart
EXTRA_DIGITS = 3  # how many more digits a limit may take to be printed as it was declared


def figure_and_limit(value: float, limit: float, digits: int = 4, style: str = "{:.#g}") -> tuple[str, str]:
    """Return a figure and its limit as texts that compare as the two numbers do.

    Parameters
    ----------
    digits : how many to print. More are printed where the texts would otherwise be equal or swapped, and
        where a declared limit needs a few more to be exact.
    style : a format of one number, with ``#`` for the digits: ``{:.#g}``, ``{:.#f}`` or ``{:.#%}``.
    """
    candidates = range(digits, digits + EXTRA_DIGITS)
    limit_digits = next((n for n in candidates if _number(_text(limit, n, style)) == limit), digits)
    while True:  # it ends, because a float has a limited number of digits
        texts = _text(value, digits, style), _text(limit, max(digits, limit_digits), style)
        shown_value, shown_limit = map(_number, texts)
        if (shown_value < shown_limit, shown_value > shown_limit) == (value < limit, value > limit):
            return texts
        digits += 1


def _text(value: float, digits: int, style: str) -> str:
    # a percentage is a hundred times the float, rounded: two neighbors may have the same, decimals don't
    exact = digits > FLOAT_DIGITS and math.isfinite(value)
    return style.replace("#", str(digits)).format(Decimal(value) if exact else value)


def _number(text: str) -> float:
    """Return the number that a text shows."""
    plain = text.replace(",", "")
    return float(plain) if not plain.endswith("%") else float(f"{plain[:-1]}e-2")
