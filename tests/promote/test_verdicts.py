"""Each attempt has one verdict, and a forced one beside it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from include.errors import NotPublished
from include.judge.evidence import Evidence
from include.judge.judge import BLESSED, NOT_BLESSED, Check, Verdict
from include.promote import ledger, verdicts
from include.storage.lake import Lake, Row
from include.storage.schemas import ATTEMPTS
from tests.promote.conftest import evidence, losses, record_verdict


def test_a_training_has_its_newest_attempt(lake: Lake) -> None:
    """Evaluated again on other data, it counts once."""
    _, newest = (record_verdict(lake, BLESSED, "2013-03-05", data=data) for data in ("first", "second"))
    assert verdicts.judged_trainings(lake) == {"2013-03-05": newest.key}


def _try(lake: Lake, name: str, verdict: str, partition: str = "2013-03-10", of: str = "a") -> Row:
    """Record an attempt at replacing the champion ``of``, of nobody where there is none yet."""
    rival = bool(of and ledger.switches(lake))
    made = evidence(losses([1.0], [2.0] if rival else None), data=name, partition=partition)
    made = replace(made, champion=of if rival else "")
    said = Verdict(verdict, f"{verdict}: because", (Check("a", "b", "c", None),))
    return verdicts.record_attempt(lake, made, lambda: said)


def test_a_rerun_is_no_new_attempt(lake: Lake) -> None:
    """The same key again returns the first row, whatever the verdict would be now, and is not asked again."""
    first = _try(lake, "x", NOT_BLESSED)
    again = _try(lake, "x", BLESSED)
    assert again == first
    assert len(verdicts.attempts(lake)) == 1
    assert Evidence.from_json(first["evidence"]).key == first["key"]
    assert verdicts.attempt(lake, first["key"]) == first
    with pytest.raises(NotPublished, match=r"run the training of that partition again, .*`judge\.decide`"):
        verdicts.attempt(lake, "nobody")


def test_force_is_recorded_beside_what_the_gate_said(lake: Lake) -> None:
    """A forced verdict is a row of its own with the name and the reason, once, and the gate's row stays."""
    said = _try(lake, "x", NOT_BLESSED)
    forced = verdicts.record_forced(lake, said, "ann", "the champion is broken")
    assert forced["verdict"] == "forced"
    assert forced["sentence"] == "forced by ann: the champion is broken; the gate said: not blessed: because"
    assert verdicts.record_forced(lake, said, "bob", "me too") == forced
    assert [row["verdict"] for row in verdicts.attempts(lake)] == [NOT_BLESSED, "forced"]
    assert [row["recorded"] for row in verdicts.attempts(lake)] == [1, 2]
    assert pa.Table.from_pylist(verdicts.attempts(lake), ATTEMPTS).num_rows == 2
