"""Searches everything that a use case has stored for a person's rows: each object is read once, and decoded.

- Rows of sources, of the quarantine and of predictions are told by their columns: in the raw objects, and in
  each Parquet file of a table, also in those that were replaced.
- The key's text is looked for in every other byte: of each object as it is stored, of what a gzip or zip file
  contains, and of each text in a Parquet file, in UTF-8, UTF-16 and UTF-32, and as JSON, HTML and addresses
  write it. A text that is part of a longer word isn't the key. A short key would occur by chance, so it isn't
  looked for, see `is_distinctive`.
"""

from __future__ import annotations

import html
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, unquote

import datasketches
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.errors import PartitionRefused
from include.ingest.connectors.request import request
from include.ingest.erasure import mask_records, mask_text, referenced_objects
from include.ingest.parsing.parse import read_rows
from include.score.erasure import TABLES
from include.spec import UseCase
from include.storage import queries
from include.storage.erasures import Erasures, Mask, canonical_texts
from include.storage.lake import Lake
from include.storage.spill import Data
from include.train.monitoring_baselines import LIMITS

PARQUET, GZIP, ZIP = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
TABLE_FILE = re.compile(r"tables/([^/]+)/(?!_delta_log/)(?:source=([^/]+)/|product=[^/]+/)?[^/]+\.parquet")
COPY = re.compile(r"withdrawn/[^/]+/(\w+)-[0-9a-f]{64}\.parquet")
CHUNK = 1 << 16
DEPTH = 3  # archives within archives that are opened
TEXTS = (  # Arrow's types of a text or of bytes
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)


def is_distinctive(value: str) -> bool:
    """Return whether a text is long enough that it doesn't occur by chance."""
    return len(value) >= (9 if value.isdigit() else 6)


@dataclass(frozen=True)
class Terms:
    """The texts of a key to look for.

    Parameters
    ----------
    values : to look for in bytes; none of a short key, nor of one of several columns, which others share.
    categories : column and text of a key of one column, also of a short one.
    """

    values: tuple[str, ...]
    categories: frozenset[tuple[str, str]] = frozenset()

    def is_category(self, column: str, text: str) -> bool:
        """Return whether a category that is listed for a column is the key."""
        return text in self.values or (column, text) in self.categories

    @cached_property
    def _pattern(self) -> re.Pattern[bytes] | None:
        forms = {
            form.encode(encoding)
            for value in self.values
            for form in (value, json.dumps(value)[1:-1], html.escape(value), quote(value, safe=""))
            for encoding in ("utf-8", "utf-16-le", "utf-32-le")
        }
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        either = b"|".join(map(re.escape, longest_first))
        return re.compile(rb"(?<![0-9A-Za-z])(?:" + either + rb")(?![0-9A-Za-z])") if forms else None

    def occur_in(self, data: Data, depth: int = DEPTH) -> bool:
        """Return whether bytes contain a term, as they are or decoded."""
        if self._pattern is None:
            return False
        if self._pattern.search(data):
            return True
        if data[:4] == PARQUET:
            return any(self.occur_in_texts(column) for batch in _batches(data) for column in batch.columns)
        return depth > 0 and any(self.occur_in(part, depth - 1) for part in _unpacked(data))

    def occur_in_texts(self, column: pa.Array) -> bool:
        """Return whether a text of a column, or of the columns within it, contains a term."""
        if pa.types.is_dictionary(column.type):
            return self.occur_in_texts(column.dictionary)
        if pa.types.is_struct(column.type):
            return any(map(self.occur_in_texts, column.flatten()))
        if pa.types.is_map(column.type):
            return self.occur_in_texts(column.keys) or self.occur_in_texts(column.items)
        if pa.types.is_nested(column.type):
            return self.occur_in_texts(column.flatten())
        if isinstance(column, pa.ExtensionArray):
            return self.occur_in_texts(column.storage)
        if self._pattern is None or not any(is_text(column.type) for is_text in TEXTS):
            return False
        # they lie in memory without anything between them
        texts = pc.unique(column.cast(pa.large_binary()).drop_null()).to_pylist()
        return bool(self._pattern.search(b"\0".join(texts)))


def _unpacked(data: Data) -> Iterator[bytes]:
    """Yield the content of an archive, as far as a damaged one can be read; nothing for anything else."""
    if data[:2] == GZIP:
        yield _gunzip(bytes(data))
    if data[:4] == ZIP:
        damaged = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError)
        with suppress(*damaged), zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def _gunzip(data: bytes) -> bytes:
    plain = bytearray()
    while data[:2] == GZIP:  # a file may have several members
        engine = zlib.decompressobj(wbits=31)
        with suppress(zlib.error):
            for start in range(0, len(data), CHUNK):
                plain += engine.decompress(data[start : start + CHUNK])
                if engine.eof:
                    break
        data = engine.unused_data + data[start + CHUNK :] if engine.eof else b""
    return bytes(plain)


def _batches(data: Data) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file; a damaged one has none, and only its bytes can be searched."""
    with suppress(pa.ArrowException, OSError):
        yield from pq.ParquetFile(pa.py_buffer(data)).iter_batches()


@dataclass
class SearchResult:
    """Where a person's rows are.

    Parameters
    ----------
    raw : number of rows by key of a raw object.
    manifests : that refer to these.
    sources : number of rows by source and partition, in these.
    tables : number of rows by table and partition, in the tables' newest versions.
    files : the files that these rows are in.
    replaced : files of tables' earlier versions that have such rows.
    uncommitted : such files that no version refers to: of a killed run, or of one that still writes.
    copies : copies of withdrawn partitions.
    items : product, partition and column of profiles, and of `limits`, that list the key's text.
    texts : other objects that contain the key's text.
    unfinished : files of puts that were killed or still run, of which no row can be told.
    unreadable : damaged files of tables, and copies, whose rows can't be told.
    objects, size : how many objects were read, and their bytes.
    """

    raw: dict[str, int] = field(default_factory=dict)
    manifests: set[str] = field(default_factory=set)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    items: list[tuple[str, str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    objects: int = 0
    size: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found that can be erased."""
        return not any((self.raw, self.tables, self.replaced, self.uncommitted, self.copies, self.items))

    @property
    def contents(self) -> dict[str, dict[str, int]]:
        """Return the number of rows by partition of each table, and of the raw objects of each source."""
        return {**{f"raw/{name}": rows for name, rows in self.sources.items()}, **self.tables}


class Search:
    """One search of a use case's lake.

    Attributes
    ----------
    result : what was found so far.
    """

    def __init__(self, lake: Lake, spec: UseCase, erasures: Erasures, terms: Terms) -> None:
        self.lake, self.spec, self.erasures, self.terms = lake, spec, erasures, terms
        self.result = SearchResult()
        self._references = referenced_objects(lake)
        self._tables = lake.tables()
        self._current = current_files(lake, self._tables)
        self._earlier = replaced_files(lake, self._tables)

    @property
    def undeclared_sources(self) -> list[str]:
        """The sources that something is stored of and that aren't declared: no row of theirs can be told."""
        stored = {snapshot.source for entries in self._references.values() for _, snapshot in entries}
        stored |= {name.removeprefix("validated_") for name in self._tables if name.startswith("validated_")}
        return sorted(stored - {*self.spec.sources})

    def run(self) -> SearchResult:
        """Read each object of the lake once, and return where the rows are."""
        result, unfinished = self.result, self.lake.unfinished_puts()
        for key in self.lake.keys(""):
            data = self.lake.data(key)
            if data is None:
                continue  # removed meanwhile
            result.objects, result.size = result.objects + 1, result.size + len(data)
            damaged = False
            try:
                if self._search_rows(key, data):
                    continue
            except (pa.ArrowException, OSError):
                damaged = True
            occurs = self.terms.occur_in(data)
            if occurs and key in self._earlier:
                result.replaced.append(key)
            elif damaged:
                result.unreadable.append(key)
            elif occurs:
                result.texts.append(key)
        result.unfinished = [str(file) for file in unfinished if file.exists()]
        return result

    def _search_rows(self, key: str, data: Data) -> bool:
        """Search an object for what is told by columns, and return whether it has any."""
        if key.startswith("raw/objects/"):
            return self._search_raw(key, data)
        if match := TABLE_FILE.fullmatch(key):
            return self._search_table(key, match[1], match[2] or "", data)
        match = COPY.fullmatch(key)
        if match is None:
            return False
        counts = self._count_by_partition(match[1], "", data)
        if not counts and not (match[1] == "profiles" and self._list_items(key, data)):
            return False
        self.result.copies.append(key)
        return True

    def _search_table(self, key: str, table: str, source: str, data: Data) -> bool:
        """Search a file of a table, and return whether rows or profiles of the key are in it."""
        counts = self._count_by_partition(table, source, data)
        items = self._list_items(key, data) if table == "profiles" else []
        items += self._list_limits(data) if table == LIMITS else []
        if not counts and not items:
            return False
        result = self.result
        if key in self._current:
            result.items += items
            result.files += [key] if counts else []
            of_table = result.tables.setdefault(table, {}) if counts else {}
            for partition, count in counts.items():
                of_table[partition] = of_table.get(partition, 0) + count
        else:
            (result.replaced if key in self._earlier else result.uncommitted).append(key)
        return True

    def _search_raw(self, key: str, data: Data) -> bool:
        """Search a raw object as a part of each of its snapshots, or of any source if it has none.

        Returns
        -------
        bool
            Whether it has rows of the key.
        """
        result, count = self.result, 0
        for manifest, snapshot in self._references.get(key, ()):
            rows = self._count_raw(snapshot.source, snapshot.partition, data, key)
            if rows:
                result.manifests.add(manifest)
                of_source = result.sources.setdefault(snapshot.source, {})
                of_source[snapshot.partition] = of_source.get(snapshot.partition, 0) + max(rows, 0)
            count = count or rows
        if key not in self._references:
            for source in self.spec.sources:
                for partition in self._erased_partitions(source):  # of a run that was killed while erasing
                    count = count or self._count_raw(source, partition, data, key)
        if count:
            result.raw[key] = max(count, 0)
        return bool(count)

    def _erased_partitions(self, source: str) -> list[str]:
        """Return the partitions from whose raw objects rows were to be erased, or any partition."""
        contents = [json.loads(row.get("contents", "{}")) for row in self.erasures.rows]
        keys = {key for one in contents for key in one.get(f"raw/{source}", ())}
        return sorted(keys) or [self.spec.clock.around(self.spec.schedule.start)[1]]

    def _count_raw(self, source: str, partition: str, data: Data, name: str) -> int:
        """Return how many rows of a part are erased; -1 if it can't be read and contains the key's text."""
        if source not in self.spec.sources:
            return 0
        try:
            rows = pa.concat_tables(list(read_rows(request(self.spec, source, partition), name, data)))
        except PartitionRefused:
            return -1 if self.terms.occur_in(data) else 0
        if not rows.num_rows:
            return 0
        return int(np.count_nonzero(mask_text(self.erasures, self.spec, source, partition, rows)))

    def _count_by_partition(self, table: str, source: str, data: Data) -> dict[str, int]:
        """Return the number of erased rows by partition in a file of a table."""
        counts: dict[str, int] = {}
        if not (table in TABLES or table == "quarantine" or table.startswith("validated_")):
            return counts
        for batch in pq.ParquetFile(pa.py_buffer(data)).iter_batches():
            rows = pa.Table.from_batches([batch])
            mask = mask_rows(self.erasures, self.spec, table, rows, source)
            for entry in pc.value_counts(rows["partition"].filter(pa.array(mask))).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        return counts

    def _list_items(self, key: str, data: Data) -> list[tuple[str, str, str]]:
        """Return product, partition and column of the profiles in a file that list the key's text."""
        product = unquote(key.partition("product=")[2].partition("/")[0])
        rows = pq.read_table(pa.py_buffer(data), partitioning=None).to_pylist()
        return [
            (product, row["partition"], row["column"])
            for row in rows
            if row["items"] and listed_terms(row["items"], self.terms, row["column"])
        ]

    def _list_limits(self, data: Data) -> list[tuple[str, str, str]]:
        """Return the same of the rows of `limits` in a file that have a bin for the key's text."""
        return [
            (LIMITS, row["partition"], row["column"])
            for row in pq.read_table(pa.py_buffer(data), partitioning=None).to_pylist()
            if any(
                self.terms.is_category(row["column"], name)
                for name in json.loads(row["binning"])["names"] or ()
            )
        ]


def current_files(lake: Lake, tables: Iterable[str]) -> set[str]:
    """Return the keys of the files of the newest version of tables."""
    opened = {table: delta for table in tables if (delta := lake.open(table)) is not None}
    return {
        f"tables/{table}/{unquote(str(entry['path']))}"
        for table, delta in opened.items()
        for entry in queries.list_files(delta)
    }


def replaced_files(lake: Lake, tables: Iterable[str]) -> set[str]:
    """Return the keys of the files that only earlier versions of tables refer to.

    A file that no version refers to isn't one of them: a run may be about to commit it.
    """
    opened = {table: delta for table in tables if (delta := lake.open(table)) is not None}
    return {
        f"tables/{table}/{path}"
        for table, delta in opened.items()
        for path in delta.vacuum(0, dry_run=True, enforce_retention_duration=False)
    }


def mask_rows(erasures: Erasures, spec: UseCase, table: str, rows: pa.Table, source: str = "") -> Mask:
    """Return which rows of a table are erased, none of a table whose rows belong to no person.

    Parameters
    ----------
    source : of rows of `quarantine` without that column.
    """
    if table in TABLES:
        return erasures.mask_predictions(spec, rows)
    if table == "quarantine" and "source" in rows.column_names:
        mask = np.zeros(rows.num_rows, bool)
        for name in rows["source"].unique().to_pylist():
            of_source = np.asarray(pc.equal(rows["source"], name).to_numpy(zero_copy_only=False), bool)
            mask[of_source] = mask_records(erasures, spec, name, rows.filter(pa.array(of_source)))
        return mask
    if table == "quarantine":
        return mask_records(erasures, spec, source, rows)
    source = table.removeprefix("validated_")
    if table == source or source not in spec.sources:
        return np.zeros(rows.num_rows, bool)
    names = [name for name in ("partition", *spec.sources[source].columns) if name in rows.column_names]
    return erasures.mask_source(spec, source, canonical_texts(rows.select(names)))


def listed_terms(items: bytes, terms: Terms, column: str) -> list[str]:
    """Return the texts of a key that the sketch of frequent values of a column's profile lists."""
    sketch = datasketches.frequent_strings_sketch.deserialize(items)
    frequent = sketch.get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES)
    return sorted(item for item, *_ in frequent if terms.is_category(column, item))
