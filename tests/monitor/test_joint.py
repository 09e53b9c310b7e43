"""A change of how columns go together is found that no column shows; what is not one is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from include.lake import Lake
from include.monitor import joint
from include.monitor.measures import Cut, measured
from include.monitor.run import monitor
from include.profile import build, merge
from include.score.run import score
from include.spec import UseCase
from tests.monitor import machines

COLUMNS = ("a", "b", "c", "weekday", "kind")


def side(nights: int, rows: int, together: float, seed: int, warmer: float = 0.0) -> pa.Table:
    """Return rows whose columns a and b correlate; all rows of a night share its weather and weekday."""
    random = np.random.default_rng(seed)
    size = nights * rows
    a, own = random.normal(size=(2, size))
    return pa.table(
        {
            "night": np.repeat([f"{seed}-{n:03}" for n in range(nights)], rows),
            "a": a + np.repeat(random.normal(warmer, 3, nights), rows),
            "b": together * a + np.sqrt(1 - together**2) * own,
            "c": np.where(random.random(size) < 0.1, np.nan, random.normal(size=size)),
            "weekday": np.repeat(np.arange(nights) % 7.0, rows),
            "kind": random.choice(["pump", "fan", "belt"], size, p=[0.6, 0.3, 0.1]),
        }
    )


def test_a_changed_correlation_is_found_that_no_column_shows() -> None:
    """Two columns go together by 0.6 and didn't: an alarm, while the changed one's PSI is below 0.02."""
    reference, window = side(40, 60, 0.0, 1), side(7, 200, 0.6, 2)
    found = joint.judge(reference, window, COLUMNS, 7)
    assert found.outcome == "alarm"
    assert (found.check, found.subject) == ("drift", "joint distribution")
    sides = [merge(build("p", "n", rows, ["b"], []).to_pylist())["b"] for rows in (reference, window)]
    psi = measured(Cut.of(sides[0]), *sides)["psi"]
    assert psi is not None
    assert psi < 0.02


@pytest.mark.parametrize("warmer", [0.0, 4.0])
def test_clean_nights_stay_quiet(warmer: float) -> None:
    """Ten windows of the same world, with other weather, or in a warmer season: no alarm."""
    sides = [(side(40, 60, 0.3, 2 * n), side(7, 150, 0.3, 2 * n + 1, warmer)) for n in range(10)]
    found = [joint.judge(*both, COLUMNS, 7) for both in sides]
    assert {one.outcome for one in found} == {"ok"}


def test_it_is_the_same_each_time() -> None:
    """The samples and the lots are seeded."""
    given = side(10, 30, 0.0, 1), side(5, 50, 0.2, 2), COLUMNS
    assert joint.aucs(*given, 7).tolist() == joint.aucs(*given, 7).tolist()


def test_too_little_is_not_enough() -> None:
    """Two nights, one column, a sample without its nights or a newer feature: told, and no figure."""
    reference = side(10, 30, 0.0, 1)
    for given in (
        (reference, side(2, 30, 0.0, 2), COLUMNS),
        (reference, side(5, 30, 0.0, 2), ("a",)),
        (reference.drop_columns(["night"]), side(5, 30, 0.0, 2), COLUMNS),
        (reference.drop_columns(["kind"]), side(5, 30, 0.0, 2), COLUMNS),
        (None, side(5, 30, 0.0, 2), COLUMNS),
    ):
        found = joint.judge(*given, 7)
        assert (found.outcome, found.value) == ("not enough", None)


@pytest.mark.parametrize("values", [[None] * 250, [7.0] * 250, [7.0] + [None] * 249])
def test_odd_columns_are_no_error(values: list[float | None]) -> None:
    """A column without values, a constant, a single value: the others are judged."""
    window = side(5, 50, 0.0, 2).set_column(3, "c", pa.array(values, pa.float64()))
    assert joint.judge(side(20, 30, 0.0, 1), window, COLUMNS, 7).outcome == "ok"


def test_a_reference_of_few_nights_is_judged() -> None:
    """Three nights beside a window of seven: no night that is held out lacks its other side."""
    found = joint.judge(side(3, 60, 0.0, 1), side(7, 60, 0.0, 2), COLUMNS, 7)
    assert found.outcome == "ok"
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_a_declared_night_judges_it(lake: Lake, use: UseCase, week: list[str], tmp_path: Path) -> None:
    """Under `monitoring.joint` a night has the finding, and without it none."""
    rules = "{window: 3, report_rows: 200, joint: true}"
    other = machines.spec(tmp_path, monitoring=rules)
    for night in week[:3]:
        score(lake, other, night)
    monitor(lake, other, week[2])
    subjects = {row["subject"]: row["outcome"] for row in lake.rows("findings", {"night": week[2]})}
    assert subjects["joint distribution"] == "ok"
    monitor(lake, use, week[1])
    subjects = {row["subject"] for row in lake.rows("findings", {"night": week[1]})}
    assert "joint distribution" not in subjects
