"""The ledger `erasures`: which rows were erased, as keyed hashes of their keys, and never the keys.

A hash is an HMAC-SHA256 under ``EVERGREEN_HASH_KEY`` and a salt of the use case's own. Who can read the lake
can't try keys against it, and who has the setting can tell a row that the source delivers again.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.environment import setting
from include.errors import SettingError
from include.spec import UseCase
from include.storage.lake import Lake, Row

ERASURES_TABLE = "erasures"
SEPARATOR = "\x1f"
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


def keyed_hash(salt: str, values: Iterable[str]) -> str:
    """Return the hash of a key's values, in the order of its columns; 64 hexadecimal characters.

    Raises
    ------
    SettingError
        without ``EVERGREEN_HASH_KEY``, or if it is empty.
    """
    key = setting("EVERGREEN_HASH_KEY")
    if not key:  # as from a compose file; anybody could try keys against such a hash
        raise SettingError(
            "EVERGREEN_HASH_KEY",
            required="a long random text",
            found="an empty one",
            remedy="set the one that rows were erased with; before the first erasure, make one with "
            "`openssl rand -hex 32`",
        )
    return hmac.digest(key.encode(), SEPARATOR.join((salt, *values)).encode(), "sha256").hex()


def canonical_texts(rows: pa.Table) -> pa.Table:
    """Return stored values as texts, the same for equal values of one type; a null is empty."""
    columns = {name: pc.fill_null(rows[name].cast(pa.string()), "") for name in rows.column_names}
    return pa.table(columns)


@dataclass(frozen=True)
class Erasures:
    """What was erased from a use case.

    Parameters
    ----------
    version : of the ledger, -1 if nothing was ever erased.
    rows : of the ledger.
    """

    version: int
    rows: tuple[Row, ...]

    def columns_of(self, available: Iterable[str]) -> list[tuple[str, ...]]:
        """Return the columns of each key that rows with the available columns can be told by."""
        keys = {tuple(json.loads(row["columns"])) for row in self.rows}
        return sorted(key for key in keys if set(key) <= set(available))

    def mask_source(self, spec: UseCase, source: str, texts: pa.Table) -> Mask:
        """Return which rows of a source are erased.

        Parameters
        ----------
        texts : ``partition``, and as canonical texts the columns of the keys and of the use case's key that
            the source has.
        """
        names = texts.column_names
        masks = [np.zeros(texts.num_rows, bool)]
        for key in self.columns_of(names):
            rows = [row for row in self.rows if tuple(json.loads(row["columns"])) == key]
            hashes = {one for row in rows for one in _hashes_of(row, source)}
            masks.append(self._isin([texts[name] for name in key], hashes))
        if source == spec.labels.source and source != spec.features.spine and set(spec.key) <= set(names):
            scored = _map_distinct(texts["partition"], lambda key: spec.clock.shift(key, -spec.labels.delay))
            masks.append(self._mask_links(spec, texts, scored))
        return reduce(np.logical_or, masks)

    def mask_predictions(self, spec: UseCase, rows: pa.Table) -> Mask:
        """Return which rows of `predictions`, or of a table with its columns, are erased."""
        texts = canonical_texts(
            rows.select([name for name in ("partition", *spec.key) if name in rows.column_names])
        )
        own = self.mask_source(spec, spec.features.spine, texts)
        return np.logical_or(own, self._mask_links(spec, texts, texts["partition"]))

    def _mask_links(self, spec: UseCase, texts: pa.Table, scored: pa.ChunkedArray | pa.Array) -> Mask:
        links = {link for row in self.rows for link in json.loads(row["links"])}
        if not links or not set(spec.key) <= set(texts.column_names):
            return np.zeros(len(scored), bool)
        return self._isin([scored, *(texts[name] for name in spec.key)], links)

    def _isin(self, columns: Sequence[pa.ChunkedArray | pa.Array], hashes: set[str]) -> Mask:
        salt = self.rows[0]["salt"]

        def is_erased(text: str) -> bool:
            return keyed_hash(salt, [text]) in hashes

        joined = [_flat(column) for column in columns]
        mask = _map_distinct(pc.binary_join_element_wise(*joined, SEPARATOR), is_erased)
        return np.asarray(mask.to_numpy(zero_copy_only=False), bool)


def _hashes_of(row: Row, source: str) -> set[str]:
    """Return the hashes of an erased key in a source: of one declared later, those in any source.

    It may be a source under another name, or one that delivers the same rows.
    """
    hashes = json.loads(row["hashes"])
    return {hashes[source]} if source in hashes else {one for name, one in hashes.items() if name}


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _map_distinct(values: pa.ChunkedArray | pa.Array, function: Callable[[str], Any]) -> pa.Array:
    """Return the function's result for each text; it is called once for each distinct one."""
    encoded = _flat(values).dictionary_encode()
    results = [function(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(results, pa.bool_() if not results else None).take(encoded.indices)


def read_erasures(lake: Lake) -> Erasures:
    """Return a use case's erasures.

    Raises
    ------
    SettingError
        if rows were erased and ``EVERGREEN_HASH_KEY`` is missing or another one: they could come back.
    """
    version = lake.version(ERASURES_TABLE)
    rows = lake.rows(ERASURES_TABLE) if version >= 0 else []
    for row in rows:
        if json.loads(row["hashes"])[""] != keyed_hash(row["salt"], []):
            raise SettingError(
                "EVERGREEN_HASH_KEY",
                required="the key that was set when rows were erased",
                found="another key, with which erased rows could be ingested again",
                where=f"{lake.uri}/tables/{ERASURES_TABLE}",
                remedy="set the earlier key",
            )
    return Erasures(version, tuple(sorted(rows, key=lambda row: int(row["recorded"]))))
