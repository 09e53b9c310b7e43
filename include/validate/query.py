"""Checks of the SQL by its parse tree, as DuckDB returns it: nothing is searched for in the text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from include.spec import UseCase
from include.storage import spill
from include.validate.problems import ReportedProblem, problem

Node = dict[str, Any]
# keywords that DuckDB parses as columns, and that are functions of the clock if there is no such column
CLOCK_KEYWORDS = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")
ORDERED_WINDOWS = ("row_number", "lag", "lead", "first_value", "last_value", "nth_value", "ntile")
ORDERED_AGGREGATES = ("any_value", "first", "last", "list", "array_agg", "string_agg", "group_concat")
# comparisons with a number of partitions, and how many more or fewer than it they read
REACH = {
    "COMPARE_EQUAL": 0,
    "COMPARE_LESSTHAN": -1,
    "COMPARE_LESSTHANOREQUALTO": 0,
    "COMPARE_GREATERTHAN": 1,
    "COMPARE_GREATERTHANOREQUALTO": 0,
}
# parts of a node that select or order rows, and that aren't part of its value
NO_VALUE = (
    *("where_clause", "from_table", "group_expressions", "having", "qualify", "modifiers", "cte_map"),
    *("partitions", "orders", "order_bys", "filter", "filter_expr"),
)
REPRODUCIBLE = "SQL that returns the same features whenever it runs"


def parse(sql: str) -> Node | None:
    """Return the parse tree of one SELECT, or None if DuckDB has none."""
    with spill.duckdb_engine() as engine:
        row = engine.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    assert row is not None
    tree: Node = json.loads(row[0])
    statements = [] if tree["error"] else tree["statements"]
    return statements[0]["node"] if statements else None  # Python alone has no SQL


def nodes(tree: Any) -> Iterator[Node]:
    """Yield every node of a parse tree."""
    if isinstance(tree, dict):
        yield tree
        for child in tree.values():
            yield from nodes(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from nodes(child)


@lru_cache
def compared_texts(sql: str) -> Mapping[str, Sequence[str]]:
    """Return the texts that a query compares columns with, by the column's name in lower case."""
    texts: dict[str, list[str]] = defaultdict(list)
    for node in nodes(parse(sql)):
        if not str(node.get("type")).startswith("COMPARE_"):
            continue
        parts = node.get("children") or [node.get("left", {}), node.get("right", {})]
        literals = [part["literal"] for part in parts if part.get("type") == "VALUE_CONSTANT"]
        for part in parts:
            if part.get("class") == "COLUMN_REF":
                name = str(part["column_names"][-1]).lower()
                texts[name] += [str(one["text"]) for one in literals if one.get("kind") == "STRING"]
    return texts


def query_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield the problems that the parse trees of ``features.sql`` and ``labels.sql`` show."""
    file = str(spec.folder / spec.features.sql)
    tree = parse(spec.sql)
    if tree is not None:
        yield from _nondeterministic(spec, "features.sql", spec.sql, tree, file)
        yield from _unordered(spec, tree, file)
        yield from _limited(spec, tree, file)
        yield from _beyond_lookback(spec, tree, file)
        yield from _forbidden(spec, tree, file)
        if not spec.features.python:  # which may read any
            yield from _unread_sources(spec, tree)
    expression = f"SELECT ({spec.labels.sql})"
    labels = parse(expression)
    if labels is not None:
        yield from _nondeterministic(spec, "labels.sql", expression, labels, "")


@lru_cache
def _changing_functions() -> frozenset[str]:
    """Return DuckDB's functions whose result is not a function of their arguments."""
    with spill.duckdb_engine() as engine:
        rows = engine.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE' "
            "OR (stability = 'CONSISTENT_WITHIN_QUERY' AND len(parameters) = 0)"
        ).fetchall()
    return frozenset(name for (name,) in rows) - {"error"}  # it only raises


def _nondeterministic(
    spec: UseCase, subject: str, sql: str, tree: Node, file: str
) -> Iterator[ReportedProblem]:
    columns = {name.lower() for source in spec.sources.values() for name in source.columns}
    for node in nodes(tree):
        name = ""
        if node.get("class") == "FUNCTION":
            function = node["function_name"].lower()
            # age(x) is the time from x until today
            if function in _changing_functions() or (function == "age" and len(node["arguments"]) == 1):
                name = f"{function}()"
        elif node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
            keyword = node["column_names"][0].lower()
            name = keyword if keyword in CLOCK_KEYWORDS and keyword not in columns else ""
        elif (sample := node.get("sample")) and sample.get("seed", -1) in (None, -1):
            name = "a sample"
        if name:
            remedy = "remove it"
            if name not in ("random()", "setseed()", "a sample") and "uuid" not in name:
                remedy = (
                    "use decision_time, the moment at which the partition is decided"
                    if file
                    else ("compare with columns of the source; labels.delay says when a label is known")
                )
            yield problem(
                spec, subject, REPRODUCIBLE, name, remedy, where=_location(file, sql, node) if file else ""
            )


def _location(file: str, sql: str, node: Node) -> str:
    location, text = node.get("query_location", 0), sql.encode()
    if not 0 <= location <= len(text):  # DuckDB has none for this node
        return file
    line = text[:location].count(b"\n") + 1
    return f"{file}, line {line}"


def _unordered(spec: UseCase, tree: Node, file: str) -> Iterator[ReportedProblem]:
    """Yield what depends on an order of rows that the SQL doesn't state."""
    for node in nodes(tree):
        name, location = str(node.get("function_name", "")).lower(), _location(file, spec.sql, node)
        kinds = [modifier["type"] for modifier in node.get("modifiers") or ()]
        is_window = node.get("class") == "WINDOW" and name in ORDERED_WINDOWS
        is_aggregate = node.get("class") == "FUNCTION" and name in ORDERED_AGGREGATES
        if is_window and not node["orders"] and not node["arg_orders"]:
            unordered, remedy = f"{name}() over rows without ORDER BY", "add ORDER BY to its OVER clause"
        elif is_aggregate and not node["order_bys"]["orders"]:
            unordered, remedy = f"{name}() of rows without ORDER BY", "write ORDER BY within its parentheses"
        elif "LIMIT_MODIFIER" in kinds and "ORDER_MODIFIER" not in kinds:
            unordered, remedy = "LIMIT without ORDER BY", "add ORDER BY before LIMIT"
        else:
            continue
        yield problem(
            spec, "features.sql", REPRODUCIBLE, unordered, remedy, where=location, severity="warning"
        )


def _limited(spec: UseCase, tree: Node, file: str) -> Iterator[ReportedProblem]:
    """Yield a LIMIT of the whole query, which has as many rows as the spine."""
    if any(str(modifier["type"]).startswith("LIMIT") for modifier in tree["modifiers"]):
        required = "a row for each row of the spine"
        yield problem(spec, "features.sql", required, "LIMIT of the whole query", "remove it", where=file)


def _beyond_lookback(spec: UseCase, tree: Node, file: str) -> Iterator[ReportedProblem]:
    """Yield comparisons of ``ago`` with partitions that the lookback doesn't reach.

    What is compared from below reads less than it says; what is equal or above reads nothing.
    """
    lookback = spec.features.lookback
    for node in nodes(tree):
        if node.get("type") == "COMPARE_BETWEEN":
            left, right, shift = node["input"], node["upper"], 0
        elif node.get("type") in REACH:
            left, right, shift = node["left"], node["right"], REACH[node["type"]]
        else:
            continue
        text = str((right.get("literal") or {}).get("text", ""))
        is_ago = left.get("class") == "COLUMN_REF" and left["column_names"][-1].lower() == "ago"
        if is_ago and text.isdigit() and (reach := int(text) + shift) > lookback:
            reads_less = node["type"] in ("COMPARE_BETWEEN", "COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO")
            yield problem(
                spec,
                "features.lookback",
                f"at least {reach}, because {spec.features.sql} reads rows of that many partitions back",
                str(lookback),
                f"write `lookback: {reach}` under features, or read fewer partitions",
                where=_location(file, spec.sql, left),
                severity="warning" if reads_less else "error",
            )


def _forbidden(spec: UseCase, tree: Node, file: str) -> Iterator[ReportedProblem]:
    """Yield features that have another name than a column of ``never_features``, and are computed from it.

    Names are followed from one query to the next, whichever table they are of. How many values there are, and
    which rows are selected by them, isn't a value.
    """
    named = [one for node in nodes(tree) for one in node.get("select_list", ()) if one.get("alias")]
    selected = [(one["alias"].lower(), _value_columns(one), one) for one in named]
    origins = {name.lower(): name for name in spec.problem.never_features}
    for _ in selected if origins else ():  # each round follows a name at least one query further
        for alias, columns, _ in selected:
            for name in sorted(columns & origins.keys()):
                origins.setdefault(alias, origins[name])
    features = {name.lower() for name in spec.features.columns}
    for alias, columns, node in selected:
        if alias in features and columns & origins.keys():
            yield problem(
                spec,
                "problem.never_features",
                f"no feature that is computed from {origins[alias]}",
                node["alias"],
                "remove the feature, or the column from problem.never_features",
                where=_location(file, spec.sql, node),
            )


def _value_columns(tree: Any) -> set[str]:
    """Return the columns from which an expression's value is computed, in lower case."""
    if isinstance(tree, list):
        return {name for part in tree for name in _value_columns(part)}
    if not isinstance(tree, dict) or str(tree.get("function_name")).startswith("count"):
        return set()
    if tree.get("class") == "COLUMN_REF":
        return {tree["column_names"][-1].lower()}
    return _value_columns([part for key, part in tree.items() if key not in NO_VALUE])


def tables(tree: Node) -> set[str]:
    """Return the names of the tables and views that a query reads."""
    return {node["table_name"].lower() for node in nodes(tree) if node.get("type") == "BASE_TABLE"}


def _unread_sources(spec: UseCase, tree: Node) -> Iterator[ReportedProblem]:
    names = tables(tree)
    required = {name for step in spec.scoring.requires.values() for name in step}
    for name in spec.sources:
        if name in (spec.features.spine, spec.labels.source) or name in required:
            continue
        if not {name, f"known_{name}"} & names:
            yield problem(
                spec,
                f"sources.{name}",
                f"a source that {spec.features.sql} or the labels read",
                "one that nothing reads, and that is ingested on each partition",
                f"read known_{name} in {spec.features.sql}, or remove the source",
                severity="warning",
            )
