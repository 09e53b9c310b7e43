"""What the challenger was fitted on, as profiles: the side of a drift comparison that stays still."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include import outputs, profile
from include.lake import Lake
from include.profile import Profile
from include.refs import digest_bytes, digest_json
from include.spec import UseCase
from include.tables import PARTITIONS, published
from include.train.record import Record


def product(digest: str) -> str:
    """Return the product under which a model's reference is published."""
    return f"reference:{digest}"


def publish(
    lake: Lake, spec: UseCase, record: Record, rows: pa.Table, predictions: NDArray[np.float64]
) -> dict[str, Profile]:
    """Publish the profiles of the features, the target and what was predicted, and return them.

    Parameters
    ----------
    rows : the features and the target that were fitted on, shape (n, any).
    predictions : on rows that weren't, shape (m,) or (m, k): of the validation nights by the recipe when it
        was fitted on the training nights alone, and of the test nights by the challenger, or by the walk
        forward where it was fitted on them. On the rows that it was fitted on its predictions would be surer
        than they will ever be again.
    """
    name = product(record.challenger.digest)
    features = profile.build(name, record.night, rows, spec.features.numeric, spec.features.categorical)
    said = pa.table(outputs.columns(spec, predictions))
    seen = profile.build(name, record.night, said, said.column_names, [])
    came = profile.of_labels(record.night, rows, spec.problem.target)
    came = came.set_column(0, "product", pa.array([name]))
    where = {"product": name, "night": record.night}
    made = pa.concat_tables([features, came, seen]).sort_by("column")
    lake.publish("profiles", made, where)
    digest = digest_json([record.data, digest_bytes(predictions.tobytes())])
    done = published(
        name,
        record.night,
        rows.num_rows,
        digest,
        inputs={"training_set": record.data},
        spec=record.spec,
        code=record.code,
        note=f"what {record.challenger.name} v{record.version} was fitted on",
    )
    row = pa.Table.from_pylist([done], schema=PARTITIONS)
    lake.publish("partitions", row, where)
    return profile.merge(made.to_pylist())
