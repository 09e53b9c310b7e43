"""Expectations by name: those about rows set rows aside, those about the whole refuse the partition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.environment import Connect
from include.errors import SpecError
from include.ingest.pipeline import Outcome, ingest
from include.monitor.checks.data import check_data
from include.spec import UseCase
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world

PARTITION = world.partitions(2)[1]


@pytest.fixture
def expecting(
    declare: Callable[..., UseCase], lake: Lake, shop: Path, connect: Connect
) -> Callable[..., Outcome]:
    """Return what becomes of the partition under one more expectation."""

    def outcome(kind: str, tolerance: float = 1.0, **kwargs: Any) -> Outcome:
        def more(raw: dict[str, Any]) -> None:
            contract = raw["sources"]["sales"]["contract"]
            contract.update(expectations=[{"type": kind, "kwargs": kwargs}], tolerance=tolerance, min_rows=0)

        (found,) = ingest(lake, declare(more), "sales", [PARTITION], connect)
        return found

    return outcome


ROWS = [
    ("expect_column_values_to_be_in_set", {"column": "item", "value_set": ["bread", "tea"]}, 24),
    ("expect_column_values_to_not_be_in_set", {"column": "item", "value_set": ["tea"]}, 8),
    ("expect_column_value_lengths_to_be_between", {"column": "item", "max_value": 4}, 16),
    ("expect_column_values_to_match_regex", {"column": "units", "regex": r"^\d{1,3}$"}, 0),
    ("expect_column_values_to_be_between", {"column": "opens", "min_value": 500}, 20),
    ("expect_column_pair_values_to_be_equal", {"column_A": "store", "column_B": "item"}, 40),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "opens", "column_B": "price"}, 0),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["store", "item"]}, 0),
    ("expect_column_values_to_be_unique", {"column": "item"}, 40),
    ("expect_compound_columns_to_be_unique", {"column_list": ["store", "item"]}, 0),
    ("expect_compound_columns_to_be_unique", {"column_list": ["store", "promo"]}, None),
]


@pytest.mark.full
@pytest.mark.parametrize(("kind", "kwargs", "broken"), ROWS)
def test_one_about_rows_sets_rows_aside(
    kind: str, kwargs: dict[str, Any], broken: int | None, expecting: Callable[..., Outcome], lake: Lake
) -> None:
    """The rows that break it are in quarantine under its name, and only they."""
    outcome = expecting(kind, **kwargs)
    assert outcome.outcome == "published"
    assert outcome.rows + outcome.quarantined == 40
    if broken is not None:
        assert outcome.quarantined == broken
    assert {row["rule"].split("(")[0] for row in lake.rows("quarantine")} <= {kind}
    assert len(lake.rows("quarantine")) == outcome.quarantined


WHOLE = [
    ("expect_table_row_count_to_be_between", {"min_value": 40, "max_value": 40}, {"min_value": 41}),
    ("expect_table_row_count_to_equal", {"value": 40}, {"value": 39}),
    ("expect_column_unique_value_count_to_be_between", {"max_value": 5}, {"min_value": 6}),
    ("expect_column_proportion_of_unique_values_to_be_between", {"max_value": 0.125}, {"min_value": 0.2}),
    (
        "expect_column_proportion_of_non_null_values_to_be_between",
        {"min_value": 1.0},
        {"max_value": 1.0, "strict_max": True},
    ),
    ("expect_column_distinct_values_to_be_in_set", {"value_set": world.ITEMS}, {"value_set": ["tea"]}),
    ("expect_column_distinct_values_to_contain_set", {"value_set": ["tea"]}, {"value_set": ["gold"]}),
    ("expect_column_distinct_values_to_equal_set", {"value_set": world.ITEMS}, {"value_set": ["tea"]}),
    ("expect_column_mean_to_be_between", {"min_value": 1}, {"min_value": 1000}),
    ("expect_column_median_to_be_between", {"min_value": 1}, {"min_value": 1000}),
    ("expect_column_min_to_be_between", {"min_value": 0}, {"min_value": 1000}),
    ("expect_column_max_to_be_between", {"min_value": 1}, {"max_value": 1}),
    ("expect_column_sum_to_be_between", {"min_value": 100}, {"max_value": 100}),
    ("expect_column_stdev_to_be_between", {"min_value": 1}, {"max_value": 1}),
]


@pytest.mark.full
@pytest.mark.parametrize(("kind", "met", "unmet"), WHOLE)
def test_one_about_the_whole_refuses_the_partition(
    kind: str, met: dict[str, Any], unmet: dict[str, Any], expecting: Callable[..., Outcome], lake: Lake
) -> None:
    """Met, the partition is published; unmet, it is refused with the expectation and what was found."""
    about = "units" if "table" not in kind and "distinct" not in kind else "item"
    about = "item" if "unique" in kind or "distinct" in kind else about
    column = {} if "table" in kind else {"column": about}
    assert expecting(kind, **column, **met).outcome == "published"
    refused = expecting(kind, **column, **unmet)
    assert refused.outcome == "refused"
    assert f"expected {kind}(" in refused.note
    assert ", but found " in refused.note
    assert lake.rows("validated_sales") == []


WRONG = [
    (
        "expect_column_values_to_be_nice",
        {"column": "price"},
        "one of expect_column_distinct_values_to_be_in_set",
    ),
    ("expect_column_values_to_be_between", {"column": "cost", "min_value": 0}, "columns among week, store"),
    ("expect_column_values_to_be_between", {"column": "price", "minimum": 0}, "minimum"),
    ("expect_column_values_to_be_between", {"column": "price", "min_value": 0, "mostly": 0.9}, "tolerance"),
    ("expect_column_values_to_be_increasing", {"column": "price"}, "one of expect_column_"),
    ("expect_column_kl_divergence_to_be_less_than", {"column": "price"}, "one of expect_column_"),
    ("expect_column_mean_to_be_between", {"column": "item", "min_value": 1}, "fits its columns' types"),
    ("expect_column_values_to_be_between", {"column": "item", "min_value": 1}, "fits its columns' types"),
]


@pytest.mark.parametrize(("kind", "kwargs", "valid"), WRONG)
def test_one_that_cant_be_answered_is_the_specs_fault(
    kind: str, kwargs: dict[str, Any], valid: str, expecting: Callable[..., Outcome], lake: Lake
) -> None:
    """It is named with what is valid, no partition is blamed for it, and nothing is published."""
    with pytest.raises(SpecError) as caught:
        expecting(kind, **kwargs)
    assert f"weekly_sales/sales: contract.expectations: {kind}" in str(caught.value)
    assert valid in str(caught.value)
    assert lake.version("partitions") == -1


def test_the_refusal_names_the_three_most_frequent_rules(
    lake: Lake, declare: Callable[..., UseCase], shop: Path, connect: Connect
) -> None:
    """Of many rules that are broken the sentence has the three with the most rows, each with a value."""
    lines = (shop / "sales" / f"{PARTITION}.csv").read_text().splitlines()
    for place in range(1, 41):
        fields = lines[place].split(",")
        fields[3] = "cheap" if place <= 20 else fields[3]
        fields[5] = "1275" if place <= 10 else fields[5]
        fields[6] = "many" if place <= 5 else fields[6]
        fields[4] = "perhaps" if place <= 2 else fields[4]
        lines[place] = ",".join(fields)
    (shop / "sales" / f"{PARTITION}.csv").write_text("\n".join(lines))
    (outcome,) = ingest(lake, declare(), "sales", [PARTITION], connect)
    assert (
        "50.0% of 40 rows: type of price in 20 rows, such as 'cheap'; type of opens in 10 rows, "
        "such as '1275'; type of units in 5 rows, such as 'many' (" in outcome.note
    )
    assert outcome.quarantined == 20
    assert len(lake.rows("quarantine")) == 37


def classes(raw: dict[str, Any]) -> None:
    """Declare a label of three classes: of the items coffee and tea, and whatever the file calls them."""
    raw["problem"] |= {"kind": "multiclass", "classes": ["coffee", "milk", "tea"]}
    raw["labels"]["sql"] = "CASE WHEN item IN ('coffee', 'milk', 'tea', 'soap') THEN item END"
    raw["training"]["baselines"] = raw["training"]["baselines"][:1]
    raw["gate"] |= {"objective": "log_loss", "requirements": []}
    raw["monitoring"]["requirements"] = []
    raw["scoring"]["constant"] = {"coffee": 0.3, "milk": 0.3, "tea": 0.4}


def test_the_label_of_a_quarantined_row_is_not_evaluated(
    declare: Callable[..., UseCase], lake: Lake, shop: Path, connect: Connect
) -> None:
    """What an expectation refuses, the SQL of the label needn't be able to read."""

    def texts(raw: dict[str, Any]) -> None:
        classes(raw)
        sales = raw["sources"]["sales"]
        sales["columns"]["item"] = {"type": "string"}
        sales["contract"]["expectations"] = [
            {
                "type": "expect_column_values_to_match_regex",
                "kwargs": {"column": "item", "regex": "^[a-z]+$"},
            }
        ]
        raw["labels"]["sql"] = "CASE WHEN item = '7up' THEN CAST(item AS INTEGER)::VARCHAR ELSE 'tea' END"

    file = shop / "sales" / f"{PARTITION}.csv"
    file.write_text(file.read_text().replace(",bread,", ",7up,", 1))
    (found,) = ingest(lake, declare(texts), "sales", [PARTITION], connect)
    assert (found.outcome, found.quarantined) == ("published", 1), found.note


def test_a_label_of_no_declared_class_is_set_aside(
    declare: Callable[..., UseCase], lake: Lake, shop: Path, connect: Connect
) -> None:
    """Rows whose label would be another class are in quarantine with rule and value; one without stays."""

    def tolerant(raw: dict[str, Any]) -> None:
        classes(raw)
        raw["sources"]["sales"]["contract"]["tolerance"] = 0.5

    (found,) = ingest(lake, declare(tolerant), "sales", [PARTITION], connect)
    assert (found.outcome, found.rows, found.quarantined) == ("published", 32, 8)
    rows = lake.rows("quarantine")
    assert {(r["rule"], r["column"], r["value"]) for r in rows} == {
        ("problem.classes(one of coffee, milk, tea)", "item", "soap")
    }
    assert {r["item"] for r in lake.rows("validated_sales")} == {"bread", "coffee", "milk", "tea"}


def test_a_partition_of_too_many_other_classes_is_refused(
    declare: Callable[..., UseCase], lake: Lake, shop: Path, connect: Connect
) -> None:
    """Beyond the tolerance the partition is refused; the note names the classes, what came, and both keys."""

    def misspelt(raw: dict[str, Any]) -> None:
        classes(raw)
        raw["labels"]["sql"] = f"replace({raw['labels']['sql']}, 'milk', 'mlik')"

    (refused,) = ingest(lake, declare(misspelt), "sales", [PARTITION], connect)
    assert ", where the label is 'mlik', and milk a class" in refused.note
    (found,) = ingest(lake, declare(classes), "sales", [PARTITION], connect)
    assert found.outcome == "refused"
    assert "problem.classes(one of coffee, milk, tea) of item in 8 rows, such as 'soap'" in found.note
    assert "or change the contract or problem.classes in usecase.yaml" in found.note


@pytest.mark.parametrize(
    ("rows", "bad", "tolerance", "outcome"),
    [
        (10, 1, 0.05, "published"),  # 10 %, but of few rows a share says little
        (10, 2, 0.05, "published"),
        (10, 3, 0.05, "refused"),
        (2, 2, 0.05, "refused"),  # none is left
        (1, 1, 0.05, "refused"),
        (10, 1, 0.0, "refused"),  # none is tolerated
        (40, 3, 0.05, "refused"),
        (40, 2, 0.05, "published"),
    ],
)
def test_a_few_bad_rows_refuse_no_small_partition(
    rows: int,
    bad: int,
    tolerance: float,
    outcome: str,
    declare: Callable[..., UseCase],
    lake: Lake,
    shop: Path,
    connect: Connect,
) -> None:
    """Two rows may be set aside whatever their share, unless nothing is left or nothing is tolerated."""
    file = shop / "sales" / f"{PARTITION}.csv"
    header, *lines = file.read_text().splitlines()[: rows + 1]
    lines = [line.replace(",s0", ",nowhere") if n < bad else line for n, line in enumerate(lines)]
    file.write_text("\n".join([header, *lines]) + "\n")

    def small(raw: dict[str, Any]) -> None:
        raw["sources"]["sales"]["contract"].update(min_rows=0, tolerance=tolerance)

    spec = declare(small)
    (found,) = ingest(lake, spec, "sales", [PARTITION], connect)
    assert (found.outcome, found.quarantined) == (outcome, bad)
    assert found.rows == (rows - bad if outcome == "published" else 0)
    if outcome == "refused":
        allowed = (
            "at most 5.0% of rows quarantined, or 2 rows" if tolerance else "at most 0.0% of rows quarantined"
        )
        assert f"expected {allowed}, but found {bad / rows:.1%} of {rows} rows: " in found.note
    row = lake.rows("partitions", {"product": "sales", "partition": PARTITION})[0]
    (finding, _) = check_data(spec, PARTITION, {"sales": row})
    assert finding.outcome == ("ok" if outcome == "published" else "alarm")
