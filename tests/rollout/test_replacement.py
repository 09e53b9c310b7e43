"""A champion that is shown to be worse than a baseline is replaced within days, once, whoever chose it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from include.errors import NotPublished
from include.judge.evidence import Evidence
from include.models import artifacts
from include.monitor.performance import publish_performance
from include.monitor.pipeline import monitor
from include.monitor.state import PublishedState
from include.ops.verify import verify
from include.promote import ledger, verdicts
from include.promote.promotion import force, switch_rows
from include.promote.rollback import rollback
from include.references import digest_bytes
from include.rollout.pipeline import advance, replace_broken
from include.score.fallback import canary_entities
from include.score.pipeline import score
from include.spec.gate import Rollout
from include.storage.lake import Lake
from include.train.fits import read_fits
from tests.kept import fill_folder
from tests.rollout.conftest import TRAINED, RolloutLake, fit, model, partitions
from tests.switches import newest_by_role

# it needs more partitions than the champion is given, so that the champion goes first
SHADOWED = Rollout(kind="shadow", partitions=60, look_every=2, patience=80, alpha=0.2)


def kinds(warehouse: RolloutLake) -> list[tuple[str, str]]:
    """Return kind and recipe of each champion."""
    return [(row["kind"], row["recipe"]) for row in ledger.champions(ledger.switches(warehouse.lake))]


@pytest.fixture
def broken(depot: Callable[..., RolloutLake], tmp_path: Path) -> RolloutLake:
    """A depot whose first champion learned the rule upside down, on the evening before it is replaced."""

    def make(folder: Path) -> None:
        warehouse = RolloutLake(folder, kind="immediate")
        fit(warehouse)
        warehouse.promote("wrong", TRAINED)
        partitions(warehouse, "2024-03-13", "2024-03-15")
        assert kinds(warehouse) == [("promoted", "wrong")]

    fill_folder("broken", tmp_path, make)
    return depot(kind="immediate")


@pytest.mark.full
def test_a_champion_worse_than_the_prior_is_replaced_within_days(broken: RolloutLake) -> None:
    """One wild partition replaces nobody; three matured ones do, by the best recipe's newest fit."""
    notes = partitions(broken, "2024-03-16", "2024-03-20")
    assert kinds(broken) == [("promoted", "wrong"), ("replaced", "logistic")]
    assert notes[0] == "nothing is on trial"
    assert notes[1].startswith("logistic replaces the champion from 2024-03-18 on: vwrong lost ")
    assert "on the last 3 matured partitions, logistic 0." in notes[1]
    assert set(notes[2:]) == {"nothing is on trial"}
    live = newest_by_role(broken.lake)
    fits = {row.recipe: row.model for row in read_fits(broken.lake)}
    assert (live["champion"]["model"], live["champion"]["by"]) == (fits["logistic"], "evergreen")
    assert live["baseline"]["recipe"] == "prior"
    assert live["champion"]["switch"] == live["baseline"]["switch"]
    served = broken.served()
    assert set(served["2024-03-17"]) == {"champion wrong"}
    models = {row["model"] for row in broken.lake.rows("predictions", {"partition": "2024-03-18"})}
    assert models == {fits["logistic"]}
    assert ledger.serving(broken.lake, "2024-03-18").previous is None  # what did harm is nobody's fallback


@pytest.mark.full
def test_a_forced_champion_is_replaced_too(depot: Callable[..., RolloutLake]) -> None:
    """A person who overruled the gate isn't held to it by evidence of harm."""
    warehouse = depot(kind="immediate")
    fit(warehouse)
    key = warehouse.judged("wrong", TRAINED)
    force(warehouse.lake, warehouse.spec, key, "ann", "it looks good", registry=warehouse.registry)
    partitions(warehouse, "2024-03-13", "2024-03-18")
    assert kinds(warehouse) == [("forced", "wrong"), ("replaced", "logistic")]


@pytest.mark.full
def test_a_better_champion_stays(depot: Callable[..., RolloutLake]) -> None:
    """One that no baseline beats is left alone, also if another recipe may be better still."""
    warehouse = depot(kind="immediate")
    fit(warehouse)
    warehouse.promote("knows", TRAINED)
    assert set(partitions(warehouse, "2024-03-13", "2024-03-20")) == {"nothing is on trial"}


@pytest.mark.full
def test_without_another_fit_the_champion_stays(depot: Callable[..., RolloutLake]) -> None:
    """Where no training has fitted the recipes there is nothing to replace it by, and nothing fails."""
    warehouse = depot(kind="immediate")
    warehouse.promote("wrong", TRAINED)
    assert set(partitions(warehouse, "2024-03-13", "2024-03-20")) == {"nothing is on trial"}


@pytest.mark.full
def test_a_training_that_failed_before_its_verdict_holds_it_up_no_longer(broken: RolloutLake) -> None:
    """Its fits are stored and newer, but what serves next is the newest one of a judged training."""
    fit(broken, "2024-03-16")
    partitions(broken, "2024-03-16", "2024-03-18")
    assert kinds(broken) == [("promoted", "wrong"), ("replaced", "logistic")]
    (logistic,) = (f for f in read_fits(broken.lake) if (f.recipe, f.partition) == ("logistic", TRAINED))
    assert newest_by_role(broken.lake)["champion"]["model"] == logistic.model


@pytest.mark.full
def test_an_old_partition_replaces_nobody_and_a_rerun_nobody_twice(broken: RolloutLake) -> None:
    """The newest partition acts once, however often it runs, and says each time what it did."""
    score(broken.lake, broken.spec, "2024-03-17")
    publish_performance(broken.lake, broken.spec, PublishedState(broken.lake, broken.spec, "2024-03-17"))
    assert "only on the newest scored partition" in advance(broken.lake, broken.spec, "2024-03-16").note
    assert len(kinds(broken)) == 1
    first, again = (advance(broken.lake, broken.spec, "2024-03-17") for _ in range(2))
    assert (first.rows, again) == (1, first)
    assert kinds(broken) == [("promoted", "wrong"), ("replaced", "logistic")]


def test_two_at_once_replace_once(broken: RolloutLake) -> None:
    """Of two that saw the same losses one writes, and the walks are those of one."""
    score(broken.lake, broken.spec, "2024-03-17")
    publish_performance(broken.lake, broken.spec, PublishedState(broken.lake, broken.spec, "2024-03-17"))
    folder = broken.lake.uri.removeprefix("file://").removesuffix("/parcels")

    def act(_: int) -> str:
        return replace_broken(Lake("parcels", folder), broken.spec, "2024-03-17")

    with ThreadPoolExecutor(2) as workers:
        notes = list(workers.map(act, range(2)))
    assert kinds(broken) == [("promoted", "wrong"), ("replaced", "logistic")]
    assert any(notes)
    walks = broken.lake.rows("walks")
    assert len({(row["partition"], row["as_of"], row["recipe_key"]) for row in walks}) == len(walks)


@pytest.mark.full
def test_neither_an_approval_nor_a_trial_holds_it_up(broken: RolloutLake) -> None:
    """The gate asks a person about everything and a challenger is in shadow: it goes with its incumbent."""
    gate = broken.spec.gate.model_copy(update={"rollout": SHADOWED})
    broken.spec = broken.spec.model_copy(update={"gate": gate})
    assert broken.promote("forgot", "2024-03-15").switch is not None
    asking = gate.model_copy(update={"approval": "all"})
    broken.spec = broken.spec.model_copy(update={"gate": asking})
    partitions(broken, "2024-03-16", "2024-03-18")
    assert broken.switches() == [
        ("champion", "promoted", "wrong"),
        ("challenger", "shadow", "forgot"),
        ("challenger", "withdrawn", "forgot"),
        ("champion", "replaced", "wrong"),
    ]
    numbers = [row["switch"] for row in ledger.switches(broken.lake)]
    assert numbers[-1] == numbers[-2] == numbers[-3]


@pytest.mark.full
def test_a_person_may_bring_it_back_and_it_is_replaced_again(broken: RolloutLake) -> None:
    """A rollback by version finds the version's own model; without a version there is nobody before it."""
    partitions(broken, "2024-03-16", "2024-03-18")
    wrong = ledger.champions(ledger.switches(broken.lake))[0]["model"]
    with pytest.raises(NotPublished, match="a champion before the live one"):
        rollback(broken.lake, broken.spec, None, "ada", "it was better")
    rollback(broken.lake, broken.spec, "wrong", "ada", "the labels were wrong")
    live = newest_by_role(broken.lake)["champion"]
    assert (live["kind"], live["model"], live["effective_from"]) == ("rolled back", wrong, "2024-03-19")
    partitions(broken, "2024-03-19", "2024-03-25")
    assert [kind for kind, _ in kinds(broken)] == ["promoted", "replaced", "rolled back", "replaced"]


@pytest.mark.full
def test_a_training_after_it_refreshes_the_recipe_or_brings_another(broken: RolloutLake) -> None:
    """A refit of the recipe that replaced the champion is a refresh; another recipe is promoted as ever."""
    partitions(broken, "2024-03-16", "2024-03-18")
    broken.promote("knows", "2024-03-18", recipe="logistic")
    assert kinds(broken)[-1] == ("refreshed", "logistic")
    broken.promote("forgot", "2024-03-19")
    assert kinds(broken)[-1] == ("promoted", "forgot")


@pytest.mark.full
def test_the_partitions_after_it_are_monitored(broken: RolloutLake) -> None:
    """A fit that no training registered has no reference, and its partition says what took place."""
    partitions(broken, "2024-03-16", "2024-03-17")
    score(broken.lake, broken.spec, "2024-03-18")
    assert "reference" in monitor(broken.lake, broken.spec, "2024-03-18").note
    (decision,) = broken.lake.rows("decisions", {"partition": "2024-03-18"})
    assert (decision["decision"], decision["cause"]) == ("replace", "replaced-2024-03-18-2024-03-18")
    assert decision["reason"].startswith(
        "replaced: logistic of vwrong serves from this partition on (vwrong lost"
    )


def test_verify_names_a_recent_fit_that_is_lost(broken: RolloutLake) -> None:
    """A walk will need it, so its loss is a difference before anything fails."""
    fit, *_ = read_fits(broken.lake)

    def lost() -> list[str]:
        return [one for one in verify(broken.lake, broken.spec).differences if fit.model[:12] in one]

    assert lost() == []
    broken.lake.remove([artifacts.model_key(fit.model)])
    assert len(lost()) == 1


@pytest.mark.full
@pytest.mark.parametrize("kind", ["immediate", "shadow", "canary"])
def test_a_refit_of_the_serving_recipe_scores_nothing_in_parallel(
    depot: Callable[..., RolloutLake], kind: str
) -> None:
    """It serves every row from its first partition on, and nothing is on trial beside it."""
    warehouse = depot(kind=kind)
    warehouse.promote("knows", "2024-03-05")
    warehouse.partition("2024-03-06")
    warehouse.promote("knows too", "2024-03-06", recipe="knows")
    assert warehouse.partitions("2024-03-07", "2024-03-08") == ["nothing is on trial"] * 2
    assert warehouse.switches()[-1] == ("champion", "refreshed", "knows too")
    assert warehouse.served()["2024-03-07"] == {"champion knows too": 12}
    assert warehouse.lake.rows("shadows") == []


@pytest.mark.full
def test_beside_a_canary_a_champion_is_judged_on_all_entities(depot: Callable[..., RolloutLake]) -> None:
    """It serves the hard ones and would lose more than logistic's walk, which is of the easy ones too."""
    warehouse = depot(kind="canary", partitions=60, patience=80, look_every=60, share=0.5)
    lake, spec = warehouse.lake, warehouse.spec
    columns, random = ("partition", "depot", "parcel"), np.random.default_rng(5)
    heavy = {tuple(r[c] for c in columns): r["weight"] > 6.2 for r in lake.rows("validated_orders")}
    arrivals = lake.read("validated_arrivals", order=columns)
    assert arrivals is not None
    rows, easy_ones = arrivals.to_pylist(), canary_entities(spec, arrivals, digest_bytes(model("knows too")))
    for row, easy in zip(rows, easy_ones, strict=True):
        ordered = (spec.clock.shift(row["partition"], -2), row["depot"], row["parcel"])
        late = heavy.get(ordered, False) != (not easy and random.random() < 0.35)
        row["delay"] = 20.0 if late else 0.0
    revised = pa.Table.from_pylist(rows, schema=arrivals.schema)
    lake.publish("validated_arrivals", revised, {"partition": sorted({row["partition"] for row in rows})})
    fit(warehouse)
    warehouse.promote("knows", TRAINED)
    score(lake, spec, "2024-03-13")
    key = warehouse.judged("knows too", "2024-03-13")
    found = Evidence.from_json(verdicts.attempt(lake, key)["evidence"])
    why = {"by": "", "reason": "trial", "attempt": key, "request": key, "effective_from": "2024-03-14"}
    ledger.record_switch(lake, lambda _: switch_rows(found, ["challenger"], kind=ledger.CANARY, **why))
    notes = partitions(warehouse, "2024-03-14", "2024-03-19")
    assert all(note.startswith("canary of vknows too against vknows ") for note in notes)
    assert kinds(warehouse) == [("promoted", "knows")]
