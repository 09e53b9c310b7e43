"""Features and labels as they could have been seen: a backfilled night sees what that night saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from include import spool, tables
from include.errors import SpecError
from include.features import answer, views
from include.features.views import AsOf
from include.lake import Lake
from include.spec import UseCase

BLOCK = 90  # nights that are computed at once


def features(lake: Lake, spec: UseCase, nights: Sequence[str], *, as_of: AsOf = "then") -> pa.Table:
    """Return the features of the nights' rows, as of each night's decision time.

    Parameters
    ----------
    nights : keys of the spine's nights; one without published rows gives none.
    as_of : "then": as each night saw it. "now": rows that were revised later count as if they had been right
        at once.

    Returns
    -------
    pa.Table
        The spine's key, ``night``, then `spec.features.columns` (float64 and string, with nulls), sorted by
        night and key. A night's rows are the same whichever other nights are asked for.

    Raises
    ------
    SpecError
        The SQL can't run, or doesn't give exactly the declared columns for exactly the spine's rows.
    """
    wanted = sorted(set(nights))
    # a night's rows don't depend on the others: a long history goes block by block, and memory stays bounded
    blocks = [wanted[i : i + BLOCK] for i in range(0, len(wanted), BLOCK)]
    parts = [compute(spec, views.read(lake, spec, block), block, as_of=as_of) for block in blocks]
    return pa.concat_tables([schema(spec).empty_table(), *parts]).combine_chunks()


def compute(
    spec: UseCase,
    rows: Mapping[str, pa.Table],
    nights: Sequence[str],
    *,
    as_of: AsOf = "then",
    until: datetime | None = None,
    watch: Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]] = iter,
) -> pa.Table:
    """Return the features of sorted ``nights`` from rows cut at ``until``, the last decision unless given.

    Parameters
    ----------
    watch : sees the batches as they come, before they are sorted and before it is known that they are right.
    """
    with views.prepare(spec, rows, nights, as_of, until or spec.clock.moment(nights[-1])) as engine:
        try:
            answer.stand(engine, spec.sql)
        except duckdb.Error as error:
            spool.starved(error)
            raise answer.wrong(spec, error) from None
        shape = schema(spec)
        answer.declared(spec, engine, shape.names)
        # what is asked for comes as it is made: DuckDB needn't keep it, and the order is the spine's if the
        # SQL does nothing but join
        came = spool.held(shape, watch(answer.asked(spec, engine, shape)))
        found = spool.ordered(came, ("night", *spec.key))
        answer.exact(spec, engine, found)
        return found


def schema(spec: UseCase) -> pa.Schema:
    """Return the shape of the features: key, night, float64 for numeric columns, string for categorical ones.

    A key column that is a feature as well stands once, with the key's type.
    """
    source = spec.sources[spec.features.spine]
    kinds = {name: tables.column_type(source.columns[name]) for name in spec.key} | {"night": pa.string()}
    kinds = dict.fromkeys(spec.features.numeric, pa.float64()) | kinds
    kinds = dict.fromkeys(spec.features.categorical, pa.string()) | kinds
    order = dict.fromkeys((*spec.key, "night", *spec.features.columns))
    return pa.schema([(name, kinds[name]) for name in order])


def matured(lake: Lake, spec: UseCase, known: str | None) -> list[str]:
    """Return the spine's nights whose labels were published by night ``known`` (None: by now), sorted."""
    rows = lake.rows("partitions", {"product": spec.labels.source})
    brought = {row["night"] for row in rows if row["outcome"] == "published"}
    last = max((night for night in brought if known is None or night <= known), default="")
    if not last:
        return []
    # keys are paired by their place in the clock's own sequence, which costs less than a shift for each
    keys = spec.clock.keys(spec.schedule.start, last)
    return [n for n, label in zip(keys, keys[spec.labels.delay :], strict=False) if label in brought]


def labels(lake: Lake, spec: UseCase, nights: Sequence[str], *, known: str | None) -> pa.Table:
    """Return what had come true of the nights' rows by night ``known`` (None: as it is known now).

    Returns
    -------
    pa.Table
        Key, ``night`` (the spine's) and the target: float64, null where no label will ever come; of a
        multiclass problem the class's place among the declared. A night whose labels weren't published by
        then gives no rows.

    Raises
    ------
    SpecError
        when the expression can't be answered, or gives a class that isn't declared.
    """
    source = spec.sources[spec.labels.source]
    wanted = sorted(set(nights) & set(matured(lake, spec, known)))
    brings = {spec.clock.shift(night, spec.labels.delay): night for night in wanted}
    read = lake.read(f"validated_{spec.labels.source}", {"night": list(brings)}) if brings else None
    until = "true" if known is None else f"known_at <= TIMESTAMPTZ '{spec.clock.moment(known).isoformat()}'"
    with spool.engine() as engine:
        engine.register("brought", views.shaped(read, tables.validated(source)))
        engine.register("brings", pa.table({"night": list(brings), "spine": list(brings.values())}, _BRINGS))
        key = ", ".join(f'"{column}"' for column in spec.key)
        kind = "VARCHAR" if spec.problem.classes else "DOUBLE"
        # what is pasted are quoted names, the spec's own expression, and moments that the clock made
        sql = f"""SELECT {key}, spine AS night, CAST(({spec.labels.sql}) AS {kind}) AS "{spec.problem.target}"
            FROM (SELECT * FROM brought WHERE {until}
                  QUALIFY row_number() OVER (PARTITION BY night, {key} ORDER BY revision DESC) = 1)
            JOIN brings USING (night) ORDER BY spine, {key}"""  # noqa: S608
        shape = [*list(schema(spec))[: len(spec.key) + 1], pa.field(spec.problem.target, pa.float64())]
        return spool.held(pa.schema(shape), _came(spec, engine, sql, pa.schema(shape)))


def _came(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, sql: str, shape: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield what came true in its declared shape."""
    try:
        for batch in engine.sql(sql).to_arrow_reader(spool.BATCH):
            rows = pa.Table.from_batches([batch])
            rows = _coded(spec, rows) if spec.problem.classes else rows
            yield from views.shaped(rows, shape).to_batches()
    except (duckdb.Error, OSError, pa.ArrowException) as error:  # of DuckDB's, while it is read
        spool.starved(error)
        source = spec.labels.source
        columns = f"an expression over {source}'s columns: {', '.join(spec.sources[source].columns)}"
        raise _no_label(spec, columns, " ".join(str(error).split())) from None


def _coded(spec: UseCase, rows: pa.Table) -> pa.Table:
    """Return the rows with each class's place in place of its name; ingest sets others aside, see `check`."""
    target, classes = spec.problem.target, spec.problem.classes
    places = pc.index_in(rows[target], value_set=pa.array(classes, pa.string()))
    if places.null_count > rows[target].null_count:
        others = pc.unique(rows[target].filter(pc.is_null(places))).to_pylist()
        raise _no_label(
            spec,
            f"one of the declared classes {', '.join(classes)}, or null",
            ", ".join(sorted(str(other) for other in others if other is not None)[:5]),
            f"declare it under problem.classes or map it in labels.sql, then run ingest of "
            f"{spec.labels.source} for those nights: rows of no declared class are set aside",
        )
    return rows.set_column(rows.column_names.index(target), target, places.cast(pa.float64()))


def _no_label(spec: UseCase, required: str, found: str, remedy: str = "") -> SpecError:
    where = str(spec.folder / "usecase.yaml")
    return SpecError(f"{spec.name}: labels.sql", required=required, found=found, where=where, remedy=remedy)


def known_too_late(lake: Lake, spec: UseCase, nights: Sequence[str]) -> dict[str, datetime]:
    """Return the nights whose rows to score were all known only after the decision, each with their first."""
    read = lake.read(f"validated_{spec.features.spine}", {"night": list(nights)}, ["night", "known_at"])
    if read is None:
        return {}
    first = read.group_by("night").aggregate([("known_at", "min")]).to_pylist()
    known = {str(row["night"]): row["known_at_min"] for row in first}
    return {night: at for night, at in sorted(known.items()) if at > spec.clock.moment(night)}


def remedy_too_late(spec: UseCase, night: str) -> str:
    """Return what is to be changed where a night's rows to score were known only after its decision."""
    name = spec.features.spine
    declared = spec.sources[name].known
    if spec.clock.local(night, declared) <= spec.clock.moment(night):
        return f"let schedule.nightly be later, when {name} has come"
    return (
        f"let schedule.nightly be at {declared} or later; or, if the rows are known sooner, declare that in "
        f"sources.{name}.known and ingest into a new lake, for what is there keeps its time"
    )


def training_set(lake: Lake, spec: UseCase, night: str) -> pa.Table:
    """Return features and target of every row whose label was known on ``night``, within the window."""
    first = spec.clock.shift(night, -spec.training.window) if spec.training.window else ""
    nights = [n for n in matured(lake, spec, night) if n >= first]
    return labelled(lake, spec, features(lake, spec, nights), night)


def labelled(lake: Lake, spec: UseCase, seen: pa.Table, known: str) -> pa.Table:
    """Return those of the rows whose label was known on night ``known``, with it, sorted by night and key.

    Parameters
    ----------
    seen : what `features` gave; a target that it has already, as of a later night, is replaced.
    """
    target, by = spec.problem.target, [*spec.key, "night"]
    came = labels(lake, spec, [str(night) for night in seen["night"].unique().to_pylist()], known=known)
    came = came.filter(came[target].is_valid())
    seen = seen.drop_columns([target]) if target in seen.column_names else seen
    return seen.join(came, by, join_type="inner").sort_by([(c, "ascending") for c in ("night", *spec.key)])


_BRINGS = pa.schema([("night", pa.string()), ("spine", pa.string())])
