"""Numbers on pages and cards say what they stand for."""

from __future__ import annotations

import pytest

from include.reports.html import percent


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (1 / 4881, "0.02 %"), (0.0005, "0.1 %"), (0.25, "25.0 %"), (None, "—")],
)
def test_a_small_share_does_not_look_like_none(share: float | None, text: str) -> None:
    """One row of thousands is shown with the digit that it has."""
    assert percent(share) == text
