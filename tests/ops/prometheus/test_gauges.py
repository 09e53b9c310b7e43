"""The gauges say what the tables hold of the newest partitions, and no more than can be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from include.cli.app import app
from include.errors import SpecError
from include.ops import prometheus as scraping
from include.ops.prometheus import HELP, Sample, exposition_text, gauges, newest_partition, scrape
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.ops.prometheus.conftest import ESTIMATED, Plant

LABELS = {"usecase", "product", "source", "outcome", "check", "subject", "metric", "of", "bound", "served_by",
          "version", "kind", "decision"}  # fmt: skip


def told(samples: list[Sample], name: str) -> dict[tuple[str, ...], float]:
    """Return a gauge's values by its labels, but for the use case."""
    return {tuple(one.labels.values())[1:]: one.value for one in samples if one.name == name}


@pytest.mark.full
def test_sources_and_rungs_are_those_of_the_newest_partition(plant: Plant) -> None:
    """Rows, outcome, time and rungs are the tables', of the partition that was done last."""
    found, partition = list(gauges(plant.lake, plant.spec)), plant.done[-1]
    by = datetime.fromisoformat(f"{partition}T23:59:00+00:00").timestamp()

    assert told(found, "evergreen_rows")["readings",] == machines.ROWS
    assert told(found, "evergreen_partition")["readings", "published"] == 1
    assert told(found, "evergreen_partition")["readings", "refused"] == 0
    times = told(found, "evergreen_partition_timestamp_seconds")
    assert {times[product,] for product in ("readings", "stops", "predictions", "monitor")} == {by}
    assert told(found, "evergreen_next_partition_timestamp_seconds") == {(): by + 86400}
    assert told(found, "evergreen_served_by_share")["champion",] == 1
    assert told(found, "evergreen_served_by_share")["constant",] == 0


def test_nothing_is_due_after_the_schedules_end(plant: Plant) -> None:
    """An alert that predictions are overdue would never end."""
    schedule = plant.spec.schedule.model_copy(update={"end": plant.done[-1]})
    over = plant.spec.model_copy(update={"schedule": schedule})
    assert told(list(gauges(plant.lake, over)), "evergreen_next_partition_timestamp_seconds") == {}


def test_checks_are_those_of_the_newest_watched_partition(plant: Plant) -> None:
    """Each finding gives its figure, its limit and whether it alarms, which can't be told of *not enough*."""
    found = list(gauges(plant.lake, plant.spec))
    rows = plant.lake.rows("findings", {"partition": plant.done[-1]})
    by = {(row["check"], row["subject"]): row for row in rows}

    alarms = {key: row["outcome"] == "alarm" for key, row in by.items() if row["outcome"] != "not enough"}
    assert told(found, "evergreen_alarm") == alarms
    assert 0 < len(alarms) < len(by)
    values = {key: row["value"] for key, row in by.items() if row["value"] is not None}
    assert told(found, "evergreen_value") == values
    assert told(found, "evergreen_limit")["drift", "temp"] == by["drift", "temp"]["threshold"]


def test_realized_performance_stands_beside_prior_and_requirement(plant: Plant) -> None:
    """The newest partition with labels is two partitions older, and its figures are the table's."""
    found, partition = list(gauges(plant.lake, plant.spec)), plant.done[-1 - plant.spec.labels.delay]
    rows = {row["metric"]: row["value"] for row in plant.lake.rows("performance", {"partition": partition})}

    realized = told(found, "evergreen_performance")
    assert realized["roc_auc", "served"] == rows["roc_auc"]
    assert realized["log_loss", "constant"] == rows["constant:log_loss"]
    assert told(found, "evergreen_requirement") == {("roc_auc", "at_least"): 0.55}
    losses = plant.lake.rows("losses", {"partition": partition})
    assert told(found, "evergreen_loss")["log_loss", "served"] == losses[0]["loss"] / losses[0]["rows"]
    assert set(told(found, "evergreen_loss")) == {
        ("log_loss", of) for of in ("served", "baseline", "expected")
    }


def test_an_estimate_has_its_error_and_its_partition_and_what_cannot_be_told_is_left_out(
    plant: Plant,
) -> None:
    """The newest partition's, which has no labels yet; a metric without a value has no gauge."""
    found, partition = list(gauges(plant.lake, plant.spec)), plant.done[-1]
    rows = plant.lake.rows("estimates", {"partition": partition})

    assert told(found, "evergreen_estimated_performance") == {("roc_auc",): ESTIMATED["value"]}
    assert told(found, "evergreen_estimated_performance_error") == {("roc_auc",): ESTIMATED["error"]}
    assert len(rows) > 1
    [time] = told(found, "evergreen_estimated_performance_partition_timestamp_seconds").values()
    assert time == datetime.fromisoformat(f"{partition}T23:59:00+00:00").timestamp()


def test_the_champion_and_the_decision_are_told(plant: Plant) -> None:
    """Who serves since when and by which partition's verdict, and what the newest partition decided."""
    found = list(gauges(plant.lake, plant.spec))
    [since] = told(found, "evergreen_champion_timestamp_seconds").values()
    [evidence] = told(found, "evergreen_champion_evidence_timestamp_seconds").values()
    [decision] = [key for key, value in told(found, "evergreen_decision").items() if value]

    assert ("1", "promoted") in told(found, "evergreen_champion_timestamp_seconds")
    assert since - evidence == 86400
    assert decision == (plant.lake.rows("decisions", {"partition": plant.done[-1]})[0]["decision"],)


def test_no_partition_is_a_label(plant: Plant) -> None:
    """Partitions that come add no series: labels are of a fixed set, and none holds a date."""
    found = list(gauges(plant.lake, plant.spec))

    assert {name for one in found for name in one.labels} <= LABELS
    assert not [one for one in found for value in one.labels.values() if "2024-" in value]
    series = [(one.name, *one.labels.items()) for one in found]
    assert len(series) == len(set(series))
    assert {one.name for one in found} == set(HELP) - {"evergreen_readable"}


def test_what_is_not_there_is_left_out(plant: Plant, tmp_path: Path) -> None:
    """Before the first partition there is what is required, and no zero for what nobody measured."""
    found = list(gauges(Lake("machines", str(tmp_path)), plant.spec))

    assert [one.name for one in found] == ["evergreen_requirement"]


def test_a_source_that_did_not_come_is_told_with_its_last_good_partition(
    plant: Plant, tmp_path: Path
) -> None:
    """Its newest partition says unavailable; its time stays that of the partition that was published."""
    lake = Lake("machines", str(tmp_path))
    machines.readings(lake, plant.spec, "2024-03-01")
    machines.publish(lake, plant.spec, "readings", "2024-03-02", [], outcome="unavailable")
    found = list(gauges(lake, plant.spec))

    assert told(found, "evergreen_partition")["readings", "unavailable"] == 1
    assert told(found, "evergreen_partition")["readings", "published"] == 0
    [time] = told(found, "evergreen_partition_timestamp_seconds").values()
    assert time == datetime.fromisoformat("2024-03-01T23:59:00+00:00").timestamp()


def test_what_stopped_long_ago_keeps_its_newest_partition(plant: Plant, tmp_path: Path) -> None:
    """An outage of months is told for as long as it lasts, also where every partition of it was refused."""
    lake = Lake("machines", str(tmp_path))
    machines.readings(lake, plant.spec, "2024-03-01")
    machines.stops(lake, plant.spec, "2024-03-02")
    for partition in ("2024-04-20", "2024-06-20"):
        machines.stops(lake, plant.spec, partition, outcome="refused")
    partitions = told(list(gauges(lake, plant.spec)), "evergreen_partition_timestamp_seconds")
    days = {product: f"{datetime.fromtimestamp(time, UTC):%m-%d}" for (product,), time in partitions.items()}
    assert days == {"readings": "03-01", "stops": "03-02"}


def test_a_scrape_reads_only_what_changed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tables are asked for their version alone; a commit is seen by the next scrape."""
    reads: list[Mapping[str, str]] = []
    first = scrape("machines")
    monkeypatch.setattr(scraping, "gauges", lambda *_: reads.append({}) or [])

    assert scrape("machines") == first
    assert reads == []
    decided = plant.lake.read("decisions", {"partition": plant.done[-1]})
    assert decided is not None
    plant.lake.publish("decisions", decided.select(schemas.DECISIONS.names), {"partition": plant.done[-1]})
    scrape("machines")
    assert reads == [{}]
    monkeypatch.undo()
    scraping._cache.clear()
    assert scrape("machines") == first


def test_a_use_case_that_cannot_be_read_takes_no_other_down(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told as unreadable, the log says why, and the others' gauges are there."""
    assert scrape("nobody") == [Sample("evergreen_readable", {"usecase": "nobody"}, 0.0)]
    assert "use case 'nobody'" in caplog.text
    assert scrape("machines")[0] == Sample("evergreen_readable", {"usecase": "machines"}, 1.0)


def test_the_command_line_prints_what_is_scraped(plant: Plant) -> None:
    """`metrics` shows the page without any server, and a use case that isn't there is an error."""
    run = CliRunner().invoke

    assert run(app, ["metrics", "machines"]).stdout == exposition_text(scrape("machines"), HELP)
    names = {one["name"] for one in json.loads(run(app, ["metrics", "--json"]).stdout)["samples"]}
    assert names == set(HELP)
    assert isinstance(run(app, ["metrics", "nobody"]).exception, SpecError)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n")))
def test_any_label_can_be_told(value: str) -> None:
    """A label's value comes back as it was, whatever characters the data's owner chose."""
    page = exposition_text([Sample("it", {"of": value}, 1.0)], {"it": "It."})

    line = page.removeprefix("# HELP it It.\n# TYPE it gauge\n").removesuffix(" 1.0\n")
    assert json.loads(line.removeprefix("it{of=").removesuffix("}")) == value


def test_the_newest_partition_is_read_from_the_log(plant: Plant, tmp_path: Path) -> None:
    """It is the rows' own, also after a partition was emptied, and none of a table that isn't there."""
    lake = Lake("machines", str(tmp_path))
    assert newest_partition(lake, "decisions") == ""
    rows = [
        {"partition": partition, "decision": "nothing", "cause": "", "reason": "", "alerts": "[]"}
        for partition in ("2024-03-02", "2024-03-10", "2024-03-09")
    ]
    for row in rows:
        table = pa.Table.from_pylist([row], schema=schemas.DECISIONS)
        lake.publish("decisions", table, {"partition": row["partition"]})
    assert newest_partition(lake, "decisions") == "2024-03-10"
    lake.publish("decisions", schemas.DECISIONS.empty_table(), {"partition": "2024-03-10"})
    assert newest_partition(lake, "decisions") == "2024-03-09"
