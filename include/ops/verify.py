"""Recompute what the lake says of itself: each byte, partition and model against its recorded digest.

A difference means that something was lost, damaged or changed behind Evergreen's back. A *stale* partition is
sound, and would be made otherwise now: its declaration or its inputs have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from include.errors import EvergreenError, ModelError, StoreUnavailable
from include.features import point_in_time
from include.ingest import publish
from include.ingest.snapshots import read_parts, snapshots
from include.models import artifacts
from include.promote import ledger
from include.references import digest_bytes
from include.score import pipeline as scoring
from include.score import predictions
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.lake import Lake

BLOCK = 90  # partitions whose rows are held at once
Row = dict[str, Any]
Shape = tuple[str, pa.Schema, tuple[str, ...]]  # a table, its schema, the order of a digest


@dataclass(frozen=True)
class Verified:
    """What was recomputed.

    Parameters
    ----------
    differences : a sentence for each thing that is not what was recorded.
    stale : a sentence for each partition that would be made otherwise now.
    snapshots, partitions, models : how many of each were recomputed.
    """

    differences: tuple[str, ...]
    stale: tuple[str, ...]
    snapshots: int
    partitions: int
    models: int

    @property
    def note(self) -> str:
        """The sentence a person reads."""
        looked = (
            f"{self.snapshots:,} snapshots, {self.partitions:,} partitions, {self.models:,} models recomputed"
        )
        found = f"{len(self.differences)} differ" if self.differences else "all as recorded"
        return f"{looked}: {found}, {len(self.stale)} stale"

    def plain(self) -> Row:
        """Return plain values."""
        return {**asdict(self), "note": self.note}


def verify(lake: Lake, spec: UseCase, partition: str | None = None) -> Verified:
    """Recompute a use case's whole lake, or what belongs to one partition and the models.

    Parameters
    ----------
    partition : a key of the schedule.
    """
    if partition is not None:
        spec.clock.moment(partition)
    recorded = lake.rows("partitions", {"partition": partition} if partition else None)
    kept, raw = _raw(lake, spec, sorted({row["partition"] for row in recorded}), whole=partition is None)
    rows = sorted((row for row in recorded if row["outcome"] == "published"), key=_place)
    digests, wrong = _models(lake)
    recomputed = [*_partitions(lake, spec, rows)]
    return Verified(
        differences=(*raw, *(sentence for sentence in recomputed if sentence), *wrong),
        stale=tuple(_stale(lake, spec, rows, kept)),
        snapshots=sum(len(many) for by_partition in kept.values() for many in by_partition.values()),
        partitions=len(recomputed),
        models=len(digests),
    )


def _place(row: Row) -> tuple[str, str]:
    return row["product"], row["partition"]


def _raw(lake: Lake, spec: UseCase, partitions: Sequence[str], *, whole: bool) -> tuple[Row, list[str]]:
    """Return the snapshots by source and partition, and what is wrong with their bytes.

    Each object read once.
    """
    wrong, read = [], set()
    if whole:
        for key in lake.keys("raw/objects"):
            read.add(key)
            if digest_bytes(lake.get(key) or b"") != key.rpartition("/")[2]:
                wrong.append(
                    f"{lake.uri}/{key}: the bytes are no longer those of their SHA-256; restore the object"
                )
    kept: Row = {}
    for source in spec.sources:
        try:
            kept[source] = snapshots(lake, source, partitions) if partitions else {}
        except StoreUnavailable:
            raise
        except EvergreenError as error:
            kept[source] = {}
            wrong.append(str(error))
        for one in (one for many in kept[source].values() for one in many):
            if not all(part.key in read for part in one.parts):
                try:
                    list(read_parts(lake, one))
                except StoreUnavailable:
                    raise
                except EvergreenError as error:
                    wrong.append(str(error))
    return kept, wrong


def _models(lake: Lake) -> tuple[list[str], list[str]]:
    """Return the digests that the ledger refers to, and what is wrong with the models of that name."""
    digests = sorted({row["model"] for row in ledger.switches(lake) if row["model"]})
    wrong = []
    for digest in digests:
        try:
            artifacts.load_model(lake, digest)
        except ModelError as error:
            wrong.append(str(error))
    return digests, wrong


def _shape(spec: UseCase, product: str) -> Shape | None:
    """Return a product's table, its schema and the order in which its rows are digested."""
    if product in spec.sources:
        declared = spec.sources[product]
        return f"validated_{product}", schemas.validated_schema(declared), ("revision", *declared.key)
    return {
        "predictions": ("predictions", predictions.predictions_schema(spec), spec.key),
        "shadows": ("shadows", predictions.predictions_schema(spec), ("model", *spec.key)),
        "performance": ("performance", schemas.PERFORMANCE, ("known", "metric")),
        "losses": ("losses", schemas.LOSSES, ("known", "model")),
        "limits": ("limits", schemas.LIMITS, ("model", "column")),
        "estimates": ("estimates", schemas.ESTIMATES, ("metric",)),
        "drift": ("drift", schemas.DRIFT, ("column", "measure")),
        "monitor": ("findings", schemas.FINDINGS, ("check", "subject")),
    }.get(product)


def _partitions(lake: Lake, spec: UseCase, rows: Sequence[Row]) -> Iterator[str]:
    """Yield, for each partition whose rows can be digested, what is wrong with it, if anything."""
    for product in sorted({row["product"] for row in rows}):
        mine = [row for row in rows if row["product"] == product]
        if shape := _shape(spec, product):
            for start in range(0, len(mine), BLOCK):
                yield from _block(lake, spec, shape, mine[start : start + BLOCK])


def _block(lake: Lake, spec: UseCase, shape: Shape, block: Sequence[Row]) -> Iterator[str]:
    table, schema, order = shape
    read = lake.read(table, {"partition": [row["partition"] for row in block]})
    found = publish.by_partition(point_in_time.conform(read, schema))
    for row in block:
        rows = spill.sort_rows(found.get(row["partition"], schema.empty_table()), order)
        digest = digest_table(rows) if rows.num_rows or row["digest"] else ""
        if digest == row["digest"]:
            yield ""
            continue
        yield (
            f"{spec.name}/{row['product']}/{row['partition']}: required the digest {row['digest'][:12]}, "
            f"found {rows.num_rows:,} rows with {digest[:12]} ({lake.uri}/tables/{table}); "
            "run the partition again: it is made anew from what it came from"
        )


def _stale(lake: Lake, spec: UseCase, rows: Sequence[Row], kept: Mapping[str, Row]) -> Iterator[str]:
    """Yield a sentence for each partition whose declaration or inputs are others now."""
    for row in rows:
        product, partition = row["product"], row["partition"]
        why = "" if row["spec"] == spec.digest_of(product) else "the declaration has changed since"
        if product in spec.sources and partition in kept[product]:
            if publish.lineage(product, kept[product][partition]) != row["inputs"]:
                why = "another snapshot came since"
        elif product == "predictions":
            seen = scoring.inputs_digest(spec, scoring.rows_known_at(lake, spec, partition))
            recorded = json.loads(row["inputs"])
            changed = [source for source, digest in seen.items() if recorded.get(source) != digest]
            why = f"it would see other rows of {', '.join(changed)} now" if changed else why
        if why:
            yield f"{spec.name}/{product}/{partition} is stale: {why}"
