"""Writes a source's contract as a suite of Great Expectations 1.x, and reads a suite as a contract.

A suite is about the source's rows as they are stored. What it can't express is listed in its ``meta``. A rule
that the declaration has outside ``contract.expectations`` is marked, so that reading returns it to its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from include.errors import EvergreenError, SpecError
from include.ingest.validation.compiled import UNIQUE
from include.ingest.validation.expectations import validate_expectations
from include.spec import UseCase
from include.spec.source import BaseSource, Expectation

MARK = "evergreen"  # in ``meta``
NOT_EXPRESSED = (
    "type",
    "timezone",
    "day",
    "time",
    "agrees",
    "class",
    "contract.tolerance",
    "contract.extra",
    "contract.row_checks",
)
REQUIRED, KEY, ROW_COUNT, COLUMNS = "required", "key", "row count", "columns"
Suite = dict[str, Any]


@dataclass(frozen=True)
class SuiteContract:
    """What a suite says about a source, as its declaration has it.

    Parameters
    ----------
    declaration : ``key``, the required ``columns`` and the ``contract``, as far as the suite has them.
    not_expressed : a sentence for each expectation that a declaration can't express.
    """

    declaration: dict[str, Any]
    not_expressed: list[str]


def to_suite(spec: UseCase, name: str) -> Suite:
    """Return the contract of a source as a suite, for `json.dumps` with ``default=str``."""
    source = declared_source(spec, name)
    expectations = [*_own_rules(source), *((one, "") for one in source.contract.expectations)]
    return {
        "name": f"{spec.name}.{name}",
        "id": None,
        "expectations": [
            {
                "type": expectation.type,
                "kwargs": expectation.kwargs,
                "meta": {MARK: rule} if rule else {},
                "severity": "critical",
            }
            for expectation, rule in expectations
        ],
        "meta": {
            "great_expectations_version": version("great_expectations"),
            MARK: {"spec": spec.digest, "not_expressed": list(NOT_EXPRESSED)},
        },
        "notes": None,
    }


def from_suite(suite: Any, spec: UseCase, name: str) -> SuiteContract:
    """Return what a suite says about a source.

    Raises
    ------
    SpecError
        when it isn't a suite in the format of Great Expectations 1.x.
    """
    source = declared_source(spec, name)
    entries = suite.get("expectations") if isinstance(suite, dict) else None
    if not isinstance(entries, list) or not all(map(_is_expectation, entries)):
        raise SpecError(
            f"{spec.name}/{name}: suite",
            required='a suite of Great Expectations 1.x: "expectations", each with "type" and "kwargs"',
            found=f"a suite of {len(entries)} others" if isinstance(entries, list) else "something else",
            remedy="save it again with Great Expectations 1.x",
        )
    declaration: dict[str, Any] = {}
    contract: dict[str, Any] = {}
    expectations, not_expressed = [], []
    for entry in entries:
        rule, kwargs = (entry.get("meta") or {}).get(MARK), _declared_kwargs(entry, source)
        if rule == REQUIRED and "column" in kwargs:
            declaration.setdefault("columns", {})[kwargs["column"]] = {"required": True}
        elif rule == KEY and entry["type"] in UNIQUE:
            declaration["key"] = kwargs.get("column_list") or [kwargs["column"]]
        elif rule == ROW_COUNT:
            limits = {"min_rows": kwargs.get("min_value"), "max_rows": kwargs.get("max_value")}
            contract |= {limit: value for limit, value in limits.items() if value is not None}
        elif rule not in (KEY, COLUMNS):
            try:
                expectations.append(_expectation(entry, kwargs, spec, name))
            except EvergreenError as error:
                not_expressed.append(str(error))
    if expectations:
        contract["expectations"] = expectations
    return SuiteContract(declaration | ({"contract": contract} if contract else {}), not_expressed)


def _is_expectation(entry: Any) -> bool:
    return isinstance(entry, dict) and "type" in entry and isinstance(entry.get("kwargs"), dict)


def declared_source(spec: UseCase, name: str) -> BaseSource:
    """Return a source of a use case; raise a SpecError that lists them if there is none of that name."""
    if name not in spec.sources:
        raise SpecError(
            f"{spec.name}: source",
            required=f"one of {', '.join(spec.sources)}",
            found=name,
            remedy="name one of these",
        )
    return spec.sources[name]


def _own_rules(source: BaseSource) -> Iterator[tuple[Expectation, str]]:
    """Yield the rules outside ``contract.expectations``, each as an expectation, and what it is."""
    key, contract = list(source.key), source.contract
    columns = {"column_set": list(source.columns), "exact_match": False}
    yield Expectation(type="expect_table_columns_to_match_set", kwargs=columns), COLUMNS
    limits = {"min_value": contract.min_rows, "max_value": contract.max_rows}
    limits = {limit: value for limit, value in limits.items() if value is not None}
    yield Expectation(type="expect_table_row_count_to_be_between", kwargs=limits), ROW_COUNT
    for column, declared in source.columns.items():
        if declared.required or column in key:
            rule = REQUIRED if declared.required else KEY
            yield Expectation(type="expect_column_values_to_not_be_null", kwargs={"column": column}), rule
    if len(key) == 1:
        yield Expectation(type="expect_column_values_to_be_unique", kwargs={"column": key[0]}), KEY
    else:
        yield Expectation(type="expect_compound_columns_to_be_unique", kwargs={"column_list": key}), KEY


def _declared_kwargs(entry: Mapping[str, Any], source: BaseSource) -> dict[str, Any]:
    """Return an expectation's arguments as a declaration has them: dates as dates, 3.0 as 3."""
    kwargs = {name: value for name, value in entry["kwargs"].items() if value is not None}
    column = source.columns.get(str(kwargs.get("column")))

    def declared(value: Any) -> Any:
        if isinstance(value, list):
            return [declared(one) for one in value]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if column is not None and column.type == "date" and isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                return value
        return value

    return {name: declared(value) for name, value in kwargs.items()}


def _expectation(
    entry: Mapping[str, Any], kwargs: Mapping[str, Any], spec: UseCase, name: str
) -> dict[str, Any]:
    """Return an expectation as a declaration has it.

    Raises
    ------
    SpecError
        when a declaration can't express it.
    """
    subject = f"{spec.name}/{name}: {entry['type']}"
    if entry.get("severity", "critical") != "critical":
        remedy = "declare it as critical, or leave it out"
        raise SpecError(subject, required="severity critical", found=entry["severity"], remedy=remedy)
    try:
        expectation = Expectation(type=entry["type"], kwargs=dict(kwargs))
    except ValidationError as error:
        message = str(error.errors()[0]["msg"])
        remedy = "correct its type in the suite, or leave it out"
        raise SpecError(subject, required="an expectation's name", found=message, remedy=remedy) from None
    validate_expectations(f"{spec.name}/{name}", [expectation], spec.sources[name].columns)
    return expectation.model_dump()
