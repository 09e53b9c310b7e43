"""Generates rows that satisfy the contracts, and runs the SQL and the recipes on them.

What a key doesn't forbid happens: other columns have few values, so that they repeat within a partition and
meet those of other sources. SQL that is right only by luck of today's data fails here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from functools import cache, partial
from itertools import product, zip_longest
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import EvergreenError
from include.extensions import is_reference
from include.features.build import compute_features, schema
from include.features.checks import changed_features, require_independent, violations_of
from include.features.point_in_time import create_views
from include.ingest.connectors.request import request
from include.ingest.validation.compiled import UNIQUE
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.clock import day_of
from include.spec.source import BaseSource, Expectation
from include.spec.stages import Recipe
from include.storage import spill
from include.storage.schemas import validated_schema
from include.train.fits import serialize_fit
from include.train.fitting import fit_recipe
from include.validate.problems import ReportedProblem, problem, problems_of
from include.validate.query import compared_texts, nodes, parse

ROWS = 12  # of a source's partition, at most
KEY_VALUES, OTHER_VALUES = 6, 2  # different values of a column of the key, and of another one
MAX_BACK = 60  # earlier partitions that are generated, at most
SEEDS = 2  # with each kind of texts, before a feature counts as one without a value
CORRECTED = 99  # the seed of another revision
FITTED, FITTED_PARTITIONS = 240, 30  # rows on which a recipe is fitted, and their partitions
LETTERS, DIGITS = "abcdef", "123456"
FIRST_HOUR = 8  # local hour of the first timestamp
# what DuckDB says if generated text isn't the text that the SQL expects, which a contract can't state
TEXT_ERRORS = ("Conversion Error", "Invalid Input Error")
_ATOM = re.compile(r"(\\.|\[[^\]]+\]|.)(?:([?*+])|\{(\d+)(?:,\d*)?\})?")


def generate(
    spec: UseCase,
    partition: str,
    variety: int = OTHER_VALUES,
    *,
    first: str = "",
    texts: str = LETTERS,
    recurring: int | None = None,
) -> dict[str, pa.Table]:
    """Return rows of each source for a partition and its lookback, in the order of `read_sources`.

    Parameters
    ----------
    variety : different values of a column outside of the key, at most.
    first : an earlier partition, whose lookback is generated too.
    texts : the characters of texts that the contract says nothing about.
    recurring : a seed by which each partition of a source has the same rows, so that keys have a past.
    """
    tables: dict[str, pa.Table] = {}
    for name, source in spec.sources.items():
        random = np.random.default_rng(len(tables))
        back = min(spec.features.lookback_of(name), MAX_BACK)
        keys = spec.partitions(name, spec.clock.shift(first or partition, -back), partition)
        rows = []
        for key in keys:
            random = random if recurring is None else np.random.default_rng(recurring)
            rows += _rows(spec, name, key, random, variety, texts)
        table = pa.Table.from_pylist(rows, validated_schema(source))
        tables[name] = spill.sort_rows(table, ("partition", "revision", *source.key))
    return tables


def _rows(
    spec: UseCase, source: str, partition: str, random: np.random.Generator, variety: int, texts: str
) -> list[dict[str, Any]]:
    """Return a partition's rows: its keys are unique, and its other columns repeat."""
    declared = spec.sources[source]
    day = day_of(request(spec, source, partition).day)
    expectations = _expectations_by_column(spec, source)
    pools = {name: _values(spec, source, name, expectations[name], day, texts) for name in declared.columns}
    keys = list(product(*(pools[name][:KEY_VALUES] for name in declared.key)))
    rows = []
    # a source beside the spine lacks a key at least, as it may where it isn't delivered in time
    most = len(keys) if source == spec.features.spine else max(len(keys) - 1, 1)
    for number, index in enumerate(random.permutation(len(keys))[: min(most, ROWS)]):
        row: dict[str, Any] = dict(zip(declared.key, keys[index], strict=True))
        for name, column in declared.columns.items():
            missing = number % 5 == 4 and not column.required and not _is_required(declared, name)
            value = pools[name][int(random.integers(min(variety, len(pools[name]))))]
            row.setdefault(name, None if missing else value)
        for name, column in declared.columns.items():
            if column.agrees_with and isinstance(row[name], datetime):
                local = row[name].astimezone(spec.clock.zone)
                row[column.agrees_with] = local.hour * 60 + local.minute
        moment = spec.clock.local(partition, declared.available_at)
        rows.append({**row, "partition": partition, "revision": 0, "known_at": moment})
    for expectation in declared.contract.expectations:
        if expectation.type in UNIQUE:
            names = expectation.columns
            rows = list({tuple(row[name] for name in names): row for row in reversed(rows)}.values())
    return rows


def _is_required(source: Any, name: str) -> bool:
    return any(
        one.type == "expect_column_values_to_not_be_null" and name in one.columns
        for one in source.contract.expectations
    )


def _expectations_by_column(spec: UseCase, source: str) -> dict[str, list[Expectation]]:
    """Return the expectations of each column of a source alone.

    A column without any has those of a column with the same name in another source, so that they meet.
    """
    columns = spec.sources[source].columns
    result: dict[str, list[Expectation]] = {name: [] for name in columns}
    for one in (spec.sources[source], *spec.sources.values()):
        shared = {n for n, column in one.columns.items() if n in columns and column.type == columns[n].type}
        for expectation in one.contract.expectations:
            name, *others = expectation.columns or ("",)
            if name in shared and not others:
                result[name].append(expectation)
    return result


def _values(
    spec: UseCase, source: str, name: str, expectations: list[Expectation], day: date, texts: str
) -> list[Any]:
    """Return different values of a column that its expectations allow."""
    column = spec.sources[source].columns[name]
    if column.hashed:
        return [f"{number:064x}" for number in range(KEY_VALUES)]
    match column.type:
        case "string":
            return _texts(expectations, texts, compared_texts(spec.sql).get(name.lower(), ()))
        case "integer":
            low, high = _limits(expectations)
            span = range(int(np.ceil(low)), int(high) + 1)[:KEY_VALUES]
            return [int(value) for value in _set(expectations)] or list(span) or [int(low)]
        case "number":
            chosen = [float(value) for value in _set(expectations)]
            return chosen or np.linspace(*_limits(expectations), KEY_VALUES).tolist()
        case "boolean":
            return [True, False]
        case "date":
            return [day]
        case "timestamp":
            first = datetime.combine(day, time(FIRST_HOUR), spec.clock.zone)
            return [first + timedelta(hours=hours) for hours in range(KEY_VALUES)]
        case "hhmm":
            return [60 * (FIRST_HOUR + hours) for hours in range(KEY_VALUES)]


def _limits(expectations: Sequence[Expectation]) -> tuple[float, float]:
    for one in expectations:
        if one.type == "expect_column_values_to_be_between":
            low, high = one.kwargs.get("min_value"), one.kwargs.get("max_value")
            numbers = [value for value in (low, high) if isinstance(value, int | float)]
            if numbers:
                low = low if isinstance(low, int | float) else high - KEY_VALUES  # type: ignore[operator]
                high = high if isinstance(high, int | float) else low + KEY_VALUES
                inside = (high - low) * 1e-3 if "strict_min" in one.kwargs else 0.0
                return float(low + inside), float(high - inside)
    return 1.0, float(KEY_VALUES)


def _set(expectations: Sequence[Expectation]) -> list[Any]:
    sets = [one.kwargs["value_set"] for one in expectations if one.type.endswith("values_to_be_in_set")]
    return list(sets[0]) if sets else []


def _texts(expectations: Sequence[Expectation], characters: str, compared: Sequence[str]) -> list[Any]:
    """Return texts that expectations allow; without any, also those that the SQL compares the column with."""
    if chosen := _set(expectations):
        return [str(value) for value in chosen]
    regex = next(
        (str(one.kwargs["regex"]) for one in expectations if one.type.endswith("to_match_regex")), ""
    )
    length = next(
        (
            one.kwargs.get("value") or one.kwargs.get("min_value")
            for one in expectations
            if "lengths" in one.type
        ),
        1,
    )
    plain = [character * max(int(length or 1), 1) for character in characters]
    if not expectations:  # each second one, so that conditions are met in some rows
        plain = [text for pair in zip_longest(compared, plain) for text in pair if text is not None]
    like = [text_like(regex, number) for number in range(KEY_VALUES)] if regex else plain
    return list(dict.fromkeys(text for text in like if re.search(regex, text))) or plain


@cache  # it is the same in each partition
def text_like(regex: str, number: int) -> str:
    """Return a text that a simple regular expression matches, a different one for each small number."""
    text = ""
    for atom, repeated, count in _ATOM.findall(regex.removeprefix("^").removesuffix("$")):
        for _ in range(int(count) if count else 0 if repeated and repeated in "?*" else 1):
            options = [char for char in map(chr, range(33, 127)) if re.fullmatch(atom, char)] or [" "]
            text += options[number % len(options)]
            number //= len(options)
    return text


# what is tried on them


def generated_problems(spec: UseCase, partition: str) -> Iterator[ReportedProblem]:
    """Yield the problems of the SQL on generated rows.

    Parameters
    ----------
    partition : one whose whole lookback is in the schedule.
    """
    rows = generate(spec, partition)
    if not rows[spec.features.spine].num_rows:
        return
    file = str(spec.features_file)
    on_generated = partial(problem, spec, f"{spec.features_file.name} on generated rows", where=file)
    if not spec.features.python and (texts := _texts_as_numbers(spec, rows, partition)):
        yield problem(
            spec,
            f"features.numeric: {', '.join(texts)}",
            "numbers",
            f"texts in the result of {spec.features.sql}: one that isn't a number would leave the partition "
            "without predictions",
            "write TRY_CAST(… AS DOUBLE), which is null for such a text, or declare them under categorical",
            where=file,
        )
        return
    try:
        again, late, across = _dependent_features(spec, partition)
    except EvergreenError as error:
        if not spec.features.python and error.found.startswith(TEXT_ERRORS):
            yield on_generated(
                "SQL that runs on texts of letters or of digits, so that joins and leaks can be checked",
                error.found,
                "state what the texts look like by expect_column_values_to_match_regex or _be_in_set",
                severity="hint",
            )
        else:
            yield on_generated(
                f"{error.required}, for any rows that the contracts and keys allow",
                error.found,
                "join on the whole key of the other source, or aggregate its rows first; keep rows without a "
                "match by LEFT JOIN; if a column is unique, add it to the source's key; read known_<source>, "
                "which has no replaced revisions",
            )
        return
    if late:
        yield on_generated(
            "features of rows that were known at the decision, within the lookback",
            f"other values of {', '.join(late)} once later or older rows are added",
            "read the views known_<source>, or limit the rows by known_at, known_until and partition",
        )
    if again:
        yield on_generated(
            "the same features whenever it runs",
            f"other values of {', '.join(again)} the second time",
            "remove random numbers and the clock, and sort rows where their order matters",
        )
    if across:
        yield on_generated(
            "features of a partition that don't depend on which other partitions are computed with it",
            f"other values of {', '.join(across)} if the partition before or the next one is computed too, "
            "as in a training",
            "look at no rows of another for_partition: group by for_partition as well, and rows of spine by "
            "partition",
        )
    if spec.features.entity and not (again or late or across):
        yield from _entity_problems(spec, partition)


def empty_features(spec: UseCase, partition: str) -> Iterator[ReportedProblem]:
    """Yield a hint if features have no value in any generated row, as after a join that never matches."""
    if spec.features.lookback > MAX_BACK:  # a feature may need rows that aren't generated
        return
    empty, tried = list(spec.features.columns), False
    for seed, texts in enumerate((LETTERS, DIGITS) * SEEDS):
        try:
            rows = generate(spec, partition, texts=texts, recurring=seed)
            computed = compute_features(spec, rows, [partition])
        except EvergreenError:
            continue  # SQL that can't run on these texts is reported as such, or runs on the others
        empty, tried = [name for name in empty if computed[name].null_count == computed.num_rows], True
        if not empty:
            return
    if tried:
        yield problem(
            spec,
            f"{spec.features_file.name} on generated rows",
            "a value of each feature in some of the rows",
            f"no value of {', '.join(empty)}",
            "correct the join that matches no row, or the condition that none meets (`ago` counts partitions "
            "back, from 0); if only rows as yours meet it, state by expect_column_values_to_be_in_set or "
            "_be_between what they have",
            where=str(spec.features_file),
            severity="hint",
        )


def label_features(spec: UseCase, partition: str) -> Iterator[ReportedProblem]:
    """Yield a warning if the label of a row can be computed from what its features read at the decision.

    That is so if the labels' source reads the same content as the spine, and some feature depends on each of
    the columns that ``labels.sql`` reads, besides the key and the day.
    """
    spine, source = spec.features.spine, spec.labels.source
    later = spec.clock.shift(partition, spec.labels.delay)
    if _content(spec, spine, partition) != _content(spec, source, later):
        return
    expression = parse(f"SELECT ({spec.labels.sql})")
    declared, spine_columns = spec.sources[source], spec.sources[spine].columns
    read = {node["column_names"][-1].lower() for node in nodes(expression) if node.get("column_names")}
    originals = {
        original
        for name, column in declared.columns.items()
        if name.lower() in read and name not in (*spec.key, declared.day)
        for original in column.names_in_source(name)
    }
    columns = {one: name for name, column in spine_columns.items() for one in column.names_in_source(name)}
    if not originals or not originals <= columns.keys():
        return
    for texts in (LETTERS, DIGITS):
        rows = generate(spec, partition, texts=texts)
        try:
            before = compute_features(spec, rows, [partition])
            dependent = [
                changed_features(
                    spec, before, compute_features(spec, _without(rows, spine, columns[name]), [partition])
                )
                for name in sorted(originals)
            ]
            break
        except EvergreenError:
            continue
    else:
        return
    if all(dependent):
        names = ", ".join(name for name in spec.features.columns if any(name in one for one in dependent))
        yield problem(
            spec,
            f"features: {names}",
            "features that are known at the decision, which the label isn't yet",
            f"the label itself: {source} reads of partition {later} what {spine} reads of {partition}, and "
            f"labels.sql is computed from its {', '.join(sorted(originals))}",
            f"remove {names} from features and from {spec.features_file.name}, unless the decision finds "
            "another value there, such as a count until then",
            severity="warning",
        )


def _content(spec: UseCase, source: str, partition: str) -> tuple[object, ...]:
    """Return what decides which content a partition of a source has."""
    declared, requested = spec.sources[source], request(spec, source, partition)
    own = declared.model_dump(exclude=set(BaseSource.model_fields) - {"kind", "connection"})
    return own, requested.day, requested.hour, requested.minute


def _without(rows: Mapping[str, pa.Table], source: str, column: str) -> dict[str, pa.Table]:
    """Return the rows with nulls in a column of a source."""
    table = rows[source]
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    return {**rows, source: table.set_column(index, field, pa.nulls(table.num_rows, field.type))}


def _dependent_features(
    spec: UseCase, partition: str, texts: str = LETTERS
) -> tuple[list[str], list[str], list[str]]:
    """Return features that differ if computed again, if unknown rows are added, or with other partitions.

    Only the first of these that occurs is looked for. SQL that reads numbers from texts is tried on digits.

    Raises
    ------
    EvergreenError
        if the features can't be computed.
    """
    before = spec.clock.shift(partition, -1)
    rows = generate(spec, partition, texts=texts)
    pair = _corrected(spec, generate(spec, partition, first=before, texts=texts), before, texts)
    try:
        if again := _differences(spec, rows, [partition], [partition], exactly=True):
            return again, [], []
        if late := violations_of(spec, rows, partition):
            return [], late, []
        # with the partition before, as in a training, and with the next one
        alone = (_differences(spec, pair, [key], [before, partition]) for key in (partition, before))
        return [], [], sorted({name for names in alone for name in names})
    except EvergreenError as error:
        if spec.features.python or texts == DIGITS or not error.found.startswith(TEXT_ERRORS):
            raise
        return _dependent_features(spec, partition, DIGITS)


def _corrected(
    spec: UseCase, rows: Mapping[str, pa.Table], partition: str, texts: str
) -> dict[str, pa.Table]:
    """Return the rows with a correction of a partition's, known right after its decision."""
    others = generate(spec, partition, texts=texts, recurring=CORRECTED)
    new = {"revision": 1, "known_at": spec.clock.decision_time(partition) + timedelta(microseconds=1)}
    tables = {}
    for name, source in spec.sources.items():
        pairs = zip(*(_rows_of(one[name], partition) for one in (rows, others)), strict=False)
        revision = [{**other, **{key: row[key] for key in source.key}, **new} for row, other in pairs]
        table = pa.concat_tables([rows[name], pa.Table.from_pylist(revision, rows[name].schema)])
        tables[name] = spill.sort_rows(table, ("partition", "revision", *source.key))
    return tables


def _rows_of(rows: pa.Table, partition: str) -> list[dict[str, Any]]:
    return [row for row in rows.to_pylist() if row["partition"] == partition]


def _entity_problems(spec: UseCase, partition: str) -> list[ReportedProblem]:
    """Return a problem if the features look at other entities' rows, or can't be computed without them."""
    for texts in (LETTERS, DIGITS):
        rows, remedy = generate(spec, partition, texts=texts), f"correct {spec.features_file}"
        problems = [*problems_of(spec, "features", remedy, require_independent, spec, rows, partition)]
        if not any(one.error.found.startswith(TEXT_ERRORS) for one in problems):
            break
    return problems


def _texts_as_numbers(spec: UseCase, rows: Mapping[str, pa.Table], partition: str) -> list[str]:
    """Return the numeric features that the SQL returns as texts; none if it can't run, which is reported."""
    with create_views(spec, rows, [partition], spec.clock.decision_time(partition)) as engine:
        try:
            types = dict(row[:2] for row in engine.execute(f"DESCRIBE {spec.sql}").fetchall())
        except duckdb.Error:
            types = {}
    return [name for name in spec.features.numeric if types.get(name) == "VARCHAR"]


def _differences(
    spec: UseCase,
    rows: Mapping[str, pa.Table],
    alone: list[str],
    together: list[str],
    *,
    exactly: bool = False,
) -> list[str]:
    """Return the features of ``alone`` that differ if they are computed with all of ``together``."""
    first, second = compute_features(spec, rows, alone), compute_features(spec, rows, together)
    second = second.filter(pc.is_in(second["partition"], pa.array(alone)))
    return changed_features(spec, first, second, exactly=exactly)


def label_problems(spec: UseCase, partition: str) -> Iterator[ReportedProblem]:
    """Yield a problem if generated rows of a binary problem have labels other than 0 and 1."""
    if spec.problem.kind != "binary":
        return
    rows = generate(spec, partition, KEY_VALUES)[spec.labels.source]
    with spill.duckdb_engine() as engine:
        engine.register("label_rows", rows)
        # the declaration's own expression, as in `include.features.labels`
        query = f"SELECT DISTINCT CAST(({spec.labels.sql}) AS DOUBLE) FROM label_rows"  # noqa: S608
        try:
            values = sorted(value for (value,) in engine.execute(query).fetchall() if value is not None)
        except duckdb.Error:
            return  # SQL that can't run is reported as such
    if other := [value for value in values if value not in (0.0, 1.0)]:
        yield problem(
            spec,
            "labels.sql",
            "0 or 1, or true or false, for a binary problem",
            f"values such as {other[0]:g} for rows that the contract allows",
            f"compare it, as `sql: {spec.labels.sql} > 0`, or let the contract allow only 0 and 1 by "
            "expect_column_values_to_be_in_set",
            severity="warning",
        )


def recipe_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield each recipe that can't be fitted with its parameters and options, or can't predict then."""
    rows = _feature_rows(spec)
    for recipe in (*spec.training.baselines, *spec.training.candidates):
        if not (recipe.params or recipe.options or is_reference(recipe.estimator)):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random rows needn't converge
            yield from problems_of(
                spec,
                "parameters of the types and ranges that the estimator takes",
                f"correct the params of {recipe.name} in usecase.yaml",
                _try_recipe,
                spec,
                recipe,
                rows,
            )


def _try_recipe(spec: UseCase, recipe: Recipe, rows: pa.Table) -> None:
    """Fit a recipe and predict; with the stored model of a use case's own estimator. No cluster is needed."""
    estimator = fit_recipe(spec, recipe.model_copy(update={"engine": "local"}), rows)
    if is_reference(recipe.estimator):  # only of these it can go wrong, and it costs more than the rest
        data = serialize_fit(spec, recipe, estimator)
        estimator = artifacts.deserialize(data, digest_bytes(data), spec)
    artifacts.predict(estimator, rows, spec)


def _feature_rows(spec: UseCase) -> pa.Table:
    """Return random features in their schema, with labels of each class."""
    random = np.random.default_rng(spec.training.seed)
    partitions = spec.clock.keys(
        spec.schedule.start, (day_of(spec.schedule.start) + timedelta(370)).isoformat()
    )
    columns: dict[str, Any] = {}
    for field in schema(spec):
        if field.name == "partition":
            values: Any = np.sort(np.resize(partitions[:FITTED_PARTITIONS], FITTED))
        elif pa.types.is_floating(field.type):
            values = random.normal(size=FITTED)
        elif pa.types.is_string(field.type):
            values = random.choice(list("abcd"), FITTED)
        else:
            whole = pa.array(np.arange(FITTED) % 5)  # a date has 32 bits, and a time 64
            values = (whole.cast(pa.int32()) if pa.types.is_date32(field.type) else whole).cast(field.type)
        optional = field.name in spec.features.columns and field.name not in spec.key
        missing = np.arange(FITTED) % 7 == 3 if optional else None
        columns[field.name] = pa.array(values, field.type, mask=missing)
    codes = spec.problem.codes
    labels = np.resize(codes, FITTED) if codes else random.gamma(2.0, size=FITTED)
    return pa.table({**columns, spec.problem.target: pa.array(labels, pa.float64())})
