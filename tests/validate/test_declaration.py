"""Declarations that look like a mistake of the list and are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.spec.load import read
from include.validate.declaration import declaration_problems
from tests.usecases.weekly_sales import world
from tests.validate.declarations import WEEKS, change, write_usecase

SOUND = {
    "both ends of a band": {
        "- {metric: r2, at_least: 0.3}": "- {metric: rmse, at_least: 2}\n    - {metric: rmse, at_most: 20}"
    },
    "a coverage that isn't too high": {"{metric: r2, at_least: 0.3}": "{metric: coverage, at_most: 0.97}"},
    "the fewest test partitions of a short history": {
        "test: 7\n": "test: 5\n",
        'start: "2024-01-01"': 'start: "2024-01-01"\n  end: "2024-02-05"',
    },
}


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
def test_a_sound_declaration_is_silent(changes: dict[str, str], tmp_path: Path) -> None:
    """Both bounds on a metric, a bound on coverage, and the fewest test partitions may be declared."""
    file = write_usecase(tmp_path, "sales") / "usecase.yaml"
    for old, new in changes.items():
        change(file, old, new)
    assert list(declaration_problems(read(file), world.partitions(WEEKS))) == []
