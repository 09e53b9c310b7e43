"""Group rates equal those computed by hand; undefined rates are missing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from include.evaluate.fairness import measure_fairness
from include.judge.evidence import GroupSums
from include.spec import UseCase
from include.spec.gate import FAIRNESS, FairnessRequirement, FairnessRules
from tests.train import visits

# place, actual, predicted: selected from .5 on
ROWS = [
    ("north", 1, 0.9),
    ("north", 1, 0.5),
    ("north", 1, 0.2),
    ("north", 1, 0.8),
    ("north", 0, 0.6),
    ("north", 0, 0.1),
    ("south", 1, 0.7),
    ("south", 1, 0.3),
    ("south", 0, 0.2),
    ("south", 0, 0.4),
    ("south", 0, 0.5),
    ("south", 0, 0.1),
    ("south", 0, 0.0),
    (None, 1, 0.6),
    (None, 0, 0.4),
    (None, 0, 0.3),
]


def _days(rows: int) -> pa.ChunkedArray:
    """Return the partition of each row; they alternate."""
    return pa.chunked_array([[f"2024-01-0{1 + i % 2}" for i in range(rows)]], pa.string())


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """A use case without fairness."""
    return visits.usecase(tmp_path_factory.mktemp("fairness"))


def _with(spec: UseCase, min_rows: int, *columns: str, **changes: Any) -> UseCase:
    rules = FairnessRules(
        columns=columns,
        min_rows=min_rows,
        requirements=(FairnessRequirement(metric="tpr_ratio", at_least=0.5),),
        **changes,
    )
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"fairness": rules})})


def _measure(spec: UseCase, rows: list[tuple[object, int, float]], min_rows: int = 3, **changes: Any) -> dict:
    places, actual, predicted = zip(*rows, strict=True)
    columns = pa.table({"place": pa.array(places)})
    rates = np.array(actual, float), np.array(predicted, float)
    spec = _with(spec, min_rows, "place", **changes)
    (result,) = measure_fairness(spec, columns, _days(len(rows)), *rates)
    assert result.column == "place"
    return {"groups": result.groups, "figures": result.figures}


def test_the_figures_are_those_by_hand(clinic: UseCase) -> None:
    """Every group's rates, their differences and their ratios, of sixteen rows."""
    result = _measure(clinic, ROWS)
    groups = {
        "north": (6, 4 / 6, 3 / 4, 1 / 2, 3.1 / 6 - 4 / 6),
        "south": (7, 2 / 7, 1 / 2, 1 / 5, 2.2 / 7 - 2 / 7),
        "missing": (3, 1 / 3, 1.0, 0.0, 1.3 / 3 - 1 / 3),
    }
    names = ("rows", "selection_rate", "tpr", "fpr", "calibration")
    assert set(result["groups"]) == set(groups)
    for group, values in groups.items():
        assert result["groups"][group] == pytest.approx(dict(zip(names, values, strict=True)))
    assert result["figures"] == pytest.approx(
        {
            "selection_rate_difference": 4 / 6 - 2 / 7,
            "selection_rate_ratio": (2 / 7) / (4 / 6),
            "tpr_difference": 1 / 2,
            "tpr_ratio": 1 / 2,
            "fpr_difference": 1 / 2,
            "fpr_ratio": 0.0,
            "calibration_difference": 0.1 + 0.15,
        }
    )
    assert set(result["figures"]) == set(FAIRNESS)


def test_small_groups_are_not_compared(clinic: UseCase) -> None:
    """Groups with too few rows are left out, and a single remaining group has no differences."""
    two_groups = _measure(clinic, ROWS, min_rows=6)
    assert set(two_groups["groups"]) == {"north", "south"}
    assert two_groups["figures"]["tpr_difference"] == pytest.approx(1 / 4)
    one_group = _measure(clinic, ROWS, min_rows=7)
    assert set(one_group["groups"]) == {"south"}
    assert one_group["figures"] == {}
    assert _measure(clinic, ROWS, min_rows=8) == {"groups": {}, "figures": {}}


@pytest.mark.parametrize(("label", "rate"), [(1, "tpr"), (0, "fpr")])
def test_a_group_that_cannot_give_a_rate_has_none(clinic: UseCase, label: int, rate: str) -> None:
    """A group without positives has no true positive rate, and no figure compares it."""
    rows = [row for row in ROWS if row[0] != "south" or row[1] != label]
    result = _measure(clinic, rows, min_rows=2)
    assert rate not in result["groups"]["south"]
    assert rate in result["groups"]["north"]
    expected = {name for name in FAIRNESS if not name.startswith(rate)}
    assert set(result["figures"]) == expected


def test_where_nobody_is_selected_there_is_no_ratio(clinic: UseCase) -> None:
    """If all rates are 0, their difference is 0 and their ratio is undefined."""
    result = _measure(clinic, [(place, actual, p / 10) for place, actual, p in ROWS])
    assert {n for n in result["figures"] if n.endswith("_ratio")} == set()
    assert result["figures"]["selection_rate_difference"] == 0.0
    assert result["figures"]["tpr_difference"] == 0.0


def test_a_number_makes_groups_of_its_quarters(clinic: UseCase) -> None:
    """A sensitive number, such as an age, is grouped by quartile; missing values are a group."""
    random = np.random.default_rng(1)
    rows = [(float(age), i % 2, float(random.uniform())) for i, age in enumerate(range(20, 84))]
    result = _measure(clinic, [*rows, *[(None, 1, 0.5)] * 3])
    assert list(result["groups"]) == ["in [20, 35)", "in [35, 51)", "in [51, 67)", "in [67, 83]", "missing"]


def test_a_category_named_missing_is_not_what_is_missing(clinic: UseCase) -> None:
    """Both are groups."""
    result = _measure(clinic, [("missing", 1, 0.9), ("missing", 0, 0.9), (None, 1, 0.1)], min_rows=1)
    assert {group: rates["rows"] for group, rates in result["groups"].items()} == {
        "= missing": 2,
        "missing": 1,
    }


def test_without_a_declaration_or_rows_nothing_is_measured(clinic: UseCase) -> None:
    """Without a declaration there is no record; without rows it is empty, which the gate rejects."""
    empty = np.empty(0)
    columns = pa.table({"place": pa.array([], pa.string())})
    assert measure_fairness(clinic, columns, _days(0), empty, empty) == ()
    (result,) = measure_fairness(_with(clinic, 1, "place"), columns, _days(0), empty, empty)
    assert (result.groups, result.figures) == ({}, {})


def test_a_group_s_sums_are_by_partition(clinic: UseCase) -> None:
    """Rows of every second place in the list are of the same partition, and each sum is by partition."""
    columns = pa.table({"place": ["north"] * 6 + ["south"] * 3})
    actual = np.array([1, 1, 1, 1, 0, 0, 1, 0, 0], float)
    predicted = np.array([0.9, 0.5, 0.2, 0.8, 0.6, 0.1, 0.7, 0.5, 0.1])
    (result,) = measure_fairness(_with(clinic, 1, "place"), columns, _days(9), actual, predicted)
    north, south = result.sums["north"], result.sums["south"]
    counts = GroupSums((3, 3), (2, 2), (2, 2), (1, 2), north.excess)
    assert north == counts
    assert north.excess == pytest.approx((1.7 - 2, 1.4 - 2))
    assert (south.rows, south.selected_positives) == ((2, 1), (1, 0))


def test_groups_are_compared_with_the_reference_group(clinic: UseCase) -> None:
    """With a reference, the figures are of the pairs that it is in."""
    result = _measure(clinic, ROWS, reference={"place": "north"})
    assert result["figures"]["tpr_difference"] == pytest.approx(1 / 4)  # not 1/2, of south and missing
    assert result["figures"]["tpr_ratio"] == pytest.approx(2 / 3)
    assert _measure(clinic, ROWS, reference={"place": "west"})["figures"] == {}


def test_an_excluded_group_is_left_out(clinic: UseCase) -> None:
    """Its rates are neither measured nor compared."""
    result = _measure(clinic, ROWS, exclude={"place": ("missing",)})
    assert set(result["groups"]) == {"north", "south"}
    assert result["figures"]["tpr_difference"] == pytest.approx(1 / 4)


def test_intersections_are_the_combinations_of_the_columns(clinic: UseCase) -> None:
    """The combinations are one more column, without the groups that one of its columns excludes."""
    columns = pa.table(
        {"place": ["north", "north", "south", "south", None], "sex": ["f", "m", "f", "f", "f"]}
    )
    spec = _with(clinic, 1, "place", "sex", intersections=True, exclude={"place": ("missing",)})
    labels, predicted = np.array([1.0, 0, 1, 0, 1]), np.array([0.9, 0.9, 0.9, 0.1, 0.9])
    measured = measure_fairness(spec, columns, _days(5), labels, predicted)
    assert [one.column for one in measured] == ["place", "sex", "place x sex"]
    assert {group: rates["rows"] for group, rates in measured[2].groups.items()} == {
        "north x f": 1,
        "north x m": 1,
        "south x f": 2,
    }
    assert measured[1].groups["f"]["rows"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": {"town": "north"}}, "reference: 'town' is none of place"),
        ({"exclude": {"place x sex": ("a x b",)}}, "exclude: 'place x sex' is none of place"),
        ({"intersections": True}, "intersections: needs two columns, but found place"),
        (
            {"requirements": (FairnessRequirement(metric="tpr_difference", at_least=0.5),)},
            "requirements: tpr_difference is bounded by at_most",
        ),
    ],
)
def test_a_declaration_that_compares_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    """The error names the key, what was found and what is valid."""
    plain = {"columns": ("place",), "requirements": (FairnessRequirement(metric="tpr_ratio", at_least=0.5),)}
    with pytest.raises(ValidationError, match=re.escape(message)):
        FairnessRules(**plain | changes)
