"""Erases people's rows from `predictions` and the tables with its columns, and describes what is left."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from include.features.build import compute_features
from include.score.predictions import as_published, profiles_of
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.erasures import Erasures
from include.storage.lake import Lake

TABLES = ("predictions", "shadows", "restated")


def erase_predictions(lake: Lake, spec: UseCase, erasures: Erasures, partitions: Sequence[str]) -> None:
    """Erase rows from partitions of each table of predictions; others aren't written."""
    for table in TABLES:
        rows = lake.read(table, {"partition": list(partitions)})
        if rows is None or not rows.num_rows:
            continue
        mask = erasures.mask_predictions(spec, rows)
        if mask.any():
            changed = rows["partition"].filter(pa.array(mask)).unique().to_pylist()
            others = rows.filter(pa.array(~mask))
            selected = pa.compute.is_in(others["partition"], pa.array(changed))
            lake.publish(table, others.filter(selected), {"partition": sorted(changed)})


def republish_summary(lake: Lake, spec: UseCase, partition: str, rows_known: dict[str, pa.Table]) -> None:
    """Publish the profiles and the digests of what is left of a scored partition.

    Its inputs stay as recorded: it was scored from them, and they can't be recomputed.

    Parameters
    ----------
    rows_known : each source's rows that were known at the decision, from `pipeline.rows_known_at`.
    """
    products = {"predictions": spec.key, "shadows": ("model", *spec.key)}
    recorded = lake.rows("partitions", {"product": list(products), "partition": partition})
    for row in recorded:
        product = row["product"]
        table = as_published(spec, lake.read(product, {"partition": partition}))
        served = spill.sort_rows(table, products[product])
        if product == "predictions":
            _publish_profiles(lake, spec, partition, rows_known, served)
        changed = {**row, "rows": served.num_rows, "digest": digest_table(served)}
        lake.publish(
            "partitions",
            pa.Table.from_pylist([changed], schema=schemas.PARTITIONS),
            {"product": product, "partition": partition},
        )


def _publish_profiles(
    lake: Lake, spec: UseCase, partition: str, rows_known: dict[str, pa.Table], served: pa.Table
) -> None:
    described = schemas.PROFILES.empty_table()
    if served.num_rows:
        features = compute_features(spec, rows_known, [partition])
        described = profiles_of(spec, partition, features, served)
    where = {"product": ["features", "predictions"], "partition": partition}
    lake.publish("profiles", described, where)
