"""Files of a real S3 server and of a folder: not there yet, refused, unreachable, gone in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from demo.home import Home
from include.environment import Endpoint
from include.errors import SettingError, SpecError
from include.ingest.connectors import open_source
from include.ingest.connectors.request import request
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.snapshots import snapshots
from tests.usecases.weekly_sales import world

PARTITIONS = world.partitions(3)


@pytest.fixture
def bucket(s3: Home, shop: Path) -> Endpoint:
    """Return the way to a bucket with the shop's files below a prefix."""
    endpoint = Endpoint(
        "shop",
        "s3://landing/world",
        login=s3.secrets["s3_access_key"],
        password=s3.secrets["s3_secret_key"],
        extra={"endpoint_url": s3.url("s3"), "region_name": "us-east-1"},
    )
    client = boto3.client(
        "s3",
        endpoint_url=s3.url("s3"),
        region_name="us-east-1",
        aws_access_key_id=endpoint.login,
        aws_secret_access_key=endpoint.password,
    )
    for partition in PARTITIONS[:2]:
        client.upload_file(
            str(shop / "sales" / f"{partition}.csv"), "landing", f"world/sales/{partition}.csv"
        )
    return endpoint


def brought(lake: Lake, spec: UseCase, endpoint: Endpoint) -> list[Outcome]:
    """Ingest the three partitions."""
    return ingest(lake, spec, "sales", PARTITIONS, lambda name: endpoint)


def test_a_bucket_and_a_folder_are_the_same_source(
    bucket: Endpoint, lake: Lake, spec: UseCase, shop: Path, tmp_path: Path
) -> None:
    """The same files give the same partitions; one that isn't there yet is unavailable in both."""
    (shop / "sales" / f"{PARTITIONS[2]}.csv").unlink()
    from_folder = brought(Lake("weekly_sales", str(tmp_path / "b")), spec, Endpoint("shop", shop.as_uri()))
    from_bucket = brought(lake, spec, bucket)
    assert [o.outcome for o in from_bucket] == ["published", "published", "unavailable"]
    assert from_bucket == from_folder
    assert "nothing yet (sales/2024-01-15.csv)" in from_bucket[2].note


@pytest.mark.parametrize("address", ["s3", pytest.param("az", marks=pytest.mark.full)], indirect=True)
def test_a_lake_on_a_store_holds_the_same(bucket: Endpoint, lake: Lake, spec: UseCase, address: str) -> None:
    """The whole stage runs on S3 and Azure as on a folder, and a rerun leaves it alone."""
    stored = Lake("weekly_sales", address)
    assert brought(stored, spec, bucket) == brought(lake, spec, bucket)
    version = stored.version("partitions")
    brought(stored, spec, bucket)
    assert stored.version("partitions") == version


def test_wrong_keys_are_a_sentence_without_them(bucket: Endpoint, lake: Lake, spec: UseCase) -> None:
    """A secret that the store refuses makes the partitions unavailable at once, and is not in the note."""
    outcomes = brought(lake, spec, replace(bucket, password="wr0ng-secret"))
    assert {o.outcome for o in outcomes} == {"unavailable"}
    assert "HTTP 403" in outcomes[0].note
    assert "1 times" not in outcomes[0].note
    assert "wr0ng-secret" not in str(lake.rows("partitions"))


def test_nobody_at_the_address(bucket: Endpoint, lake: Lake, spec: UseCase) -> None:
    """A store that doesn't answer is tried as often as the spec says."""
    outcomes = brought(lake, spec, replace(bucket, extra={"endpoint_url": "http://127.0.0.1:9"}))
    assert "EndpointConnectionError from the object store, 2 times" in outcomes[0].note


def test_a_path_has_the_day_and_the_partition_and_nothing_else(
    shop: Path, declare: Callable[..., UseCase]
) -> None:
    """Another placeholder is the spec's fault, and no path leads out of the connection's folder."""

    def read(path: str) -> Any:
        spec = declare(lambda raw: raw["sources"]["sales"].update(path=path, offset=7))
        fetch = open_source(spec.sources["sales"], Endpoint("shop", shop.as_uri()))
        return list(fetch(request(spec, "sales", PARTITIONS[0])))

    assert read("sales/{day}.csv")[0][0] == f"sales/{PARTITIONS[1]}.csv"
    assert read("sales/{partition}.csv")[0][0] == f"sales/{PARTITIONS[0]}.csv"
    with pytest.raises(SpecError, match=r"expected only \{day\}, .*\{partition\}, but found sales/\{now\}"):
        read("sales/{now}.csv")
    with pytest.raises(Exception, match="outside of the connection's folder"):
        read("../usecases/weekly_sales/usecase.yaml")


def test_an_address_that_is_neither_bucket_nor_folder(spec: UseCase) -> None:
    """It is said of the connection, before any partition is blamed."""
    with pytest.raises(SettingError, match=r"connection shop: expected host s3://bucket.*found ftp"):
        open_source(spec.sources["sales"], Endpoint("shop", "ftp://host/files"))


def test_parquet_and_json_give_the_same_rows(
    lake: Lake, declare: Callable[..., UseCase], shop: Path, tmp_path: Path
) -> None:
    """The three formats of an object are one table."""
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.csv.read_csv(shop / "sales" / f"{PARTITIONS[0]}.csv")
    pyarrow.parquet.write_table(table, shop / "sales" / f"{PARTITIONS[0]}.parquet")
    (shop / "sales" / f"{PARTITIONS[0]}.json").write_text(
        table.to_pandas().to_json(orient="records", date_format="iso")
    )
    (shop / "sales" / f"{PARTITIONS[0]}.lines").write_text(
        table.to_pandas().to_json(orient="records", lines=True, date_format="iso")
    )
    digests = set()
    for suffix, kind in (("csv", "csv"), ("parquet", "parquet"), ("json", "json"), ("lines", "json")):
        where = {"path": "sales/{day}." + suffix, "format": kind}
        spec = declare(lambda raw, where=where: raw["sources"]["sales"].update(where))
        other = Lake("weekly_sales", str(tmp_path / suffix))
        (outcome,) = ingest(
            other, spec, "sales", PARTITIONS[:1], lambda name: Endpoint("shop", shop.as_uri())
        )
        assert outcome.outcome == "published", outcome.note
        digests.add(outcome.digest)
    assert len(digests) == 1


def in_parts(shop: Path, partition: str, names: list[str]) -> None:
    """Replace a partition's file by several in a folder, each with the header and its share of the lines."""
    file = shop / "sales" / f"{partition}.csv"
    header, *lines = file.read_text().splitlines()
    file.unlink()
    (shop / "sales" / partition).mkdir()
    for place, name in enumerate(names):
        text = "\n".join([header, *lines[place :: len(names)]]) + "\n"
        (shop / "sales" / partition / name).write_text(text)


def test_a_partition_of_several_files_is_their_rows_in_the_order_of_their_names(
    bucket: Endpoint, lake: Lake, declare: Callable[..., UseCase], shop: Path, tmp_path: Path
) -> None:
    """A bucket and a folder give the rows of a single file, and the snapshot lists each file as a part."""
    whole = brought(Lake("weekly_sales", str(tmp_path / "w")), declare(), Endpoint("shop", shop.as_uri()))
    in_parts(shop, PARTITIONS[0], ["part-2.csv", "part-10.csv", "b.csv"])
    (shop / "sales" / PARTITIONS[0] / ".part-3.csv").write_text("still being written")
    (shop / "sales" / PARTITIONS[0] / "_SUCCESS").write_text("")
    spec = declare(lambda raw: raw["sources"]["sales"].update(path="sales/{day}/*.csv"))
    (outcome, *others) = brought(lake, spec, Endpoint("shop", shop.as_uri()))
    assert (outcome.outcome, outcome.rows, outcome.digest) == ("published", 40, whole[0].digest)
    assert [one.outcome for one in others] == ["unavailable", "unavailable"]
    assert "nothing yet (sales/2024-01-08/*.csv)" in others[0].note
    (snapshot,) = snapshots(lake, "sales", PARTITIONS[:1])[PARTITIONS[0]]
    files = [f"sales/{PARTITIONS[0]}/{name}" for name in ("b.csv", "part-10.csv", "part-2.csv")]
    assert [part.name for part in snapshot.parts] == files
    client = boto3.client(
        "s3",
        endpoint_url=bucket.extra["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=bucket.login,
        aws_secret_access_key=bucket.password,
    )
    for file in (shop / "sales" / PARTITIONS[0]).iterdir():
        client.upload_file(str(file), "landing", f"world/sales/{PARTITIONS[0]}/{file.name}")
    assert brought(Lake("weekly_sales", str(tmp_path / "b")), spec, bucket) == [outcome, *others]


def test_files_have_limits_together(lake: Lake, declare: Callable[..., UseCase], shop: Path) -> None:
    """More files than fetch.max_pages, or more bytes than fetch.max_bytes together, refuse the partition."""
    in_parts(shop, PARTITIONS[0], ["a.csv", "b.csv", "c.csv"])
    folder = Endpoint("shop", shop.as_uri())

    def refused(**fetch: int) -> str:
        def edit(raw: dict[str, Any]) -> None:
            raw["sources"]["sales"].update(path="sales/{day}/*.csv")
            raw["sources"]["sales"]["fetch"].update(fetch)

        (outcome,) = ingest(lake, declare(edit), "sales", PARTITIONS[:1], lambda name: folder)
        assert outcome.outcome == "refused"
        return outcome.note

    assert "expected at most 2 files, but found more (sales/2024-01-01/*.csv)" in refused(max_pages=2)
    assert "found more (sales/2024-01-01/*.csv, 2 files together)" in refused(max_bytes=1000)


@pytest.mark.full
def test_a_pattern_leads_out_of_no_folder_and_matches_one_level(
    declare: Callable[..., UseCase], shop: Path
) -> None:
    """A star stands for a part of one name, also before the day."""
    (shop / "sales" / "shop-1").mkdir()
    (shop / "sales" / "shop-1" / f"{PARTITIONS[0]}.csv").write_text("x")

    def read(path: str) -> list[str]:
        spec = declare(lambda raw: raw["sources"]["sales"].update(path=path))
        fetch = open_source(spec.sources["sales"], Endpoint("shop", shop.as_uri()))
        return [name for name, _ in fetch(request(spec, "sales", PARTITIONS[0]))]

    assert read("*/{day}.csv") == [f"sales/{PARTITIONS[0]}.csv"]
    assert read("sales/*/{day}.csv") == [f"sales/shop-1/{PARTITIONS[0]}.csv"]
    assert read("sales/{day}*csv") == [f"sales/{PARTITIONS[0]}.csv"]
    with pytest.raises(Exception, match="outside of the connection's folder"):
        read("../*.db")
