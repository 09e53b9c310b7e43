"""An API that fails as APIs do: pages are retried, the token is nowhere, volatile fields change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from include.environment import Endpoint
from include.ingest.breaker import Breaker, CircuitState
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.snapshots import snapshots
from tests.ingest.conftest import Api

PARTITION = "2024-01-08"
TOKEN = "s3cr3t-t0ken"


def page(number: int, pages: int = 2, stamp: str = "06:00", **more: Any) -> dict[str, Any]:
    """Return a page of ten rows."""
    plan = {"week": PARTITION, "price_pence": 150, "promo": True, "opens": "0800", "units": 3, **more}
    rows = [{"store": f"s{number:02}", "item": f"i{row}", **plan} for row in range(10)]
    return {"generated_at": stamp, "pages": pages, "rows": rows}


@pytest.fixture
def served(declare: Callable[..., UseCase]) -> UseCase:
    """Return weekly_sales with its source behind an API."""

    def http(raw: dict[str, Any]) -> None:
        sales = raw["sources"]["sales"]
        sales.update(kind="http", path="/sales?week={day}", volatile=["generated_at"])

    return declare(http)


def one(lake: Lake, spec: UseCase, api: Api, **more: Any) -> Outcome:
    """Ingest the partition."""
    endpoint = Endpoint("shop", api.uri, password=TOKEN)
    (outcome,) = ingest(lake, spec, "sales", [PARTITION], lambda name: endpoint, **more)
    return outcome


def paths(*numbers: int) -> list[str]:
    """Return the paths of pages."""
    return [f"/sales?week={PARTITION}&page={number}" for number in numbers]


def test_all_pages_are_read_with_the_token(lake: Lake, served: UseCase, api: Api) -> None:
    """Pages are asked for in order, each with the bearer token, and kept as they came."""
    for number, path in enumerate(paths(1, 2), 1):
        api.plant(path, (200, page(number)))
    outcome = one(lake, served, api)
    assert (outcome.outcome, outcome.rows) == ("published", 20)
    assert api.asked == [(path, f"Bearer {TOKEN}") for path in paths(1, 2)]
    (kept,) = snapshots(lake, "sales", [PARTITION])[PARTITION]
    assert [part.name for part in kept.parts] == ["page-00001.json", "page-00002.json"]


def test_an_answer_without_rows_may_be_early(lake: Lake, served: UseCase, api: Api) -> None:
    """It isn't kept, so rows that come later are taken."""
    (first,) = paths(1)
    api.plant(first, (200, page(1, pages=1) | {"rows": []}), (200, page(1, pages=1)))
    assert one(lake, served, api).outcome == "unavailable"
    outcome = one(lake, served, api)
    assert (outcome.outcome, outcome.rows) == ("published", 10)


@pytest.mark.parametrize("answer", [{"rows": None}, []])
def test_no_rows_are_null_or_a_bare_list_as_well(
    lake: Lake, declare: Callable[..., UseCase], api: Api, answer: dict[str, None] | list[None]
) -> None:
    """A server in Go writes an empty list as null."""

    def http(raw: dict[str, Any]) -> None:
        raw["sources"]["sales"].update(kind="http", path="/sales?week={day}", pages=None)

    spec = declare(http)
    api.plant(f"/sales?week={PARTITION}", (200, answer), (200, page(1)))
    assert one(lake, spec, api).outcome == "unavailable"
    assert one(lake, spec, api).outcome == "published"


@pytest.mark.parametrize(
    "failure", [(500, b"oops"), (503, b""), (429, b"slow down"), (200, b'{"pages": 2, "rows": [{"sto')]
)
def test_a_page_that_fails_is_tried_again(
    failure: tuple[int, bytes], lake: Lake, served: UseCase, api: Api
) -> None:
    """One bad answer to one page costs one more request for that page."""
    first, second = paths(1, 2)
    api.plant(first, (200, page(1)))
    api.plant(second, failure, (200, page(2)))
    assert one(lake, served, api).rows == 20
    assert [path for path, _ in api.asked] == [first, second, second]


def test_a_page_that_keeps_failing_makes_the_partition_unavailable(
    lake: Lake, served: UseCase, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """After the spec's attempts nothing is kept, the sentence names the page, and the token is nowhere."""
    caplog.set_level(logging.DEBUG)
    first, second = paths(1, 2)
    api.plant(first, (200, page(1)))
    api.plant(second, (502, TOKEN.encode()))
    outcome = one(lake, served, api)
    assert outcome.outcome == "unavailable"
    assert f"weekly_sales/sales/{PARTITION}: expected an answer, but found HTTP 502, 2 times" in outcome.note
    assert f"/sales?week={PARTITION}, page 2" in outcome.note
    assert len(api.asked) == 3
    assert snapshots(lake, "sales", [PARTITION]) == {}
    assert TOKEN not in outcome.note + repr(outcome) + repr(outcome.error) + caplog.text
    assert TOKEN not in str(lake.rows("partitions"))
    assert Breaker(lake, "sales", served.sources["sales"].fetch).state() == CircuitState(failures=1)


@pytest.mark.parametrize(("status", "found"), [(401, "HTTP 401"), (403, "HTTP 403"), (404, "nothing yet")])
def test_an_answer_that_another_try_wont_change_is_taken_at_once(
    status: int, found: str, lake: Lake, served: UseCase, api: Api
) -> None:
    """Refused or not there: one request, and a sentence without the token."""
    api.plant(paths(1)[0], (status, b"{}"))
    outcome = one(lake, served, api)
    assert (outcome.outcome, found in outcome.note, TOKEN in outcome.note) == ("unavailable", True, False)
    assert len(api.asked) == 1
    failures = Breaker(lake, "sales", served.sources["sales"].fetch).state().failures
    assert failures == (0 if status == 404 else 1)


def test_nobody_at_the_address(lake: Lake, served: UseCase, api: Api) -> None:
    """A refused connection is unavailable, by its kind."""
    api.server_close()
    outcome = one(lake, served, api)
    assert outcome.outcome == "unavailable"
    assert "ConnectionError, 2 times" in outcome.note


def test_a_source_that_drips_is_cut_off(lake: Lake, declare: Callable[..., UseCase], api: Api) -> None:
    """The timeout is for the whole request, and an answer larger than max_bytes is refused."""

    def small(raw: dict[str, Any]) -> None:
        sales = raw["sources"]["sales"]
        sales.update(kind="http", path="/sales?week={day}")
        sales["fetch"].update(max_bytes=500)

    api.plant(paths(1)[0], (200, page(1)))
    outcome = one(lake, declare(small), api)
    assert outcome.outcome == "refused"
    assert "at most 500 bytes" in outcome.note


def test_volatile_fields_make_no_revision(lake: Lake, served: UseCase, api: Api) -> None:
    """An answer that differs only in its time stamp is the same snapshot; another price is not."""
    from datetime import UTC, datetime

    now = datetime(2024, 2, 1, tzinfo=UTC)
    api.plant(paths(1)[0], (200, page(1, pages=1)), (200, page(1, pages=1, stamp="07:00")))
    first = one(lake, served, api)
    assert one(lake, served, api, refetch=True, now=now) == first
    assert len(snapshots(lake, "sales", [PARTITION])[PARTITION]) == 1
    api.plant(paths(1)[0], (200, page(1, pages=1, price_pence=151)))
    assert one(lake, served, api, refetch=True, now=now).digest != first.digest
    assert len(snapshots(lake, "sales", [PARTITION])[PARTITION]) == 2


def test_what_is_no_page_is_refused(lake: Lake, served: UseCase, api: Api) -> None:
    """JSON without the fields that the spec names is refused with the remedy."""
    api.plant(paths(1)[0], (200, {"data": []}))
    outcome = one(lake, served, api)
    assert outcome.outcome == "refused"
    assert "the number of pages under 'pages'" in outcome.note
    api.plant(paths(1)[0], (200, {"pages": 1, "data": []}))
    outcome = one(lake, served, api)
    assert "a list of objects under 'rows'" in outcome.note
    assert "(`rows:`)" in outcome.note


def test_a_number_is_read_as_it_is_written(lake: Lake, served: UseCase, api: Api) -> None:
    """JSON's numbers, booleans and nulls become typed values without a detour through floats."""
    api.plant(paths(1)[0], (200, page(1, pages=1, price_pence=0.1, promo=False, opens=2400, units=None)))
    assert one(lake, served, api).outcome == "refused"  # a tenth of a penny is out of range
    assert {row["value"] for row in lake.rows("quarantine")} == {"0.1"}
    api.plant(paths(1)[0], (200, page(1, pages=1, promo=False, opens=2400, units=None)))
    one(lake, served, api, refetch=True)
    row = lake.rows("validated_sales")[0]
    assert (row["price"], row["promo"], row["opens"], row["units"]) == (1.5, False, 1440, None)
