"""Who serves a partition follows from the switches alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from include.judge.judge import BLESSED
from include.promote import ledger
from include.storage.lake import Lake, Row
from include.storage.schemas import SWITCHES
from tests.promote.conftest import record_verdict


def _row(number: int, model: str, effective_from: str, kind: str = "promoted", **more: Any) -> Row:
    row = {
        "switch": number,
        "role": "champion",
        "version": model.upper(),
        "model": model,
        "constant": number / 10,
        "effective_from": effective_from,
        "judged_on": effective_from,
        "kind": kind,
        "by": "",
        "reason": "",
        "attempt": f"key of {model}",
        "request": f"key of {model}",
        "recipe": f"recipe of {model}",
    }
    return row | more


def _write(lake: Lake, *rows: Row) -> Lake:
    both = [row | {"role": role} for row in rows for role in ("champion", "baseline")]
    lake.append_at("switches", pa.Table.from_pylist(both, SWITCHES), lake.version("switches"))
    return lake


def _serving(lake: Lake, partition: str) -> tuple[str, str]:
    found = ledger.serving(lake, partition)
    return (found.champion or {}).get("model", ""), (found.previous or {}).get("model", "")


def test_before_the_first_switch_nobody_serves(lake: Lake) -> None:
    """With no ledger, and on partitions before its first switch, there is no champion, baseline or prior."""
    nobody = ledger.Serving(None, None, None, None)
    assert ledger.serving(lake, "2013-03-01") == nobody
    _write(lake, _row(1, "a", "2013-03-02"))
    assert ledger.serving(lake, "2013-03-01") == nobody


def test_each_partition_has_the_newest_switch_in_effect(lake: Lake) -> None:
    """The newest switch in effect serves a partition, with its baseline and prior, and the one before it."""
    _write(lake, _row(1, "a", "2013-03-01"), _row(2, "b", "2013-03-05"), _row(3, "c", "2013-03-09"))
    assert _serving(lake, "2013-03-04") == ("a", "")
    assert _serving(lake, "2013-03-05") == ("b", "a")
    assert _serving(lake, "2013-03-31") == ("c", "b")
    served = ledger.serving(lake, "2013-03-08")
    assert served.constant == 0.2
    assert served.baseline is not None
    assert served.baseline["switch"] == 2


def test_a_switch_holds_until_the_first_partition_of_any_later_one() -> None:
    """A later one may begin earlier, and one of the champion ends a challenger's trial."""
    rows = [
        _row(1, "a", "2013-03-01"),
        _row(2, "b", "2013-03-04", "shadow", role="challenger"),
        _row(3, "c", "2013-03-09"),
        _row(4, "a", "2013-03-07", "rolled back"),
    ]
    assert [ledger.superseded_from(row, rows) for row in rows] == ["2013-03-07"] * 3 + [""]


def test_a_model_that_was_rolled_back_from_is_nobodys_fallback(lake: Lake) -> None:
    """After a rollback the fallback is the one before, and a second rollback goes further back."""
    _write(lake, _row(1, "a", "2013-03-01"), _row(2, "b", "2013-03-05"), _row(3, "c", "2013-03-09"))
    _write(lake, _row(4, "b", "2013-03-12", "rolled back"))
    assert _serving(lake, "2013-03-11") == ("c", "b")
    assert _serving(lake, "2013-03-12") == ("b", "a")
    _write(lake, _row(5, "a", "2013-03-13", "rolled back"))
    assert _serving(lake, "2013-03-13") == ("a", "")
    _write(lake, _row(6, "d", "2013-03-20"))
    assert _serving(lake, "2013-03-20") == ("d", "a")


def test_a_rollback_before_its_partition_leaves_no_trace_of_what_never_served(lake: Lake) -> None:
    """A champion that is rolled back before its first partition serves none."""
    _write(lake, _row(1, "a", "2013-03-01"), _row(2, "b", "2013-03-05"))
    _write(lake, _row(3, "a", "2013-03-03", "rolled back"))
    assert {_serving(lake, f"2013-03-{day:02}") for day in range(3, 20)} == {("a", "")}


def test_a_model_that_was_replaced_is_nobodys_fallback(lake: Lake) -> None:
    """A champion that was worse than a baseline serves no more, and a rollback goes to the one before it."""
    _write(lake, _row(1, "a", "2013-03-01"), _row(2, "b", "2013-03-05", "refreshed"))
    _write(lake, _row(3, "c", "2013-03-09", "replaced"))
    assert _serving(lake, "2013-03-08") == ("b", "a")
    assert _serving(lake, "2013-03-09") == ("c", "a")


def test_older_fits_of_a_recipe_that_was_replaced_are_nobodys_fallback(lake: Lake) -> None:
    """Its refreshes go with it, and a rollback goes to the recipe before."""
    _write(lake, _row(1, "a", "2013-03-01"), _row(2, "b", "2013-03-05"))
    refreshes = [_row(n, f"b{n}", f"2013-03-{n:02}", "refreshed", recipe="recipe of b") for n in (7, 8)]
    _write(lake, *refreshes)
    assert _serving(lake, "2013-03-08") == ("b8", "b7")
    _write(lake, _row(9, "c", "2013-03-09", "replaced"))
    assert _serving(lake, "2013-03-09") == ("c", "a")


def test_a_rollback_to_a_recipe_that_stood_in_lets_it_stand_in_again(lake: Lake) -> None:
    """It still replaces a worse one, so trainings are requested until a better one serves."""
    rows = [
        _row(1, "a", "2013-03-01"),
        _row(2, "b", "2013-03-02", "replaced"),
        _row(3, "c", "2013-03-03"),
        _row(4, "b", "2013-03-04", "rolled back"),
        _row(5, "d", "2013-03-05", "refreshed"),
        _row(6, "c", "2013-03-06"),
        _row(7, "b", "2013-03-07", "rolled back"),
        _row(8, "c", "2013-03-08", "rolled back"),
    ]
    since = [ledger.replaced_since(rows[:number]) for number in range(1, 9)]
    assert since == ["", "2013-03-02", "", "2013-03-04", "2013-03-04", "", "2013-03-07", ""]


def test_a_champion_of_another_recipe_than_its_attempts_was_not_judged(lake: Lake) -> None:
    """Also after a rollback to it, whose row in the ledger says no more that it replaced one."""
    judged = record_verdict(lake, BLESSED, "2013-03-01")
    own = _row(1, judged.model, "2013-03-02", attempt=judged.key)
    assert ledger.was_judged(lake, own)
    assert ledger.was_judged(lake, own | {"kind": "rolled back"})
    assert not ledger.was_judged(lake, own | {"model": "another", "kind": "replaced"})
    assert not ledger.was_judged(lake, own | {"model": "another", "kind": "rolled back"})


def test_without_a_champion_the_baseline_serves(lake: Lake) -> None:
    """Where only a baseline was set there is its constant and no champion, and why is stated."""
    baseline = _row(1, "a", "2013-03-01", "baseline only") | {"role": "baseline"}
    lake.append_at("switches", pa.Table.from_pylist([baseline], SWITCHES), lake.version("switches"))
    served = ledger.serving(lake, "2013-03-01")
    assert (served.champion, served.previous, served.constant) == (None, None, 0.1)
    assert (served.baseline or {})["model"] == "a"
    rows = ledger.switches(lake)
    assert ledger.live_champion(rows) is None
    nobody = "there is no champion: no model was promoted yet, and"
    assert ledger.why_no_champion(rows, "2013-03-01") == f"{nobody} baseline vA serves instead"
    assert ledger.why_no_champion(rows, "2013-02-28") == f"{nobody} a constant serves instead"
    _write(lake, _row(2, "b", "2013-03-02"))
    assert ledger.why_no_champion(ledger.switches(lake), "2013-03-02") == ""


KINDS = ("promoted", "refreshed", "replaced", "rolled back", "forced")


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from(KINDS)),
        max_size=12,
    )
)
def test_a_later_switch_changes_no_served_partition(moves: list[tuple[str, int, str]]) -> None:
    """Whatever is switched, who served the partitions before stays, and the fallback is another model."""
    rows: list[Row] = []
    day, seen = 1, {}
    for number, (model, step, kind) in enumerate(moves, 1):
        day += step
        rows.append(_row(number, model, f"2013-03-{day:02}", kind))
        for partition in range(1, 40):
            line = ledger.champion_history(
                [row for row in rows if row["effective_from"] <= f"2013-03-{partition:02}"]
            )
            if partition < day:
                assert [row["switch"] for row in line] == seen.get(partition, [])
            seen[partition] = [row["switch"] for row in line]
            assert all(a["model"] != b["model"] for a, b in pairwise(line))
        assert ledger.champion_history(rows)[-1] == rows[-1]


def test_the_rival_of_a_training_is_found_again(lake: Lake) -> None:
    """A training has to beat the same champion before and after its own promotion, an old one an older."""
    _write(lake, _row(1, "a", "2013-03-01"), _row(2, "b", "2013-03-08"))
    before = ledger.champion_to_beat(lake, "2013-03-15", "key of c")
    assert before is not None
    assert before["model"] == "b"
    _write(lake, _row(3, "c", "2013-03-15"))
    assert ledger.champion_to_beat(lake, "2013-03-15", "key of c") == before
    assert (ledger.champion_to_beat(lake, "2013-03-15", "another") or {})["model"] == "c"
    assert (ledger.champion_to_beat(lake, "2013-03-07", "old") or {})["model"] == "a"
    assert ledger.champion_to_beat(lake, "2013-02-01", "older") is None
    forced = {"attempt": ledger.forced_key("key of d"), "request": "run 7"}
    _write(lake, _row(4, "d", "2013-03-16", "forced", **forced))
    assert (ledger.champion_to_beat(lake, "2013-03-16", "key of d") or {})["model"] == "c"
    _write(lake, _row(5, "c", "2013-03-16", attempt="key of c", request="run 8", kind="rolled back"))
    assert ledger.champion_to_beat(lake, "2013-03-15", "key of c") == before
