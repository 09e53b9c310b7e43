"""Each of the mistakes that docs/reference/validate.md lists is found, with its message."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.usecases.weekly_sales import world
from tests.validate.declarations import ROOT, WEEKS, change, stored, validate, write_usecase
from tests.warm import stand_in

__all__ = ["stored"]  # the fixture
MISTAKES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "mistakes.yaml").read_text())
PARTS = ("subject", "required", "found", "where", "remedy")


@pytest.mark.full
@pytest.mark.parametrize("base", ["sales", "rare", "two"])
def test_a_use_case_without_a_mistake_is_silent(
    base: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a mistake is planted there is no error, warning or hint, also on stored data."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(stored))
    folder = write_usecase(tmp_path, base)
    assert validate(folder)[1]["problems"] == []
    if base != "two":
        assert validate(folder, "--data")[1]["problems"] == []


@pytest.mark.full
@pytest.mark.parametrize("planted", MISTAKES, ids=lambda planted: planted["mistake"].replace(" ", "-"))
def test_a_planted_mistake_is_found(
    planted: dict[str, Any], stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has all five parts, and only an error ends with 1."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(stored))
    folder = write_usecase(tmp_path, planted.get("base", "sales"))
    for one in (planted, *planted.get("also", ())):
        change(folder / one["in"], one["old"], one["new"])
    severity = planted.get("severity", "error")
    options = [planted["command"]] if "command" in planted else []
    if options:  # without the data nothing is wrong
        assert validate(folder)[1]["wrong"] == []
    code, answer = validate(folder, *options)
    assert code == (severity == "error"), answer
    own = [one for one in answer["problems"] if planted["says"] in sentence(one)]
    assert len(own) >= 1, answer
    assert {one["severity"] for one in own} == {severity}
    lacking = [(part, one) for one in answer["problems"] for part in PARTS if not one[part]]
    assert lacking == []


@pytest.mark.full
def test_one_stored_partition_can_be_chosen(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the third week was quarantined; a week that isn't stored is an error with a command."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(stored))
    folder, weeks = write_usecase(tmp_path, "sales"), world.partitions(WEEKS + 1)
    code, answer = validate(folder, "--data", "--partition", weeks[2])
    assert (code, [one["severity"] for one in answer["problems"]]) == (0, ["warning"])
    assert "of 40 rows of 2024-01-15 to 2024-01-15 1 break type of promo" in answer["problems"][0]["found"]
    code, answer = validate(folder, "--data", "--partition", weeks[WEEKS])
    assert code == 1
    assert f"run ingest weekly_sales --partition {weeks[WEEKS]}`" in answer["wrong"][0]


@pytest.mark.full
def test_an_id_as_a_category_is_found_in_two_partitions(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its 80 values is there once, which says enough; one partition, in which a key is, doesn't."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(stored))
    folder, weeks = write_usecase(tmp_path, "sales"), world.partitions(2)
    ticket = "strftime(spine.week, '%j') || spine.store || spine.item AS ticket, spine.store,"
    change(folder / "features.sql", "spine.store,", ticket)
    change(folder / "usecase.yaml", "[store, item, promoted]", "[store, item, promoted, ticket]")
    assert validate(folder, "--data", "--partition", weeks[0])[1]["problems"] == []
    (problem,) = validate(folder, "--data", "--partition", weeks[1])[1]["problems"]
    assert problem["subject"] == "weekly_sales: features.categorical: ticket"
    assert problem["found"] == f"80 in 80 rows of {weeks[0]} to {weeks[1]}"


def sentence(problem: dict[str, Any]) -> str:
    """Return a problem's message."""
    return "{subject}: expected {required}, but found {found} ({where}); {remedy}".format(**problem)


def test_what_python_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    """A program that reads stdout gets one JSON object; the text goes to stderr."""
    folder = write_usecase(tmp_path, "sales")
    (folder / "rules.py").write_text(
        "print('here')\n\n\ndef known(rows):\n    print('there')\n    return rows['price'].is_valid()\n"
    )
    change(folder / "usecase.yaml", "    contract:\n", '    contract:\n      row_checks: ["rules:known"]\n')
    command = (stand_in(), "-m", "include", "validate", str(folder), "--json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["usecases"] == ["weekly_sales"]
    assert "here" in done.stderr


def test_there_are_at_least_34_mistakes() -> None:
    """Each is another one, and declarations, SQL and data have several."""
    assert len({planted["mistake"] for planted in MISTAKES}) == len(MISTAKES) >= 34
    assert sum(planted["in"] == "features.sql" for planted in MISTAKES) > 8
    assert sum("command" in planted for planted in MISTAKES) > 6
