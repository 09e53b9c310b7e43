"""A circuit opens, fails fast, admits one probe among all processes, and closes on its success."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.environment import Endpoint
from include.errors import CircuitOpen
from include.ingest.breaker import Breaker, CircuitState
from include.ingest.pipeline import ingest
from include.spec import UseCase
from include.spec.source import Fetch
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world
from tests.warm import stand_in

ROOT = Path(__file__).parents[2]
START = datetime(2024, 1, 1, 6, tzinfo=UTC)
FETCH = Fetch(failures=3, cooldown=60)


class Wall:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        """Return the time."""
        return self.time

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def wall() -> Wall:
    """Return a clock at the start."""
    return Wall()


@pytest.fixture
def breaker(lake: Lake, wall: Wall) -> Breaker:
    """Return a circuit that three failures open for a minute."""
    return Breaker(lake, "sales", FETCH, wall)


def opened(breaker: Breaker) -> Breaker:
    """Return it open."""
    for _ in range(3):
        breaker.admit("a partition")
        breaker.record_failure()
    return breaker


def test_enough_failures_in_a_row_open_it(breaker: Breaker) -> None:
    """The third failure opens it; a success in between starts the count again."""
    breaker.record_failure()
    breaker.record_failure()
    breaker.record_success()
    assert breaker.state() == CircuitState()
    opened(breaker)
    with pytest.raises(CircuitOpen, match=r"a partition: .* 3 failures in a row.*06:01:00 UTC"):
        breaker.admit("a partition")


def test_one_probe_after_the_cooldown(breaker: Breaker, wall: Wall) -> None:
    """After the cool-down one caller asks; others fail fast until its success closes the circuit."""
    opened(breaker)
    wall.passes(59)
    with pytest.raises(CircuitOpen):
        breaker.admit("too early")
    wall.passes(2)
    breaker.admit("the probe")
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            breaker.admit("a second probe")
    breaker.record_success()
    breaker.admit("everybody")


def test_a_failed_probe_opens_it_for_another_cooldown(breaker: Breaker, wall: Wall) -> None:
    """The probe's failure is one more: nobody asks for another minute, then again one probe does."""
    opened(breaker)
    wall.passes(61)
    breaker.admit("the probe")
    breaker.record_failure()
    wall.passes(59)
    with pytest.raises(CircuitOpen):
        breaker.admit("too early")
    wall.passes(2)
    breaker.admit("the next probe")


def test_a_prober_who_was_killed_keeps_nobody_out(breaker: Breaker, wall: Wall) -> None:
    """A probe that never answers costs one cool-down, then another may ask."""
    opened(breaker)
    wall.passes(61)
    breaker.admit("a probe that dies")
    wall.passes(60)
    breaker.admit("the next probe")


def test_a_closed_circuit_leaves_no_probes(lake: Lake, breaker: Breaker, wall: Wall) -> None:
    """An outage of a month would leave thousands of objects."""
    opened(breaker)
    for _ in range(3):
        wall.passes(61)
        breaker.admit("a probe")
        breaker.record_failure()
    breaker.record_success()
    assert lake.keys("state/breaker") == ["state/breaker/sales.json"]


PROBE = """
import sys
from datetime import datetime
from include.errors import CircuitOpen
from include.ingest.breaker import Breaker
from include.storage.lake import Lake
from include.spec.source import Fetch

breaker = Breaker(Lake("weekly_sales", sys.argv[1]), "sales", Fetch(failures=3, cooldown=60),
                  lambda: datetime.fromisoformat(sys.argv[2]))
try:
    breaker.admit("a partition")
except CircuitOpen:
    sys.exit(3)
"""


def test_exactly_one_process_probes(breaker: Breaker) -> None:
    """Three processes ask at once after the cool-down, and one of them is admitted."""
    opened(breaker)
    uri = breaker.lake.uri.removesuffix("/weekly_sales")
    later = (START + timedelta(seconds=61)).isoformat()
    processes = [subprocess.Popen([stand_in(), "-c", PROBE, uri, later], cwd=ROOT) for _ in range(3)]
    assert sorted(process.wait(60) for process in processes) == [0, 3, 3]


def test_a_source_that_is_down_is_left_alone_by_later_partitions(
    lake: Lake, spec: UseCase, tmp_path: Path
) -> None:
    """Failed partitions open the circuit, later ones say so at once.

    A success after the cool-down brings all.
    """
    shop = tmp_path / "shop"
    partitions = world.partitions(6)

    def connect(name: str) -> Endpoint:
        return Endpoint(name, shop.as_uri())

    outcomes = [ingest(lake, spec, "sales", [partition], connect)[0] for partition in partitions[:4]]
    assert {o.outcome for o in outcomes} == {"unavailable"}
    assert ["the next request is allowed at" in o.note for o in outcomes] == [False, False, False, True]
    with pytest.raises(CircuitOpen):
        outcomes[3].raise_for_outcome()
    world.write(shop, 6)
    assert ingest(lake, spec, "sales", partitions[4:5], connect)[0].outcome == "unavailable"
    state = Breaker(lake, "sales", spec.sources["sales"].fetch).state()
    past = datetime.fromisoformat(state.opened) - timedelta(seconds=61)
    Breaker(lake, "sales", spec.sources["sales"].fetch)._store(CircuitState(state.failures, past.isoformat()))
    assert {o.outcome for o in ingest(lake, spec, "sales", partitions, connect)} == {"published"}


def test_nothing_yet_is_no_failure(lake: Lake, spec: UseCase, tmp_path: Path) -> None:
    """A source that answers that it has nothing yet is asked for as many partitions as it takes."""
    (tmp_path / "shop").mkdir()
    endpoint = Endpoint("shop", (tmp_path / "shop").as_uri())
    outcomes = ingest(lake, spec, "sales", world.partitions(6), lambda name: endpoint)
    assert all("nothing yet" in o.note for o in outcomes)
    assert Breaker(lake, "sales", FETCH).state() == CircuitState()
