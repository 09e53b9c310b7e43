"""Several horizons of one declaration: each is a use case of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from include.errors import SpecError
from include.spec import load, names, read_all
from include.spec.load import read
from include.validate.pipeline import validate

WEEKLY = Path(__file__).parents[1] / "usecases" / "weekly_sales"
MONTH = """
horizons:
  month:
    labels: {delay: 4}
    training: {test: 9}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weekly_sales, of which copies may be changed."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    return Path(shutil.copytree(WEEKLY, tmp_path / "weekly_sales"))


def declare(folder: Path, horizons: str, old: str = "", new: str = "") -> None:
    """Add horizons to the declaration, and replace a text of it."""
    text = (WEEKLY / "usecase.yaml").read_text()
    assert old in text
    (folder / "usecase.yaml").write_text(text.replace(old, new) + horizons)


def test_a_horizon_is_a_use_case_with_the_keys_that_it_replaces(folder: Path) -> None:
    """Its name, labels and test window are its own; the rest, with Python and SQL, is the declaration's."""
    before = load("weekly_sales")
    declare(folder, MONTH)
    assert [name for name in names() if name.startswith("weekly")] == ["weekly_sales", "weekly_sales_month"]
    own, month = load("weekly_sales"), load("weekly_sales_month")
    assert (month.name, month.labels.delay, month.training.test) == ("weekly_sales_month", 4, 9)
    assert month.labels.sql == own.labels.sql
    assert month.training.candidates == own.training.candidates
    assert (month.folder, month.sql, month.horizons) == (own.folder, own.sql, {})
    assert month.digest_of("sales") == own.digest_of("sales")
    assert own.digest == before.digest != month.digest
    assert read_all("weekly_sales_month") == ([month], [])
    assert read_all("weekly_sales") == ([own], [])


def test_a_policy_of_a_replay_changes_the_horizon(folder: Path, tmp_path: Path) -> None:
    """What a policy declares replaces what the horizon does, and nothing else of it."""
    declare(folder, MONTH)
    (tmp_path / "longer.yaml").write_text("training: {test: 12}\n")
    spec = read(folder / "usecase.yaml", tmp_path / "longer.yaml", "month")
    assert (spec.name, spec.labels.delay, spec.training.test) == ("weekly_sales_month", 4, 12)


@pytest.mark.parametrize(
    ("horizons", "said"),
    [
        (
            MONTH.replace("9", "7"),
            "training.test: at least 8, because the gate needs 4 partitions and the las",
        ),
        (MONTH.replace("delay: 4", "delya: 4"), "labels.delya: unknown key; valid here: delay, source, sql"),
        (MONTH.replace("month", "m" * 30), "name: String should match pattern"),
    ],
)
def test_a_mistake_in_a_horizon_takes_down_only_that_horizon(folder: Path, horizons: str, said: str) -> None:
    """The error names the horizon and its line; the declaration itself is still read."""
    declare(folder, horizons)
    good, (error,) = read_all()
    assert sorted(spec.name for spec in good) == ["flight_delay", "weekly_sales"]
    assert "weekly_sales/usecase.yaml: horizons.m" in str(error)
    assert said in str(error)
    lines = (folder / "usecase.yaml").read_text().splitlines()
    assert error.where in [f"line {number}" for number in range(lines.index("horizons:") + 2, len(lines) + 1)]


@pytest.mark.parametrize(
    ("horizons", "said"),
    [
        (
            "horizons: {month: {sources: {}}}",
            "horizons.month.sources: unknown key; valid here: alerts, featur",
        ),
        (
            "horizons: {month: null}",
            "horizons.month: Input should be a valid dictionary or instance of Horizon",
        ),
        ("horizons: {Month: {}}", "horizons.Month"),
        ("horizons: [month]", "horizons: Input should be a valid dictionary"),
        ("horizon: month", "an unknown key: horizon"),
    ],
)
def test_what_is_no_horizon_is_refused_once(folder: Path, horizons: str, said: str) -> None:
    """A declaration that is invalid has no valid horizons, and its mistake is shown one time."""
    declare(folder, horizons)
    _, (error,) = read_all()
    assert said in str(error)


def test_a_folder_keeps_its_name_from_a_horizon(folder: Path) -> None:
    """The use case with the folder is read; the horizon's error says what to rename."""
    declare(folder, MONTH)
    shutil.copytree(WEEKLY, folder.parent / "weekly_sales_month")
    file = folder.parent / "weekly_sales_month" / "usecase.yaml"
    file.write_text(file.read_text().replace("name: weekly_sales", "name: weekly_sales_month"))
    good, (error,) = read_all()
    assert sorted(spec.name for spec in good) == ["flight_delay", "weekly_sales", "weekly_sales_month"]
    assert load("weekly_sales_month").labels.delay == 1
    assert "horizons.month: expected a name that no other use case has" in str(error)
    with pytest.raises(SpecError, match="rename the horizon"):
        read(folder / "usecase.yaml", horizon="month")


@pytest.mark.full
def test_labels_of_a_later_day_are_what_a_horizon_is_for(tmp_path: Path) -> None:
    """Without a horizon the same delay is warned about, because both sources declare their day."""
    file = shutil.copytree(load("flight_delay").folder, tmp_path / "flight_delay") / "usecase.yaml"
    text = file.read_text()
    file.write_text(text + "\nhorizons: {later: {labels: {delay: 3}}}\n")
    assert [one.subject for one in validate(read(file, horizon="later"))] == []
    file.write_text(text.replace("delay: 2 ", "delay: 3 "))
    assert ["labels.delay" in one.sentence for one in validate(read(file))] == [True]
