"""A partition scored again, killed, out of order or after a promotion leaves what it left the first time."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.features.build import features
from include.models import artifacts
from include.promote import ledger
from include.references import digest_bytes
from include.score.pipeline import score
from include.spec import UseCase
from include.storage.digests import digest_rows
from include.storage.lake import Lake, Where
from tests.features import parcels

Deploy = Callable[..., None]
PARTITION = "2024-03-08"
PARTITIONS = ["2024-03-06", "2024-03-07", "2024-03-08", "2024-03-09"]


def _state(lake: Lake, *tables: str) -> dict[str, list[Any]]:
    """Return every row that scoring has written, in an order of its own."""
    of = {
        "predictions": None,
        "partitions": {"product": "predictions"},
        "profiles": {"product": ["predictions", "features"]},
        "restated": None,
    }
    return {
        name: sorted(map(repr, lake.rows(name, where)))
        for name, where in of.items()
        if not tables or name in tables
    }


class Dying(Lake):
    """A lake whose process is killed before its next write, once it has written so many times."""

    def __init__(self, of: Lake, writes: int) -> None:
        super().__init__("parcels", of.uri.removeprefix("file://").rpartition("/")[0])
        self.left = writes

    # the parent's is typed by its decorator, which tells no parameters
    def publish(self, table: str, rows: pa.Table, where: Where) -> int:  # type: ignore[override]
        """Write, or die."""
        self._die()
        return super().publish(table, rows, where)

    def append_at(self, table: str, rows: pa.Table, version: int) -> int:
        """Append, or die."""
        self._die()
        return super().append_at(table, rows, version)

    def _die(self) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


class Meeting(Lake):
    """A lake on which something else happens when a run has looked and is about to write first."""

    def __init__(
        self, of: Lake, meanwhile: Callable[[], object], times: int = 1, at: str = "predictions"
    ) -> None:
        super().__init__("parcels", of.uri.removeprefix("file://").rpartition("/")[0])
        self.meanwhile, self.left, self.at = meanwhile, times, at

    def append_at(self, table: str, rows: pa.Table, version: int) -> int:
        """Let the other go first, then write."""
        self._meet(table)
        return super().append_at(table, rows, version)

    def publish(self, table: str, rows: pa.Table, where: Where) -> int:  # type: ignore[override]
        """Let the other go first, then write."""
        self._meet(table)
        return super().publish(table, rows, where)

    def _meet(self, table: str) -> None:
        if self.left and table == self.at:
            self.left -= 1
            self.meanwhile()


def test_three_times(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """A partition that is scored three times leaves the tables and gives the reference of the first time."""
    deploy(lake, "1", "2024-03-04")
    first, state = score(lake, use, PARTITION), _state(lake)
    assert first.note == "12 rows by champion v1"
    assert len(json.dumps(first.xcom())) < 1000
    assert (state["predictions"], state["profiles"]) != ([], [])
    for _ in range(2):
        assert score(lake, use, PARTITION) == first
        assert _state(lake) == state


def test_the_note_names_a_recipe_that_replaced_the_champion(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """Its version is that of the training, whose own model is another one."""
    deploy(lake, "1", "2024-03-04")
    champion = next(row for row in ledger.switches(lake) if row["role"] == "champion")
    replaced = {**champion, "kind": ledger.REPLACED, "recipe": "prior"}
    ledger.record_switch(lake, lambda rows: [{**replaced, "switch": ""}])
    note = "12 rows by champion v1; prior of v1 stands in for the champion that was promoted"
    assert score(lake, use, PARTITION).note == score(lake, use, PARTITION).note == note


@pytest.mark.full
def test_any_order(use: UseCase, deploy: Deploy, tmp_path: Path) -> None:
    """Partitions that are scored in another order leave the same tables."""
    states = []
    for order in (
        PARTITIONS,
        PARTITIONS[::-1],
        [PARTITIONS[2], PARTITIONS[0], PARTITIONS[3], PARTITIONS[1], PARTITIONS[2]],
    ):
        lake = Lake("parcels", str(tmp_path / "-".join(order)))
        parcels.fill(lake, use, "2024-03-01", "2024-03-10")
        deploy(lake, "1", "2024-03-04")
        deploy(lake, "2", PARTITION)
        for partition in order:
            score(lake, use, partition)
        states.append(_state(lake))
    assert states[0] == states[1] == states[2]


@pytest.mark.full
def test_at_once(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """Partitions that are scored at the same time, each twice, lose and double nothing."""
    deploy(lake, "1", "2024-03-04")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda partition: score(lake, use, partition), PARTITIONS + PARTITIONS))
    together = _state(lake)
    assert len(together["predictions"]) == 12 * len(PARTITIONS)
    for partition in PARTITIONS:
        score(lake, use, partition)
    assert _state(lake) == together


@pytest.mark.parametrize("there", [False, True])
def test_two_first_runs_and_a_promotion(lake: Lake, use: UseCase, deploy: Deploy, there: bool) -> None:
    """Of two runs that both found nothing served, the slower one keeps to what the faster one served."""
    deploy(lake, "1", "2024-03-04")
    if there:
        score(lake, use, "2024-03-07")
    states = []

    def meanwhile() -> None:
        deploy(lake, "2", "2024-03-05")
        assert score(lake, use, PARTITION).note == "12 rows by champion v2"
        states.append(_state(lake))

    assert score(Meeting(lake, meanwhile), use, PARTITION).note == "12 rows by champion v2"
    assert [_state(lake)] == states


def test_other_partitions_are_faster(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """A partition whose table other partitions have moved looks again, and is served all the same."""
    deploy(lake, "1", "2024-03-04")
    others = iter(["2024-03-05", "2024-03-06", "2024-03-07"])
    score(Meeting(lake, lambda: score(lake, use, next(others)), 3), use, PARTITION)
    assert next(others, None) is None
    assert len(lake.rows("predictions")) == 12 * 4
    assert {row["served_by"] for row in lake.rows("predictions")} == {"champion"}


def test_a_promotion_in_between(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """A partition that was served is served again by who served it.

    Even if a later switch claims the partition.
    """
    deploy(lake, "1", "2024-03-04")
    score(lake, use, PARTITION)
    state = _state(lake)
    deploy(lake, "2", "2024-03-05")
    score(lake, use, PARTITION)
    assert _state(lake) == state
    score(lake, use, "2024-03-07")
    assert {row["version"] for row in lake.rows("predictions", {"partition": "2024-03-07"})} == {"2"}


def test_predictions_of_a_later_fallback_step_stay(use: UseCase, deploy: Deploy, tmp_path: Path) -> None:
    """Predictions of a later fallback step stay, with their reason, when the cause is gone."""
    lake = Lake("parcels", str(tmp_path))
    parcels.fill(lake, use, "2024-03-01", "2024-03-07")
    for source in ("orders", "arrivals"):
        parcels.publish(lake, use, source, PARTITION, [parcels.rows(use, source, PARTITION)])
    parcels.publish(lake, use, "roads", PARTITION, [], "unavailable")
    score(lake, use, "2024-03-07")
    assert {row["served_by"] for row in lake.rows("predictions", {"partition": "2024-03-07"})} == {"constant"}
    deploy(lake, "1", "2024-03-04")
    score(lake, use, PARTITION)
    state = _state(lake, "predictions")
    parcels.publish(
        lake, use, "roads", PARTITION, [parcels.rows(use, "roads", PARTITION, after=timedelta(hours=9))]
    )
    deploy(lake, "2", "2024-03-05")
    score(lake, use, PARTITION)
    score(lake, use, "2024-03-07")
    assert _state(lake, "predictions") == state
    assert {row["served_by"] for row in lake.rows("predictions", {"partition": PARTITION})} == {"baseline"}


@pytest.mark.full
@pytest.mark.parametrize("writes", range(3))
@pytest.mark.parametrize("promoted", [False, True])
def test_killed_between_writes(
    lake: Lake, use: UseCase, deploy: Deploy, tmp_path: Path, writes: int, promoted: bool
) -> None:
    """A partition that is killed before any of its writes and run again is as if it had never been killed.

    When somebody was promoted in between, it is served by whoever had served it, if anybody had.
    """
    whole = Lake("parcels", str(tmp_path / "whole"))
    parcels.fill(whole, use, "2024-03-01", "2024-03-10")
    deploy(lake, "1", "2024-03-04")
    deploy(whole, "1", "2024-03-04")
    with pytest.raises(KeyboardInterrupt):
        score(Dying(lake, writes), use, PARTITION)
    assert lake.rows("partitions", {"product": "predictions"}) == []
    if promoted:
        deploy(lake, "2", "2024-03-05")
        if writes == 0:
            deploy(whole, "2", "2024-03-05")
    assert score(lake, use, PARTITION).digest == score(whole, use, PARTITION).digest
    assert _state(lake) == _state(whole)


def test_a_revision_in_between(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """A source that is revised after the decision changes nothing of the partition, its inputs included."""
    deploy(lake, "1", "2024-03-04")
    score(lake, use, PARTITION)
    state = _state(lake)
    for source in use.sources:
        second = parcels.rows(use, source, PARTITION, revision=1, after=timedelta(hours=1))
        parcels.publish(lake, use, source, PARTITION, [parcels.rows(use, source, PARTITION), second])
    score(lake, use, PARTITION)
    assert _state(lake) == state


def test_a_model_that_was_lost_since(
    lake: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes]
) -> None:
    """When the model that served a partition is lost, what it said stays, also after a kill."""
    deploy(lake, "1", "2024-03-04")
    with pytest.raises(KeyboardInterrupt):
        score(Dying(lake, 1), use, PARTITION)
    said = _state(lake, "predictions")
    lake.replace(artifacts.model_key(digest_bytes(stored["1"])), b"")
    done = score(lake, use, PARTITION)
    assert _state(lake, "predictions") == said
    assert lake.rows("partitions", {"product": "predictions"})[0]["digest"] == done.digest


Change = Callable[[Lake, UseCase, Path], UseCase]


def other_sql(lake: Lake, use: UseCase, folder: Path) -> UseCase:
    """Return the use case after somebody edited its features.sql."""
    return parcels.spec(folder, parcels.SQL.replace("s.weight", "s.weight + 1 AS weight"))


def loaded_late(lake: Lake, use: UseCase, folder: Path) -> UseCase:
    """Load a partition of outcomes, known in time, that wasn't there when the partition was scored."""
    parcels.publish(lake, use, "arrivals", "2024-03-06", [parcels.rows(use, "arrivals", "2024-03-06")])
    return use


@pytest.fixture
def lacking(lake: Lake, use: UseCase, deploy: Deploy) -> Lake:
    """The lake without one partition of outcomes, and with a champion."""
    lake.publish(
        "validated_arrivals", parcels.rows(use, "arrivals", PARTITION)[:0], {"partition": "2024-03-06"}
    )
    deploy(lake, "1", "2024-03-04")
    return lake


@pytest.mark.parametrize("change", [other_sql, loaded_late])
def test_features_that_changed_since(
    lacking: Lake, use: UseCase, stored: dict[str, bytes], tmp_path: Path, change: Change
) -> None:
    """Served predictions stay when the features have changed since; the new predictions go to `restated`."""
    first = score(lacking, use, PARTITION)
    served = _state(lacking, "predictions", "partitions", "profiles")
    now = change(lacking, use, tmp_path / "spec")
    again = score(lacking, now, PARTITION)
    assert (again.digest, again.rows) == (first.digest, 12)
    assert again.note == "12 rows by champion v1; the predictions would differ now, see the table restated"
    assert _state(lacking, "predictions", "partitions", "profiles") == served
    digest = digest_bytes(stored["1"])
    rows = sorted(lacking.rows("restated"), key=lambda row: (row["depot"], row["parcel"]))
    expected = artifacts.predict(
        artifacts.deserialize(stored["1"], digest), features(lacking, now, [PARTITION]), now
    )
    assert [row["prediction"] for row in rows] == list(expected)
    assert {(row["partition"], row["model"]) for row in rows} == {(PARTITION, digest)}
    kept = sorted(lacking.rows("predictions"), key=lambda row: (row["depot"], row["parcel"]))
    assert all(row["row_digest"] != old["row_digest"] for row, old in zip(rows, kept, strict=True))
    state = _state(lacking)
    assert score(lacking, now, PARTITION) == again
    assert _state(lacking) == state


def test_nothing_is_restated_once_the_predictions_are_again_what_was_served(
    lacking: Lake, use: UseCase, tmp_path: Path
) -> None:
    """An edit that is undone leaves no rows that contradict what was served."""
    score(lacking, use, PARTITION)
    score(lacking, other_sql(lacking, use, tmp_path / "spec"), PARTITION)
    assert lacking.count("restated") == 12
    assert score(lacking, use, PARTITION).note == "12 rows by champion v1"
    assert lacking.count("restated") == 0


@pytest.mark.full
@pytest.mark.parametrize("change", [other_sql, loaded_late])
@pytest.mark.parametrize("writes", [1, 2])
def test_killed_and_features_that_changed_since(
    lacking: Lake, use: UseCase, tmp_path: Path, change: Change, writes: int
) -> None:
    """A served partition that was killed is finished from what was served.

    And claims nothing of what it saw.
    """
    with pytest.raises(KeyboardInterrupt):
        score(Dying(lacking, writes), use, PARTITION)
    before = _state(lacking)
    again = score(lacking, change(lacking, use, tmp_path / "spec"), PARTITION)
    assert _state(lacking, "predictions") == {"predictions": before["predictions"]}
    (row,) = lacking.rows("partitions", {"product": "predictions"})
    assert (row["digest"], row["note"]) == (again.digest, "12 rows by champion v1")
    assert (set(json.loads(row["inputs"])), row["spec"]) == ({"model"}, "")
    profiles = lacking.rows("profiles")
    (of_served,) = (r for r in profiles if r["product"] == "predictions")
    served = [r["prediction"] for r in lacking.rows("predictions")]
    assert (of_served["low"], of_served["high"]) == (min(served), max(served))
    # the features that were seen are lost, unless their profile was written in time
    assert sorted(repr(r) for r in profiles if r["product"] == "features") == [
        r for r in before["profiles"] if "'features'" in r
    ]
    assert ({r["product"] for r in profiles} == {"predictions"}) == (writes == 1)
    state = _state(lacking)
    score(lacking, change(lacking, use, tmp_path / "spec"), PARTITION)
    assert _state(lacking) == state


def test_who_served_finishes_while_another_scores_again(lacking: Lake, use: UseCase, tmp_path: Path) -> None:
    """What a partition had seen is known to who served it, and isn't written over by who can't know it."""
    with pytest.raises(KeyboardInterrupt):
        score(Dying(lacking, 1), use, PARTITION)
    changed = other_sql(lacking, use, tmp_path / "spec")
    score(Meeting(lacking, lambda: score(lacking, use, PARTITION), at="restated"), changed, PARTITION)
    (row,) = lacking.rows("partitions", {"product": "predictions"})
    assert (set(json.loads(row["inputs"])), row["spec"]) == ({"model", *use.sources}, use.digest)
    assert {r["product"] for r in lacking.rows("profiles")} == {"predictions", "features"}


def test_model_and_features_are_lost(
    lacking: Lake, use: UseCase, stored: dict[str, bytes], tmp_path: Path
) -> None:
    """When neither what was served nor its model can be had again, what was served stays, and says so."""
    score(lacking, use, PARTITION)
    state = _state(lacking)
    lacking.replace(artifacts.model_key(digest_bytes(stored["1"])), b"")
    again = score(lacking, other_sql(lacking, use, tmp_path / "spec"), PARTITION)
    assert again.note.endswith("the predictions would differ now, but the model that served can't be loaded")
    assert _state(lacking) == state


def test_predictions_that_were_damaged_since(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """Rows that are no longer those of the recorded digest are made again when that gives this digest."""
    deploy(lake, "1", "2024-03-04")
    first = score(lake, use, PARTITION)
    state = _state(lake)
    lake.publish(
        "predictions", lake.read("predictions", {"partition": PARTITION})[1:], {"partition": PARTITION}
    )
    assert score(lake, use, PARTITION) == first
    assert _state(lake) == state


@pytest.mark.parametrize(("by", "restated"), [(1e-13, False), (1e-6, True)])
def test_rounding_is_no_other_partition(
    lake: Lake, use: UseCase, deploy: Deploy, by: float, restated: bool
) -> None:
    """A linear model's last bit depends on how many rows it is asked about at once: a rerun says nothing."""
    deploy(lake, "1", "2024-03-04")
    score(lake, use, PARTITION)
    rows = lake.read("predictions", {"partition": PARTITION})
    done = lake.read("partitions", {"product": "predictions", "partition": PARTITION})
    assert rows is not None
    assert done is not None
    moved = pc.multiply(rows["prediction"], 1 + by)
    lake.publish(
        "predictions",
        rows.set_column(rows.column_names.index("prediction"), "prediction", moved),
        {"partition": PARTITION},
    )
    lake.publish(
        "partitions", done[:0], {"product": "predictions", "partition": PARTITION}
    )  # killed before its row
    assert ("see the table restated" in score(lake, use, PARTITION).note) == restated


def test_row_digests(lake: Lake, use: UseCase) -> None:
    """A row's digest is of its features alone: the same however computed, another for another value."""
    columns = use.features.numeric, use.features.categorical
    seen = features(lake, use, [PARTITION])
    digests = digest_rows(seen, *columns).to_pylist()
    many = features(lake, use, PARTITIONS)
    assert set(digests) < set(digest_rows(many, *columns).to_pylist())
    assert digest_rows(seen.slice(3, 1), *columns).to_pylist() == digests[3:4]
    place = seen.schema.get_field_index("ice")
    column = pa.array([None, *seen["ice"].to_pylist()[1:]], pa.float64())
    changed = digest_rows(seen.set_column(place, "ice", column), *columns).to_pylist()
    assert changed[0] != digests[0]
    assert changed[1:] == digests[1:]
    # written down once: another library's version must not change it
    assert digests[0] == "cb335e534b94b14b64998ab73441e696"


def test_what_was_read(lake: Lake, use: UseCase, deploy: Deploy) -> None:
    """The partition's row in `partitions` has the digests of what it saw of each source.

    Of model and spec.
    """
    deploy(lake, "1", "2024-03-04")
    inputs = []
    for source, day in (("roads", "2024-03-02"), ("arrivals", "2024-03-06")):
        done = score(lake, use, PARTITION)
        (row,) = lake.rows("partitions", {"product": "predictions", "partition": PARTITION})
        assert (row["outcome"], row["rows"], row["digest"]) == ("published", 12, done.digest)
        assert row["spec"] == use.digest
        inputs.append(json.loads(row["inputs"]))
        # the first is before the lookback, the second within it
        lake.publish(f"validated_{source}", parcels.rows(use, source, day)[:0], {"partition": day})
    # what was served would keep its row: this one is served for the first time
    lake.publish(
        "predictions", lake.read("predictions", {"partition": PARTITION})[:0], {"partition": PARTITION}
    )
    score(lake, use, PARTITION)
    inputs.append(
        json.loads(lake.rows("partitions", {"product": "predictions", "partition": PARTITION})[0]["inputs"])
    )
    assert set(inputs[0]) == {*use.sources, "model"}
    assert inputs[0] == inputs[1]
    assert [source for source in inputs[0] if inputs[2][source] != inputs[1][source]] == ["arrivals"]
    assert {r["product"] for r in lake.rows("profiles", {"partition": PARTITION})} == {
        "features",
        "predictions",
    }
