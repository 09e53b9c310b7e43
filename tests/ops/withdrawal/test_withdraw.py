"""A partition that should not be there is withdrawn: what is left is what there was without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.operate import OperateOperator
from include.cli import stages
from include.environment import endpoint
from include.errors import EvergreenError, NotPublished, PartitionError
from include.ingest.late_sources import refresh_lookback
from include.monitor.pipeline import monitor
from include.ops.health import health
from include.ops.prometheus import gauges
from include.ops.status import status
from include.ops.verify import verify
from include.ops.withdrawal import withdraw
from include.promote import ledger
from include.references import digest_json
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from tests.faults import clocks
from tests.monitor import machines
from tests.usecases.weekly_sales import world

WHO = ("anna", "a typing error")
WRITES = ("publish", "append_at", "create", "replace", "remove")
FAR = "2062-01-02"  # a Monday


@pytest.fixture(scope="module")
def use(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """Return the machines' use case."""
    return machines.spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def partitions(use: UseCase) -> list[str]:
    """Return the six partitions after the history; the fourth should not be there."""
    return use.clock.keys(use.clock.shift(machines.TRAINED, 1), use.clock.shift(machines.TRAINED, 6))


@pytest.fixture(scope="module")
def begun(use: UseCase, partitions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake in which the first three partitions were run."""
    folder = tmp_path_factory.mktemp("begun")
    lake = machines.plant(folder, use)
    machines.forget_history(lake)
    for partition in partitions[:3]:
        ran(lake, use, partition)
    return folder


@pytest.fixture(scope="module")
def spoilt(
    begun: Path, use: UseCase, partitions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a lake in which the fourth was run as well, and those after it."""
    folder = tmp_path_factory.mktemp("spoilt") / "lake"
    shutil.copytree(begun, folder)
    for partition in partitions[3:]:
        ran(Lake("machines", str(folder)), use, partition)
    return folder


@pytest.fixture(scope="module")
def spared(
    begun: Path, use: UseCase, partitions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a lake in which those after it were run without it."""
    folder = tmp_path_factory.mktemp("spared") / "lake"
    shutil.copytree(begun, folder)
    for partition in partitions[4:]:
        ran(Lake("machines", str(folder)), use, partition)
    return folder


def ran(lake: Lake, use: UseCase, partition: str) -> None:
    """Run a partition's stages."""
    machines.readings(lake, use, partition)
    machines.stops(lake, use, partition)
    score(lake, use, partition)
    monitor(lake, use, partition)


def copied(folder: Path, to: Path) -> Lake:
    """Return a copy of a lake."""
    shutil.copytree(folder, to)
    return Lake("machines", str(to))


def content(lake: Lake) -> dict[str, str]:
    """Return a digest of each table but the ledger of withdrawals, and of each page."""
    tables = {name: digest for name, digest in clocks.state(lake).items() if name != "withdrawals"}
    return tables | {key: digest_json(str(lake.get(key))) for key in lake.keys("reports")}


def before(use: UseCase, partition: str) -> datetime:
    """Return a time at which a partition is still to come."""
    return use.clock.decision_time(partition) - timedelta(hours=1)


@pytest.mark.full
def test_what_is_left_is_what_there_was_without_it(
    spoilt: Path, spared: Path, use: UseCase, partitions: list[str], tmp_path: Path
) -> None:
    """Tables, pages and metrics are those of a lake that never had it, also after a later partition."""
    lake, twin = copied(spoilt, tmp_path / "lake"), copied(spared, tmp_path / "twin")
    assert content(lake) != content(twin)
    ref = withdraw(lake, use, partitions[3], *WHO, now=before(use, partitions[3]))
    assert ref.note == f"{partitions[3]} withdrawn by anna at {partitions[3]} 17:00 UTC: a typing error"
    assert content(lake) == content(twin)
    assert [*gauges(lake, use)] == [*gauges(twin, use)]
    later = use.clock.shift(partitions[-1], 1)
    for one in (lake, twin):
        ran(one, use, later)
    assert content(lake) == content(twin)


@pytest.mark.full
def test_the_ledger_says_who_and_why_and_the_rows_are_laid_aside(
    spoilt: Path, use: UseCase, partitions: list[str], tmp_path: Path
) -> None:
    """Withdrawn twice it is recorded once; status shows it, and what was predicted can be read again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lake = copied(spoilt, tmp_path / "lake")
    served = lake.rows("predictions", {"partition": partitions[3]})
    now = before(use, partitions[3])
    withdraw(lake, use, partitions[3], *WHO, now=now)
    withdraw(lake, use, partitions[3], "bert", "once more", now=now + timedelta(minutes=5))
    (row,) = lake.rows("withdrawals")
    assert (row["partition"], row["by"], row["reason"], row["at"]) == (partitions[3], *WHO, now)
    aside = lake.get(json.loads(row["contents"])["predictions"])
    kept = pq.read_table(pa.BufferReader(aside)).to_pylist()
    assert sorted(map(repr, kept)) == sorted(map(repr, served))
    (shown,) = status(lake, use)["withdrawn"]
    assert (shown["partition"], shown["by"], shown["reason"]) == (partitions[3], *WHO)


@pytest.fixture
def ended(use: UseCase) -> UseCase:
    """Return the machines' use case with a schedule that was over long ago."""
    schedule = use.schedule.model_copy(update={"end": use.clock.shift(machines.TRAINED, 40)})
    return use.model_copy(update={"schedule": schedule})


@pytest.mark.full
@pytest.mark.parametrize("death", [None, "_recompute", "_remove"])
def test_a_date_too_far_ahead_is_withdrawn_and_switches_take_effect_again(
    begun: Path, ended: UseCase, partitions: list[str], tmp_path: Path, death: str | None
) -> None:
    """Every refusal and the status name that remedy; nothing of it stays, also after a kill."""
    lake, now = copied(begun, tmp_path / "lake"), clocks.NOW
    before, far = content(lake), str(ended.end)
    for partition in (ended.clock.shift(far, -1), far):  # the one before as by the lookback
        machines.readings(lake, ended, partition)
    ran(lake, ended, far)
    remedy = f"withdraw {far} if it was run by mistake"
    with pytest.raises(PartitionError, match=f"{remedy} before {partitions[3]}, or set `schedule.end`"):
        ledger.next_unserved(lake, ended)
    state = health(ended, now, partitions=lake.rows("partitions"), switches=[], served_by={}, findings=[])
    assert state.reason.endswith(f"should have been scored by now: backfill machines__batch, or {remedy}.")
    if death:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"include.ops.withdrawal.{death}", raised)
            with pytest.raises(Killed):
                withdraw(lake, ended, far, *WHO, now=now)
    withdraw(lake, ended, far, *WHO, now=now)
    assert content(lake) == before
    assert ledger.next_unserved(lake, ended) == partitions[3]
    assert {row["partition"] for row in lake.rows("withdrawals")} == {ended.clock.shift(far, -1), far}


@pytest.mark.full
def test_what_a_schedule_that_is_over_served_in_order_is_not_withdrawn(
    spoilt: Path, use: UseCase, ended: UseCase, partitions: list[str], tmp_path: Path
) -> None:
    """Nor what isn't the newest, nor what skips others while the schedule still runs."""
    lake = copied(spoilt, tmp_path / "lake")
    ran(lake, ended, ended.clock.shift(partitions[-1], 5))
    refused = [(ended, partitions[-1]), (ended, partitions[0]), (use, ended.clock.shift(partitions[-1], 5))]
    for spec, partition in refused:
        with pytest.raises(PartitionError, match="what it served is a fact"):
            withdraw(lake, spec, partition, *WHO, now=clocks.NOW)
    lake = copied(spoilt, tmp_path / "in order")
    with pytest.raises(PartitionError, match="what it served is a fact"):
        withdraw(lake, ended, partitions[-1], *WHO, now=clocks.NOW)


def raised(*_: Any, **__: Any) -> None:
    """Die."""
    raise Killed


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def killed(work: Callable[[], Any], point: int, patch: pytest.MonkeyPatch) -> int:
    """Do some work and die before its write number ``point``; return how many writes there were."""
    count = [0]
    for name in WRITES:
        real = getattr(Lake, name)

        def counted(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == point:
                raise Killed
            return real(*args, **kwargs)

        patch.setattr(Lake, name, counted)
    try:
        work()
    except Killed:
        pass
    finally:
        patch.undo()
    return count[0]


@pytest.mark.full
@pytest.mark.parametrize("step", [9, 1])
def test_killed_before_any_write_and_run_again_it_ends_the_same(
    step: int, begun: Path, use: UseCase, partitions: list[str], tmp_path: Path
) -> None:
    """No half of the partition stays, and the ledger has it once."""
    ended = copied(begun, tmp_path / "ended")
    whole = content(ended)
    now = before(use, partitions[2])

    def work(lake: Lake) -> Any:
        return withdraw(lake, use, partitions[2], *WHO, now=now)

    with pytest.MonkeyPatch.context() as patch:
        writes = killed(lambda: work(ended), 0, patch)
        assert writes > 20
        assert content(ended) != whole
        for point in range(1, writes + 1, step):
            lake = copied(begun, tmp_path / str(point))
            killed(lambda lake=lake: work(lake), point, patch)
            work(lake)
            assert content(lake) == content(ended), f"killed before write {point}"
            assert len(lake.rows("withdrawals")) == 1, f"killed before write {point}"


@pytest.fixture
def weekly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lake, UseCase, list[str]]:
    """Return the weekly use case, whose range ends with its second week, after three were run."""
    file, keys = world.install(tmp_path, 3, monkeypatch)
    lake, spec = Lake("weekly_sales"), read(file)
    for stage in ("ingest", "score", "monitor"):
        stages.run_stage(stage, lake, spec, keys, now=clocks.NOW)
    file.write_text(file.read_text().replace("timezone: UTC\n", f'timezone: UTC\n  end: "{keys[1]}"\n', 1))
    return lake, read(file), keys


def form(**fields: str | None) -> Any:
    """Return the context of the form's task, filled in by somebody who is logged in."""
    empty = {"action": "withdraw", "reason": "", "version": "", "attempt": "", "partition": None}
    run = SimpleNamespace(triggering_user_name="anna")
    task = SimpleNamespace(xcom_push=lambda key, value: None)
    return {"params": {**empty, **fields}, "dag_run": run, "run_id": "r", "ti": task}


@pytest.mark.full
def test_the_form_withdraws_and_everything_recomputes(weekly: tuple[Lake, UseCase, list[str]]) -> None:
    """The week after the range is gone with its manifest; its bytes stay, and no digest differs."""
    lake, spec, keys = weekly
    operator = OperateOperator(task_id="operate", usecase="weekly_sales")
    said = operator.execute(form(partition=keys[2], reason="the range was too long"))
    assert said["note"].startswith(f"{keys[2]} withdrawn by anna")
    stand = status(lake, spec)
    assert keys[2] not in json.dumps({k: v for k, v in stand.items() if k != "withdrawn"}, default=str)
    assert not [key for key in lake.keys("raw/snapshots") if keys[2] in key]
    assert len(lake.keys("raw/objects")) == 3
    found = verify(lake, spec)
    assert (found.differences, found.snapshots) == ((), 2)


def test_what_the_schedule_has_had_is_never_withdrawn(weekly: tuple[Lake, UseCase, list[str]]) -> None:
    """A served partition is a fact: the task is red, says what to do instead, and nothing changes."""
    lake, spec, keys = weekly
    before = clocks.state(lake)
    operator = OperateOperator(task_id="operate", usecase="weekly_sales")
    with pytest.raises(AirflowFailException, match=r"found a past partition of the schedule; what it served"):
        operator.execute(form(partition=keys[0], reason="I don't like it"))
    with pytest.raises(PartitionError, match="a date such as"):
        withdraw(lake, spec, "", *WHO, now=clocks.NOW)
    with pytest.raises(NotPublished, match=r"2023-12-25: a withdrawal: .*found nothing"):
        withdraw(lake, spec, "2023-12-25", *WHO, now=clocks.NOW)
    with pytest.raises(EvergreenError, match="expected a name and a reason"):
        withdraw(lake, spec, keys[2], "anna", " ", now=clocks.NOW)
    assert clocks.state(lake) == before


@pytest.mark.full
def test_what_was_ingested_for_its_lookback_goes_with_it(weekly: tuple[Lake, UseCase, list[str]]) -> None:
    """A year that was mistyped left four weeks that are still to come; those of the range stay."""
    lake, _, keys = weekly
    spec = read(Path(world.__file__).parent / "usecase.yaml")
    twin = clocks.state(lake)
    refresh_lookback(lake, spec, FAR, endpoint)
    monitor(lake, spec, FAR)
    assert len({row["partition"] for row in lake.rows("partitions")}) == 3 + 5
    ref = withdraw(lake, spec, FAR, *WHO, now=datetime.now(UTC))
    assert ref.rows == 5
    state = clocks.state(lake)
    assert {name for name in state if state[name] != twin.get(name)} - {"withdrawals"} == set()
    assert {row["partition"] for row in lake.rows("partitions")} == set(keys)
