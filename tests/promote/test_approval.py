"""A person's answer lets a verdict act, the first one stays, and a newer verdict voids what waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from include.cli.app import app
from include.cli.status_text import status_text
from include.errors import EvergreenError, NotPublished
from include.judge.judge import BLESSED, FORCED, NOT_BLESSED, NOT_ENOUGH, PROMOTES, RUBBER_STAMPED
from include.models import artifacts
from include.models.registry import Registry
from include.ops.status import status
from include.promote import approval, ledger, verdicts
from include.promote.approval import APPROVED, EXPIRED, REJECTED, WAITS, find_attempt, missing_consent
from include.promote.promotion import (
    Promotion,
    attempt_outcome,
    awaiting_approval,
    force,
    promote,
    promotion_blocker,
    read_ledgers,
)
from include.promote.rollback import rollback
from include.promote.verdicts import judge_and_record
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.storage.schemas import APPROVALS
from tests.promote.conftest import WEEKLY, asking, model

Try = Callable[..., str]
FIRST, SECOND, THIRD = "2024-03-04", "2024-03-11", "2024-03-18"
AT = datetime(2024, 3, 12, 9, 30, tzinfo=UTC)


@pytest.fixture
def human(weekly: UseCase) -> UseCase:
    """The second use case, with a gate that asks a person."""
    return asking(weekly)


@pytest.fixture
def judged(lake: Lake, human: UseCase, attempt: Try) -> Try:
    """Writes evidence and has it judged; returns the attempt's key. All models lie in the lake already."""
    for number in range(5):
        artifacts.store_model(lake, model(number))

    def made(*args: object, **more: object) -> str:
        where = attempt(*args, **more, spec=human)
        judge_and_record(lake, human, where)
        return where.removeprefix("evaluations/").removesuffix(".json")

    return made


def _why(lake: Lake, spec: UseCase, key: str) -> str:
    blocker = promotion_blocker(read_ledgers(lake, spec), verdicts.attempt(lake, key))
    assert (blocker == WAITS) == (blocker is not None and blocker.waits)
    return blocker.sentence if blocker else ""


def test_nothing_is_switched_until_a_person_says_yes(
    lake: Lake, human: UseCase, judged: Try, gone: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A verdict that promotes waits; approved, the switch names the approver and holds both reasons."""
    key = judged(1, FIRST)
    with caplog.at_level("INFO"):
        assert promote(lake, human, key, registry=gone).switch is None
    assert WAITS.sentence in caplog.text
    assert ledger.champions(ledger.switches(lake)) == []
    row = approval.record_answer(lake, human, key, APPROVED, "ann", "looks right", AT)
    assert row == {
        "attempt": key,
        "answer": "approved",
        "by": "ann",
        "at": AT,
        "reason": "looks right",
        "recorded": 1,
    }
    ref = promote(lake, human, key, registry=gone).switch
    assert ref is not None
    assert ref.note.startswith("v1 promoted by ann, champion from 2024-03-11 on: rubber-stamped: ")
    for switch in ledger.switches(lake)[1:]:  # after the baseline that served until then
        assert (switch["kind"], switch["by"], switch["request"]) == ("promoted", "ann", key)
        assert switch["reason"].endswith("; approved by ann: looks right")
    assert promote(lake, human, key, registry=gone).switch == ref
    (kept,) = lake.rows("approvals")
    assert kept["at"] == AT


@pytest.mark.parametrize(
    ("answer", "said"),
    [(REJECTED, "rejected by bob: too soon"), (EXPIRED, "nobody answered in time")],
)
def test_no_and_silence_switch_nothing(
    answer: str, said: str, lake: Lake, human: UseCase, judged: Try, gone: Registry
) -> None:
    """Who said no, or that nobody spoke, is what stands in the way, and a later yes doesn't change it."""
    key = judged(1, FIRST)
    approval.record_answer(lake, human, key, answer, "bob" if answer == REJECTED else "", "too soon", AT)
    assert promote(lake, human, key, registry=gone).switch is None
    first = approval.record_answer(lake, human, key, APPROVED, "ann", "I insist", AT)
    assert first["answer"] == answer
    assert promote(lake, human, key, registry=gone) == Promotion(None, said)
    assert _why(lake, human, key) == said
    assert [row["kind"] for row in ledger.switches(lake)] == ["baseline only"]


def test_a_blessed_challenger_waits_as_the_first_one_does(
    lake: Lake, human: UseCase, judged: Try, gone: Registry
) -> None:
    """With a champion in place too: it stays until a person approves the better one, and nobody else does."""
    first = judged(1, FIRST)
    approval.record_answer(lake, human, first, APPROVED, "ann", "a start", AT)
    promote(lake, human, first, registry=gone)
    second = judged(2, SECOND, champion=1)
    assert promote(lake, human, second, registry=gone).switch is None
    approval.record_answer(lake, human, second, APPROVED, "bob", "better", AT)
    assert promote(lake, human, second, registry=gone).switch is not None
    assert [row["by"] for row in ledger.champions(ledger.switches(lake))] == ["ann", "bob"]
    # what went before the approval still stands: an older partition's verdict isn't deployed by approving it
    old = judged(3, FIRST, champion=1)
    approval.record_answer(lake, human, old, APPROVED, "ann", "please", AT)
    assert promote(lake, human, old, registry=gone).switch is None
    assert _why(lake, human, old).startswith("not promoted: it was evaluated on")


@pytest.mark.parametrize("approval_of", ["changes", "all"])
def test_a_refit_of_the_serving_recipe_is_asked_about_only_where_all_are(
    lake: Lake, weekly: UseCase, attempt: Try, gone: Registry, approval_of: str
) -> None:
    """`changes` lets a refresh serve at once and still asks about another recipe; `all` asks about both."""
    spec, keys = asking(weekly, approval_of), []
    for number in range(4):
        artifacts.store_model(lake, model(number))
    for version, partition, refresh in ((1, FIRST, False), (2, SECOND, True), (3, THIRD, False)):
        champion = ledger.live_champion(ledger.switches(lake))
        against = int(champion["version"]) if champion else 0
        where = attempt(version, partition, champion=against, refresh=refresh, spec=spec)
        judge_and_record(lake, spec, where)
        keys.append(where.removeprefix("evaluations/").removesuffix(".json"))
        if version == 1:
            approval.record_answer(lake, spec, keys[0], APPROVED, "ann", "a start", AT)
        promote(lake, spec, keys[-1], registry=gone)
    kinds = [row["kind"] for row in ledger.champions(ledger.switches(lake))]
    states = [attempt_outcome(read_ledgers(lake, spec), verdicts.attempt(lake, key)) for key in keys]
    superseded = f"superseded by the verdict of {THIRD}"
    assert (kinds, states[1:]) == {
        "changes": (["promoted", "refreshed"], ["", WAITS.sentence]),
        "all": (["promoted"], [superseded, WAITS.sentence]),
    }[approval_of]
    assert (awaiting_approval(lake, spec) or {})["key"] == keys[2]
    assert _why(lake, weekly, keys[2]) == ""  # a gate that asks nobody


def test_a_newer_verdict_supersedes_what_waits_or_was_approved(
    lake: Lake, human: UseCase, judged: Try, gone: Registry
) -> None:
    """Only the newest that earned it may be approved; one that promotes nothing supersedes nothing."""
    first = judged(1, FIRST)
    approval.record_answer(lake, human, first, APPROVED, "ann", "fine", AT)
    judged(4, SECOND, refused=True)  # loses to the baseline
    assert _why(lake, human, first) == ""
    second = judged(2, SECOND)
    assert _why(lake, human, first) == f"superseded by the verdict of {SECOND}"
    assert promote(lake, human, first, registry=gone).switch is None
    assert (awaiting_approval(lake, human) or {})["key"] == second
    older = judged(3, FIRST)
    # an older partition's verdict supersedes nothing newer
    assert _why(lake, human, second) == WAITS.sentence
    assert _why(lake, human, older) == WAITS.sentence
    approval.record_answer(lake, human, second, APPROVED, "ann", "fine", AT)
    assert promote(lake, human, second, registry=gone).switch is not None
    assert awaiting_approval(lake, human) is None


VERDICTS = (BLESSED, RUBBER_STAMPED, NOT_BLESSED, NOT_ENOUGH, FORCED)


@given(
    st.lists(st.tuples(st.sampled_from(VERDICTS), st.integers(0, 3)), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
    st.randoms(),
)
def test_at_most_one_approved_verdict_may_act_on_each_partition(
    tries: list[tuple[str, int]], yes: set[int], order: object
) -> None:
    """Whatever was tried and approved: what may act is approved and has no newer one."""
    verdicts = [
        {"key": str(n), "partition": f"2024-03-0{partition + 1}", "verdict": verdict, "recorded": n}
        for n, (verdict, partition) in enumerate(tries)
    ]
    approvals = [{"attempt": str(n), "answer": APPROVED, "by": "ann", "reason": "x"} for n in yes]
    mixed = list(verdicts)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    asked = [row for row in verdicts if row["verdict"] in PROMOTES]
    may = [row for row in asked if missing_consent(mixed, approvals, row) is None]
    assert {row["key"] for row in may} <= {row["attempt"] for row in approvals}
    for row in may:
        assert not [
            o for o in asked if o["recorded"] > row["recorded"] and o["partition"] >= row["partition"]
        ]
    if asked and int(asked[-1]["key"]) in yes:
        assert asked[-1] in may


def test_who_cannot_be_answered_is_refused(lake: Lake, weekly: UseCase, human: UseCase, judged: Try) -> None:
    """No person, no reason, a verdict that refuses, one that isn't there, a gate that asks nobody."""
    good, bad = judged(1, FIRST), judged(2, FIRST, refused=True)
    for by, reason in (("", "fine"), ("ann", " ")):
        for word in (APPROVED, REJECTED):
            with pytest.raises(EvergreenError, match="a name and a reason"):
                approval.record_answer(lake, human, good, word, by, reason, AT)
    with pytest.raises(EvergreenError, match=r"blessed or rubber-stamped, but found not blessed; .* forced"):
        approval.record_answer(lake, human, bad, APPROVED, "ann", "fine", AT)
    with pytest.raises(NotPublished, match=r"run the training of that partition again, .*`judge\.decide`"):
        approval.record_answer(lake, human, "nobody", APPROVED, "ann", "fine", AT)
    with pytest.raises(EvergreenError, match=r"expected gate\.approval: changes or all, but found none"):
        approval.record_answer(lake, weekly, good, APPROVED, "ann", "fine", AT)
    assert lake.rows("approvals") == []


def test_force_and_rollback_ask_nobody_else(lake: Lake, human: UseCase, judged: Try, gone: Registry) -> None:
    """They name a person already: a forced attempt needs no approval, and the way back needs none."""
    first, second = judged(1, FIRST), judged(2, SECOND)
    force(lake, human, first, "ann", "to begin with", registry=gone)
    force(lake, human, second, "ann", "the other leaks", registry=gone)
    rollback(lake, human, None, "bob", "it does not")
    rows = ledger.champions(ledger.switches(lake))
    assert [(row["version"], row["kind"]) for row in rows] == [
        ("1", "forced"),
        ("2", "forced"),
        ("1", "rolled back"),
    ]
    assert lake.rows("approvals") == []


def test_the_status_says_what_waits_and_what_was_answered(
    lake: Lake, human: UseCase, weekly: UseCase, judged: Try, gone: Registry
) -> None:
    """Pending, superseded, rejected and approved each say so, as values and as text."""
    first, second = judged(1, FIRST), judged(2, SECOND)
    approval.record_answer(lake, human, first, APPROVED, "ann", "fine", AT)
    found = status(lake, human)
    assert found["waiting"]["key"] == second
    superseded = f"approved by ann: fine; superseded by the verdict of {SECOND}"
    assert [row["outcome"] for row in found["attempts"]] == [superseded, WAITS.sentence]
    said = status_text({**found, "partitions": 1})
    assert f"waits for approval: v2 of partition {SECOND}, {second[:8]}" in said
    assert superseded in said
    approval.record_answer(lake, human, second, APPROVED, "bob", "better", AT)
    promote(lake, human, second, registry=gone)
    found = status(lake, human)
    assert found["waiting"] is None
    assert found["attempts"][1]["outcome"] == "approved by bob: better"
    assert found["champion"]["by"] == "bob"
    assert attempt_outcome(read_ledgers(lake, weekly), verdicts.attempt(lake, second)) == ""


def test_a_person_names_an_attempt_by_its_partition_or_its_key(lake: Lake, judged: Try) -> None:
    """The newest of a partition, or the one whose key begins so; else what there is is listed."""
    with pytest.raises(NotPublished, match="found none"):
        find_attempt(lake, FIRST)
    first, again = judged(1, FIRST), judged(2, FIRST)
    verdicts.record_forced(lake, verdicts.attempt(lake, again), "ann", "a test")
    assert find_attempt(lake, FIRST)["key"] == again
    assert find_attempt(lake, first[:8])["key"] == first
    for said in ("", "no such", SECOND):
        with pytest.raises(NotPublished, match=f"{first[:8]} of {FIRST}, {again[:8]} of {FIRST}"):
            find_attempt(lake, said)


def test_answers_grow_one_by_one(lake: Lake, human: UseCase, judged: Try) -> None:
    """They are numbered in the order in which they were given, in the table's own shape."""
    keys = [judged(version, FIRST) for version in (1, 2, 3)]
    for key, word in zip(keys, (APPROVED, REJECTED, EXPIRED), strict=True):
        approval.record_answer(lake, human, key, word, "ann", "so", AT)
    rows = sorted(lake.rows("approvals"), key=lambda row: row["recorded"])
    assert [(row["attempt"], row["recorded"]) for row in rows] == [(k, n) for n, k in enumerate(keys, 1)]
    assert pa.Table.from_pylist(rows, APPROVALS).num_rows == 3


def test_a_person_at_a_shell_answers_and_forces(
    lake: Lake, attempt: Try, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Registry
) -> None:
    """`approve`, `approve --reject` and `force` act on the ledgers as Airflow's tasks do."""
    shutil.copytree(WEEKLY.parent, tmp_path / "usecases" / "weekly_sales")
    declared = tmp_path / "usecases" / "weekly_sales" / "usecase.yaml"
    declared.write_text(
        declared.read_text().replace("  block_partitions: 1", "  block_partitions: 1\n  approval: all")
    )
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gone.uri)
    spec, keys = read(declared), []
    for number in range(4):
        artifacts.store_model(lake, model(number))

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*arguments, "--by", "ann", "--reason", "so"])
        return done.exit_code, done.stdout.strip() or str(done.exception)

    assert "a verdict that waits for approval: found none" in call("approve", "weekly_sales")[1]
    for version, partition in ((1, FIRST), (2, SECOND), (3, "2024-02-26")):
        where = attempt(version, partition, spec=spec)
        judge_and_record(lake, spec, where)
        keys.append(where.removeprefix("evaluations/").removesuffix(".json"))
    first, _, older = keys
    code, said = call("approve", "weekly_sales", "--attempt", first[:8])
    assert (code, f"found superseded by the verdict of {SECOND}" in said) == (1, True)
    refused = (0, "rejected by ann: so")
    assert call("approve", "weekly_sales", "--attempt", older, "--reject") == refused
    code, said = call("approve", "weekly_sales")
    assert (code, said.startswith("v2 promoted by ann, champion from")) == (0, True)
    code, said = call("force", "weekly_sales", "--partition", "2024-02-26")
    assert code == 0
    assert said.startswith("v3 forced by ann, champion from 2024-03-04 on: so; the gate said: ")
    assert len(lake.rows("approvals")) == 3
