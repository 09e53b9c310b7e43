"""A champion that its baseline beats for the declared time is demoted once; a person can bring it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from include.monitor.performance import publish_performance
from include.monitor.state import State
from include.promote import ledger
from include.promote.rollback import rollback
from include.rollout.pipeline import advance
from include.spec.gate import Rollout
from include.spec.stages import Monitoring
from tests.deployments import newest_by_role
from tests.kept import lay
from tests.rollout.conftest import Depot

# it needs more partitions than the champion is given, so that the champion goes first
SHADOWED = Rollout(kind="shadow", partitions=60, look_every=2, patience=80, alpha=0.2)


@pytest.fixture
def bad(depot: Callable[..., Depot]) -> Depot:
    """A depot whose first champion learnt the rule upside down, with a baseline that knows nothing."""
    return _bad(depot(kind="immediate"))


def _bad(made: Depot) -> Depot:
    made.spec = made.spec.model_copy(update={"monitoring": Monitoring(patience=6, false_alarms_per_year=0.9)})
    if not made.switches():
        made.promote("wrong", "2024-03-05")
    return made


@pytest.fixture
def gone(depot: Callable[..., Depot], tmp_path: Path) -> Depot:
    """The same after the partitions in which it was demoted."""

    def make(folder: Path) -> None:
        partitions(_bad(Depot(folder, kind="immediate")), "2024-03-06", "2024-03-15")

    lay("gone", tmp_path, make)
    return _bad(depot(kind="immediate"))


def partitions(made: Depot, first: str, last: str) -> list[str]:
    """Score, realise and advance each partition, and return the sentences."""
    said = []
    for partition in made.spec.clock.keys(first, last):
        said.append(made.partition(partition))
        publish_performance(made.lake, made.spec, State(made.lake, made.spec, partition))
    return said


def test_a_champion_below_its_baseline_is_demoted(bad: Depot) -> None:
    """Not before the declared partitions have matured, by one switch.

    Then the baseline serves and says why.
    """
    said = partitions(bad, "2024-03-06", "2024-03-18")
    (place,) = [i for i, note in enumerate(said) if "is demoted" in note]
    assert place >= 6 + bad.spec.labels.delay
    assert "log_loss a row against baseline vwrong" in said[place]
    assert bad.switches() == [("champion", "promoted", "wrong"), ("champion", "demoted", "wrong")]
    live = newest_by_role(bad.lake)["champion"]
    assert live["by"] == "evergreen"
    served = bad.served()
    last = bad.spec.clock.shift(live["effective"], -1)
    assert (served[last], served[live["effective"]]) == ({"champion wrong": 12}, {"baseline wrong": 12})
    row = bad.lake.rows("predictions", {"partition": live["effective"]})[0]
    assert f"champion: vwrong was demoted from {live['effective']} on" in row["reason"]


def test_a_backfilled_partition_demotes_nobody(bad: Depot) -> None:
    """Old partitions that are run again change nothing; the newest one acts once, and again is as once."""
    for partition in bad.spec.clock.keys("2024-03-06", "2024-03-15"):
        bad.partition(partition)
    publish_performance(bad.lake, bad.spec, State(bad.lake, bad.spec, "2024-03-15"))
    assert "only the newest served partition" in advance(bad.lake, bad.spec, "2024-03-14").note
    assert len(bad.switches()) == 1
    assert "is demoted" in advance(bad.lake, bad.spec, "2024-03-15").note
    advance(bad.lake, bad.spec, "2024-03-15")
    assert [kind for _, kind, _ in bad.switches()] == ["promoted", "demoted"]


def test_a_person_or_a_promotion_ends_it(gone: Depot) -> None:
    """A rollback to the version brings it back; a promotion replaces it, and nothing goes back by itself."""
    assert gone.switches()[-1][1] == "demoted"
    rollback(gone.lake, gone.spec, "wrong", "ada", "the labels were wrong")
    assert gone.switches()[-1] == ("champion", "rolled back", "wrong")
    partitions(gone, "2024-03-16", "2024-03-16")
    assert gone.served()["2024-03-16"] == {"champion wrong": 12}
    partitions(gone, "2024-03-17", "2024-03-26")
    assert gone.switches()[-1] == ("champion", "demoted", "wrong")
    gone.promote("knows", "2024-03-26")
    said = partitions(gone, "2024-03-27", "2024-04-04")
    assert gone.served()["2024-03-27"] == {"champion knows": 12}
    assert set(said) == {"nothing is on trial"}


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_a_blessed_successor_serves_at_once(gone: Depot, kind: str) -> None:
    """Without an incumbent there is no trial to pass, whatever the rollout declares."""
    rollout = gone.spec.gate.rollout.model_copy(update={"kind": kind})
    gone.spec = gone.spec.model_copy(update={"gate": gone.spec.gate.model_copy(update={"rollout": rollout})})
    gone.promote("knows", "2024-03-15")
    assert gone.switches()[-1] == ("champion", "promoted", "knows")
    gone.partition("2024-03-16")
    assert gone.served()["2024-03-16"] == {"champion knows": 12}


def test_who_is_brought_back_has_its_own_baseline_again(gone: Depot) -> None:
    """A person goes from a later champion back to a demoted one, and gets its baseline too."""
    assert newest_by_role(gone.lake)["baseline"]["kind"] == "demoted"
    gone.promote("knows", "2024-03-15")
    assert newest_by_role(gone.lake)["baseline"]["version"] == "knows"
    rollback(gone.lake, gone.spec, "wrong", "ada", "the labels were wrong")
    assert {role: row["version"] for role, row in newest_by_role(gone.lake).items()} == {
        "champion": "wrong",
        "baseline": "wrong",
    }


def test_a_better_champion_stays(depot: Callable[..., Depot]) -> None:
    """One that beats its baseline is left alone."""
    made = depot(kind="immediate")
    made.spec = made.spec.model_copy(update={"monitoring": Monitoring(patience=6, false_alarms_per_year=0.9)})
    made.promote("knows", "2024-03-05")
    assert set(partitions(made, "2024-03-06", "2024-03-18")) == {"nothing is on trial"}


def test_who_was_to_replace_it_is_withdrawn_with_it(bad: Depot) -> None:
    """The challenger on trial against the demoted champion is withdrawn in the same switch."""
    bad.spec = bad.spec.model_copy(update={"gate": bad.spec.gate.model_copy(update={"rollout": SHADOWED})})
    partitions(bad, "2024-03-06", "2024-03-09")
    bad.promote("forgot", "2024-03-09")
    partitions(bad, "2024-03-10", "2024-03-16")
    kinds = bad.switches()
    assert ("challenger", "shadow", "forgot") in kinds
    assert kinds[-2:] == [("challenger", "withdrawn", "forgot"), ("champion", "demoted", "wrong")]
    numbers = [row["switch"] for row in ledger.switches(bad.lake)]
    assert numbers[-1] == numbers[-2]
    rollback(bad.lake, bad.spec, "wrong", "ada", "the labels were wrong")
    assert bad.switches()[len(kinds) :] == [("champion", "rolled back", "wrong")]
