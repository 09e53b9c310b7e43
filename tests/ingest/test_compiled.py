"""What is compiled answers as Great Expectations does, row by row; what isn't goes on to it."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.errors import SpecError
from include.ingest.validation import compiled, great_expectations
from include.ingest.validation.compiled import AGGREGATES, UNIQUE, is_simple_aggregate
from include.ingest.validation.expectations import broken_expectations
from include.spec import UseCase
from include.spec.load import read
from include.spec.source import Expectation
from include.storage.lake import Lake
from include.storage.schemas import TIME, column_type
from tests.usecases.weekly_sales import world
from tests.warm import stand_in

ROOT = Path(__file__).parents[2]
WHOLE = 2**53 - 1  # pairs of integers are asked of Great Expectations as floats
TEXT = st.text("aZ09٣é\n\r -.\\'\"?$\x00😀\u0301", max_size=4)
WORDS = st.sampled_from(["", "a", "A", "s12", "s12\n", "s٣٣", "NULL", "nan", "x' OR 1=1 --"]) | TEXT
NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, 2.5, 1e308]) | st.floats()
WHOLES = st.sampled_from([0, 1, -1, WHOLE]) | st.integers(-WHOLE, WHOLE)
DAYS = st.dates(date(2012, 12, 30), date(2013, 1, 3)) | st.dates(date(1, 1, 1), date(9999, 12, 31))
MOMENTS = st.datetimes(datetime(2013, 1, 1), datetime(2013, 1, 2)).map(lambda t: t.replace(tzinfo=UTC))
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "integer": (pa.int64(), WHOLES),
    "hhmm": (pa.int32(), st.integers(0, 1440)),
    "number": (pa.float64(), NUMBERS),
    "string": (pa.string(), WORDS),
    "date": (pa.date32(), DAYS),
    "boolean": (pa.bool_(), st.booleans()),
    "time": (TIME, MOMENTS),
    "empty": (pa.string(), st.none()),
    'a"b; DROP TABLE rows --': (pa.int64(), WHOLES),
    "rowid": (pa.float64(), NUMBERS),
    "$1 ? count(*)": (pa.string(), WORDS),
}
TYPES = {name: kind for name, (kind, _) in COLUMNS.items()}
ROW = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in COLUMNS.items()})
NOTHING = dict.fromkeys(COLUMNS)
ROWS = st.sampled_from([[], [NOTHING], [NOTHING] * 3]) | st.lists(ROW, min_size=1, max_size=12)
PATTERNS = [
    r"^s\d{2}$",
    "^[A-Z0-9]{2}$",
    "a",
    "[a-z]+",
    r"^-?\d+\.\d*$",
    "^[a .]?$",
    "0{1,2}",
    "^[A-Za-z_]*$",
]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return the rows as a table; NaN stays NaN."""
    columns = {n: pa.array([row[n] for row in rows], t, from_pandas=False) for n, t in TYPES.items()}
    return pa.table(columns)


def all_of(rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return that each row is asked for."""
    return np.ones(rows.num_rows, bool)


def between(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return one limit or both in order, strict or not."""
    pair = st.tuples(values, values).map(sorted)
    strict = st.fixed_dictionaries({}, optional={"strict_min": st.booleans(), "strict_max": st.booleans()})
    said = pair.flatmap(
        lambda two: st.sampled_from(
            [{"min_value": two[0], "max_value": two[1]}, {"min_value": two[0]}, {"max_value": two[1]}]
        )
    )
    return st.tuples(said, strict).map(lambda both: {**both[0], **both[1]})


FINITE = st.sampled_from([-0.0, 0.5, 1.0, 1, 2.5, 1e15]) | st.floats(-1e15, 1e15) | WHOLES
LIMITS = {pa.int64(): FINITE, pa.int32(): FINITE, pa.float64(): FINITE, pa.date32(): DAYS}
MEMBERS = {
    pa.int64(): WHOLES,
    pa.int32(): WHOLES,
    pa.float64(): FINITE,
    pa.date32(): DAYS,
    pa.string(): WORDS,
    pa.bool_(): st.booleans(),
}


@st.composite
def expectations(draw: st.DrawFn) -> list[Expectation]:
    """Return one of each compiled type for each column that it is compiled for."""
    made = []
    for name, kind in TYPES.items():
        made += [("values_to_be_null", {"column": name}), ("values_to_not_be_null", {"column": name})]
        if kind in LIMITS:
            made.append(("values_to_be_between", {"column": name, **draw(between(LIMITS[kind]))}))
        if kind in MEMBERS:
            members = {"column": name, "value_set": draw(st.lists(MEMBERS[kind], min_size=1, max_size=4))}
            made += [("values_to_be_in_set", members), ("values_to_not_be_in_set", members)]
        if kind == pa.string():
            pattern = {"column": name, "regex": draw(st.sampled_from(PATTERNS))}
            made += [("values_to_match_regex", pattern), ("values_to_not_match_regex", pattern)]
            lengths = draw(between(st.integers(-1, 6)))
            made.append(("value_lengths_to_be_between", {"column": name, **lengths}))
            made.append(("value_lengths_to_equal", {"column": name, "value": draw(st.integers(0, 6))}))
    return [Expectation(type=f"expect_column_{kind}", kwargs=kwargs) for kind, kwargs in made]


def same(rows: pa.Table, asked: list[Expectation]) -> None:
    """Assert that each is compiled, and that both find the same rows that break it."""
    conditions = [
        compiled.compile_expectation(one, {field.name: field.type for field in rows.schema}) for one in asked
    ]
    assert [one for one, made in zip(asked, conditions, strict=True) if made is None] == []
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        ours = compiled.breaking_rows(connection, [made for made in conditions if made is not None])
    theirs = {id(one): which for one, which in great_expectations.broken_rows("x", asked, rows)}
    for one, mine in zip(asked, ours, strict=True):
        assert mine.tolist() == theirs[id(one)].tolist(), (one, rows.select(one.columns).to_pylist())


@pytest.mark.full
@settings(max_examples=8)
@given(ROWS, expectations())
def test_the_same_rows_break_it(records: list[dict[str, Any]], asked: list[Expectation]) -> None:
    """Every compiled type about one column sets aside the rows that Great Expectations does, and no other."""
    assert {one.type for one in asked} == {kind for kind in compiled.KINDS if "pair" not in kind}
    same(table(records), asked)


PAIRS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int64(), [-WHOLE, 0, 1, WHOLE, None]),
    (pa.float64(), [-math.inf, -0.0, 0.0, 1.5, math.inf, math.nan, None]),
    (pa.string(), ["", "a", "ab", "B", "é", "😀", "\uffff", None]),
    (pa.date32(), [date(1, 1, 1), date(2013, 1, 1), date(9999, 12, 31), None]),
    (TIME, [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, 0, 0, 0, 1, tzinfo=UTC), None]),
]


@pytest.mark.full
@pytest.mark.parametrize(("kind", "values"), PAIRS)
def test_the_same_pairs_break_it(kind: pa.DataType, values: list[Any]) -> None:
    """Each value beside each other, and beside none, fares the same in both, whichever rows are ignored."""
    one, other = zip(*itertools.product(values, repeat=2), strict=True)
    rows = pa.table(
        {"one": pa.array(one, kind, from_pandas=False), "two": pa.array(other, kind, from_pandas=False)}
    )
    ignored = ["both_values_are_missing", "either_value_is_missing", "neither"]
    asked = [
        Expectation(type=kind, kwargs={"column_A": "one", "column_B": "two"} | which | equal)
        for kind in compiled.KINDS
        if "pair" in kind
        for which in [{}, *({"ignore_row_if": one} for one in ignored)]
        for equal in ([{}, {"or_equal": True}] if "greater" in kind else [{}])
    ]
    same(rows, asked)


@pytest.mark.full
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("limit", [-1.5, -1, -0.0, 0, 0.5, 1.0, 2**53 - 1, -(2**53) + 1])
def test_a_value_at_the_limit(limit: float, strict: bool) -> None:
    """At, beside and beyond each limit both say the same, also of integers that no float is."""
    wholes = [
        -(2**63),
        -(2**53) - 1,
        -2,
        -1,
        0,
        1,
        2,
        2**53 - 2,
        2**53 - 1,
        2**53,
        2**53 + 1,
        2**63 - 1,
        None,
    ]
    floats = [
        -math.inf,
        -1.5,
        -1.0,
        -0.0,
        0.0,
        5e-324,
        0.5,
        1.0,
        2.0**53 - 1,
        2.0**53,
        math.inf,
        math.nan,
        None,
    ]
    rows = pa.table({"i": pa.array(wholes, pa.int64()), "f": pa.array(floats, from_pandas=False)})
    sides = [{"min_value": limit, "strict_min": strict}, {"max_value": limit, "strict_max": strict}]
    kind = "expect_column_values_to_be_between"
    same(rows, [Expectation(type=kind, kwargs={"column": n, **side}) for n in "if" for side in sides])


def test_great_expectations_own_figures() -> None:
    """Success and the count of a whole suite are what the masks say."""
    import great_expectations as gx

    records = [NOTHING | {"number": float(n), "string": "ab"[: n % 3], "integer": n} for n in range(7)]
    rows = table([NOTHING, *records])
    kwargs: dict[str, dict[str, Any]] = {
        "expect_column_values_to_be_between": {"column": "number", "min_value": 1, "max_value": 4},
        "expect_column_values_to_be_in_set": {"column": "string", "value_set": ["a", ""]},
        "expect_column_values_to_not_be_null": {"column": "string"},
        "expect_column_value_lengths_to_be_between": {"column": "string", "max_value": 2},
        "expect_column_values_to_match_regex": {"column": "string", "regex": "^a"},
    }
    context = gx.get_context(mode="ephemeral")
    suite = gx.ExpectationSuite(name="s")
    for kind, arguments in kwargs.items():
        suite.add_expectation(great_expectations.get_expectation_impl(kind)(**arguments))
    asset = context.data_sources.add_pandas("p").add_dataframe_asset("a")
    batch = asset.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": rows.to_pandas()})
    results = batch.validate(suite, result_format="COMPLETE").results
    asked = [Expectation(type=kind, kwargs=arguments) for kind, arguments in kwargs.items()]
    masks = {
        asked[number].type: which for number, _, which in broken_expectations("x", asked, rows, all_of(rows))
    }
    assert len(results) == len(masks) == len(kwargs)
    for result in results:
        which = masks[result.expectation_config.type]
        assert result.success is not which.any()
        assert result.result["unexpected_count"] == which.sum()
        assert result.result["unexpected_index_list"] == np.flatnonzero(which).tolist()


FIGURES = st.sampled_from([kind for kind in AGGREGATES if kind.endswith("between")])
ABOUT_ALL = st.one_of(
    st.tuples(FIGURES, between(FINITE)),
    st.tuples(st.just("expect_table_row_count_to_equal"), st.fixed_dictionaries({"value": st.integers()})),
    st.tuples(
        st.sampled_from([kind for kind in AGGREGATES if "distinct" in kind]),
        st.fixed_dictionaries({"value_set": st.lists(WORDS | FINITE | DAYS | st.none(), min_size=1)}),
    ),
    st.tuples(st.sampled_from(UNIQUE), st.just({})),
)


@given(ABOUT_ALL)
def test_what_is_not_asked_is_taken_by_great_expectations(what: tuple[str, dict[str, Any]]) -> None:
    """Expectations of the whole that are known without asking are some that Great Expectations makes."""
    kind, kwargs = what
    about = {"column_list": ["number", "string"]} if "compound" in kind else {"column": "number"}
    asked = Expectation(type=kind, kwargs=kwargs if "table" in kind else about | kwargs)
    assert is_simple_aggregate(asked, TYPES)
    great_expectations.require_supported("x", [asked], list(TYPES))


PARTITION = """
import sys
from pathlib import Path
from include.environment import Endpoint
from include.ingest.pipeline import ingest
from include.storage.lake import Lake
from include.spec.load import read
lake, spec, partition, shop = sys.argv[1:]
endpoint = lambda name: Endpoint(name, shop)
(done,) = ingest(Lake("weekly_sales", lake), read(Path(spec)), "sales", [partition], endpoint)
print(done.outcome, "great_expectations" in sys.modules)
"""


def test_no_partition_imports_great_expectations_for_what_is_compiled(
    spec: UseCase, lake: Lake, shop: Path
) -> None:
    """A partition whose contract is compiled is done without it."""
    arguments = [
        lake.uri,
        str(spec.folder / "usecase.yaml"),
        world.partitions(2)[1],
        shop.absolute().as_uri(),
    ]
    command = [stand_in(), "-c", PARTITION, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["published", "False"]


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("values_to_be_between", {"column": "integer", "min_value": True}),
    ("values_to_be_between", {"column": "integer", "min_value": 2**53}),
    ("values_to_be_between", {"column": "integer", "min_value": "1"}),
    ("values_to_be_between", {"column": "date", "min_value": "2013-01-01"}),
    ("values_to_be_between", {"column": "time", "min_value": datetime(2013, 1, 1, tzinfo=UTC)}),
    ("values_to_be_between", {"column": "boolean", "min_value": 1}),
    ("values_to_be_between", {"column": "number", "min_value": 1, "row_condition": None}),
    ("values_to_be_between", {"column": "number", "min_value": 0, "mostly": 0.5}),
    ("values_to_be_between", {"column": "number", "min_value": 0, "strict_min": 1}),
    ("values_to_be_in_set", {"column": "string", "value_set": []}),
    ("values_to_be_in_set", {"column": "string", "value_set": ["a", None]}),
    ("values_to_be_in_set", {"column": "string", "value_set": ["a", 1]}),
    ("values_to_be_in_set", {"column": "integer", "value_set": [1, 1.5]}),
    ("values_to_be_in_set", {"column": "integer", "value_set": ["1"]}),
    ("values_to_not_be_in_set", {"column": "time", "value_set": ["2013-01-01"]}),
    ("value_lengths_to_be_between", {"column": "string", "min_value": 1.5}),
    ("value_lengths_to_be_between", {"column": "integer", "min_value": 1}),
    ("value_lengths_to_equal", {"column": "string", "value": 1.5}),
    ("values_to_match_regex", {"column": "integer", "regex": "1"}),
    ("values_to_match_regex", {"column": "string", "regex": "(?=a)a"}),
    ("values_to_match_regex", {"column": "string", "regex": r"^\w+$"}),
    ("values_to_match_regex", {"column": "string", "regex": "^.$"}),
    ("values_to_match_regex", {"column": "string", "regex": "a|b"}),
    ("values_to_match_regex", {"column": "string", "regex": "[^a]"}),
    ("values_to_match_regex_list", {"column": "string", "regex_list": ["a"]}),
    ("pair_values_to_be_equal", {"column_A": "hhmm", "column_B": "number"}),
    ("pair_values_a_to_be_greater_than_b", {"column_A": "boolean", "column_B": "hhmm"}),
    ("pair_values_a_to_be_greater_than_b", {"column_A": "hhmm", "column_B": "number", "or_equal": True}),
]


@pytest.mark.full
@pytest.mark.parametrize(("kind", "kwargs"), OTHERS)
def test_what_is_not_compiled_goes_on_to_great_expectations(kind: str, kwargs: dict[str, Any]) -> None:
    """It isn't compiled, and is answered all the same."""
    asked = Expectation(type=f"expect_column_{kind}", kwargs=kwargs)
    assert compiled.compile_expectation(asked, TYPES) is None
    day, moment = date(2013, 1, 1), datetime(2013, 1, 1, tzinfo=UTC)
    row = {
        "integer": 1,
        "hhmm": 2,
        "number": 2.5,
        "string": "a",
        "date": day,
        "time": moment,
        "boolean": True,
    }
    rows = table([NOTHING | row])
    try:
        expected = [which.tolist() for _, which in great_expectations.broken_rows("x", [asked], rows)]
    except SpecError as error:
        with pytest.raises(SpecError, match=re.escape(str(error))):
            list(broken_expectations("x", [asked], rows, all_of(rows)))
    else:
        assert [
            which.tolist() for *_, which in broken_expectations("x", [asked], rows, all_of(rows))
        ] == expected


def test_an_integer_that_is_no_float_stands_beside_a_number() -> None:
    """It is compared as the nearest float, and stops no partition."""
    kwargs = {"column_A": "integer", "column_B": "number"}
    asked = Expectation(type="expect_column_pair_values_a_to_be_greater_than_b", kwargs=kwargs)
    rows = table([NOTHING | {"integer": 2**53 + 1, "number": float(n)} for n in (1, 2**54)])
    assert [which.tolist() for *_, which in broken_expectations("x", [asked], rows, all_of(rows))] == [
        [False, True]
    ]


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("values_to_be_between", {"column": "number", "min_value": 2, "max_value": 1}),
        ("values_to_match_regex", {"column": "string", "regex": "a{3,1}"}),
        ("values_to_be_between", {"column": "string", "min_value": 1}),
        ("values_to_not_be_null", {"column": "Number"}),
        ("values_to_not_be_null", {}),
    ],
)
def test_what_is_wrong_is_not_compiled(kind: str, kwargs: dict[str, Any]) -> None:
    """So that it is refused with Great Expectations' own reason."""
    assert (
        compiled.compile_expectation(Expectation(type=f"expect_column_{kind}", kwargs=kwargs), TYPES) is None
    )


def test_columns_that_differ_by_case_are_not_compiled() -> None:
    """They are one column to DuckDB; a spec has none such."""
    kind = "expect_column_values_to_be_between"
    asked = [Expectation(type=kind, kwargs={"column": name, "max_value": 2}) for name in "aAb"]
    types = dict.fromkeys("aAb", pa.int64())
    assert [compiled.compile_expectation(one, types) is None for one in asked] == [True, True, False]


def test_the_use_cases_contracts_are_compiled() -> None:
    """None of theirs is asked of Great Expectations."""
    paths = [*ROOT.glob("include/usecases/[a-z]*/usecase.yaml"), *ROOT.glob("tests/usecases/*/usecase.yaml")]
    seen = 0
    for spec in map(read, paths):
        for source in spec.sources.values():
            types = {name: column_type(column) for name, column in source.columns.items()}
            for one in source.contract.expectations:
                assert (
                    is_simple_aggregate(one, types) or compiled.compile_expectation(one, types) is not None
                ), (spec.name, one)
                seen += 1
    assert seen == 20
