"""Erase a person's rows from everything that a use case has stored, and prove it by a search.

1. All that is stored is searched (`include.ops.erase_search`). What would be erased is shown, and nothing is
   written so far.
2. The ledger `erasures` records who erased, when, why, and how many rows of which partitions; of the key it
   has a keyed hash only. From then on ingesting leaves the rows out, should the source deliver them again.
3. The rows are removed: from raw objects, which are rewritten, from the tables, from copies of withdrawn
   partitions, and from the files of earlier versions. What describes the rest (digests, profiles,
   performance) is computed again.
4. All is searched again, until nothing is left.

Each step can be killed and repeated, and runs may go on meanwhile: a run that began before step 2 removes
what it has written since.

What can't be rewritten is listed: models that were fitted on the rows, and objects that contain the key's
text.
"""

from __future__ import annotations

import io
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import datasketches
import pyarrow as pa
import pyarrow.parquet as pq

from include.errors import EvergreenError, NotPublished, PartitionRefused, SpecError
from include.ingest.connectors.request import request
from include.ingest.erasure import (
    describe_source,
    erase_snapshot,
    key_texts,
    referenced_objects,
    remove_unreferenced,
)
from include.ingest.parsing.parse import read_rows
from include.ingest.parsing.types import canonical_text, clean_column
from include.monitor.pipeline import monitor
from include.monitor.state import PRODUCT
from include.ops.erase_search import (
    COPY,
    Search,
    SearchResult,
    Terms,
    is_distinctive,
    listed_terms,
    mask_rows,
    replaced_files,
)
from include.promote import ledger, verdicts
from include.promote.approval import require_person_and_reason
from include.score.erasure import TABLES, republish_summary
from include.score.pipeline import rows_known_at
from include.score.shards import PARTS
from include.spec import UseCase
from include.stats.quantile_sketch import LG_ITEMS
from include.storage import schemas
from include.storage.erasures import (
    ERASURES_TABLE,
    SEPARATOR,
    Erasures,
    canonical_texts,
    keyed_hash,
    read_erasures,
)
from include.storage.lake import Lake, Row
from include.storage.windows import window_start
from include.train.fits import read_fits
from include.train.monitoring_baselines import LIMITS, erase_categories

BLOCK = 90  # partitions whose rows are rewritten in one commit
ROUNDS = 5  # searches, of which each after the second means that a run has written meanwhile
UNCOMMITTED = timedelta(hours=1)  # after which no run still writes or commits a file
DESCRIPTIONS = ("profiles", "partitions", LIMITS)  # tables whose earlier versions describe the rows too
DERIVED = ("references/", "replays/", f"{PARTS}/")  # computed from the rows again when they are needed
Contents = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Key:
    """The key of a person's rows: columns and their values, all of which a row must have.

    Parameters
    ----------
    values : as the sources write them, by column.
    """

    usecase: str
    values: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, sorted."""
        return tuple(sorted(self.values))

    def of_source(self, spec: UseCase, source: str) -> list[str]:
        """Return the values as a source's rows have them, in the order of the columns; empty without them."""
        columns = spec.sources[source].columns
        if not set(self.columns) <= set(columns):
            return []
        texts = []
        for name in self.columns:
            column = spec.sources[source].column(name)
            clean = clean_column(pa.chunked_array([[self.values[name]]], pa.string()), column)
            texts.append(str(canonical_text(clean, column)[0].as_py()))
        return texts

    def terms(self, spec: UseCase) -> Terms:
        """Return the texts to look for in bytes."""
        if len(self.values) > 1:  # each may be other people's too
            return Terms(())
        texts = {text for source in spec.sources for text in self.of_source(spec, source)}
        texts |= {value.strip() for value in self.values.values()}
        categories = frozenset((name, text) for name in self.columns for text in texts)
        return Terms(tuple(sorted(text for text in texts if is_distinctive(text))), categories)


@dataclass(frozen=True)
class AffectedModel:
    """A model that was fitted on erased rows, and whether it serves now."""

    version: str
    model: str
    partition: str
    serves: bool


@dataclass(frozen=True)
class ErasurePlan:
    """What an erasure would remove.

    Parameters
    ----------
    contents : the number of rows by table, or raw objects of a source, and partition.
    models : those that were fitted on the rows.
    without_key : sources that lack a column of the key, whose rows can't be told by it.
    """

    key: Key
    search: SearchResult
    contents: Contents
    links: tuple[str, ...]
    models: tuple[AffectedModel, ...]
    without_key: tuple[str, ...]

    def plain(self) -> Row:
        """Return plain values, without the key's."""
        return {
            "columns": self.key.columns,
            "contents": self.contents,
            "models": [asdict(model) for model in self.models],
            "without_key": self.without_key,
        }

    @property
    def lines(self) -> list[str]:
        """The plan as lines of text."""
        lines = [
            f"{table}: {sum(counts.values()):,} rows of {len(counts):,} partitions, "
            f"{min(counts)} to {max(counts)}"
            for table, counts in sorted(self.contents.items())
        ]
        lines += [f"{file}: an earlier version, removed" for file in self.search.replaced]
        lines += [f"{source} has not all columns of the key: its rows stay" for source in self.without_key]
        return lines + _model_lines(self.models)


@dataclass(frozen=True)
class ErasureResult:
    """The result of an erasure.

    Parameters
    ----------
    remaining : a sentence for each place where the key's text still is.
    unreadable : a sentence for each file whose rows can't be told; the erasure is complete without any.
    objects, size : how many objects the last search read, and their bytes.
    """

    usecase: str
    contents: Contents
    models: tuple[AffectedModel, ...]
    remaining: tuple[str, ...]
    unreadable: tuple[str, ...]
    objects: int
    size: int
    searched: bool
    by: str
    at: datetime

    def plain(self) -> Row:
        """Return plain values."""
        return {**asdict(self), "note": self.lines[-1]}

    @property
    def lines(self) -> list[str]:
        """The result as lines of text, the last one in one sentence."""
        rows = sum(sum(counts.values()) for counts in self.contents.values())
        note = f"{self.usecase}: {rows:,} rows and copies of rows erased by {self.by} at "
        note += f"{self.at:%Y-%m-%d %H:%M} UTC; {self.objects:,} objects ({self.size / 1e6:,.1f} MB) "
        note += "searched: no such row is left"
        if not self.searched:
            note += (
                "; bytes that aren't rows weren't searched for the key, which is short or of several columns"
            )
        if self.remaining:
            note += f"; its text is left in {len(self.remaining)} places"
        if self.unreadable:
            note += f"; {len(self.unreadable)} of them can't be read, and may have such rows"
        return [*_model_lines(self.models), *self.remaining, *self.unreadable, note]


def _model_lines(models: Sequence[AffectedModel]) -> list[str]:
    return [
        f"fitted on these rows: {f'v{m.version}' if m.version else 'a fit without a version'}, model "
        f"{m.model[:12]} of the training {m.partition}{', which serves' if m.serves else ''}; a training "
        "replaces it"
        for m in models
    ]


def plan_erasure(lake: Lake, spec: UseCase, values: Mapping[str, str]) -> ErasurePlan:
    """Search everything that is stored for the rows that have these values, and write nothing.

    Parameters
    ----------
    values : by column of a source; a row must have all of them.

    Raises
    ------
    SpecError
        when no source has all the columns, a value is empty, or a source that something is stored of isn't
        declared any more.
    NotPublished
        when there are no such rows, and never were.
    SettingError
        without ``EVERGREEN_HASH_KEY``.
    """
    key = Key(spec.name, values)
    with_key = _sources_with(spec, values)
    if not with_key or not all(value.strip() for value in values.values()):
        raise SpecError(
            f"{spec.name}: erase --key {' '.join(f'{name}=…' for name in sorted(values))}",
            required="columns of one source, and a value for each",
            found="an empty value" if with_key else "a column that no source has together with the others",
            remedy="give each --key a value and a column of the same source: "
            + "; ".join(f"{name}: {', '.join(one.columns)}" for name, one in spec.sources.items()),
        )
    before = read_erasures(lake)
    links = _links(lake, spec, key, with_key)
    entry = _entry(spec, key, before.rows[0]["salt"] if before.rows else secrets.token_hex(16), links)
    earlier = [row for row in before.rows if _is_same(row, entry)]
    own = Erasures(before.version, (entry, *earlier))
    searching = Search(lake, spec, own, key.terms(spec))
    if undeclared := searching.undeclared_sources:
        raise SpecError(
            f"{spec.name}: an erasure",
            required="a declaration of each source that something is stored of, by which its rows are told",
            found=f"none of {', '.join(undeclared)}",
            where=lake.uri,
            remedy="declare it again in usecase.yaml, as it was, until the erasure is done",
        )
    search = searching.run()
    if search.is_empty and not earlier:
        raise NotPublished(
            f"{spec.name}: an erasure",
            required="rows that have the key",
            found=f"none; its text is in {', '.join(search.texts[:5])}" if search.texts else "none",
            where=lake.uri,
            remedy="give each value as the source writes it",
        )
    contents = _merged([search.contents, *(json.loads(row["contents"]) for row in earlier)])
    linked = {spec.labels.source} if links else set()
    without_key = [source for source in spec.sources if source not in {*with_key, *linked}]
    return ErasurePlan(
        key, search, contents, tuple(links), tuple(_models(lake, spec, contents)), tuple(without_key)
    )


def _sources_with(spec: UseCase, columns: Iterable[str]) -> list[str]:
    return [name for name, source in spec.sources.items() if set(columns) <= set(source.columns)]


def erase(
    lake: Lake,
    spec: UseCase,
    plan: ErasurePlan,
    by: str,
    reason: str,
    *,
    now: datetime,
    artifacts: Lake | None = None,
) -> ErasureResult:
    """Erase what a plan has, and whatever was written since, for good.

    Parameters
    ----------
    artifacts : MLflow's, which are only searched.

    Raises
    ------
    EvergreenError
        when such rows are still left after several searches, since runs keep writing them.
    """
    require_person_and_reason(f"{spec.name}: an erasure", by, reason)
    key, terms, search = plan.key, plan.key.terms(spec), plan.search
    links = plan.links
    for _ in range(ROUNDS):
        row = _record(lake, spec, key, links, search, by, reason, now)
        own = _own(read_erasures(lake), row)
        contents = _merged(json.loads(one["contents"]) for one in own.rows)
        _remove(lake, spec, own, terms, search, now)
        _describe(lake, spec, contents)
        search = Search(lake, spec, own, terms).run()
        if search.is_empty:
            break
        # of the rows that were stored since the plan, before they are removed
        links = tuple(sorted({*links, *_links(lake, spec, key, _sources_with(spec, key.columns))}))
    else:
        raise EvergreenError(
            f"{spec.name}: an erasure",
            required="no row of the person in the lake afterwards",
            found="; ".join([*search.contents, *search.replaced, *search.uncommitted][:5]),
            where=lake.uri,
            remedy="runs that started earlier are still writing: wait for them, then repeat the erasure",
        )
    texts = [f"{lake.uri}/{name}" for name in search.texts]
    if artifacts is not None:
        texts += [f"{artifacts.uri}/{name}" for name in artifacts.keys("") if _occurs(artifacts, name, terms)]
    return ErasureResult(
        usecase=spec.name,
        contents=contents,
        models=tuple(_models(lake, spec, contents)),
        remaining=tuple(f"the key's text is left in {text}; {_remedy(text)}" for text in texts),
        unreadable=tuple(
            f"{lake.uri}/{name} can't be read; restore it from a backup, or remove it if no version of its "
            "table has it, as of a run that was killed; then erase again"
            for name in search.unreadable
        )
        + tuple(
            f"{file} is of a put that was killed or still runs; erase again "
            f"{UNCOMMITTED.seconds // 60} minutes after it was last written to"
            for file in search.unfinished
        ),
        objects=search.objects,
        size=search.size,
        searched=bool(terms.values),
        by=str(own.rows[0]["by"]),
        at=own.rows[0]["at"],
    )


def _occurs(store: Lake, name: str, terms: Terms) -> bool:
    data = store.data(name)
    return data is not None and terms.occur_in(data)


def _remedy(location: str) -> str:
    if "/tables/" in location:
        return (
            "don't remove a table's file, without which the table can't be read: run what publishes the row "
            "again, then erase again; a ledger's rows stay"
        )
    if ".skops" in location or "/artifacts/" in location or "/models/" in location:
        return "train, let the new model serve, then remove this one and erase again"
    if "/reports/" in location:
        return "it is drawn again by the next run; then erase again"
    return "remove it by hand, then erase again"


# the ledger


def _entry(spec: UseCase, key: Key, salt: str, links: Iterable[str]) -> Row:
    """Return a row of the ledger that has the key's hashes."""
    hashes = {"": keyed_hash(salt, [])}
    for source in spec.sources:
        if values := key.of_source(spec, source):
            hashes[source] = keyed_hash(salt, [SEPARATOR.join(values)])
    return {
        "columns": json.dumps(key.columns),
        "salt": salt,
        "hashes": json.dumps(hashes, sort_keys=True),
        "links": json.dumps(sorted(keyed_hash(salt, [link]) for link in links)),
    }


def _links(lake: Lake, spec: UseCase, key: Key, sources: Sequence[str]) -> list[str]:
    """Return partition and prediction key of the rows to score that have a key which predictions lack."""
    spine = spec.features.spine
    if set(key.columns) <= set(spec.key) or spine not in sources:
        return []
    own = Erasures(0, (_entry(spec, key, "", ()),))
    links: set[str] = set()

    def add(texts: pa.Table) -> None:
        if set(spec.key) <= set(texts.column_names):
            matching = texts.filter(pa.array(own.mask_source(spec, spine, texts)))
            columns = [matching[name].to_pylist() for name in ("partition", *spec.key)]
            links.update(SEPARATOR.join(parts) for parts in zip(*columns, strict=True))

    rows = lake.read(f"validated_{spine}", columns=[*{*key.columns, "partition", *spec.key}])
    if rows is not None:
        add(canonical_texts(rows))
    for raw, manifests in referenced_objects(lake).items():  # also those that were quarantined or refused
        partitions = {snapshot.partition for _, snapshot in manifests if snapshot.source == spine}
        data = lake.data(raw) if partitions else None
        for partition in sorted(partitions):
            with suppress(PartitionRefused):
                if data is None:
                    break  # `verify` reports it
                rows = pa.concat_tables(list(read_rows(request(spec, spine, partition), raw, data)))
                add(key_texts(own, spec, spine, partition, rows))
    return sorted(links)


def _is_same(row: Mapping[str, Any], entry: Row) -> bool:
    return bool(row["columns"] == entry["columns"] and row["hashes"] == entry["hashes"])


def _own(erasures: Erasures, row: Row) -> Erasures:
    return Erasures(erasures.version, tuple(one for one in erasures.rows if _is_same(one, row)))


def _record(
    lake: Lake,
    spec: UseCase,
    key: Key,
    links: Sequence[str],
    search: SearchResult,
    by: str,
    reason: str,
    now: datetime,
) -> Row:
    """Record an erasure, unless its partitions are recorded already, and return its row."""
    contents = search.contents

    def decide(rows: list[Row]) -> list[Row] | Row:
        salt = rows[0]["salt"] if rows else secrets.token_hex(16)
        entry = _entry(spec, key, salt, links)
        same = sorted((row for row in rows if _is_same(row, entry)), key=lambda row: row["recorded"])
        recorded = _merged(json.loads(row["contents"]) for row in same)
        linked = {link for row in same for link in json.loads(row["links"])}
        new = any(set(counts) - set(recorded.get(table, ())) for table, counts in contents.items())
        if same and not new and set(json.loads(entry["links"])) <= linked:
            return same[0]
        about = {"by": by, "at": now.astimezone(UTC), "reason": reason}
        text = json.dumps(contents, sort_keys=True)
        return [{**entry, **about, "contents": text, "recorded": len(rows) + 1}]

    return lake.append_compare_and_swap(ERASURES_TABLE, schemas.ERASURES, decide)


def _merged(many: Iterable[Contents]) -> dict[str, dict[str, int]]:
    """Return the largest number of rows of each table and partition."""
    merged: dict[str, dict[str, int]] = {}
    for contents in many:
        for table, counts in contents.items():
            of_table = merged.setdefault(table, {})
            for partition, count in counts.items():
                of_table[partition] = max(count, of_table.get(partition, 0))
    return merged


# removal


def _remove(
    lake: Lake, spec: UseCase, own: Erasures, terms: Terms, search: SearchResult, now: datetime
) -> None:
    """Remove what a search has found."""
    published = _published_revisions(lake, spec) if search.manifests else {}
    for manifest in sorted(search.manifests):
        erase_snapshot(lake, spec, own, manifest, published, terms.occur_in)
    if search.raw:
        remove_unreferenced(lake, sorted(search.raw))
    for product, partition in sorted({(product, partition) for product, partition, _ in search.items}):
        if product == LIMITS:
            erase_categories(lake, partition, terms.is_category)
        else:
            _erase_items(lake, product, partition, terms)
    for table, counts in sorted(search.tables.items()):
        keys = sorted(counts)
        for start in range(0, len(keys), BLOCK):
            lake.revise(table, {"partition": keys[start : start + BLOCK]}, partial(_others, spec, own, table))
    for key in search.copies:
        _rewrite_copy(lake, spec, own, terms, key)
    written = lake.last_modified("tables") if search.uncommitted else {}
    old = [key for key in search.uncommitted if key in written and written[key] < now - UNCOMMITTED]
    lake.remove_unfinished_puts(now - UNCOMMITTED)
    lake.remove([*search.replaced, *old, *replaced_files(lake, search.tables).intersection(search.files)])


def _others(spec: UseCase, own: Erasures, table: str, rows: pa.Table) -> pa.Table:
    """Return the rows that aren't erased."""
    mask = mask_rows(own, spec, table, rows)
    return rows.filter(pa.array(~mask)) if mask.any() else rows


def _published_revisions(lake: Lake, spec: UseCase) -> dict[tuple[str, str], set[int]]:
    """Return the revisions of each source's partitions that the contract has accepted."""
    published: dict[tuple[str, str], set[int]] = {}
    for source in spec.sources:
        rows = lake.counts(f"validated_{source}", ["partition", "revision"])
        rows += lake.rows("partitions", {"product": source, "outcome": "published"})
        for row in rows:
            published.setdefault((source, row["partition"]), set()).add(int(row["revision"]))
    return published


def _erase_items(lake: Lake, product: str, partition: str, terms: Terms) -> None:
    """Remove a key's text from the frequent values that profiles list; their counts stay."""
    where = {"product": product, "partition": partition}
    rows = lake.read("profiles", where)
    if rows is not None:
        lake.publish("profiles", _without_items(rows, terms), where)


def _without_items(rows: pa.Table, terms: Terms) -> pa.Table:
    kind = datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES
    profiles = rows.to_pylist()
    for row in profiles:
        if not row["items"] or not listed_terms(row["items"], terms, row["column"]):
            continue
        before = datasketches.frequent_strings_sketch.deserialize(row["items"])
        after = datasketches.frequent_strings_sketch(LG_ITEMS)
        for item, _, low, _ in sorted(before.get_frequent_items(kind)):
            if not terms.is_category(row["column"], item):
                after.update(item, low)
        row["items"] = after.serialize()
    return pa.Table.from_pylist(profiles, schema=rows.schema)


def _rewrite_copy(lake: Lake, spec: UseCase, own: Erasures, terms: Terms, key: str) -> None:
    """Remove rows from a copy of a withdrawn partition; it stays under its name, which the ledger has."""
    match, data = COPY.fullmatch(key), lake.get(key)
    assert match is not None
    rows = pq.read_table(io.BytesIO(data or b""))
    sink = io.BytesIO()
    pq.write_table(
        _without_items(rows, terms) if match[1] == "profiles" else _others(spec, own, match[1], rows), sink
    )
    lake.replace(key, sink.getvalue())


def _describe(lake: Lake, spec: UseCase, contents: Contents) -> None:
    """Publish what describes the rows that are left.

    Raises
    ------
    SpecError
        when the features can't be computed, after everything else is done.
    """
    for source in spec.sources:
        keys = {*contents.get(f"raw/{source}", ()), *contents.get(f"validated_{source}", ())}
        if keys:
            describe_source(lake, spec, source, sorted(keys))
    failure: SpecError | None = None
    for partition in sorted({key for table in TABLES for key in contents.get(table, ())}):
        try:
            republish_summary(lake, spec, partition, rows_known_at(lake, spec, partition))
        except SpecError as error:
            failure = error
    lake.remove([key for prefix in DERIVED for key in lake.keys(prefix)])
    lake.remove(sorted(replaced_files(lake, DESCRIPTIONS)))
    if failure is not None:
        raise SpecError(
            f"{spec.name}: an erasure, whose rows are removed",
            required="features, to describe the predictions that are left",
            found=str(failure),
            remedy="correct that, then repeat the erasure, which also proves it",
        ) from failure
    monitored = [row["partition"] for row in lake.rows("partitions", {"product": PRODUCT})]
    if monitored:  # the performance of each partition whose rows have changed
        monitor(lake, spec, max(monitored))


# models


def _models(lake: Lake, spec: UseCase, contents: Contents) -> list[AffectedModel]:
    """Return the models that may have been fitted on erased rows: those of trainings that could see them."""
    erased = {
        spec.clock.shift(key, -spec.labels.delay)
        for key in contents.get(f"validated_{spec.labels.source}", ())
    }
    for source in spec.sources:
        is_read = spec.features.python or re.search(rf"(?i)\b(known_)?{source}\b", spec.sql)
        if is_read or source == spec.features.spine:
            back = range(spec.features.lookback_of(source) + 1)
            keys = contents.get(f"validated_{source}", ())
            erased |= {spec.clock.shift(key, ago) for key in keys for ago in back}
    switches = ledger.switches(lake)
    serving = ledger.serving_of(switches, max([row["effective_from"] for row in switches], default=""))
    live = {row["model"] for row in (serving.champion, serving.baseline) if row}
    trained = {row["model"]: (row["judged_on"], row["judged_on"]) for row in switches if row["model"]}
    trained |= {fit.model: (fit.partition, fit.last_fitted) for fit in read_fits(lake)}
    recorded = (*verdicts.attempts(lake), *switches)
    versions = {row["model"]: row["version"] for row in recorded if row["version"]}
    return [
        AffectedModel(versions.get(model, ""), model, partition, model in live)
        for model, (partition, last) in sorted(trained.items(), key=lambda item: (item[1], item[0]))
        if any(window_start(lake, spec, partition) <= key <= last for key in erased)
    ]
