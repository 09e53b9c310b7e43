"""Gate checks: what a challenger must show besides the declared requirements."""

from __future__ import annotations

from include.judge.context import Check, CheckContext


def enough_rows(context: CheckContext) -> list[Check]:
    """There are enough labeled test rows."""
    rows = sum(context.evidence.losses.rows)
    return [Check("labeled test rows", "at least 100", f"{rows:g}", rows >= 100)]
