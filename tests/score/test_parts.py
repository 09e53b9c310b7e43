"""A night scored in parts is the night that one task scores, whatever becomes of the parts."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include import models, spool
from include.errors import ModelError, NotPublished, PartsUnfit, SpecError
from include.lake import Lake
from include.refs import Ref, digest_bytes
from include.rollout.canary import entities
from include.score import parts
from include.score.parts import score_part, sweep
from include.score.plan import plan
from include.score.run import score
from include.spec import UseCase
from tests.faults.clocks import state
from tests.features import parcels
from tests.rollout.conftest import Depot
from tests.score.large import orders

Deploy = Callable[..., None]
NIGHT = "2024-03-08"
TRIAL = {"share": 0.4, "entity": ["parcel"]}
# windows and float aggregates over the rows to score, and over those of other nights
WINDOWS = """
WITH past AS (SELECT for_night, depot, avg(delay) AS mean FROM known_arrivals GROUP BY for_night, depot)
SELECT s.depot, s.parcel, s.night, s.weight, s.express, r.ice, r.state AS road, p.mean AS late_share,
       rank() OVER (PARTITION BY s.depot ORDER BY s.weight) + avg(s.weight) OVER () AS known_arrivals
FROM spine s
LEFT JOIN known_roads r ON r.for_night = s.night AND r.depot = s.depot
LEFT JOIN past p ON p.for_night = s.night AND p.depot = s.depot
"""


def sharded(use: UseCase, shards: int) -> UseCase:
    """Return the use case with a number of shards, which no digest knows of."""
    return use.model_copy(update={"scoring": use.scoring.model_copy(update={"shards": shards})})


def written(lake: Lake, use: UseCase) -> list[dict[str, Any]]:
    """Plan a night and write its parts aside; return what their tasks hand on."""
    made = plan(lake, use, NIGHT)
    refs = [score_part(lake, use, made.uri, number).xcom() for number in range(made.rows)]
    assert all(len(json.dumps(ref)) < 1000 for ref in refs)
    return refs


def publish(lake: Lake, use: UseCase, night: str, refs: list[dict[str, Any]]) -> Ref:
    """Publish as the last task does."""
    return parts.publish(lake, use, night, refs, lambda: score(lake, use, night))


def in_parts(lake: Lake, use: UseCase) -> Ref:
    """Score a night as the tasks of its parts do, the last part first."""
    return publish(lake, use, NIGHT, written(lake, use)[::-1])


@pytest.fixture
def shards(lake: Lake, use: UseCase, deploy: Deploy) -> UseCase:
    """The use case in three parts, with a champion."""
    deploy(lake, "1", "2024-03-04")
    return sharded(use, 3)


@pytest.fixture
def alone(lake: Lake, shards: UseCase, tmp_path: Path) -> Callable[[], tuple[Ref, dict[str, str]]]:
    """What one task makes of the lake as it is when the test begins: its reference and its tables."""
    shutil.copytree(tmp_path / "lake", tmp_path / "alone")
    other = Lake("parcels", str(tmp_path / "alone"))

    def made() -> tuple[Ref, dict[str, str]]:
        return _there(score(other, shards, NIGHT), lake), state(other)

    return made


def _there(ref: Ref, lake: Lake) -> Ref:
    return Ref(f"{lake.uri}/tables/predictions", ref.partition, ref.digest, ref.rows, ref.note)


@pytest.fixture(scope="module")
def depots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A depot with a champion alone, with a model in shadow beside it, and with one in a canary."""
    found = {"champion": tmp_path_factory.mktemp("champion")}
    alone = Depot(found["champion"])
    alone.promote("forgot", "2024-03-04", version="1")
    score(alone.lake, alone.spec, "2024-03-05")
    for kind in ("shadow", "canary"):
        found[kind] = tmp_path_factory.mktemp(kind)
        shutil.copytree(found["champion"], found[kind], dirs_exist_ok=True)
        depot = Depot(found[kind], **TRIAL, kind=kind)
        depot.promote("knows", "2024-03-05", version="2")
        if kind == "canary":  # it would be in shadow first
            depot.lake.publish("deployments", _as_canary(depot.lake), {"role": "challenger"})
    return found


def _as_canary(lake: Lake) -> pa.Table:
    rows = lake.read("deployments", {"role": "challenger"})
    assert rows is not None
    kinds = pa.array(["canary"] * rows.num_rows)
    return rows.set_column(rows.column_names.index("kind"), "kind", kinds)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["champion", "shadow", "canary"]),
    shards=st.integers(2, 4),
    rows=st.integers(1, 60),
    batch=st.sampled_from([8, 1 << 16]),
    sql=st.sampled_from([parcels.SQL, WINDOWS]),
)
def test_any_number_of_parts_is_the_same_night(
    depots: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    shards: int,
    rows: int,
    batch: int,
    sql: str,
) -> None:
    """Tables, digests, profiles, notes and the reference are those of one task, canary and shadows too."""
    monkeypatch.setattr(spool, "BATCH", batch)
    monkeypatch.setattr(spool, "HELD", 0 if batch == 8 else 256 << 20)
    found = []
    for number in (0, shards):
        folder = tmp_path / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(depots[kind], folder)
        (folder / "parcels" / "features.sql").write_text(sql)
        depot = Depot(folder, **({} if kind == "champion" else {**TRIAL, "kind": kind}))
        depot.lake.publish("validated_orders", orders(depot.spec, rows), {"night": NIGHT})
        use = sharded(depot.spec, shards)
        done = in_parts(depot.lake, use) if number else score(depot.lake, depot.spec, NIGHT)
        assert depot.lake.keys("parts") == []
        found.append((done.digest, done.rows, done.note, state(depot.lake)))
    assert found[0] == found[1]
    assert ("shadows" in found[0][3]) == (kind != "champion")


def test_the_canarys_share_is_served_in_every_part(depots: dict[str, Path], tmp_path: Path) -> None:
    """The property above means something: with a canary both models serve some of the rows."""
    shutil.copytree(depots["canary"], tmp_path / "it")
    depot = Depot(tmp_path / "it", **TRIAL, kind="canary")
    in_parts(depot.lake, sharded(depot.spec, 3))
    served = depot.served()[NIGHT]
    assert set(served) == {"canary 2", "champion 1"}
    model = depot.lake.rows("predictions", {"rung": "canary"})[0]["model"]
    rows = depot.lake.read("predictions", {"night": NIGHT})
    assert rows is not None
    assert served["canary 2"] == sum(entities(depot.spec, rows, model))


def test_a_part_reads_what_its_plan_saw(
    lake: Lake, shards: UseCase, alone: Callable[[], tuple[Ref, dict[str, str]]]
) -> None:
    """Rows that are ingested while the parts are at work are in none of them."""
    ref, tables = alone()
    made = plan(lake, shards, NIGHT)
    first = score_part(lake, shards, made.uri, 0)
    orders_now = lake.read("validated_orders", {"night": NIGHT})
    assert orders_now is not None
    lake.publish("validated_orders", orders_now.slice(0, 3), {"night": NIGHT})
    refs = [first, *(score_part(lake, shards, made.uri, number) for number in (1, 2))]
    assert publish(lake, shards, NIGHT, [one.xcom() for one in refs]) == ref
    now = state(lake)
    assert {name: now[name] for name in ("predictions", "partitions", "profiles")} == {
        name: tables[name] for name in ("predictions", "partitions", "profiles")
    }


def lost_part(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One task never handed anything on."""
    return refs[1:]


def lost_all(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """No task did."""
    return []


def twice(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One part stands in for another."""
    return [refs[0], refs[0], refs[2]]


def lost_rows(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A part's rows are gone."""
    lake.remove([next(key for key in lake.keys("parts") if key.endswith(".arrow"))])
    return refs


def other_rows(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A part's rows are another part's."""
    arrows = [key for key in lake.keys("parts") if key.endswith(".arrow")]
    lake.replace(arrows[0], lake.get(arrows[-1]) or b"")
    return refs


def other_list(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a task wrote down of its part was written over."""
    lake.replace(refs[0]["uri"], lake.get(refs[1]["uri"]) or b"")
    return refs


def lost_plan(lake: Lake, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plan is gone."""
    lake.remove([next(key for key in lake.keys("parts") if key.count("/") == 2)])
    return refs


LOSSES = [lost_part, lost_all, twice, lost_rows, other_rows, other_list, lost_plan]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_without_its_parts_a_night_is_scored_as_a_whole(
    lake: Lake,
    shards: UseCase,
    alone: Callable[[], tuple[Ref, dict[str, str]]],
    loss: Callable[[Lake, list[dict[str, Any]]], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever is missing or altered, the night has its predictions, and the log says why it took longer."""
    ref, tables = alone()
    with caplog.at_level(logging.WARNING):
        done = publish(lake, shards, NIGHT, loss(lake, written(lake, shards)))
    assert done.digest == ref.digest
    assert done.note.startswith(f"{ref.note}; scored as a whole: ")
    assert "is scored as a whole: " in caplog.text
    assert state(lake) == tables
    assert lake.keys("parts") == []


@pytest.mark.parametrize("mixed", [False, True])
def test_a_promotion_while_parts_are_written(
    lake: Lake, shards: UseCase, deploy: Deploy, mixed: bool
) -> None:
    """Who is champion when the night is published serves all of it: no part of an earlier plan is in it."""
    refs = written(lake, shards)
    deploy(lake, "2", "2024-03-05")
    if mixed:
        refs[2] = written(lake, shards)[2]
    assert "; scored as a whole: " in publish(lake, shards, NIGHT, refs).note
    assert [row["version"] for row in lake.rows("predictions")] == ["2"] * 12


def test_a_late_part_changes_nothing(lake: Lake, shards: UseCase) -> None:
    """A part that is written once more, before or after the night is published, overwrites nothing."""
    made = plan(lake, shards, NIGHT)
    refs = [score_part(lake, shards, made.uri, number) for number in range(3)]
    marks = lake.marks("parts")
    assert score_part(lake, shards, made.uri, 1) == refs[1]
    assert lake.marks("parts") == marks
    kept = lake.get(made.uri)
    assert kept is not None
    publish(lake, shards, NIGHT, [ref.xcom() for ref in refs])
    before = state(lake)
    with pytest.raises(PartsUnfit, match="found nothing"):
        score_part(lake, shards, made.uri, 1)
    lake.create(made.uri, kept)  # it had read the plan before that was removed
    score_part(lake, shards, made.uri, 1)
    assert state(lake) == before
    assert len(lake.keys("parts")) == 4
    assert sweep(lake, 0) == 4
    assert lake.keys("parts") == []


def test_a_served_night_has_no_parts(lake: Lake, shards: UseCase) -> None:
    """A night that is run again is looked at by one task, and stays as it is."""
    first = in_parts(lake, shards)
    before = state(lake)
    assert plan(lake, shards, NIGHT).rows == 0
    assert in_parts(lake, shards) == first
    assert state(lake) == before


def test_a_night_without_rows_is_refused_as_ever(lake: Lake, shards: UseCase) -> None:
    """Nothing to score makes no parts, and the same error as without them."""
    lake.publish("validated_orders", parcels.rows(shards, "orders", NIGHT)[:0], {"night": NIGHT})
    assert written(lake, shards) == []
    with pytest.raises(NotPublished, match="ingest that source for the night"):
        in_parts(lake, shards)


def test_rows_that_came_too_late_are_none(lake: Lake, shards: UseCase) -> None:
    """Parts of rows that nobody knew at the decision are empty, and the night is refused."""
    late = parcels.rows(shards, "orders", NIGHT, after=timedelta(hours=1))
    lake.publish("validated_orders", late, {"night": NIGHT})
    refs = written(lake, shards)
    assert [ref["rows"] for ref in refs] == [0, 0, 0]
    with pytest.raises(NotPublished):
        publish(lake, shards, NIGHT, refs)


def test_a_model_that_fails_on_some_rows_serves_none(
    lake: Lake, use: UseCase, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the champion fails in one part, the night falls to the next rung as it does without parts."""
    deploy(lake, "1", "2024-03-04")
    real = models._raw

    def moody(estimator: Any, given: Any, codes: Any) -> Any:
        found = real(estimator, given, codes).copy()
        if estimator[-1].C == 0.1:  # the champion
            found[np.asarray(given["depot"] == "south")] = np.nan
        return found

    monkeypatch.setattr(models, "_raw", moody)
    shutil.copytree(tmp_path / "lake", tmp_path / "alone")
    other = Lake("parcels", str(tmp_path / "alone"))
    ref, two = score(other, use, NIGHT), sharded(use, 2)
    made = plan(lake, two, NIGHT)
    north = score_part(lake, two, made.uri, 0)
    with pytest.raises(ModelError, match="that are not"):
        score_part(lake, two, made.uri, 1)
    done = publish(lake, two, NIGHT, [north.xcom()])
    assert done.digest == ref.digest
    assert state(lake) == state(other)
    assert {row["rung"] for row in lake.rows("predictions")} == {"baseline"}


def test_a_champion_that_cant_be_loaded_is_passed_over_by_every_part(
    lake: Lake, use: UseCase, deploy: Deploy, stored: dict[str, bytes], tmp_path: Path
) -> None:
    """The rung is decided by the plan, with the reason that one task gives."""
    deploy(lake, "1", "2024-03-04")
    lake.replace(models.key(digest_bytes(stored["1"])), b"")
    shutil.copytree(tmp_path / "lake", tmp_path / "alone")
    other = Lake("parcels", str(tmp_path / "alone"))
    assert in_parts(lake, sharded(use, 3)) == _there(score(other, use, NIGHT), lake)
    assert state(lake) == state(other)
    assert {row["rung"] for row in lake.rows("predictions")} == {"baseline"}


def test_another_declaration_is_another_night(lake: Lake, shards: UseCase, tmp_path: Path) -> None:
    """SQL that was edited while parts were written serves the whole night, and no part from then on."""
    made = plan(lake, shards, NIGHT)
    refs = [score_part(lake, shards, made.uri, number) for number in (0, 1)]
    edited = sharded(
        parcels.spec(tmp_path / "edited", parcels.SQL.replace("s.weight", "s.weight + 1 AS weight")), 3
    )
    with pytest.raises(PartsUnfit, match="others by now"):
        score_part(lake, edited, made.uri, 2)
    refs.append(score_part(lake, shards, made.uri, 2))
    done = publish(lake, edited, NIGHT, [ref.xcom() for ref in refs])
    assert "scored as a whole" in done.note
    assert lake.rows("partitions", {"product": "predictions"})[0]["spec"] == edited.digest


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        ("SELECT * FROM ({sql}) WHERE parcel <> 3 OR depot <> 'south'", 2),  # loses a row of the last part
        ("SELECT * FROM ({sql}) UNION ALL (SELECT * FROM ({sql}) WHERE parcel = 0 AND depot = 'north')", 0),
        ("SELECT * FROM ({sql}) UNION ALL (SELECT * REPLACE (NULL AS parcel) FROM ({sql}) LIMIT 1)", 1),
        ("SELECT * REPLACE (NULL AS depot) FROM ({sql})", 0),
    ],
)
def test_a_wrong_sql_is_refused_by_a_part_as_by_one_task(
    lake: Lake, shards: UseCase, tmp_path: Path, wrong: str, number: int
) -> None:
    """SQL that loses, doubles or adds rows is found by the part in whose range they are."""
    use = sharded(parcels.spec(tmp_path / "wrong", wrong.format(sql=parcels.SQL)), 3)
    made = plan(lake, use, NIGHT)
    with pytest.raises(SpecError, match="exactly one row for each row of the spine"):
        score_part(lake, use, made.uri, number)
    with pytest.raises(SpecError, match="exactly one row for each row of the spine"):
        publish(lake, use, NIGHT, [])


def test_upkeep_leaves_what_is_still_needed(lake: Lake, shards: UseCase) -> None:
    """Parts that were written lately stay, of whatever night: a backfill's are of an old one."""
    refs = written(lake, shards)
    score(lake, shards, "2024-03-09")
    assert sweep(lake, 1) == 0
    assert publish(lake, shards, NIGHT, refs).note == "12 rows by champion v1"
    lake.create("parts/2024-03-07/plan.json", b"{}")
    assert sweep(lake, 1) == 0
    assert sweep(lake, 0) == 1


@pytest.mark.parametrize(("by", "restated"), [(1e-13, False), (1e-6, True)])
def test_rounding_is_no_other_night(lake: Lake, shards: UseCase, by: float, restated: bool) -> None:
    """A linear model's last bit depends on how many rows it is asked about at once: a rerun says nothing."""
    score(lake, shards, NIGHT)
    rows = lake.read("predictions", {"night": NIGHT})
    done = lake.read("partitions", {"product": "predictions", "night": NIGHT})
    assert rows is not None
    assert done is not None
    moved = pc.multiply(rows["prediction"], 1 + by)
    lake.publish(
        "predictions",
        rows.set_column(rows.column_names.index("prediction"), "prediction", moved),
        {"night": NIGHT},
    )
    lake.publish("partitions", done[:0], {"product": "predictions", "night": NIGHT})  # killed before its row
    assert ("see restated" in score(lake, shards, NIGHT).note) == restated
