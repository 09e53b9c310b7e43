"""What a request may contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from include.ingest.parsing.types import clean_column
from include.serve.rows import MAX_ROWS, RequestRefused, RowReader
from include.spec import UseCase
from tests.features import parcels
from tests.serve.conftest import FEATURES, ROW


def read(spec: UseCase, *rows: Any) -> Any:
    """Read rows as a request has them."""
    return RowReader(spec).read(json.dumps({"rows": rows}).encode())


def test_features_with_and_without_their_key(use: UseCase) -> None:
    """A row has all features, in the types of the declaration; the key is optional, and enough by itself."""
    with_key, without = read(use, ROW), read(use, FEATURES)
    assert (with_key.has_keys, without.has_keys, read(use, {"depot": "north", "parcel": 3}).only_keys) == (
        True,
        False,
        True,
    )
    assert with_key.table.to_pylist() == [{**ROW, "express": 1.0, "known_arrivals": 20.0}]
    assert {str(without.table.schema.field(name).type) for name in use.features.numeric} == {"double"}


def test_a_feature_may_be_missing_by_null_alone(use: UseCase) -> None:
    """Null is a missing value; of a key it is none."""
    (row,) = read(use, {**FEATURES, "weight": None, "road": None}).table.to_pylist()
    assert (row["weight"], row["road"]) == (None, None)
    with pytest.raises(RequestRefused, match=r"rows\[0\].parcel: expected an integer, but found null"):
        read(use, {**ROW, "parcel": None})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight": "9.5"}, r'rows\[0\].weight: expected a finite number, or null, but found "9.5"'),
        ({"weight": True}, r"rows\[0\].weight: expected a finite number, or null, but found true"),
        ({"weight": 10**400}, r"rows\[0\].weight: expected a finite number, or null, but found 1000+…"),
        ({"road": 7}, r"rows\[0\].road: expected a text other than <missing>, or null, but found 7"),
        ({"road": "<missing>"}, r'rows\[0\].road: .*, or null, but found "<missing>"'),
        ({"road": "\ud800"}, r'rows\[0\].road: .*, or null, but found "\\ud800"'),
        ({"parcel": 1.5}, r"rows\[0\].parcel: expected an integer, but found 1.5"),
        ({"parcel": 2**63}, r"rows\[0\].parcel: expected an integer, but found 9223372036854775808"),
        ({"wieght": 1}, r'rows\[0\]: expected only the columns depot, parcel, .*, but found \["wieght"\]'),
    ],
)
def test_another_value_is_refused_by_its_column(use: UseCase, changes: Any, sentence: str) -> None:
    """The error has status 422 and names the row, the column, what it takes, and what came."""
    with pytest.raises(RequestRefused, match=sentence) as refused:
        read(use, {**ROW, **changes})
    assert refused.value.status == 422


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2013-03-01T05:00"]
)
def test_a_key_that_is_no_time_in_utc_is_refused(tmp_path: Path, time: str) -> None:
    """One without an offset, and one that its offset moves out of the calendar."""
    sources = yaml.safe_load(parcels.SPEC)["sources"]
    for name in ("orders", "arrivals"):
        sources[name]["columns"]["parcel"]["type"] = "timestamp"
    use = parcels.spec(tmp_path, sources=sources)
    assert read(use, {"depot": "north", "parcel": "2013-03-01T05:00:00+01:00"}).only_keys
    with pytest.raises(RequestRefused, match=r"rows\[0\].parcel: expected a time with its offset") as refused:
        read(use, {"depot": "north", "parcel": time})
    assert refused.value.status == 422


def test_a_hashed_key_is_sent_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its original value is refused, unrepeated: no row would have it, and the log would."""
    monkeypatch.setenv("EVERGREEN_HASH_KEY", "secret")
    sources = yaml.safe_load(parcels.SPEC)["sources"]
    for name in ("orders", "arrivals"):
        sources[name]["columns"]["parcel"]["hashed"] = True
    use = parcels.spec(tmp_path, sources=sources)
    (stored,) = clean_column(
        pa.chunked_array([["4711"]]), use.sources["orders"].columns["parcel"]
    ).to_pylist()
    assert read(use, {**ROW, "parcel": stored}).table["parcel"].to_pylist() == [stored]
    for row in ({**ROW, "parcel": "4711"}, {"depot": "north", "parcel": 4711}):
        with pytest.raises(RequestRefused, match=r"rows\[0\].parcel: expected its keyed hash") as refused:
            read(use, row)
        assert refused.value.status == 422
        assert "4711" not in str(refused.value)


def test_a_key_that_comes_twice_is_refused(use: UseCase) -> None:
    """Nothing says which of its values is meant, and each gives another prediction."""
    body = json.dumps({"rows": [ROW]}).replace('"weight": 9.5', '"weight": 9.5, "weight": 900').encode()
    with pytest.raises(RequestRefused, match='but found the key "weight" twice in an object') as refused:
        RowReader(use).read(body)
    assert refused.value.status == 400


def test_the_row_that_lacks_a_column_is_named(use: UseCase) -> None:
    """Of several rows, the one that differs; a renamed column is shown beside the missing one."""
    other = {name: value for name, value in ROW.items() if name != "ice"}
    with pytest.raises(
        RequestRefused, match=r"rows\[1\].ice: expected .*, but found no such column; send it; null"
    ):
        read(use, ROW, other)
    with pytest.raises(RequestRefused, match=r'rows\[0\].ice: .*, but found no such column, but \["Ice"\]'):
        read(use, {**other, "Ice": 1.0})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"rows": [{"weight": NaN}]}', 400),
        (b"[]", 422),
        (b'{"rows": []}', 422),
        (b'{"rows": [1]}', 422),
        (b'{"rows": [{}]}', 422),
        (b'{"rows": [{}], "more": 1}', 422),
    ],
)
def test_another_body_is_refused(use: UseCase, body: bytes, status: int) -> None:
    """What isn't JSON has status 400, and JSON of another form 422."""
    with pytest.raises(RequestRefused) as refused:
        RowReader(use).read(body)
    assert refused.value.status == status


def test_a_body_of_any_depth_is_refused(use: UseCase) -> None:
    """One that the parser just takes is too deep to be repeated in the error."""
    for depth in range(900, 1010):
        with pytest.raises(RequestRefused):
            RowReader(use).read(b"[" * depth + b"]" * depth)


def test_rows_are_limited(use: UseCase) -> None:
    """One row more than the limit is refused with status 413."""
    assert read(use, *[ROW] * MAX_ROWS).table.num_rows == MAX_ROWS
    with pytest.raises(RequestRefused, match=f"rows: expected at most {MAX_ROWS}, but found 1001") as refused:
        read(use, *[ROW] * (MAX_ROWS + 1))
    assert refused.value.status == 413
