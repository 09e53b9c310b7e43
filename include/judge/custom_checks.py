"""The gate checks that a use case brings: functions from a `CheckContext` to a list of `Check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from include.extensions import CodeReference
from include.judge.context import Check, CheckContext, CheckFunction
from include.spec import UseCase


def custom_checks(spec: UseCase) -> dict[str, CheckFunction]:
    """Return the use case's own checks by the names that it declares."""
    return {code.name: partial(_run, code) for code in spec.python_of("gate.checks")}


def _run(code: CodeReference, context: CheckContext) -> Sequence[Check]:
    """Return the results of one check.

    Raises
    ------
    SpecError
        if it raises, or returns anything but checks that can be recorded.
    """
    function, required = code.load(), "a function of a CheckContext that returns a list of Check"
    results = code.call(required, lambda: list(function(context)))
    for check in results:
        if not isinstance(check, Check):
            code.fail(required, f"type {type(check).__name__} in the list", function)
        texts = (check.name, check.required, check.observed, check.note)
        if not all(isinstance(text, str) for text in texts) or check.passed not in (True, False, None):
            code.fail(f"{required} with texts, and passed True, False or None", repr(check), function)
    return [replace(check, passed=None if check.passed is None else bool(check.passed)) for check in results]
