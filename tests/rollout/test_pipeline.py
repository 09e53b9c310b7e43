"""Through shadow and canary to champion, and back by itself: each step on live labels and in the ledger."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from include.errors import SpecError
from include.promote import ledger, verdicts
from include.promote.promotion import promote
from include.promote.rollback import rollback
from include.rollout.pipeline import advance
from include.score.fallback import canary_entities
from include.score.pipeline import score
from include.storage import schemas
from tests.features import parcels
from tests.rollout.conftest import RolloutLake
from tests.switches import newest_by_role

Make = Callable[..., RolloutLake]


@pytest.mark.full
def test_immediate_serves_at_once_with_the_one_before_beside_it(depot: Make) -> None:
    """A blessed challenger serves from the next partition on; the champion it replaced scores in shadow."""
    made = depot(kind="immediate")
    made.promote("forgot", "2024-03-05")
    made.partitions("2024-03-06", "2024-03-07")
    made.promote("knows", "2024-03-07")
    made.partitions("2024-03-08", "2024-03-09")
    assert made.served()["2024-03-07"] == {"champion forgot": 12}
    assert made.served()["2024-03-08"] == {"champion knows": 12}
    shadows = made.lake.rows("shadows")
    assert {(r["partition"], r["version"], r["served_by"]) for r in shadows} == {
        ("2024-03-08", "forgot", "shadow"),
        ("2024-03-09", "forgot", "shadow"),
    }
    assert len(shadows) == 24


@pytest.mark.full
def test_a_wrong_promotion_is_rolled_back_by_itself(depot: Make) -> None:
    """A champion that loses more on live labels than the one before it goes, and the ledger says why."""
    made = depot(kind="immediate")
    made.promote("knows", "2024-03-05")
    made.partitions("2024-03-06", "2024-03-07")
    made.promote("wrong", "2024-03-07")
    notes = made.partitions("2024-03-08", "2024-03-11")
    assert "watch of vwrong after vknows since 2024-03-08: back, loses" in notes[-1]
    assert made.switches()[-1] == ("champion", "rolled back", "knows")
    live = newest_by_role(made.lake)["champion"]
    assert (live["by"], live["effective_from"]) == ("evergreen", "2024-03-12")
    assert "log_loss a row than the incumbent over 2 partitions" in live["reason"]
    assert made.partitions("2024-03-12", "2024-03-13") == ["nothing is on trial"] * 2
    assert made.served()["2024-03-12"] == {"champion knows": 12}


@pytest.mark.full
def test_a_good_champion_is_watched_and_stays(depot: Make) -> None:
    """A better one stays while it is watched; after the watch the one before isn't scored any more."""
    made = depot(kind="immediate", patience=6)
    made.promote_in_turn("forgot", "knows")
    notes = made.partitions("2024-03-07", "2024-03-18")
    assert "stay" in notes[5]
    assert notes[-1] == "nothing is on trial"
    assert max(row["partition"] for row in made.lake.rows("shadows")) == "2024-03-14"
    assert made.switches()[-1][-1] == "knows"


@pytest.mark.full
def test_from_shadow_over_canary_to_champion(depot: Make) -> None:
    """A better challenger serves nobody, then its share, then all.

    Each step waits for its matured partitions.
    """
    made = depot(kind="canary", share=0.4, entity=["depot", "parcel"])
    made.promote_in_turn("forgot", "knows")
    made.partitions("2024-03-07", "2024-03-25")
    assert made.switches() == [
        ("champion", "promoted", "forgot"),
        ("challenger", "shadow", "knows"),
        ("challenger", "canary", "knows"),
        ("champion", "promoted", "knows"),
    ]
    steps = {
        row["kind"] + row["role"]: row for row in ledger.switches(made.lake) if row["version"] == "knows"
    }
    canary, champion = (
        steps["canarychallenger"]["effective_from"],
        steps["promotedchampion"]["effective_from"],
    )
    assert canary >= "2024-03-12"
    assert len(made.spec.clock.keys(canary, champion)) - 1 >= 6
    assert (
        "shadow of vknows against vforgot since 2024-03-07: log_loss gain"
        in steps["canarychallenger"]["reason"]
    )
    served = made.served()
    assert set(served[made.spec.clock.shift(canary, -1)]) == {"champion forgot"}
    assert set(served[canary]) == {"champion forgot", "canary knows"}
    assert served[champion] == {"champion knows": 12}
    mine = [
        {
            (r["depot"], r["parcel"])
            for r in made.lake.rows("predictions", {"partition": partition})
            if r["served_by"] == "canary"
        }
        for partition in made.spec.clock.keys(canary, made.spec.clock.shift(champion, -1))
    ]
    assert mine[0]
    assert all(one == mine[0] for one in mine), "the canary's entities are the same every partition"


@pytest.mark.full
@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_a_worse_challenger_never_serves_alone(depot: Make, kind: str) -> None:
    """What loses more in shadow is withdrawn; the champion serves every row of every partition."""
    made = depot(kind=kind)
    made.promote_in_turn("knows", "wrong")
    made.partitions("2024-03-07", "2024-03-16")
    assert made.switches()[1:] == [("challenger", "shadow", "wrong"), ("challenger", "withdrawn", "wrong")]
    assert all(who == {"champion knows": 12} for who in made.served().values())
    assert not made.lake.rows("shadows", {"partition": "2024-03-16"})


@pytest.mark.full
def test_an_undecided_challenger_goes_when_patience_is_over(depot: Make) -> None:
    """One that is neither shown better nor worse is withdrawn in the end."""
    made = depot(kind="shadow", patience=8, alpha=0.01)
    made.promote_in_turn("knows", "knows too")
    notes = made.partitions("2024-03-07", "2024-03-14")
    assert "undecided after 8 partitions, 6 of them matured" in notes[-1]
    assert made.switches()[-1] == ("challenger", "withdrawn", "knows too")


@pytest.mark.full
def test_a_switch_of_the_champion_ends_a_trial(depot: Make) -> None:
    """A challenger was judged against a champion that doesn't serve any more: it isn't tried any longer."""
    made = depot(kind="shadow")
    for name, partition in (("forgot", "2024-03-04"), ("knows", "2024-03-05")):
        made.promote(name, partition)
        made.partition(made.spec.clock.shift(partition, 1))
    made.partitions("2024-03-07", "2024-03-15")
    assert made.switches()[-1] == ("champion", "promoted", "knows")
    made.promote("knows too", "2024-03-15")
    made.partition("2024-03-16")
    rollback(made.lake, made.spec, None, "a person", "a test")
    notes = made.partitions("2024-03-17", "2024-03-19")
    assert set(notes) == {"nothing is on trial"}
    assert made.switches()[-1] == ("champion", "rolled back", "forgot")


@pytest.mark.full
def test_partitions_that_run_again_take_no_step_twice(depot: Make) -> None:
    """Scoring and advancing again, an old partition or the newest, leaves ledger and shadows as they are."""
    made = depot(kind="canary", share=0.5)
    made.promote_in_turn("forgot", "knows")
    made.partitions("2024-03-07", "2024-03-20")
    before = {name: made.lake.rows(name) for name in ("switches", "shadows", "predictions", "restated")}
    for partition in ("2024-03-08", "2024-03-15", "2024-03-20"):
        made.partition(partition)
    assert {name: made.lake.rows(name) for name in before} == before
    note = advance(made.lake, made.spec, "2024-03-15").note
    assert note == "the rollout advances only on the newest scored partition, 2024-03-20"
    for attempt in verdicts.attempts(made.lake):
        promote(made.lake, made.spec, attempt["key"], registry=made.registry)
    assert made.lake.rows("switches") == before["switches"]


def test_a_step_that_a_killed_run_took_counts_once_also_if_labels_changed_since(depot: Make) -> None:
    """Run again, it finds its step in the ledger by attempt and kind: the reason has other figures now."""
    shadow = depot(kind="shadow", partitions=2, margin=1.0)
    shadow.promote_in_turn("forgot", "knows")
    reason = shadow.partitions("2024-03-07", "2024-03-10")[-1]
    before = shadow.lake.rows("switches")
    corrected, *others = shadow.lake.rows("validated_arrivals", {"partition": "2024-03-09"})
    corrected["delay"] = 20.0 - corrected["delay"]
    schema = schemas.validated_schema(shadow.spec.sources["arrivals"])
    table = pa.Table.from_pylist([corrected, *others], schema=schema)
    shadow.lake.publish("validated_arrivals", table, {"partition": "2024-03-09"})
    again = advance(shadow.lake, shadow.spec, "2024-03-10")
    assert "forward, log_loss gain" in reason
    assert "forward, log_loss gain" in again.note
    assert again.note != reason
    assert again.rows == 1
    assert shadow.lake.rows("switches") == before


@pytest.mark.full
def test_a_challenger_that_cannot_score_serves_nobody_and_goes(depot: Make) -> None:
    """One whose bytes are gone leaves no shadows.

    The partitions are served, and in the end it is withdrawn.
    """
    made = depot(kind="shadow", patience=6)
    made.promote_in_turn("forgot", "knows")
    digest = ledger.switches(made.lake)[-1]["model"]
    made.lake.replace(f"models/{digest}.skops", b"damaged")
    made.partitions("2024-03-07", "2024-03-12")
    assert not [row for row in made.lake.rows("shadows") if row["model"] == digest]
    assert made.switches()[-1] == ("challenger", "withdrawn", "knows")
    assert all(who == {"champion forgot": 12} for who in made.served().values())


@pytest.mark.full
def test_a_canary_that_fails_gives_way_in_the_fallback_chain(depot: Make) -> None:
    """Rows of a canary that can't be loaded are served by the champion, and each says why."""
    made = depot(kind="canary", share=0.5)
    made.promote_in_turn("forgot", "knows")
    made.partitions("2024-03-07", "2024-03-12")
    canary = ledger.switches(made.lake)[-1]
    assert canary["kind"] == "canary"
    made.lake.replace(f"models/{canary['model']}.skops", b"damaged")
    score(made.lake, made.spec, canary["effective_from"])
    rows = made.lake.rows("predictions", {"partition": canary["effective_from"]})
    assert {row["served_by"] for row in rows} == {"champion"}
    assert {bool(row["reason"]) for row in rows} == {True, False}


def test_the_share_is_the_declared_one(depot: Make) -> None:
    """Of many entities the declared share is chosen, other ones for another model."""
    made = depot(kind="canary", share=0.2, entity=["parcel"])
    import pyarrow as pa

    rows = pa.table({"parcel": range(20_000)})
    one, other = (canary_entities(made.spec, rows, model) for model in ("a", "b"))
    assert sum(one) == pytest.approx(4000, abs=4 * (20_000 * 0.16) ** 0.5)
    assert sum(a and b for a, b in zip(one, other, strict=True)) == pytest.approx(800, abs=150)


def test_a_person_who_is_faster_is_not_gone_back_from(depot: Make) -> None:
    """Somebody rolled back between a partition's score and its step: the step that was due is not taken."""
    made = depot(kind="immediate")
    for name, partition in (("forgot", "2024-03-04"), ("knows", "2024-03-05"), ("wrong", "2024-03-06")):
        made.promote(name, partition)
        made.partition(made.spec.clock.shift(partition, 1))
    made.partitions("2024-03-08", "2024-03-08")
    score(made.lake, made.spec, "2024-03-09")
    rollback(made.lake, made.spec, None, "ann", "it looks wrong")
    before = made.switches()
    assert advance(made.lake, made.spec, "2024-03-09").rows == 0
    assert made.switches() == before
    assert before[-1] == ("champion", "rolled back", "knows")


@pytest.mark.full
@pytest.mark.parametrize("partition", ["2024-03-05", "2024-03-08"])
def test_one_is_tried_after_the_other(depot: Make, partition: str) -> None:
    """While one is on trial a newer blessed challenger waits for the next training, as an older one does."""
    made = depot(kind="shadow")
    made.promote("forgot", "2024-03-04")
    made.partitions("2024-03-05", "2024-03-06")
    assert made.promote("knows", "2024-03-06").switch is not None
    made.partitions("2024-03-07", "2024-03-08")
    assert made.promote("knows too", partition).switch is None
    made.partitions("2024-03-09", "2024-03-20")
    assert made.switches()[-1] == ("champion", "promoted", "knows")


@pytest.mark.full
def test_a_partition_that_nobody_could_score_takes_the_step_that_is_due(depot: Make) -> None:
    """Labels came, the rows to score did not: the wrong champion goes before it serves again."""
    made = depot(kind="immediate")
    made.promote_in_turn("knows", "wrong")
    made.partitions("2024-03-07", "2024-03-09")
    assert advance(made.lake, made.spec, "2024-03-10").rows == 1
    assert newest_by_role(made.lake)["champion"]["effective_from"] == "2024-03-10"
    made.partition("2024-03-10")
    assert made.served()["2024-03-10"] == {"champion knows": 12}


def test_the_last_partition_of_the_schedule_takes_no_step(depot: Make) -> None:
    """No partition is left that a step could take effect on, so the run says so and isn't red."""
    parcels_depot = depot(kind="immediate")
    parcels_depot.promote_in_turn("knows", "wrong")
    parcels_depot.partitions("2024-03-07", "2024-03-09")
    before = parcels_depot.switches()
    schedule = parcels_depot.spec.schedule.model_copy(update={"end": "2024-03-10"})
    parcels_depot.spec = parcels_depot.spec.model_copy(update={"schedule": schedule})
    assert parcels_depot.partition("2024-03-10").endswith("schedule.end is 2024-03-10")
    assert parcels_depot.switches() == before


@pytest.mark.full
def test_lost_partitions_prolong_a_trial(depot: Make) -> None:
    """Partitions that nobody scored take nothing from a challenger's patience.

    Its trial ends in the ledger.
    """
    made = depot(kind="shadow", patience=8, alpha=0.001)
    made.promote_in_turn("knows", "knows too")
    made.partitions("2024-03-07", "2024-03-09")
    notes = made.partitions("2024-03-25", "2024-03-29")
    assert "shadow of vknows too" in notes[0]
    assert "undecided after 8 partitions" in notes[-1]
    assert made.switches()[-1] == ("challenger", "withdrawn", "knows too")


@pytest.mark.full
def test_partitions_that_a_model_served_to_nobody_are_no_evidence(depot: Make) -> None:
    """Where a source is missing the baseline serves: neither model is scored as a shadow, or judged by it."""
    made = depot(kind="immediate")
    made.promote_in_turn("knows", "wrong")
    for partition in ("2024-03-07", "2024-03-08"):
        parcels.publish(made.lake, made.spec, "roads", partition, [], "unavailable")
    made.partitions("2024-03-07", "2024-03-11")
    assert made.served()["2024-03-08"] == {"baseline wrong": 12}
    assert {row["partition"] for row in made.lake.rows("shadows")} == {
        "2024-03-09",
        "2024-03-10",
        "2024-03-11",
    }
    assert made.switches()[-1] == ("champion", "promoted", "wrong")


@pytest.mark.full
def test_a_partition_whose_canary_fell_through_is_restated_whole(depot: Make) -> None:
    """Both parts were served by the champion, for two reasons; what it would say now has every row."""
    made = depot(kind="canary", share=0.5)
    made.promote_in_turn("forgot", "knows")
    made.partitions("2024-03-07", "2024-03-12")
    canary = ledger.switches(made.lake)[-1]
    made.lake.replace(f"models/{canary['model']}.skops", b"damaged")
    partition = canary["effective_from"]
    score(made.lake, made.spec, partition)
    later = [parcels.rows(made.spec, "orders", partition, revision=number) for number in (0, 1)]
    parcels.publish(made.lake, made.spec, "orders", partition, later)
    assert (
        "the predictions would differ now, see the table restated"
        in score(made.lake, made.spec, partition).note
    )
    assert len(made.lake.rows("restated", {"partition": partition})) == 12


@pytest.mark.full
def test_the_aliases_are_looked_at_when_a_champion_came_on_this_partition_or_the_last(depot: Make) -> None:
    """Who switched may have been killed before the aliases followed.

    The next partition puts them right, once.
    """
    made = depot(kind="immediate")
    made.promote_in_turn("knows", "wrong")
    asked = []
    for key in made.spec.clock.keys("2024-03-07", "2024-03-12"):
        score(made.lake, made.spec, key)
        advance(
            made.lake, made.spec, key, registry=lambda partition=key: asked.append(partition) or made.registry
        )
    assert newest_by_role(made.lake)["champion"]["effective_from"] == "2024-03-11"
    assert asked == ["2024-03-07", "2024-03-10", "2024-03-11"]


@pytest.mark.full
def test_a_declaration_that_stops_asking_for_canaries_lets_a_shadow_serve(depot: Make) -> None:
    """A shadow that began under another declaration takes the step that today's asks for."""
    made = depot(kind="shadow")
    made.promote_in_turn("forgot", "knows")
    gate = made.spec.gate
    rules = gate.rollout.model_copy(update={"kind": "immediate"})
    made.spec = made.spec.model_copy(update={"gate": gate.model_copy(update={"rollout": rules})})
    made.partitions("2024-03-07", "2024-03-14")
    assert made.switches()[-1] == ("champion", "promoted", "knows")


def test_patience_without_a_step_is_refused(depot: Make) -> None:
    """A declaration under which no challenger could ever serve says how much patience it takes."""
    with pytest.raises(SpecError, match=r"gate.rollout.patience: at least 6, .* found 5"):
        depot(kind="shadow", partitions=4, patience=5)
