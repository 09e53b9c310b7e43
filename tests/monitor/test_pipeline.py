"""A whole partition's monitoring: planted faults, reruns, partitions in any order, kills, and two at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.judge.context import Check
from include.judge.judge import FORCED, NOT_BLESSED
from include.monitor import pipeline
from include.monitor.pipeline import monitor
from include.monitor.state import PublishedState
from include.score.pipeline import score
from include.spec import UseCase
from include.stats import profiles
from include.storage import schemas
from include.storage.lake import Lake
from include.storage.schemas import FINDINGS, PARTITIONS, PROFILES
from include.train.monitoring_baselines import publish_reference_profiles
from tests.monitor import machines
from tests.monitor.machines import run
from tests.promote.conftest import record_verdict


def found(lake: Lake, partition: str, outcome: str = "alarm") -> set[tuple[str, str]]:
    """Return check and subject of a partition's findings with an outcome."""
    rows = lake.rows("findings", {"partition": partition})
    return {(row["check"], row["subject"]) for row in rows if row["outcome"] == outcome}


def note(lake: Lake, partition: str, check: str) -> str:
    """Return the sentence of a partition's finding."""
    return next(
        row["note"] for row in lake.rows("findings", {"partition": partition}) if row["check"] == check
    )


@pytest.mark.full
def test_a_steady_week_has_no_alarm(lake: Lake, use: UseCase, week: list[str]) -> None:
    """A week like those before, each day with its weather, raises none, and asks for nothing."""
    run(lake, use, *week[:5])
    assert {partition: found(lake, partition) for partition in week[:5]} == {
        partition: set() for partition in week[:5]
    }
    assert {row["decision"] for row in lake.rows("decisions")} == {"nothing"}
    assert found(lake, week[4], "ok") >= {
        ("drift", "temp"),
        ("drift", "prediction"),
        ("performance", "roc_auc"),
    }


def test_a_feed_that_went_silent_is_an_alarm_at_once(lake: Lake, use: UseCase, week: list[str]) -> None:
    """One partition without temperatures is an alarm on that partition, and over when they are back."""
    machines.readings(lake, use, week[3], lambda row: {**row, "temp": None})
    run(lake, use, *week[3:5])
    assert found(lake, week[3]) == {("missing", "temp")}
    assert ("missing", "temp") in found(lake, week[4], "ok")


def test_a_recipe_that_replaced_the_champion_is_compared_with_its_training(
    lake: Lake, use: UseCase, week: list[str]
) -> None:
    """Its features and labels are those of the model that the training judged."""
    (champion,) = lake.rows("switches")
    last = use.clock.shift(machines.TRAINED, -use.training.test)
    evidence = json.dumps({"fitted": last, "last_fitted": last})
    judged = {"key": champion["attempt"], "partition": machines.TRAINED, "model": champion["model"]}
    attempt = pa.Table.from_pylist([{**judged, "evidence": evidence}], schema=schemas.ATTEMPTS)
    lake.append_at("attempts", attempt, lake.version("attempts"))
    machines.promote(lake, "e" * 64, week[0], kind="replaced")
    machines.readings(lake, use, week[3], lambda row: {**row, "temp": None})
    run(lake, use, *week[3:5])
    assert ("missing", "temp") in found(lake, week[3])
    assert {("missing", "temp"), ("drift", "load"), ("drift", "kind")} <= found(lake, week[4], "ok")


def test_another_unit_is_an_alarm_at_once(lake: Lake, use: UseCase, week: list[str]) -> None:
    """Degrees that turn from Celsius to Fahrenheit leave the reference's range on the first partition."""
    machines.readings(lake, use, week[3], lambda row: {**row, "temp": row["temp"] * 1.8 + 32})
    run(lake, use, week[3])
    assert ("unseen", "temp") in found(lake, week[3])


def test_a_weekday_out_of_range_is_an_alarm_from_the_third_partition_on(
    lake: Lake, use: UseCase, week: list[str]
) -> None:
    """A feature with one value per partition is judged by three of them."""
    for partition in week[:3]:
        machines.readings(lake, use, partition, lambda row: {**row, "weekday": 50.0})
    run(lake, use, *week[:3])
    alarmed = [("unseen", "weekday") in found(lake, partition) for partition in week[:3]]
    assert alarmed == [False, False, True]


def test_a_new_kind_is_an_alarm(lake: Lake, use: UseCase, week: list[str]) -> None:
    """Machines of a kind that the model never saw are named as such, and shift its predictions' reasons."""
    machines.readings(
        lake, use, week[0], lambda row: {**row, "kind": "laser" if row["machine"] < 40 else row["kind"]}
    )
    run(lake, use, week[0])
    assert {("unseen", "kind"), ("drift", "kind")} <= found(lake, week[0])


@pytest.mark.full
def test_a_season_is_no_alarm(lake: Lake, use: UseCase, week: list[str]) -> None:
    """A week that is two degrees warmer, within what the reference's own days did, is none."""
    for partition in week[:3]:
        machines.readings(lake, use, partition, lambda row: {**row, "temp": row["temp"] + 2})
    run(lake, use, *week[:3])
    assert {partition: found(lake, partition) for partition in week[:3]} == {
        partition: set() for partition in week[:3]
    }


@pytest.mark.full
def test_labels_that_turn_ask_for_one_training(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A world that turned round degrades the champion; its second bad partition asks for a training."""
    for partition in week[:7]:
        minutes = machines.day(use.clock.shift(partition, -2))[1]
        turned = [{"machine": m, "minutes": 60.0 - v} for m, v in enumerate(minutes) if v is not None]
        machines.publish(quick, use, "stops", partition, turned)
    run(quick, use, *week[:7])
    asked = {row["partition"]: (row["decision"], row["cause"]) for row in quick.rows("decisions")}
    digest = quick.rows("switches")[0]["model"]
    assert [asked[partition][0] for partition in week[:7]] == ["nothing"] * 4 + ["alert"] + ["retrain"] * 2
    assert {asked[partition][1] for partition in week[5:7]} == {f"degraded-{digest[:12]}-{week[5]}"}


def test_a_training_that_is_refused_for_a_leak_alerts_until_another_is_not(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """It is the first partition after the training that alerts, and none if a person forced the model."""
    leak = Check(
        "strongest single feature", "below 0.98", "ROC-AUC 0.999", False, "load", key="single_feature"
    )
    record_verdict(quick, NOT_BLESSED, week[0], (leak,))
    run(quick, use, *week[:3])
    alarms = [row["partition"] for row in quick.rows("findings", {"check": "leakage"})]
    assert sorted(alarms) == week[1:3]
    assert note(quick, week[1], "leakage") == (
        f"the training of {week[0]} was refused, and what serves may use the same columns: strongest single "
        "feature ROC-AUC 0.999, required below 0.98 (load)"
    )
    decisions = {row["partition"]: row["alerts"] for row in quick.rows("decisions")}
    assert ['"leakage"' in decisions[partition] for partition in week[:3]] == [False, True, False]
    record_verdict(quick, FORCED, week[1], (leak,))
    run(quick, use, week[2])
    assert [row["partition"] for row in quick.rows("findings", {"check": "leakage"})] == [week[1]]


def test_a_source_that_did_not_come_is_told(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A refused source and one that nobody ingested are alarms with the ingest's own sentence."""
    machines.publish(quick, use, "stops", week[0], [], outcome="refused", note="stops/x.csv: no header")
    run(quick, use, week[0])
    assert {f for f in found(quick, week[0]) if f[0] in ("data", "fallback", "missing")} == {
        ("data", "stops")
    }
    rows = quick.rows("findings", {"partition": week[0]})
    assert "stops is refused: stops/x.csv: no header" in {row["note"] for row in rows}


def test_a_partition_without_predictions_is_told_and_not_failed(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """A partition that was never scored has findings that say so, and a person is told."""
    ref = monitor(quick, use, week[0])
    assert found(quick, week[0]) == {("data", "predictions")}
    assert note(quick, week[0], "drift") == "nothing was predicted for this partition"
    assert "nothing was predicted" in ref.note
    [decided] = quick.rows("decisions")
    assert (decided["decision"], decided["cause"]) == ("alert", "")
    assert "alerts data predictions" in decided["reason"]


def test_before_the_first_promotion_nothing_can_be_judged(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Without a champion, drift and rung are not enough rather than well or an alarm."""
    partition = machines.TRAINED
    machines.readings(quick, use, partition)
    run(quick, use, partition)
    assert found(quick, partition) == set()
    assert {("drift", "features"), ("fallback", "predictions")} <= found(quick, partition, "not enough")
    assert note(quick, partition, "drift") == "no model was promoted yet"


def test_a_lower_rung_is_an_alarm_with_its_reason(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A champion that can't be loaded leaves the partition to the prior, and the finding says why."""
    machines.promote(quick, "0" * 64, week[0], version="2")
    run(quick, use, week[0])
    assert ("fallback", "predictions") in found(quick, week[0])
    assert "champion v2" in note(quick, week[0], "fallback")
    assert note(quick, week[0], "drift") == f"model {'0' * 12} left no reference"


@pytest.mark.full
def test_three_times_is_as_once(lake: Lake, use: UseCase, week: list[str]) -> None:
    """Partitions that are monitored again leave every row and every page as they were.

    And the same reference.
    """
    run(lake, use, *week[:2])
    before = machines.state(lake)
    refs = [monitor(lake, use, partition) for partition in week[:2]]
    assert machines.state(lake) == before
    assert [monitor(lake, use, partition) for partition in week[:2]] == refs
    assert machines.state(lake) == before


@pytest.fixture(scope="module")
def in_order(
    bare: Path, use: UseCase, week: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What monitoring five partitions of the bare lake in order leaves."""
    lake = Lake("machines", str(shutil.copytree(bare, tmp_path_factory.mktemp("order") / "lake")))
    run(lake, use, *week[:5])
    return machines.state(lake)


@pytest.mark.full
@pytest.mark.parametrize("order", [(3, 0, 4, 1, 2), (4, 3, 2, 1, 0), (1, 4, 0, 2, 3)])
def test_partitions_in_any_order_leave_the_same(
    quick: Lake, in_order: dict[str, str], use: UseCase, week: list[str], order: tuple[int, ...]
) -> None:
    """Five partitions, scored and monitored in any order, end in the same tables and pages."""
    run(quick, use, *(week[place] for place in order))
    assert machines.state(quick) == in_order


@pytest.mark.full
def test_a_late_partition_repeats_every_later_one_that_depends_on_it(
    quick: Lake, in_order: dict[str, str], use: UseCase, week: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, such as a day's quarters of an hour, that isn't an input that keeps changing."""
    run(quick, use, *week[1:5])
    monkeypatch.setattr(pipeline, "MAX_ATTEMPTS", 2)
    run(quick, use, week[0])
    assert machines.state(quick) == in_order


@pytest.mark.full
def test_neighbors_at_once_leave_the_same(
    quick: Lake, in_order: dict[str, str], use: UseCase, week: list[str]
) -> None:
    """Five partitions by three workers at once, each partition twice, end in the same tables."""
    with ThreadPoolExecutor(3) as workers:
        list(workers.map(lambda partition: run(quick, use, partition), [*week[:5], *reversed(week[:5])]))
    assert machines.state(quick) == in_order


def contents(state: PublishedState) -> tuple[Any, ...]:
    """Return what a state knows of the table `partitions`."""
    return (state._partitions, state.published_digests, state.realized_inputs, state.relabeled)


def test_a_state_takes_over_what_its_run_published(
    quick: Lake, use: UseCase, week: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once a run, and knows the same as one that is read anew after each commit."""
    run(quick, use, *week[:2])
    refresh, read_all = PublishedState.refresh, PublishedState._read_all
    own_rows, reads = [], []

    def refresh_and_compare(state: PublishedState, lake: Lake, own: Sequence[Any] = ()) -> None:
        refresh(state, lake, own)
        if own:
            own_rows.extend(own)
            read = len(reads)
            assert contents(state) == contents(PublishedState(lake, use, state.partition))
            del reads[read:]

    def counted(*args: Any) -> None:
        reads.append(args)
        read_all(*args)

    monkeypatch.setattr(PublishedState, "refresh", refresh_and_compare)
    monkeypatch.setattr(PublishedState, "_read_all", counted)
    run(quick, use, week[2])
    assert {"performance", "losses", "monitor", "drift", "estimates"} == {row["product"] for row in own_rows}
    assert len(reads) == 1


def test_a_state_is_read_anew_after_another_runs_commit(quick: Lake, use: UseCase, week: list[str]) -> None:
    """What a concurrent run published between two of its own commits isn't missed."""
    run(quick, use, week[0])
    state = PublishedState(quick, use, week[1])
    own, other = (
        {**quick.rows("partitions")[0], "partition": key, "product": "monitor"} for key in week[1:3]
    )
    for row in (other, own):
        where = {"product": "monitor", "partition": row["partition"]}
        quick.publish("partitions", pa.Table.from_pylist([row], PARTITIONS), where)
    state.refresh(quick, [own])
    assert state.partition_row("monitor", week[2]) is not None
    assert contents(state) == contents(PublishedState(quick, use, week[1]))


class Dying(Lake):
    """A lake that dies before a write."""

    def __init__(self, usecase: str, uri: str, fatal: int) -> None:
        super().__init__(usecase, uri)
        self.left = fatal

    def _write(self, real: Callable[..., Any], *args: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return real(*args)

    def publish(self, *args: Any) -> Any:
        """Publish, or die."""
        return self._write(super().publish, *args)

    def replace(self, *args: Any) -> Any:
        """Replace, or die."""
        return self._write(super().replace, *args)

    def create(self, *args: Any) -> Any:
        """Create, or die."""
        return self._write(super().create, *args)


@pytest.mark.full
def test_a_kill_before_any_write_is_healed_by_a_rerun(
    quick: Lake, in_order: dict[str, str], use: UseCase, week: list[str], tmp_path: Path
) -> None:
    """The third partition, done last, is killed before its writes; a rerun ends as order would."""
    run(quick, use, week[0], week[1], week[3], week[4])
    score(quick, use, week[2])
    whole = Dying("machines", str(shutil.copytree(tmp_path / "quick", tmp_path / "whole")), 1000)
    monitor(whole, use, week[2])
    writes = 1000 - whole.left
    assert writes > 10
    for fatal in sorted({*range(0, writes, 5), writes // 2, writes - 1}):
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        shutil.copytree(tmp_path / "quick", tmp_path / "again")
        with pytest.raises(KeyboardInterrupt):
            monitor(Dying("machines", str(tmp_path / "again"), fatal), use, week[2])
        again = Lake("machines", str(tmp_path / "again"))
        monitor(again, use, week[2])
        assert machines.state(again) == in_order


class Crossed(Lake):
    """A lake on which another run's older findings and row come between a run's findings and its row."""

    def __init__(self, of: Lake, partition: str) -> None:
        super().__init__(of.uri.rpartition("/")[2], of.uri.removeprefix("file://").rpartition("/")[0])
        wheres = {
            "findings": {"partition": partition},
            "partitions": {"product": "monitor", "partition": partition},
        }
        self.older = [(table, of.read(table, where), where) for table, where in wheres.items()]

    def publish(self, table: str, rows: Any, where: Any) -> Any:
        """Let the other go first, once, then publish."""
        if table == "partitions" and "monitor" in where["product"]:
            while self.older:
                super().publish(*self.older.pop(0))
        return super().publish(table, rows, where)


def test_two_that_write_crosswise(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Findings that an older run wrote under a newer one's row are seen, and made again."""
    run(quick, use, week[0])
    crossed = Crossed(quick, week[0])
    machines.publish(quick, use, "stops", week[0], [], outcome="refused", note="stops/x.csv: no header")
    ref = monitor(crossed, use, week[0])
    assert crossed.older == []
    assert ("data", "stops") in found(quick, week[0])
    left = machines.state(quick)
    assert monitor(quick, use, week[0]) == ref
    assert machines.state(quick) == left


def test_findings_have_their_tables_shape(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Findings are published in the shape that include.storage.schemas declares.

    And the reference names them.
    """
    score(quick, use, week[0])
    ref = monitor(quick, use, week[0])
    rows = quick.read("findings", {"partition": week[0]})
    assert set(rows.schema.names) == set(FINDINGS.names)
    assert rows.num_rows == ref.rows
    assert ref.id.endswith("tables/findings")
    assert len(str(ref.xcom())) < 1000


@pytest.mark.full
def test_every_measure_is_published_beside_the_findings(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Each column has a row a measure of its kind, of the window's rows; the declared is the finding's."""
    run(quick, use, *week[:5])
    rows = quick.rows("drift", {"partition": week[4]})
    by_column: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_column.setdefault(row["column"], {})[row["measure"]] = row
    numeric = {"psi", "js", "ks", "wasserstein", "missing"}
    expected = dict.fromkeys(("temp", "load", "weekday", "prediction", "stopped"), numeric)
    expected["kind"] = {"psi", "js", "new", "vanished", "missing"}
    assert {name: set(found) for name, found in by_column.items()} == expected
    assert {(row["rows"], row["partitions"]) for row in rows} == {(3 * machines.ROWS, 3)}
    judged = quick.rows("findings", {"partition": week[4], "check": "drift"})
    values = {row["subject"]: row["value"] for row in judged}
    assert by_column["load"]["psi"]["value"] == values["load"] > 0


def test_another_declared_measure_judges(quick: Lake, use: UseCase, week: list[str], tmp_path: Path) -> None:
    """Under `monitoring.measure` a use case says by which a column has drifted, with its threshold."""
    rules = "{window: 3, report_rows: 200, measure: {numeric: ks, categorical: js}, ks: 0.3}"
    other = machines.spec(tmp_path, monitoring=rules)
    machines.readings(quick, other, week[0], lambda row: {**row, "load": row["load"] * 0.5})
    run(quick, other, week[0])
    found = {row["subject"]: row for row in quick.rows("findings") if row["check"] == "drift"}
    assert found["load"]["outcome"] == "alarm"
    assert found["load"]["note"].startswith("load: Kolmogorov–Smirnov 0.")
    assert found["load"]["value"] == pytest.approx(0.5, abs=0.06)
    assert (found["load"]["threshold"], found["kind"]["outcome"]) == (0.3, "ok")


@pytest.mark.full
def test_labels_have_a_profile_and_are_compared(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A matured partition's labels are profiled, unlabeled rows as missing.

    Labels that all turn are drift.
    """
    for partition in week[:5]:
        minutes = machines.day(use.clock.shift(partition, -2))[1]
        turned = [{"machine": m, "minutes": 60.0} for m, v in enumerate(minutes) if v is not None]
        machines.publish(quick, use, "stops", partition, turned)
    run(quick, use, *week[:5])
    rows = {row["partition"]: row for row in quick.rows("profiles", {"product": "labels"})}
    assert sorted(rows) == week[:3]
    without = sum(value is None for value in machines.day(week[0])[1])
    row = rows[week[0]]
    assert (row["column"], row["count"], row["missing"]) == ("stopped", machines.ROWS, without)
    assert row["total"] == machines.ROWS - without
    assert ("drift", "stopped") in found(quick, week[4])
    assert ("drift", "stopped") in found(quick, week[1], "not enough")


def test_a_window_of_another_kind_is_not_compared(
    quick: Lake, use: UseCase, week: list[str], tmp_path: Path
) -> None:
    """A column that was numeric when the model learned and is categorical now is told, and fails nothing."""
    text = (use.folder / "usecase.yaml").read_text()
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / "features.sql").write_text(machines.SQL)
    text = text.replace("numeric: [temp, load, weekday], categorical: [kind]", "numeric: [temp, load], ")
    text = text.replace("numeric: [temp, load], ", "numeric: [temp, load], categorical: [weekday, kind]")
    (tmp_path / "machines" / "usecase.yaml").write_text(text)
    other = machines.read(tmp_path / "machines" / "usecase.yaml")
    run(quick, other, week[0])
    notes = {row["subject"]: row["note"] for row in quick.rows("findings") if row["check"] == "drift"}
    assert notes["weekday"] == "weekday is categorical and was numeric in the reference"


def test_measures_that_an_older_run_wrote_are_seen(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Rows of `drift` that aren't those of the partition's row are made again, as findings are."""
    run(quick, use, week[0])
    left = machines.state(quick)
    rows = quick.read("drift", {"partition": week[0]})
    quick.publish("drift", rows.slice(1), {"partition": week[0]})
    monitor(quick, use, week[0])
    assert machines.state(quick) == left


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"temp": None}, ("missing", "temp")),
        ({"temp": 1e6}, ("unseen", "temp")),
        ({"kind": "laser"}, ("unseen", "kind")),
    ],
)
def test_a_column_without_spread_or_values_is_an_alarm(
    quick: Lake, use: UseCase, week: list[str], fault: dict[str, Any], expected: tuple[str, str]
) -> None:
    """All null, one far constant, one new category: told on the first partition, and the partition ends."""
    machines.readings(quick, use, week[0], lambda row: {**row, **fault})
    run(quick, use, week[0])
    assert expected in found(quick, week[0])


def test_one_row_is_judged_without_an_alarm(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A partition of one usual row: every column has its measures, and chance explains them all."""
    machines.publish(quick, use, "readings", week[0], machines.day(week[0])[0][:1])
    run(quick, use, week[0])
    assert {check for check, _ in found(quick, week[0])} <= {"data"}
    rows = quick.rows("drift", {"partition": week[0]})
    assert {row["rows"] for row in rows} == {1}
    assert all(row["value"] is not None for row in rows)


def test_ten_thousand_categories_are_drift_and_not_called_new(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """A kind of its own for each of 10,000 rows: the reference knows three, so nearly all are new."""
    usual = machines.day(week[0])[0]
    rows = [{**usual[n % 120], "machine": n, "kind": f"kind {n}"} for n in range(10_000)]
    machines.publish(quick, use, "readings", week[0], rows)
    run(quick, use, week[0])
    assert {("drift", "kind"), ("unseen", "kind")} <= found(quick, week[0])
    values = {row["measure"]: row["value"] for row in quick.rows("drift", {"column": "kind"})}
    assert 0.98 < values["new"] <= 1.0
    assert values["vanished"] is None


def test_an_empty_reference_is_not_enough(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A champion whose reference has no rows: each column says so, none is well, and nothing fails."""
    digest = quick.rows("switches")[0]["model"]
    none = pa.table({name: pa.array([], pa.float64()) for name in ("temp", "load", "weekday", "prediction")})
    none = none.append_column("kind", pa.array([], pa.string()))
    empty = profiles.build_profile("", machines.TRAINED, none, none.column_names[:4], ["kind"])
    publish_reference_profiles(quick, digest, machines.TRAINED, [empty])
    run(quick, use, week[0])
    rows = {(row["check"], row["subject"]): row for row in quick.rows("findings", {"partition": week[0]})}
    columns = ("temp", "load", "weekday", "kind", "prediction")
    assert {rows["drift", name]["outcome"] for name in columns} == {"not enough"}
    assert rows["drift", "temp"]["note"] == "temp has no value in the reference"
    assert {row["value"] for row in quick.rows("drift", {"partition": week[0]})} == {None}


def test_a_feature_without_a_profile_is_told(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A column whose profile is gone for the partition isn't passed over in silence."""
    score(quick, use, week[0])
    where = {"product": ["features"], "partition": week[0]}
    left = [row for row in quick.rows("profiles", where) if row["column"] != "load"]
    quick.publish("profiles", pa.Table.from_pylist(left, schema=PROFILES), where)
    monitor(quick, use, week[0])
    assert note_of(quick, week[0], "load") == "load is missing from this partition"
    assert ("drift", "load") in found(quick, week[0], "not enough")


def note_of(lake: Lake, partition: str, subject: str) -> str:
    """Return the sentence about a column's drift."""
    rows = lake.rows("findings", {"partition": partition, "check": "drift", "subject": subject})
    return str(rows[0]["note"])
