"""No feature changes when every row known after its decision is deleted; and a leak would be seen."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from include.cli.app import app
from include.errors import PYTHON, NotPublished
from include.features.build import compute_features, features
from include.features.checks import point_in_time_violations, violations_of
from include.features.point_in_time import read_sources
from include.spec import UseCase
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.storage.schemas import TIME
from include.validate.stored import data_problems
from tests.features import parcels

PARTITIONS = [f"2024-03-{day:02}" for day in range(1, 11)]

# written against the plain views, with every condition by hand
BY_HAND = """
SELECT s.depot, s.parcel, s.partition, s.weight, s.express, r.ice, r.state AS road,
       (SELECT count(*) FILTER (delay > 10) / count(delay) FROM arrivals a
        WHERE a.depot = s.depot AND a.partition >= strftime(s.partition::DATE - INTERVAL 4 DAY, '%Y-%m-%d')
          AND a.known_at <= s.decision_time AND s.decision_time < a.known_until) AS late_share,
       0 AS known_arrivals
FROM spine s
LEFT JOIN roads r ON r.partition = s.partition AND r.depot = s.depot
    AND r.known_at <= s.decision_time AND s.decision_time < r.known_until
"""
PLANTS = st.lists(
    st.tuples(
        st.sampled_from(["orders", "arrivals", "roads"]),
        st.sampled_from(PARTITIONS[1:]),
        st.integers(-3 * 1440, 3 * 1440),  # minutes after the partition's decision
    ),
    max_size=6,
    unique_by=lambda plant: plant[:2],
)


def _features(use: UseCase, given: dict[str, list[pa.Table]], partition: str) -> str:
    """Return the digest of one partition's features, computed with all the others."""
    found = compute_features(
        use, {source: pa.concat_tables(tables) for source, tables in given.items()}, PARTITIONS
    )
    found = found.filter(pc.equal(found["partition"], partition))
    assert found.num_rows == 12
    return digest_table(found)


@pytest.mark.full
@settings(max_examples=20)
@given(PLANTS, st.sampled_from(PARTITIONS), st.sampled_from([parcels.SQL, BY_HAND]))
def test_what_came_later_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, plants: list[tuple[str, str, int]], partition: str, sql: str
) -> None:
    """No feature of a row changes when every row whose knowledge time is after its decision is deleted."""
    use = parcels.spec(tmp_path_factory.mktemp("spec"), sql)
    given = {
        s: [parcels.rows(use, s, n) for n in use.partitions(s, PARTITIONS[0], PARTITIONS[-1])]
        for s in use.sources
    }
    for source, of, minutes in plants:
        # a revision is never known before what it revises
        first = use.clock.local(of, use.sources[source].available_at) - use.clock.decision_time(of)
        after = max(timedelta(minutes=minutes), first + timedelta(minutes=1))
        given[source].append(parcels.rows(use, source, of, revision=1, after=after))
    decided = pa.scalar(use.clock.decision_time(partition), TIME)
    kept = {
        s: [t.filter(pc.less_equal(t["known_at"], decided)) for t in tables] for s, tables in given.items()
    }
    assert _features(use, given, partition) == _features(use, kept, partition)


def test_deleted_from_the_lake(lake: Lake, use: UseCase, tmp_path: Path) -> None:
    """The same holds of a lake from which the later rows were deleted, through all that reads it."""
    partition = "2024-03-06"
    cut = Lake("parcels", str(tmp_path))
    parcels.without_later(lake, use, use.clock.decision_time(partition), cut)
    whole = features(lake, use, PARTITIONS)
    assert digest_table(whole.filter(pc.equal(whole["partition"], partition))) == digest_table(
        features(cut, use, [partition])
    )


@pytest.mark.parametrize("sql", [parcels.SQL, BY_HAND])
@pytest.mark.parametrize("partition", ["2024-03-01", "2024-03-06", "2024-03-10"])
def test_a_sound_sql(lake: Lake, tmp_path: Path, sql: str, partition: str) -> None:
    """A sound SQL leaks nowhere, the newest partition included."""
    assert point_in_time_violations(lake, parcels.spec(tmp_path, sql), partition) == []


@pytest.mark.parametrize(
    ("old", "new", "columns"),
    [
        ("a.known_at <= s.decision_time AND s.decision_time < a.known_until", "true", ["late_share"]),
        ("a.partition >= strftime(s.partition::DATE - INTERVAL 4 DAY, '%Y-%m-%d')", "true", ["late_share"]),
        ("0 AS known_arrivals", "(SELECT count(*) FROM orders) AS known_arrivals", ["known_arrivals"]),
        (
            "0 AS known_arrivals",
            "(SELECT arg_max(ice, known_at) FROM roads) AS known_arrivals",
            ["known_arrivals"],
        ),
    ],
)
def test_a_leak_is_seen(lake: Lake, tmp_path: Path, old: str, new: str, columns: list[str]) -> None:
    """A SQL that looks past the decision, or before the lookback, is found by its column."""
    assert old in BY_HAND
    assert (
        point_in_time_violations(lake, parcels.spec(tmp_path, BY_HAND.replace(old, new)), "2024-03-10")
        == columns
    )


SUMS = parcels.SQL.replace("count(*) FILTER (delay > 10) AS late", "sum(delay * 0.1 - 1.1) AS late")


def test_sums_in_another_order_are_no_leak(lake: Lake, tmp_path: Path) -> None:
    """Planted rows change the order in which floats are added up, and so a sum's last bits."""
    assert SUMS != parcels.SQL
    spec = parcels.spec(tmp_path, SUMS)
    for partition in PARTITIONS:
        assert point_in_time_violations(lake, spec, partition) == []


def test_a_leak_of_large_numbers_is_no_last_bit(lake: Lake, tmp_path: Path) -> None:
    """What is planted changes a number by its own size, however little 977 is beside it."""
    spec = parcels.spec(tmp_path, BY_HAND.replace("0 AS", "(SELECT max(delay) FROM arrivals) AS"))
    rows = read_sources(lake, spec, ["2024-03-10"])
    delays = pc.add(rows["arrivals"]["delay"], 1e14)
    column = rows["arrivals"].schema.get_field_index("delay")
    rows = {**rows, "arrivals": rows["arrivals"].set_column(column, "delay", delays)}
    assert violations_of(spec, rows, "2024-03-10") == ["known_arrivals"]


def test_nothing_to_check(lake: Lake, use: UseCase) -> None:
    """A partition without rows can't show a leak, and says so rather than passing."""
    with pytest.raises(NotPublished, match="choose a partition"):
        point_in_time_violations(lake, use, "2024-05-01")


@pytest.mark.full
def test_validate_names_the_leaks_of_the_newest_partitions(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leak is found by column: on generated rows without any data, and on stored rows by partition."""
    monkeypatch.setenv("EVERGREEN_LAKE", lake.uri.removesuffix("/parcels"))
    leaking = parcels.spec(tmp_path / "leaking", BY_HAND.replace("0 AS", "(SELECT count(*) FROM orders) AS"))
    sound = parcels.spec(tmp_path / "sound", BY_HAND)
    command = CliRunner()
    result = command.invoke(app, ["validate", str(leaking.folder)])
    assert result.exit_code == 1
    assert result.stdout.startswith("parcels: features.sql on generated rows: expected features of rows that")
    assert "found other values of known_arrivals once later or older rows are added" in result.stdout
    assert [one.sentence.partition(";")[0] for one in data_problems(lake, leaking)] == [
        f"parcels/{partition}: features.sql: expected features of rows that were known at the decision, "
        f"within the lookback, but found other values of known_arrivals once later or older rows are added "
        f"({leaking.folder}/features.sql)"
        for partition in PARTITIONS[-3:]
    ]
    result = command.invoke(app, ["validate", str(sound.folder), "--data"])
    assert result.stdout.endswith("\nvalid: parcels\n")
    assert result.stdout.startswith(
        "warning: parcels: features.numeric: known_arrivals: expected a number that"
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("0 AS known", "NULL AS known", "found no value of known_arrivals in 36 rows"),
        ("LEFT JOIN roads r ON", "JOIN roads r ON r.ice > 6 AND", "of the 12 rows of the spine"),
        (
            "s.decision_time < r.known_until\n",
            "s.decision_time < r.known_until WHERE EXISTS (FROM arrivals)",
            "found 0 rows, for 0 of the 12 rows of the spine",
        ),
    ],
)
def test_validate_names_an_empty_feature_and_a_join_that_loses_rows(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, found: str
) -> None:
    """With --data the command reports features without values, and rows that aren't the spine's.

    Also of the first partition, before which nothing arrived.
    """
    monkeypatch.setenv("EVERGREEN_LAKE", lake.uri.removesuffix("/parcels"))
    use = parcels.spec(tmp_path, BY_HAND.replace(right, wrong))
    result = CliRunner().invoke(app, ["validate", str(use.folder), "--data"])
    assert result.exit_code == 1
    assert found in result.stdout


@pytest.mark.full
def test_validate_accepts_an_empty_feature_before_the_lookback_is_ingested(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feature of seven partitions back has no value in the third one, which isn't the SQL's fault.

    The one that stands in for it never has a value, at which generated rows hint.
    """
    monkeypatch.setenv("EVERGREEN_LAKE", lake.uri.removesuffix("/parcels"))
    lake.publish("partitions", lake.read("partitions").slice(0, 0), {"partition": PARTITIONS[6:]})
    use = parcels.spec(tmp_path, BY_HAND.replace("0 AS", "NULL AS"))
    result = CliRunner().invoke(app, ["validate", str(use.folder), "--data"])
    hint, valid = result.stdout.splitlines()
    assert hint.startswith("hint: parcels: features.sql on generated rows: expected a value of each feature")
    assert valid == "valid: parcels"


def test_validate_says_that_there_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty lake can't show a leak, so the check isn't passed."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "empty"))
    use = parcels.spec(tmp_path)
    result = CliRunner().invoke(app, ["validate", str(use.folder), "--data"])
    assert result.exit_code == 1
    assert "found none" in result.stdout
    assert f"run `{PYTHON} -m include run ingest parcels --partition" in result.stdout
