"""OpenLineage: what a task read and wrote, as datasets with their partition, version and digest.

Nothing is collected unless the provider is installed and a transport is set. A task describes its products as
it publishes them: the provider asks for them in a fork of the task's process, which can't read the lake.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.openlineage.extractors import OperatorLineage

    from include.references import Ref
    from include.storage.lake import Lake

MODEL = "model"  # among a partition's inputs, the digests of the models that predicted it
PRODUCTS = {"findings": "monitor"}  # products that `partitions` has under another name
SOURCE = "INTEGRATION"  # who set a tag


@dataclass(frozen=True)
class Published:
    """One product of a task.

    Parameters
    ----------
    uri : of the use case's lake.
    path : of the table or model below it.
    version : of the table; empty for a model.
    columns : name and type of the table's columns.
    inputs : the digest of each input by path below the lake, and its partition.
    tags : more facts of the product, and of its inputs by path.
    """

    uri: str
    path: str
    partition: str
    digest: str
    rows: int
    version: str
    columns: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str, str], ...]
    tags: dict[str, dict[str, str]]


def is_enabled() -> bool:
    """Return whether the provider is installed and has a transport."""
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return False
    return not conf.is_disabled()


def describe(lake: Lake, product: str, table: str, ref: Ref) -> Published:
    """Return a product that was published to a table, with the inputs that its row in `partitions` names."""
    import pyarrow as pa

    rows = lake.rows("partitions", {"product": PRODUCTS.get(product, product), "partition": ref.partition})
    row: dict[str, Any] = rows[0] if rows else {"inputs": "{}"}
    opened, inputs = lake.open(table), json.loads(row["inputs"])
    columns = pa.schema(opened.schema().to_arrow()) if opened is not None else ()
    models = [digest for digest in str(inputs.get(MODEL, "")).split("+") if digest]
    tables = lake.tables()
    paths = [
        _input(name, digest, tables)
        for name, digest in inputs.items()
        if name != MODEL and isinstance(digest, str)
    ]
    return Published(
        uri=lake.uri,
        path=f"tables/{table}",
        partition=ref.partition,
        digest=ref.digest,
        rows=ref.rows,
        version=str(lake.version(table)),
        columns=tuple((field.name, str(field.type)) for field in columns),
        inputs=(
            *(one for one in paths if one),
            *((f"models/{digest}.skops", "", digest) for digest in models),
        ),
        tags={
            f"tables/{table}": {name: str(row[name]) for name in ("code", "spec") if row.get(name)},
            **_model_tags(lake, models),
        },
    )


def _input(name: str, digest: str, tables: Sequence[str]) -> tuple[str, str, str] | None:
    """Return path, partition and digest of an input as `partitions` names it; None if it isn't a dataset."""
    from include.storage.snapshots import SNAPSHOTS

    product, _, partition = name.partition("/")
    if product == "raw":
        return f"{SNAPSHOTS}/{partition.partition('#')[0]}", "", digest
    table = next((table for table in (f"validated_{product}", product) if table in tables), "")
    return (f"tables/{table}", partition, digest) if table else None


def _model_tags(lake: Lake, models: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return version, recipe and training of models that serve or served, by path."""
    from include.promote import ledger

    return {
        f"models/{row['model']}.skops": {
            "model_version": row["version"],
            "recipe": row["recipe"] or "",
            "trained": row["judged_on"],
        }
        for row in (ledger.switches(lake) if models else ())
        if row["model"] in models
    }


def describe_model(lake: Lake, sources: Sequence[str], ref: Ref) -> Published:
    """Return the model that a training registered, with the tables that it was fitted on."""
    fits = lake.rows("fits", {"partition": ref.partition})
    fit = next((row for row in fits if row["model"] == ref.digest), {"recipe": "", "data": ""})
    path = f"models/{ref.digest}.skops"
    return Published(
        uri=lake.uri,
        path=path,
        partition=ref.partition,
        digest=ref.digest,
        rows=ref.rows,
        version="",
        columns=(),
        inputs=tuple((f"tables/validated_{source}", "", "") for source in sources),
        tags={path: {"recipe": fit["recipe"], "training_set": fit["data"], "run": ref.id}}
        | {
            f"tables/validated_{source}": {"table_version": str(lake.version(f"validated_{source}"))}
            for source in sources
        },
    )


def to_openlineage(products: Sequence[Published]) -> OperatorLineage:
    """Return products as the provider sends them, in the standard's own facets."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import (
        base_subset_dataset,
        dataset_version_dataset,
        output_statistics_output_dataset,
        schema_dataset,
        tags_dataset,
    )

    def subset(partition: str) -> Any:
        dimensions = [base_subset_dataset.Partition(dimensions={"partition": partition})]
        return base_subset_dataset.PartitionSubsetCondition(partitions=dimensions)

    def tags(facts: dict[str, str]) -> Any:
        fields = [
            tags_dataset.TagsDatasetFacetFields(key=name, value=value, source=SOURCE)
            for name, value in facts.items()
            if value
        ]
        return tags_dataset.TagsDatasetFacet(tags=fields)

    inputs: dict[tuple[str, str], Any] = {}
    outputs = []
    for one in products:
        namespace, prefix = _name(one.uri)
        facets: dict[str, Any] = {
            "tags": tags({"partition": one.partition, "digest": one.digest, **one.tags.get(one.path, {})})
        }
        if one.version:
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(one.version)
        if one.columns:
            fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in one.columns]
            facets["schema"] = schema_dataset.SchemaDatasetFacet(fields)
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=one.rows)
        written: dict[str, Any] = {"outputStatistics": statistics}
        written["subset"] = base_subset_dataset.OutputSubsetOutputDatasetFacet(subset(one.partition))
        outputs.append(OutputDataset(namespace, f"{prefix}/{one.path}", facets=facets, outputFacets=written))
        for path, partition, digest in one.inputs:
            part: dict[str, Any] = {}
            if partition:
                part["subset"] = base_subset_dataset.InputSubsetInputDatasetFacet(subset(partition))
            about = {"tags": tags({"digest": digest, **one.tags.get(path, {})})}
            inputs[path, partition] = InputDataset(
                namespace, f"{prefix}/{path}", facets=about, inputFacets=part
            )
    return OperatorLineage(inputs=list(inputs.values()), outputs=outputs)


def _name(uri: str) -> tuple[str, str]:
    """Return a lake's namespace and the beginning of its datasets' names, as the standard names them."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return "file", rest
    bucket, _, prefix = rest.partition("/")
    return f"{scheme}://{bucket}", prefix
