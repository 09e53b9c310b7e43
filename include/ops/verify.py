"""Recompute the digests of raw bytes, partitions and models, and compare them with the recorded ones.

A difference means that something was lost, damaged or changed by another program. A *stale* partition is as
recorded, but a rerun would change it, because its declaration or its inputs have changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa

from include.errors import EvergreenError, ModelError, StoreUnavailable
from include.ingest import publish
from include.models import artifacts
from include.promote import ledger
from include.references import digest_bytes
from include.score import pipeline as scoring
from include.score import predictions
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.erasures import ERASURES_TABLE
from include.storage.lake import Lake, Row, Where
from include.storage.snapshots import read_parts, snapshots
from include.train.fits import recent_models

BLOCK = 90  # partitions whose rows are read together
Conform = Callable[[pa.Table | None], pa.Table]
Shape = tuple[str, Conform, tuple[str, ...]]  # a table, its columns and the order of its digest


@dataclass(frozen=True)
class VerifyResult:
    """The result of a verification.

    Parameters
    ----------
    differences : a sentence for each object, partition or model that differs from its record.
    stale : a sentence for each partition that a rerun would change.
    erased : a sentence for each partition whose inputs can't be recomputed, since rows of them were erased.
    snapshots, partitions, models : how many of each were recomputed.
    """

    differences: tuple[str, ...]
    stale: tuple[str, ...]
    erased: tuple[str, ...]
    snapshots: int
    partitions: int
    models: int

    @property
    def note(self) -> str:
        """The result in one sentence."""
        counts = (
            f"{self.snapshots:,} snapshots, {self.partitions:,} partitions, {self.models:,} models recomputed"
        )
        outcome = f"{len(self.differences)} differ" if self.differences else "all as recorded"
        erased = f", {len(self.erased)} from rows that were erased" if self.erased else ""
        return f"{counts}: {outcome}, {len(self.stale)} stale{erased}"

    def plain(self) -> Row:
        """Return plain values."""
        return {**asdict(self), "note": self.note}


def verify(lake: Lake, spec: UseCase, partition: str | None = None) -> VerifyResult:
    """Recompute the digests of a use case's whole lake, or of one partition and the models.

    Parameters
    ----------
    partition : a key of the schedule.

    Raises
    ------
    StoreUnavailable
        when the lake isn't there or doesn't answer.
    """
    lake.require_address()
    if partition is not None:
        spec.clock.decision_time(partition)
    where: Where | None = {"partition": partition} if partition else None
    recorded = lake.rows("partitions", where, order=["product", "partition"])
    by_source, raw_problems = _verify_raw(
        lake, spec, sorted({row["partition"] for row in recorded}), all_objects=partition is None
    )
    rows = [row for row in recorded if row["outcome"] == "published"]
    digests, model_problems = _verify_models(lake, spec)
    recomputed = [*_verify_partitions(lake, spec, rows)]
    stale, erased = _stale(lake, spec, rows, by_source)
    return VerifyResult(
        differences=(*raw_problems, *(problem for problem in recomputed if problem), *model_problems),
        stale=tuple(stale),
        erased=tuple(erased),
        snapshots=sum(len(stored) for by_partition in by_source.values() for stored in by_partition.values()),
        partitions=len(recomputed),
        models=len(digests),
    )


def _verify_raw(
    lake: Lake, spec: UseCase, partitions: Sequence[str], *, all_objects: bool
) -> tuple[Row, list[str]]:
    """Return the snapshots by source and partition, and the problems of their bytes.

    Each object is read once.
    """
    problems, verified = [], set()
    if all_objects:
        for key in lake.keys("raw/objects"):
            verified.add(key)
            if digest_bytes(lake.get(key) or b"") != key.rpartition("/")[2]:
                problems.append(
                    f"{lake.uri}/{key}: the bytes no longer have this SHA-256; restore the object"
                )
    by_source: Row = {}
    for source in spec.sources:
        try:
            by_source[source] = snapshots(lake, source, partitions) if partitions else {}
        except StoreUnavailable:
            raise
        except EvergreenError as error:
            by_source[source] = {}
            problems.append(str(error))
        for snapshot in (snapshot for stored in by_source[source].values() for snapshot in stored):
            if not all(part.key in verified for part in snapshot.parts):
                try:
                    list(read_parts(lake, snapshot))
                except StoreUnavailable:
                    raise
                except EvergreenError as error:
                    problems.append(str(error))
    return by_source, problems


def _verify_models(lake: Lake, spec: UseCase) -> tuple[list[str], list[str]]:
    """Return the digests of the models in the ledger and of recent fits, and the problems of these models."""
    digests = sorted(
        {row["model"] for row in ledger.switches(lake) if row["model"]} | recent_models(lake, spec)
    )
    problems = []
    for digest in digests:
        try:
            artifacts.load_model(lake, digest, spec)
        except ModelError as error:
            problems.append(str(error))
    return digests, problems


def _shape(spec: UseCase, product: str) -> Shape | None:
    """Return a product's table, what gives rows their columns, and their order in the digest."""
    if product in spec.sources:
        declared = spec.sources[product]
        schema, order = schemas.validated_schema(declared), ("revision", *declared.key)
        return f"validated_{product}", partial(schemas.align_to_schema, schema=schema), order
    if product in ("predictions", "shadows"):
        order = spec.key if product == "predictions" else ("model", *spec.key)
        return product, partial(predictions.as_published, spec), order
    if product not in schemas.PRODUCT_TABLES:
        return None
    table, schema, order = schemas.PRODUCT_TABLES[product]
    return table, partial(schemas.align_to_schema, schema=schema), order


def _verify_partitions(lake: Lake, spec: UseCase, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each partition that differs from its digest, and "" for each other one."""
    for product in sorted({row["product"] for row in rows}):
        of_product = [row for row in rows if row["product"] == product]
        if shape := _shape(spec, product):
            for start in range(0, len(of_product), BLOCK):
                yield from _verify_block(lake, spec, shape, of_product[start : start + BLOCK])


def _verify_block(lake: Lake, spec: UseCase, shape: Shape, block: Sequence[Row]) -> Iterator[str]:
    table, align, order = shape
    read = lake.read(table, {"partition": [row["partition"] for row in block]})
    by_partition = publish.by_partition(read) if read is not None else {}
    for row in block:
        rows = spill.sort_rows(align(by_partition.get(row["partition"])), order)
        digest = digest_table(rows) if rows.num_rows or row["digest"] else ""
        if digest == row["digest"]:
            yield ""
            continue
        yield (
            f"{spec.name}/{row['product']}/{row['partition']}: expected the digest {row['digest'][:12]}, "
            f"but found {rows.num_rows:,} rows with {digest[:12]} ({lake.uri}/tables/{table}); "
            "run the partition again, which recomputes it from its inputs"
        )


def _stale(
    lake: Lake, spec: UseCase, rows: Sequence[Row], by_source: Mapping[str, Row]
) -> tuple[list[str], list[str]]:
    """Return a sentence for each partition that a rerun would change, and for each with erased inputs."""
    stale, affected = [], []
    erased = _erased_partitions(lake, spec)
    for row in rows:
        product, partition = row["product"], row["partition"]
        why = "" if row["spec"] == spec.digest_of(product) else "the declaration has changed since"
        by_erasure = ""
        if product in spec.sources and partition in by_source[product]:
            if publish.lineage(product, by_source[product][partition]) != row["inputs"]:
                why = "a newer snapshot exists"
        elif product == "predictions":
            current = scoring.inputs_digest(scoring.rows_known_at(lake, spec, partition))
            recorded = json.loads(row["inputs"])
            changed = [source for source, digest in current.items() if recorded.get(source) != digest]
            of_erasure = [name for name in changed if erased[name] & _visible(spec, name, partition)]
            others = [source for source in changed if source not in of_erasure]
            why = f"the rows of {', '.join(others)} have changed since" if others else why
            by_erasure = ", ".join(of_erasure)
        if why:
            stale.append(f"{spec.name}/{product}/{partition} is stale: {why}")
        elif by_erasure:
            subject = f"{spec.name}/{product}/{partition}"
            affected.append(f"{subject} was computed before rows of {by_erasure} were erased")
    return stale, affected


def _erased_partitions(lake: Lake, spec: UseCase) -> dict[str, set[str]]:
    """Return the partitions of each source from which rows were erased."""
    contents = [json.loads(row["contents"]) for row in lake.rows(ERASURES_TABLE)]
    return {
        source: {key for one in contents for key in one.get(f"validated_{source}", ())}
        for source in spec.sources
    }


def _visible(spec: UseCase, source: str, partition: str) -> set[str]:
    """Return the partitions of a source that the features of a partition may see."""
    first = spec.clock.shift(partition, -spec.features.lookback_of(source))
    return set(spec.partitions(source, first, partition))
