"""Shadow predictions are recorded as served ones are.

What was changed since is found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.models import artifacts
from include.ops.verify import verify
from include.score.pipeline import score
from tests.kept import fill_folder
from tests.rollout.conftest import RolloutLake, model
from tests.switches import newest_by_role

PARTITION = "2024-03-13"
CANARY: dict[str, Any] = {"kind": "canary", "share": 0.4}
Rows = Callable[[pa.Table], pa.Table]


@pytest.fixture
def shadowed(depot: Callable[..., RolloutLake], tmp_path: Path) -> RolloutLake:
    """A canary's first partitions: it and the champion are scored in parallel."""
    fill_folder("shadowed", tmp_path, _shadowed)
    return depot(**CANARY)


def _shadowed(folder: Path) -> None:
    made = RolloutLake(folder, **CANARY)
    made.promote_in_turn("forgot", "knows")
    made.partitions("2024-03-07", PARTITION)
    assert {row["version"] for row in made.lake.rows("shadows", {"partition": PARTITION})} == {
        "knows",
        "forgot",
    }


def differences(made: RolloutLake) -> list[str]:
    """Return what `verify` says of shadows."""
    return [one for one in verify(made.lake, made.spec).differences if "/shadows/" in one]


def rows_of(made: RolloutLake) -> pa.Table:
    """Return the partition's rows in an order."""
    found = made.lake.read("shadows", {"partition": PARTITION})
    assert found is not None
    return found.sort_by([(name, "ascending") for name in ("model", *made.spec.key)])


def altered(rows: pa.Table) -> pa.Table:
    """One prediction is another."""
    first = pc.equal(pa.array(range(rows.num_rows)), 0)
    other = pc.if_else(first, pc.add(rows["prediction"], 0.25), rows["prediction"])
    return rows.set_column(rows.schema.get_field_index("prediction"), "prediction", other)


@pytest.mark.full
@pytest.mark.parametrize(
    "damage", [altered, lambda rows: rows.slice(1), lambda rows: rows.slice(0, 0)], ids=["row", "one", "all"]
)
def test_verify_names_what_was_changed_and_the_partition_run_again_heals_it(
    shadowed: RolloutLake, damage: Rows
) -> None:
    """A row that was altered, one that was deleted, or all of a partition: named, and made anew."""
    before = rows_of(shadowed)
    assert differences(shadowed) == []
    shadowed.lake.publish("shadows", damage(before), {"partition": PARTITION})
    (found,) = differences(shadowed)
    assert found.startswith(f"parcels/shadows/{PARTITION}: expected the digest ")
    score(shadowed.lake, shadowed.spec, PARTITION)
    assert differences(shadowed) == []
    assert rows_of(shadowed) == before


@pytest.mark.full
def test_a_partition_without_its_row_in_partitions_is_made_anew(shadowed: RolloutLake) -> None:
    """That row is written last: without it the partition may be half done, and is done again."""
    before = rows_of(shadowed)
    where = {"product": "shadows", "partition": PARTITION}
    (row,) = shadowed.lake.rows("partitions", where)
    done = shadowed.lake.read("partitions", where)
    shadowed.lake.publish("partitions", done[:0], where)
    shadowed.lake.publish("shadows", before[:5], {"partition": PARTITION})
    score(shadowed.lake, shadowed.spec, PARTITION)
    assert rows_of(shadowed) == before
    assert shadowed.lake.rows("partitions", where) == [row]
    assert (row["rows"], row["outcome"], row["spec"]) == (24, "published", shadowed.spec.digest)


def test_a_model_that_can_score_again_joins_those_that_did(shadowed: RolloutLake) -> None:
    """Its bytes were damaged and are whole again: the partition run again has its rows as well."""
    partition, lake = "2024-03-14", shadowed.lake
    place = artifacts.model_key(newest_by_role(lake)["champion"]["model"])
    lake.replace(place, b"damaged")
    score(lake, shadowed.spec, partition)
    assert {row["version"] for row in lake.rows("shadows", {"partition": partition})} == {"knows"}
    lake.replace(place, model("forgot"))
    score(lake, shadowed.spec, partition)
    assert {row["version"] for row in lake.rows("shadows", {"partition": partition})} == {"knows", "forgot"}
    assert differences(shadowed) == []
