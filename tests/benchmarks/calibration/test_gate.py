"""One command says how often the gate promotes noise, in numbers and on a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calibration.gate import GAINS, PLACE, calibrate, text
from benchmarks.calibration.pool import ALIKE, ATTEMPTS, OLDER, RECIPE, SEEDS, UNLIKE, pool
from benchmarks.calibration.resample import FIXED, GATE, PLAIN
from include.errors import EvergreenError
from include.spec import UseCase
from include.storage.lake import Lake
from tests.benchmarks.calibration.conftest import SEQUENCES
from tests.train import visits


def test_the_command_measures_every_gate_and_gain(measured: dict[str, Any]) -> None:
    """The JSON has each gate's rate, with an interval, for noise and for each gain, pair by pair."""
    found = {(row["pairs"], row["gain"], row["recentred"], row["gate"]) for row in measured["results"]}
    expected = {
        (p, g, True, gate) for p in (SEEDS, OLDER, RECIPE) for g in GAINS for gate in (GATE, FIXED, PLAIN)
    }
    assert found == expected | {(SEEDS, 0.0, False, gate) for gate in (GATE, FIXED, PLAIN)}
    for row in measured["results"]:
        assert len(row["by_attempt"]) == ATTEMPTS
        assert row["by_attempt"] == sorted(row["by_attempt"])
        for rate, share in (("first", row["by_attempt"][0]), ("within", row["by_attempt"][-1])):
            assert row[rate]["share"] == share
            assert 0 <= row[rate]["low"] <= share <= row[rate]["high"] <= 1


def test_it_says_what_it_was_measured_on(measured: dict[str, Any]) -> None:
    """The first candidate that depends on the seed is fitted on the first third, and judged on the rest."""
    assert measured["recipe"] == "forest"
    assert measured["models"] == ALIKE + 2 * UNLIKE <= 50
    assert measured["window"] == 4
    assert measured["sequences"] == SEQUENCES
    assert measured["fitted"]["partitions"] == 27
    assert measured["held_out"]["partitions"] == 54
    assert measured["fitted"]["last"] < measured["held_out"]["first"]


def test_a_larger_gain_is_promoted_more_often(measured: dict[str, Any]) -> None:
    """The same sequences with a larger gain are promoted where they were with a smaller one."""
    for pairs in (SEEDS, OLDER, RECIPE):
        rows = [
            r for r in measured["results"] if r["pairs"] == pairs and r["gate"] == GATE and r["recentred"]
        ]
        shares = [row["within"]["share"] for row in sorted(rows, key=lambda row: row["gain"])]
        assert shares == sorted(shares)


def test_the_page_stands_alone(home: Path, measured: dict[str, Any]) -> None:
    """The page begins with the sentence, has both plots in it, and fetches nothing."""
    html = (home / "page.html").read_text()
    stored = Lake("missed_visits", str(home / "lake")).get(PLACE)
    assert stored is not None
    assert html == stored.decode()
    start = html[html.index('class="first">') :]
    assert re.sub(r"&#\d+;|&gt;", "?", start[14:60]) == measured["sentence"][:46]
    assert html.count("data:image/svg+xml;base64,") == 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "<script" not in html


def test_a_terminal_shows_the_sentence_first(measured: dict[str, Any]) -> None:
    """Without --json a person reads the sentence, then a line for each result."""
    lines = text(measured).splitlines()
    assert lines[0] == measured["sentence"]
    assert len([line for line in lines if "% [" in line]) == 1 + len(measured["results"])


def test_the_same_lake_gives_the_same_numbers(home: Path, spec: UseCase, measured: dict[str, Any]) -> None:
    """Measured again from nothing, every number and the page are the same."""
    found, html = calibrate(Lake(spec.name, str(home / "lake")), spec, SEQUENCES)
    assert json.loads(json.dumps(found)) | {"seconds": 0} == measured | {"seconds": 0}
    assert html == (home / "page.html").read_text()


def test_too_few_partitions_are_named(tmp_path: Path, spec: UseCase) -> None:
    """A lake that doesn't hold a sequence twice over is told how many partitions it takes.

    And what to run.
    """
    lake = Lake(spec.name, str(tmp_path))
    with pytest.raises(EvergreenError, match="published partitions of outcomes"):
        pool(lake, spec)
    visits.fill(lake, spec)
    with pytest.raises(
        EvergreenError, match=r"required 69 labelled partitions.*found 28.*run ingest missed_visits"
    ):
        pool(lake, spec)


def test_recipes_without_chance_are_named(tmp_path: Path, home: Path) -> None:
    """When no candidate depends on the seed there is no A/A to be had."""
    alike = {"random_forest": "hist_gradient_boosting", "n_estimators": "max_iter"}
    fixed = visits.usecase(tmp_path / "usecases", **alike)
    with pytest.raises(EvergreenError, match="depends on the seed, found boosting, forest, all"):
        pool(Lake(fixed.name, str(home / "lake")), fixed)
