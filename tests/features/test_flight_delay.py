"""The shipped feature SQL of `flight_delay` on a few invented flights: it gives values, and doesn't leak."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.features.build import compute_features, features
from include.features.checks import point_in_time_violations
from include.spec import UseCase, load
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake

FIRST, LAST = "2013-03-01", "2013-04-04"  # longer than the lookback, across a change of clocks
FLIGHTS = [
    (carrier, number, origin) for carrier in ("AA", "UA") for number in (1, 2) for origin in ("EWR", "JFK")
]


@pytest.fixture(scope="module")
def use() -> UseCase:
    """The shipped declaration."""
    return load("flight_delay")


@pytest.fixture(scope="module")
def given(use: UseCase) -> dict[str, pa.Table]:
    """Each source's rows; the outcomes of each third partition are revised two days later."""
    found = {}
    for source in use.sources:
        partitions = use.partitions(source, FIRST, LAST)
        made = [_rows(use, source, partition, 0, timedelta()) for partition in partitions]
        if source == "outcomes":
            made += [_rows(use, source, partition, 1, timedelta(days=2)) for partition in partitions[::3]]
        found[source] = pa.concat_tables(made)
    return found


@pytest.fixture(scope="module")
def lake(use: UseCase, given: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The same, published."""
    made = Lake("flight_delay", str(tmp_path_factory.mktemp("lake")))
    for source, rows in given.items():
        where = {"partition": use.partitions(source, FIRST, LAST)}
        made.publish(f"validated_{source}", rows, where)
    return made


def _rows(use: UseCase, source: str, partition: str, revision: int, later: timedelta) -> pa.Table:
    """Return a partition's rows: keys that meet those of the other sources, and values by chance."""
    declared = use.sources[source]
    day = date.fromisoformat(partition) + timedelta(days=declared.offset)
    stamp = {
        "partition": partition,
        "revision": revision,
        "known_at": use.clock.local(partition, declared.available_at) + later,
    }
    hours = [datetime.combine(day, time(hour), use.clock.zone).astimezone(UTC) for hour in (7, 12, 17)]
    keys: list[dict[str, Any]]
    if source == "planes":
        keys = [{"tailnum": f"N{number}", "year": 1990 + number} for number in range(4)]
    elif source == "weather":
        keys = [{"origin": origin, "observed": hour} for origin in ("EWR", "JFK") for hour in hours]
    else:
        keys = [
            {
                "carrier": carrier,
                "flight": number,
                "origin": origin,
                "tailnum": f"N{place % 5}",
                "year": day.year,
            }
            | {"scheduled": hours[place % 3], "dest": ("LAX", "ORD")[place % 2]}
            for place, (carrier, number, origin) in enumerate(FLIGHTS)
        ]
    made = []
    for key in keys:
        row: dict[str, Any] = {}
        for name, column in declared.columns.items():
            chance = crc32(f"{source}{partition}{revision}{key}{name}".encode())
            kind = schemas.column_type(column)
            row[name] = chance % 60 if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None
            row[name] = chance % 1440 if column.type == "hhmm" else row[name]
        made.append(
            {**row, **{name: value for name, value in key.items() if name in declared.columns}, **stamp}
        )
    return pa.Table.from_pylist(made, schema=schemas.validated_schema(declared))


def test_values(lake: Lake, use: UseCase) -> None:
    """Every declared feature has values, and different ones, so that the tests below can see it change."""
    found = features(lake, use, use.clock.keys(FIRST, LAST))
    assert found.num_rows == 35 * len(FLIGHTS)
    for column in use.features.columns:
        assert pc.count_distinct(found[column]).as_py() > 1, column


def test_late_rates(given: dict[str, pa.Table], use: UseCase) -> None:
    """A flight's late rate, counted by hand: late arrivals over arrivals, drawn to the overall rate."""
    partition, flight = LAST, FLIGHTS[0]
    partitions = use.clock.keys(use.clock.shift(partition, -28), partition)
    decided = use.clock.decision_time(partition)
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sorted(given["outcomes"].to_pylist(), key=lambda row: row["revision"]):
        if row["partition"] in partitions and row["known_at"] <= decided:
            newest[row["partition"], row["carrier"], row["flight"], row["origin"]] = row
    late = [(key[1:] == flight, row["arr_delay"] > 15) for key, row in newest.items()]
    overall = sum(was for _, was in late) / len(late)
    own = [was for mine, was in late if mine]
    assert len(own) == 29
    found = compute_features(use, given, [partition])
    mine = [r for r in found.to_pylist() if (r["carrier"], r["flight"], r["origin"]) == flight]
    assert mine[0]["flight_late_28"] == pytest.approx((sum(own) + 5 * overall) / (29 + 5), rel=1e-12)


@pytest.mark.full
@pytest.mark.parametrize("partition", [FIRST, "2013-03-09", "2013-03-20", LAST])
def test_no_leak(lake: Lake, given: dict[str, pa.Table], use: UseCase, partition: str) -> None:
    """No feature of a flight changes when every row whose knowledge time is after its decision is deleted."""
    assert point_in_time_violations(lake, use, partition) == []
    partitions = use.clock.keys(FIRST, LAST)
    decided = pa.scalar(use.clock.decision_time(partition), schemas.TIME)
    kept = {name: rows.filter(pc.less_equal(rows["known_at"], decided)) for name, rows in given.items()}
    whole, cut = (compute_features(use, rows, partitions) for rows in (given, kept))
    of_whole, of_cut = (found.filter(pc.equal(found["partition"], partition)) for found in (whole, cut))
    assert of_whole.num_rows == len(FLIGHTS)
    assert digest_table(of_whole) == digest_table(of_cut) == digest_table(features(lake, use, [partition]))
