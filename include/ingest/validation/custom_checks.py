"""The row checks that a use case brings: functions from typed rows to which of them pass."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from include.extensions import CodeReference

REQUIRED = "a function of rows that returns a boolean for each, or a text or null"


def refusals(code: CodeReference, rows: pa.Table) -> pa.ChunkedArray:
    """Return why a function refuses each row: a text, empty without a reason; null if the row passes.

    Parameters
    ----------
    rows : of the source's own columns, shape (n, columns).

    Raises
    ------
    SpecError
        if the function raises, or doesn't return one boolean, text or null for each row.
    """
    function = code.load()

    def run() -> pa.ChunkedArray:
        answers = function(rows)
        return answers if isinstance(answers, pa.ChunkedArray) else pa.chunked_array([pa.array(answers)])

    answers: pa.ChunkedArray = code.call(REQUIRED, run)
    answers = answers.cast(pa.bool_()) if pa.types.is_null(answers.type) else answers
    is_text = pa.types.is_string(answers.type) or pa.types.is_large_string(answers.type)
    if len(answers) != rows.num_rows or not (is_text or pa.types.is_boolean(answers.type)):
        code.fail(REQUIRED, f"{len(answers)} of type {answers.type} for {rows.num_rows} rows", function)
    if is_text:
        return answers.cast(pa.string())
    return pc.if_else(pc.fill_null(answers, True), pa.scalar(None, pa.string()), "")
