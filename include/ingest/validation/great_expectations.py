"""Expectations about rows, asked of Great Expectations in batches of at most a million rows.

A batch may hold many partitions, so only expectations that judge a row by itself are asked here; those about
a whole partition are answered by SQL (`include.ingest.validation.compiled`), and those that mean something
else in another batch (an order, a z-score) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from threading import Lock
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
import pyarrow as pa
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.exceptions.exceptions import ExpectationNotFoundError
from great_expectations.expectations import expectation as kinds
from great_expectations.expectations.registry import (
    get_expectation_impl,
    list_registered_expectation_implementations,
)

from include.errors import SpecError
from include.ingest.validation.compiled import ANSWERED, UNIQUE
from include.ingest.validation.rows import Mask
from include.spec.source import Expectation

BATCH = 1_000_000
_TURN = Lock()
NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
ALONE = kinds.ColumnMapExpectation
BY_ROW = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
# they look beyond the row, so the same partition would fare otherwise in another batch; types are under
# `columns`
NOT_BY_ROW = (
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_be_decreasing",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_not_be_outliers",
    *UNIQUE,
)


def require_supported(subject: str, expectations: Sequence[Expectation], columns: Sequence[str]) -> None:
    """Refuse an expectation that can't be asked.

    Raises
    ------
    SpecError
        naming it, and what is valid.
    """
    for expectation in expectations:
        where = f"{subject}: contract.expectations: {expectation.type}"
        if expectation.type not in supported_expectations():
            raise SpecError(
                where,
                required=f"one of {', '.join(supported_expectations())}",
                remedy="use one of these in the spec",
            )
        if "mostly" in expectation.kwargs:
            raise SpecError(
                where, found="mostly", remedy="say under contract.tolerance how many rows may break it"
            )
        unknown = [column for column in expectation.columns if column not in columns]
        if unknown:
            raise SpecError(where, required=f"columns among {', '.join(columns)}", found=", ".join(unknown))
        _made(subject, expectation, 0)


@cache
def supported_expectations() -> tuple[str, ...]:
    """Return the names of the expectations that can be asked, by row or of a partition."""
    names = list_registered_expectation_implementations()
    by_row = [n for n in names if issubclass(get_expectation_impl(n), BY_ROW) and n not in NOT_BY_ROW]
    return tuple(sorted({*by_row, *UNIQUE, *ANSWERED}))


def broken_rows(
    subject: str, expectations: Sequence[Expectation], rows: pa.Table
) -> Iterator[tuple[Expectation, Mask]]:
    """Yield each expectation about rows, and which rows break it (to Great Expectations null breaks none).

    Raises
    ------
    SpecError
        for an expectation that Great Expectations can't answer for its columns.
    """
    for single in (True, False):
        group = [one for one in expectations if issubclass(get_expectation_impl(one.type), ALONE) is single]
        needed = list(dict.fromkeys(column for one in group for column in one.columns))
        found = [np.zeros(rows.num_rows, bool) for _ in group]
        for start in range(0, rows.num_rows if group else 0, BATCH):
            frame = _frame(rows.select(needed).slice(start, BATCH), single)
            for number, places in _asked(subject, group, frame):
                found[number][start + np.asarray(places, np.int64)] = True
        yield from zip(group, found, strict=True)


def _frame(rows: pa.Table, single: bool) -> pd.DataFrame:
    """Return rows in types that one null doesn't change, since it may be another partition's.

    Great Expectations drops a single column's nulls first; those of pairs it compares, which only NaN stands.
    """
    floats = [f.with_type(pa.float64()) if pa.types.is_integer(f.type) else f for f in rows.schema]
    frame: pd.DataFrame = (
        rows.to_pandas(types_mapper=NULLABLE.get)
        if single
        else rows.cast(pa.schema(floats), safe=False).to_pandas()
    )
    return frame


def _asked(
    subject: str, asked: Sequence[Expectation], frame: pd.DataFrame
) -> Iterator[tuple[int, list[int]]]:
    made = [_made(subject, one, number) for number, one in enumerate(asked)]
    with _TURN:  # two threads that share its context were seen to get each other's rows
        answer = (
            _definition()
            .get_batch(batch_parameters={"dataframe": frame})
            .validate(
                gx.ExpectationSuite(name="contract", expectations=made),
                # not its to_json_dict: that isn't JSON (numpy booleans)
                result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
            )
        )
    for result in answer.results:
        number = result.expectation_config.meta["number"]  # type: ignore[union-attr]  # it is what was asked
        if "element_count" not in result.result:
            found = "; ".join(
                str(one["exception_message"])
                for one in result.exception_info.values()
                if isinstance(one, dict)
            )
            raise SpecError(
                f"{subject}: contract.expectations: {asked[number].rule}",
                required="an expectation that fits its columns' types",
                found=found[:300] or "no answer",
                remedy="correct it in the spec",
            )
        yield number, result.result.get("unexpected_index_list") or []


def _made(subject: str, expectation: Expectation, number: int) -> Any:
    """Return Great Expectations' own object; ``number`` finds its result, since they come in any order."""
    try:
        return get_expectation_impl(expectation.type)(**expectation.kwargs, meta={"number": number})
    except (ValueError, TypeError, ExpectationNotFoundError) as error:  # pydantic's own is a ValueError
        raise SpecError(
            f"{subject}: contract.expectations: {expectation.type}",
            required="arguments that Great Expectations takes",
            found=" ".join(str(error).split())[:300],
            remedy="correct kwargs in the spec",
        ) from None


@cache
def _definition() -> BatchDefinition[Any]:
    """Return the one batch definition of this process; nothing of it is stored or sent."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("evergreen").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")
