"""A query's result: bound parameters, canonical bytes, and tables that vanish."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from include.environment import Endpoint
from include.errors import SettingError, SpecError
from include.ingest.connectors import open_source, sql
from include.ingest.connectors.request import request
from include.ingest.parsing.parse import parse
from include.ingest.pipeline import ingest
from include.spec import UseCase
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world

PARTITION = "2024-01-08"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return a database with two weeks of sales."""
    connection = sqlite3.connect(tmp_path / "sales.sqlite")
    connection.execute(f"CREATE TABLE sales ({world.HEADER})")
    for number in (0, 1):
        rows = [line.split(",") for line in world.week(number)]
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    yield connection
    connection.close()


def endpoint(tmp_path: Path) -> Endpoint:
    """Return the way to it."""
    return Endpoint("shop", f"sqlite:///{tmp_path / 'sales.sqlite'}")


@pytest.fixture
def queried(declare: Callable[..., UseCase]) -> Callable[[str], UseCase]:
    """Return weekly_sales with a query for its source."""

    def made(query: str) -> UseCase:
        def sql(raw: dict[str, Any]) -> None:
            sales = raw["sources"]["sales"]
            sales.update(kind="sql", query=query)
            del sales["path"]

        return declare(sql)

    return made


def result(spec: UseCase, tmp_path: Path, partition: str = PARTITION) -> bytes:
    """Return the bytes of a partition's result."""
    ((_, data),) = open_source(spec.sources["sales"], endpoint(tmp_path))(request(spec, "sales", partition))
    return data


def test_the_day_is_bound(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], lake: Lake, tmp_path: Path
) -> None:
    """Each partition's query gets its own day, as a value and not as text in the query."""
    spec = queried("SELECT * FROM sales WHERE week = :day")
    outcomes = ingest(lake, spec, "sales", world.partitions(3), lambda name: endpoint(tmp_path))
    assert [(o.outcome, o.rows) for o in outcomes[:2]] == [("published", 40), ("published", 40)]
    assert outcomes[2].outcome == "unavailable"


@pytest.mark.parametrize(
    ("sparse", "min_rows", "outcome", "later"),
    [(False, 10, "unavailable", 40), (True, 10, "published", 40), (False, 0, "published", 0)],
)
def test_a_result_without_rows_may_be_early(
    database: sqlite3.Connection,
    queried: Callable[[str], UseCase],
    declare: Callable[..., UseCase],
    lake: Lake,
    tmp_path: Path,
    sparse: bool,
    min_rows: int,
    outcome: str,
    later: int,
) -> None:
    """It isn't kept, so rows that come later are taken; unless the contract says that there may be none."""
    query = queried("SELECT * FROM sales WHERE week = :day").sources["sales"].query

    def change(raw: dict[str, Any]) -> None:
        sales = raw["sources"]["sales"]
        sales.update(kind="sql", query=query, sparse=sparse)
        sales["contract"]["min_rows"] = min_rows
        del sales["path"]

    spec, connect = declare(change), lambda name: endpoint(tmp_path)
    database.execute("ALTER TABLE sales RENAME TO late")
    database.execute("CREATE TABLE sales AS SELECT * FROM late WHERE false")
    (early,) = ingest(lake, spec, "sales", [PARTITION], connect)
    assert (early.outcome, early.rows) == (outcome, 0), early.note
    database.execute("INSERT INTO sales SELECT * FROM late")
    database.commit()
    (again,) = ingest(lake, spec, "sales", [PARTITION], connect)
    assert (again.outcome, again.rows) == ("published", later)


def test_all_parameters_can_be_used_or_none(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], tmp_path: Path
) -> None:
    """Only the parameters that the query uses are bound; a time is text that a database can compare."""
    spec = queried("SELECT :partition AS partition, :known_at AS known, :day AS day")
    assert result(spec, tmp_path) == (
        b'"partition","known","day"\n"2024-01-08","2024-01-08 05:00:00+00:00","2024-01-08"\n'
    )
    assert result(queried("SELECT count(*) AS n FROM sales"), tmp_path) == b'"n"\n"80"\n'


def test_equal_rows_are_equal_bytes(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], tmp_path: Path
) -> None:
    """The order in which the database gives rows makes no difference to the snapshot."""
    forth = result(queried("SELECT * FROM sales ORDER BY units, item"), tmp_path)
    back = result(queried("SELECT * FROM sales ORDER BY item DESC, price_pence"), tmp_path)
    assert forth == back
    assert forth.count(b"\n") == 81


def test_null_is_not_an_empty_string(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], tmp_path: Path
) -> None:
    """The kept bytes tell NULL from an empty string, and reading them back does too."""
    spec = queried("SELECT NULL AS a, '' AS b, 1.5 AS c, x'00ff' AS d, 'q\"' AS e")
    data = result(spec, tmp_path)
    assert data == b'"a","b","c","d","e"\n,"","1.5","00ff","q"""\n'


def test_a_column_that_a_result_names_twice_is_refused(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], lake: Lake, tmp_path: Path
) -> None:
    """A join that gives one name to two columns is kept, and refused when it is read."""
    spec = queried("SELECT *, store FROM sales WHERE week = :day")
    (outcome,) = ingest(lake, spec, "sales", [PARTITION], lambda name: endpoint(tmp_path))
    assert outcome.outcome == "refused"
    assert "store more than once" in outcome.note


def test_a_table_that_vanished_makes_the_partition_unavailable(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], lake: Lake, tmp_path: Path
) -> None:
    """The database's own sentence is in the note, after the spec's attempts."""
    database.execute("DROP TABLE sales")
    spec = queried("SELECT * FROM sales WHERE week = :day")
    (outcome,) = ingest(lake, spec, "sales", [PARTITION], lambda name: endpoint(tmp_path))
    assert outcome.outcome == "unavailable"
    assert "no such table: sales, 2 times (the query)" in outcome.note


def test_a_result_that_is_too_large_is_refused(
    database: sqlite3.Connection, declare: Callable[..., UseCase], lake: Lake, tmp_path: Path
) -> None:
    """A query that returns more than max_bytes is refused, not read to its end."""

    def sql(raw: dict[str, Any]) -> None:
        sales = raw["sources"]["sales"]
        sales.update(kind="sql", query="SELECT a.* FROM sales a, sales b, sales c")
        sales["fetch"].update(max_bytes=100_000)
        del sales["path"]

    (outcome,) = ingest(lake, declare(sql), "sales", [PARTITION], lambda name: endpoint(tmp_path))
    assert outcome.outcome == "refused"
    assert "at most 100000 bytes" in outcome.note


def test_an_unknown_parameter_is_refused_before_anything_is_asked(
    queried: Callable[[str], UseCase], tmp_path: Path
) -> None:
    """A parameter that nobody binds is named, with those that there are."""
    with pytest.raises(SpecError, match=r":week: expected one of :day, :hour, .*:partition, :known_at"):
        result(queried("SELECT * FROM sales WHERE week = :week"), tmp_path)


def test_an_address_that_is_none_keeps_its_secret(queried: Callable[[str], UseCase]) -> None:
    """The error of a bad address doesn't repeat it."""
    spec = queried("SELECT 1")
    with pytest.raises(SettingError) as caught:
        open_source(spec.sources["sales"], Endpoint("shop", "nosuchdb://bob:hunter2@host/db"))
    assert "hunter2" not in str(caught.value)
    assert "connection shop" in str(caught.value)


def test_a_short_user_name_leaves_the_message_readable(queried: Callable[[str], UseCase]) -> None:
    """Of a driver's message the user's name is hidden, and not each letter that it has."""
    engine = SimpleNamespace(url=make_url("postgresql://a:secret-w0rd@host/x"))
    error = SQLAlchemyError()
    error.orig = Exception('password "secret-w0rd" of user "a" failed at start')
    assert sql._error_message(error, engine) == 'password "***" of user "***" failed at start'


def test_a_query_without_parameters_runs_once_for_all_partitions(
    database: sqlite3.Connection, queried: Callable[[str], UseCase], tmp_path: Path
) -> None:
    """A slowly changing table is read once for a range, so that all its partitions see one state of it."""
    spec = queried("SELECT * FROM sales")
    fetch = open_source(spec.sources["sales"], endpoint(tmp_path))
    ((_, first),) = fetch(request(spec, "sales", PARTITION))
    database.execute("DELETE FROM sales")
    database.commit()
    ((_, second),) = fetch(request(spec, "sales", "2024-01-15"))
    assert first == second
    assert sum(rows.num_rows for rows in parse(request(spec, "sales", PARTITION), "result.csv", first)) == 80
