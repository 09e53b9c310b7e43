"""A figure beside its limit, with as many digits as show on which side of it the figure is."""

from __future__ import annotations

EXACT = 3  # digits more than asked for, which a limit may take to be printed as it was declared


def figure_and_limit(value: float, limit: float, digits: int = 4, style: str = "{:.#g}") -> tuple[str, str]:
    """Return a figure and its limit as texts that compare as the two numbers do.

    Parameters
    ----------
    digits : how many to print, unless the texts would then be equal or swapped; a declared limit that takes a
        few more is printed whole.
    style : a format of one number, with ``#`` for the digits: ``{:.#g}``, ``{:.#f}`` or ``{:.#%}``.
    """
    exact = (more for more in range(digits, digits + EXACT) if _number(_text(limit, more, style)) == limit)
    least = next(exact, digits)
    while True:  # it ends: a float has so many digits and no more
        texts = _text(value, digits, style), _text(limit, max(digits, least), style)
        one, other = map(_number, texts)
        if (one < other, one > other) == (value < limit, value > limit):
            return texts
        digits += 1


def _text(value: float, digits: int, style: str) -> str:
    return style.replace("#", str(digits)).format(value)


def _number(text: str) -> float:
    """Return what a reader takes a text for."""
    plain = text.replace(",", "")
    return float(plain) if not plain.endswith("%") else float(f"{plain[:-1]}e-2")
