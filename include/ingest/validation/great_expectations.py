"""Evaluates expectations about rows with Great Expectations, in batches of at most a million rows.

A batch may hold many partitions, so only expectations that judge each row by itself are evaluated here. Those
about a whole partition are evaluated in SQL (`include.ingest.validation.compiled`). Those whose result
depends on the other rows of the batch, such as an order or a z-score, are rejected.
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
from great_expectations.expectations import expectation as base
from great_expectations.expectations.registry import (
    get_expectation_impl,
    list_registered_expectation_implementations,
)

from include.errors import SpecError
from include.ingest.validation.compiled import AGGREGATES, UNIQUE
from include.ingest.validation.rows import Mask
from include.spec.source import Expectation

BATCH = 1_000_000
NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
SINGLE_COLUMN = base.ColumnMapExpectation
ROW_EXPECTATIONS = (
    base.ColumnMapExpectation,
    base.ColumnPairMapExpectation,
    base.MulticolumnMapExpectation,
)
# their result depends on the rest of the batch; types are declared under `columns`
NOT_BY_ROW = (
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_be_decreasing",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_not_be_outliers",
    *UNIQUE,
)
_VALIDATION_LOCK = Lock()  # two threads that share the context received each other's rows


def require_supported(subject: str, expectations: Sequence[Expectation], columns: Sequence[str]) -> None:
    """Reject expectations that can't be evaluated.

    Raises
    ------
    SpecError
        naming the expectation, and what is valid.
    """
    for expectation in expectations:
        where = f"{subject}: contract.expectations: {expectation.type}"
        if expectation.type not in supported_expectations():
            raise SpecError(
                where,
                required=f"one of {', '.join(supported_expectations())}",
                remedy="use one of these in usecase.yaml",
            )
        if "mostly" in expectation.kwargs:
            remedy = "declare the share of rows that may break expectations under contract.tolerance"
            raise SpecError(where, found="mostly", remedy=remedy)
        unknown = [column for column in expectation.columns if column not in columns]
        if unknown:
            raise SpecError(
                where,
                required=f"columns among {', '.join(columns)}",
                found=", ".join(unknown),
                remedy="name one of these, or declare the column in usecase.yaml",
            )
        _create_expectation(subject, expectation, 0)


@cache
def supported_expectations() -> tuple[str, ...]:
    """Return the names of the expectations that can be declared, about rows or about a partition."""
    names = list_registered_expectation_implementations()
    by_row = [
        name
        for name in names
        if issubclass(get_expectation_impl(name), ROW_EXPECTATIONS) and name not in NOT_BY_ROW
    ]
    return tuple(sorted({*by_row, *UNIQUE, *AGGREGATES}))


def broken_rows(
    subject: str, expectations: Sequence[Expectation], rows: pa.Table
) -> Iterator[tuple[Expectation, Mask]]:
    """Yield each expectation, and which rows break it; for Great Expectations a null breaks none.

    Raises
    ------
    SpecError
        for an expectation that Great Expectations can't evaluate for its columns.
    """
    for single_column in (True, False):
        group = [
            expectation
            for expectation in expectations
            if issubclass(get_expectation_impl(expectation.type), SINGLE_COLUMN) is single_column
        ]
        columns = list(dict.fromkeys(column for expectation in group for column in expectation.columns))
        masks = [np.zeros(rows.num_rows, bool) for _ in group]
        for start in range(0, rows.num_rows if group else 0, BATCH):
            frame = _to_pandas(rows.select(columns).slice(start, BATCH), single_column)
            for number, indices in _evaluate(subject, group, frame):
                masks[number][start + np.asarray(indices, np.int64)] = True
        yield from zip(group, masks, strict=True)


def _to_pandas(rows: pa.Table, single_column: bool) -> pd.DataFrame:
    """Return rows in types that don't depend on whether there is a null, which may be another partition's.

    Great Expectations drops the nulls of a single column before it evaluates, so nullable types work there.
    It compares the nulls of column pairs, which works for NaN only, so their integers become floats.
    """
    if single_column:
        nullable: pd.DataFrame = rows.to_pandas(types_mapper=NULLABLE.get)
        return nullable
    fields = [f.with_type(pa.float64()) if pa.types.is_integer(f.type) else f for f in rows.schema]
    frame: pd.DataFrame = rows.cast(pa.schema(fields), safe=False).to_pandas()
    return frame


def _evaluate(
    subject: str, expectations: Sequence[Expectation], frame: pd.DataFrame
) -> Iterator[tuple[int, list[int]]]:
    """Yield each expectation's number and the indices of the rows that break it."""
    suite = gx.ExpectationSuite(
        name="contract",
        expectations=[_create_expectation(subject, one, number) for number, one in enumerate(expectations)],
    )
    # its to_json_dict would return NumPy booleans, which aren't JSON
    result_format = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
    with _VALIDATION_LOCK:
        batch = _batch_definition().get_batch(batch_parameters={"dataframe": frame})
        validation = batch.validate(suite, result_format=result_format)
    for result in validation.results:
        number = result.expectation_config.meta["number"]  # type: ignore[union-attr]  # set by _create_expectation
        if "element_count" not in result.result:
            messages = "; ".join(
                str(exception["exception_message"])
                for exception in result.exception_info.values()
                if isinstance(exception, dict)
            )
            raise SpecError(
                f"{subject}: contract.expectations: {expectations[number].rule}",
                required="an expectation that fits its columns' types",
                found=messages[:300] or "no result",
                remedy="correct it in usecase.yaml",
            )
        yield number, result.result.get("unexpected_index_list") or []


def validate_suite(suite: dict[str, Any], rows: pa.Table) -> Any:
    """Return Great Expectations' own result of a whole suite, with examples of what is unexpected."""
    pairs = any("column_A" in expectation["kwargs"] for expectation in suite["expectations"])
    frame = _to_pandas(rows, single_column=not pairs)
    with _VALIDATION_LOCK:
        batch = _batch_definition().get_batch(batch_parameters={"dataframe": frame})
        return batch.validate(gx.ExpectationSuite(**suite), result_format="SUMMARY")


def _create_expectation(subject: str, expectation: Expectation, number: int) -> Any:
    """Return Great Expectations' own object; ``number`` identifies its result among all."""
    try:
        return get_expectation_impl(expectation.type)(**expectation.kwargs, meta={"number": number})
    except (ValueError, TypeError, ExpectationNotFoundError) as error:  # pydantic's errors are ValueErrors
        raise SpecError(
            f"{subject}: contract.expectations: {expectation.type}",
            required="arguments that Great Expectations accepts",
            found=" ".join(str(error).split())[:300],
            remedy="correct kwargs in usecase.yaml",
        ) from None


@cache
def _batch_definition() -> BatchDefinition[Any]:
    """Return this process's batch definition; Great Expectations stores and sends nothing."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("evergreen").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")
