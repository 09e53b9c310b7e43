"""Great Expectations' Data Docs of a partition: what its rows break, on a page that asks for nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.cli import stages
from include.spec.load import read
from include.storage.lake import Lake
from tests.faults import clocks
from tests.plugins import year
from tests.usecases.weekly_sales import world

MARKUP = "<script>alert(1)</script>"
PAGE = "/reports/weekly_sales/data_docs/sales/{}.html"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose second week has one store with markup for its name, which breaks an expectation."""
    folder = tmp_path_factory.mktemp("shop")
    _, second = world.write(folder, 2)
    file = folder / "sales" / f"{second}.csv"
    file.write_text(file.read_text().replace(",s01,bread,", f",{MARKUP},bread,", 1))
    shutil.copytree(Path(world.__file__).parent, folder / "usecases" / "weekly_sales")
    return folder


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[year.Client]:
    """A client of the pages, after both weeks were ingested."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", world.connection(folder))
    monkeypatch.setenv("EVERGREEN_LAKE", str(folder / "lake"))
    monkeypatch.setenv("EVERGREEN_USECASES", str(folder / "usecases"))
    spec = read(folder / "usecases" / "weekly_sales" / "usecase.yaml")
    stages.run_stage("ingest", Lake("weekly_sales"), spec, world.partitions(2), now=clocks.NOW)
    with year.client() as client:
        yield client


def test_data_docs_show_what_rows_break_also_the_quarantined_ones(client: year.Client) -> None:
    """The good week succeeds; of the other, the quarantined row's value is the one that is unexpected."""
    good, bad = (client.get(PAGE.format(key)) for key in world.partitions(2))
    assert (good.status_code, bad.status_code) == (200, 200)
    assert "Succeeded" in good.text
    assert "Failed" not in good.text
    assert "values must match this regular expression" in bad.text
    assert "1 unexpected values found. 2.5% of 40 total rows." in bad.text


def test_data_docs_need_nothing_from_elsewhere_and_run_nothing(client: year.Client) -> None:
    """Neither a script, nor an address, nor the markup in the data; and the sandbox would stop them."""
    answer = client.get(PAGE.format(world.partitions(2)[1]))
    assert "&lt;script&gt;alert(1)" in answer.text
    for part in ("<script", "<link", "<img", "http://", "https://", 'href="..'):
        assert part not in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("sandbox ")


def test_a_partitions_page_leads_to_its_data_docs(client: year.Client) -> None:
    """The link is beside the source, and opens them in the frame of the other reports."""
    first = world.partitions(2)[0]
    place = f"/report/weekly_sales/data_docs/sales/{first}.html"
    assert f'href="{place}"' in client.get(f"/partition/weekly_sales/{first}").text
    frame = client.get(place).text
    assert f"Data Docs of sales, partition {first}" in frame
    assert f"/reports/weekly_sales/data_docs/sales/{first}.html" in frame


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("sales/2024-01-15", "expected a partition that was fetched, but found none"),
        ("trains/2024-01-01", "expected one of sales, but found trains"),
    ],
)
def test_what_was_not_fetched_or_declared_has_none(client: year.Client, place: str, sentence: str) -> None:
    """The sentence says what is missing."""
    answer = client.get(f"/reports/weekly_sales/data_docs/{place}.html")
    assert answer.status_code == 404
    assert sentence in answer.text
