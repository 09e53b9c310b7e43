"""A declaration is read whole or refused by the path of what is wrong, and takes nobody else down."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from include.errors import SpecError
from include.score.predictions import ACTION
from include.spec import folders, load, names, read_all
from include.spec.load import read
from include.spec.stages import Monitoring
from include.spec.usecase import PREDICTION_COLUMNS
from include.storage import schemas

SHIPPED = next(folder for folder in folders() if folder.name == "flight_delay")
WEEKLY = Path(__file__).parents[1] / "usecases" / "weekly_sales"
RAW: dict[str, dict[str, Any]] = {
    folder.name: yaml.safe_load((folder / "usecase.yaml").read_text()) for folder in (SHIPPED, WEEKLY)
}

# where a key is mistyped, the path that names it in the error, and some of the keys that are valid there
MISTYPED = [
    ("", "mistyped", ["gate", "sources", "problem"]),
    ("problem", "problem.mistyped", ["kind", "target", "never_features"]),
    ("schedule", "schedule.mistyped", ["batch", "timezone"]),
    ("sources.schedule", "sources.schedule.mistyped", ["path", "format", "contract"]),
    ("sources.weather", "sources.weather.mistyped", ["volatile", "pages"]),
    ("sources.planes", "sources.planes.mistyped", ["query", "available_at"]),
    (
        "sources.schedule.columns.tailnum",
        "sources.schedule.columns.tailnum.mistyped",
        ["from", "scale"],
    ),
    ("sources.schedule.contract", "sources.schedule.contract.mistyped", ["tolerance", "min_rows"]),
    (
        "sources.schedule.contract.expectations.0",
        "sources.schedule.contract.expectations.0.mistyped",
        ["kwargs", "type"],
    ),
    ("features", "features.mistyped", ["spine", "lookback"]),
    ("labels", "labels.mistyped", ["delay"]),
    ("training", "training.mistyped", ["walk_rows", "candidates"]),
    ("training.candidates.0", "training.candidates.0.mistyped", ["estimator", "params"]),
    ("gate", "gate.mistyped", ["min_partitions", "alpha"]),
    ("gate.requirements.1", "gate.requirements.1.mistyped", ["at_least", "at_most", "metric"]),
    ("scoring", "scoring.mistyped", ["constant", "requires"]),
    ("monitoring", "monitoring.mistyped", ["psi"]),
    ("monitoring.requirements.0", "monitoring.requirements.0.mistyped", ["metric"]),
    ("retraining", "retraining.mistyped", ["consecutive", "when"]),
]
# a value that can't be meant, and what its error says
WRONG = [
    ("problem.kind", "ternary", "problem.kind: Input should be 'binary', 'regression' or 'multiclass'"),
    ("schedule.timezone", "New York", "'New York' is not a time zone's name, such as America/New_York"),
    ("schedule.batch", "at six", "'at six' is not a cron expression"),
    (
        "schedule.batch",
        "*/5 18 * * *",
        "scoring.deadline: minutes from the partition's time, such as +20m or -5m, because schedule.batch "
        "can fire more than once a day, but found 20:00",
    ),
    ("schedule.batch", "0 0 31 2 *", "'0 0 31 2 *' never fires; correct the day of the month, or the month"),
    ("schedule.batch", "R R * * *", "'R R * * *' is not a cron expression of five fields"),
    ("schedule.batch", "0 0 18 * * *", "'0 0 18 * * *' is not a cron expression of five fields"),
    ("schedule.training", "@hourly", "'@hourly' is not a cron expression of five fields, such as 5 * * * *"),
    ("schedule.training", "0 * * * *", "schedule.training: at most once a day, as schedule.batch"),
    ("scoring.deadline", "-5m", "scoring.deadline: +0m or later, but found -5m"),
    ("schedule.start", "31 December", "schedule.start: String should match pattern"),
    (
        "schedule.end",
        "2024-06-31",
        "schedule.end: expected a date from 1900 to 2999, such as 2013-03-01, but found '2024-06-31'",
    ),
    (
        "schedule.end",
        "9999-12-31",
        "schedule.end: expected a date from 1900 to 2999, such as 2013-03-01, but",
    ),
    ("schedule.start", "0001-01-01", "schedule.start: expected a date from 1900 to 2999, such as 2013-03-01"),
    ("sources.schedule.start", "2013-13-01", "sources.schedule.start: expected a date from 1900 to 2999"),
    ("gate.approval_hours", float("inf"), "gate.approval_hours: Input should be a finite number"),
    ("gate.approval_hours", 1e11, "gate.approval_hours: Input should be less than or equal to 87600"),
    ("monitoring.psi", float("inf"), "monitoring.psi: Input should be a finite number"),
    (
        "gate.requirements.0.at_least",
        float("nan"),
        "gate.requirements.0.at_least: Input should be a finite number",
    ),
    ("training.candidates.0.params", {"C": float("inf")}, "expected texts, finite numbers, lists and"),
    (
        "features.spine",
        "flights",
        "features.spine: no source is named 'flights'; there are schedule, outcomes, weather",
    ),
    ("features.lookback", 10**8, "features.lookback: at most 10950, which are 30 years of partitions, but"),
    ("labels.delay", 10951, "labels.delay: at most 10950, which are 30 years of partitions, but found 10951"),
    ("training.candidates.0.window", 10951, "training.candidates.boosting.window: at most 10950"),
    ("sources.schedule.offset", -36501, "sources.schedule.offset: Input should be greater than or equal to"),
    (
        "sources.schedule.fetch",
        {"timeout": 1e9},
        "fetch.timeout: Input should be less than or equal to 86400",
    ),
    ("training.seed", -1, "training.seed: Input should be greater than or equal to 0"),
    ("scoring.constant", 10**400, "but found a number of 401 digits in line "),
    ("labels.source", "planes", "labels.source: planes lacks the key column(s) carrier, flight, origin"),
    ("problem.target", "distance", "features: the target 'distance' can't be a feature"),
    ("problem.target", "flight", "problem.target: 'flight' is a column of the predictions"),
    ("problem.target", "model", "problem.target: 'model' is a column of the predictions"),
    (
        "scoring.deadline",
        "17:59",
        "scoring.deadline: 18:00 or later, when schedule.batch begins, but found 17:59",
    ),
    ("problem.never_features", ["dest"], "features: 'dest' is under problem.never_features"),
    ("problem.never_features", ["Dest"], "features: 'dest' is under problem.never_features"),
    (
        "features.lookbacks.weather",
        400,
        "features: lookbacks.weather: at most lookback, which is 28, but found 400",
    ),
    (
        "scoring.requires.constant",
        ["weather"],
        "scoring.requires.constant.[key]: Input should be 'champion', 'previous' or 'baseline'",
    ),
    (
        "sources.outcomes.columns.flight.hashed",
        True,
        "because labels are joined by it, but found true here and false there",
    ),
    (
        "gate.objective",
        "squared_error",
        "gate.objective: 'squared_error' doesn't fit binary; use log_loss, brier",
    ),
    ("gate.requirements.0.metric", "rmse", "gate.requirements: 'rmse' isn't a binary metric; use roc_auc"),
    ("monitoring.requirements.0.metric", "f1", "monitoring.requirements: 'f1' isn't a binary metric; use"),
    (
        "monitoring.requirements.0.hard",
        True,
        "monitoring.requirements.0.hard: unknown key; valid here: at_least, at_most, metric",
    ),
    ("gate.requirements.0.metric", "f1@2", "'f1@2' isn't a binary metric; use roc_auc"),
    ("gate.requirements.0.at_most", 1, "gate.requirements.0: give either at_least or at_most"),
    ("gate.approval", "human", "gate.approval: Input should be 'none', 'changes' or 'all'"),
    ("gate.evidence", "held_out", "gate.evidence: unknown key"),
    ("training.validation", 7, "training.validation: unknown key"),
    ("training.test", 25, "at least 26, because the gate needs 24 partitions and the last 2 have no labels"),
    ("gate.block_partitions", 15, "at least 32, because the gate needs 30 partitions and the last 2 have no"),
    (
        "training.window",
        48,
        "at least 49, because at most half of its labeled partitions are test partitions",
    ),
    ("training.candidates.0.window", 2, "window: Input should be greater than or equal to 3"),
    ("training.candidates.0.name", "logistic", "candidates: logistic is the name of a baseline too; use an"),
    ("training.baselines.0.name", "constant", "one must be {name: prior, estimator: prior}"),
    ("sources.schedule.key", ["nobody"], "'nobody' is not one of its columns: year, month"),
    ("sources.schedule.key", [], "sources.schedule.key"),
    (
        "sources.schedule.kind",
        "ftp",
        "sources.schedule.kind: expected one of objects, http, sql, kafka, but found 'ftp'",
    ),
    (
        "sources.shadows",
        RAW[WEEKLY.name]["sources"]["sales"],
        "sources: 'shadows' is the name of one of Ever",
    ),
    ("sources.schedule.columns.partition", {"type": "string"}, "'partition' is Evergreen's own column"),
    (
        "sources.schedule.columns.Known_At",
        {"type": "date"},
        "'Known_At' is Evergreen's own column; use `from`",
    ),
    (
        "sources.schedule.columns.known_until",
        {"type": "date"},
        "'known_until' is Evergreen's own column; use",
    ),
    ("sources.schedule.columns.Origin", {"type": "string"}, "'origin' is another column's name but for the"),
    (
        "sources.weather.columns.observed.timezone",
        "America/NewYork",
        "sources.weather.columns.observed.timezone: 'America/NewYork' is not a time zone's name",
    ),
    (
        "sources.schedule.columns.year.scale",
        0.5,
        "sources.schedule.columns.year: scale: only a column of type number is converted, but found integer",
    ),
    ("sources.schedule.columns.origin.shift", 1, "shift: only a column of type number is converted, but"),
    ("sources.schedule.day", "origin", "day: 'origin' must be a date or timestamp, but found string"),
    ("sources.weather.columns.observed.hashed", True, "day: 'observed' must be a date or timestamp, but"),
    ("sources.schedule.contract.tolerance", 5, "contract.tolerance: Input should be less than or equal to 1"),
    ("scoring.requires.champion", ["tides"], "scoring.requires.champion: no source is named 'tides'"),
    ("scoring.deadline", "25:00", "scoring.deadline: String should match pattern"),
    (
        "features.numeric",
        ["distance", "distance"],
        "each feature once, under numeric or categorical, but found distance twice",
    ),
    (
        "features.categorical",
        ["distance"],
        "each feature once, under numeric or categorical, but found distance twice",
    ),
    (
        "sources.outcomes.key",
        ["carrier", "flight"],
        "because labels are joined by it, but found carrier, flight; add origin",
    ),
    (
        "sources.outcomes.key",
        ["carrier", "flight", "origin", "scheduled"],
        "but found carrier, flight, origin, scheduled; remove scheduled",
    ),
    (
        "features.groups.plane",
        ["seats", "wings"],
        "features: groups.plane: wings isn't a feature; there are depart",
    ),
    ("features.groups.plane", [], "features: groups.plane: it is empty; there are"),
    ("features.sql", "other.sql", "features.sql: a file beside it, but found other.sql missing"),
    ("features.sql", "../../secret.sql", "a file within the use case's folder, but found ../../secret.sql"),
    ("folder", "/etc", "an unknown key: folder"),
    ("name", "another", "expected name: flight_delay (the folder's), but found name: another"),
]


def planted(folder: Path, path: str, value: Any, source: Path = SHIPPED) -> Path:
    """Return the file of a copy of a use case, with one value put at a path."""
    copied = folder / source.name
    shutil.copytree(source, copied)
    raw = copy.deepcopy(RAW[source.name])
    at: Any = raw
    *parts, last = path.split(".")
    for part in parts:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    (copied / "usecase.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True, sort_keys=False))
    return copied / "usecase.yaml"


def refusal(file: Path) -> str:
    """Return the sentence with which a declaration is refused."""
    with pytest.raises(SpecError) as caught:
        read(file)
    return str(caught.value)


@pytest.mark.parametrize("folder", [SHIPPED, WEEKLY], ids=lambda folder: folder.name)
def test_a_whole_declaration_is_read(folder: Path) -> None:
    """The shipped use case and the tests' own are read, and each default is filled in."""
    spec = read(folder / "usecase.yaml")
    assert spec.name == folder.name
    assert spec.key == spec.sources[spec.features.spine].key
    assert spec.sql == (folder / "features.sql").read_text()


@pytest.mark.parametrize(("where", "named", "valid"), MISTYPED)
def test_a_mistyped_key_is_refused_by_its_path(
    where: str, named: str, valid: list[str], tmp_path: Path
) -> None:
    """The error names the file, the key's whole path, and the keys that are valid there."""
    file = planted(tmp_path, f"{where}.mistyped".removeprefix("."), 1)
    sentence = refusal(file)
    assert str(file) in sentence
    assert f"{named}: unknown key; valid here: " in sentence
    offered = sentence.split("valid here: ")[1].split(" (line")[0].split(", ")
    assert set(valid) <= set(offered)
    assert "folder" not in offered
    assert "\n" not in sentence


@pytest.mark.full
@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_a_value_that_cannot_be_meant_is_refused(path: str, value: Any, said: str, tmp_path: Path) -> None:
    """The error says what was found and what is valid."""
    assert said in refusal(planted(tmp_path, path, value))


def test_a_recipe_whose_window_has_no_labels_is_refused(tmp_path: Path) -> None:
    """The newest partitions of a window are those whose labels aren't known yet."""
    file = planted(tmp_path, "training.candidates.0.window", 4)
    file.write_text(file.read_text().replace("  delay: 2\n", "  delay: 4\n"))
    assert "candidates.boosting.window: at least 5, because the last 4 partitions have no" in refusal(file)
    file.write_text(file.read_text().replace("  delay: 4\n", "  delay: 3\n"))
    assert read(file).training.candidates[0].window == 4


# a mistake across keys, and what the line that its error names has
LINES = [
    ("scoring.deadline", "17:59", "  deadline: '17:59'"),
    ("training.test", 25, "  test: 25"),
    ("gate.objective", "squared_error", "  objective: squared_error"),
    ("scoring.requires.champion", ["tides"], "    - tides"),
    ("training.candidates.0.monotone", {"dest": "increasing"}, "      dest: increasing"),
    ("sources.outcomes.key", ["carrier", "flight"], "    - carrier"),
    ("schedule.timezone", "New York", "  timezone: New York"),
    ("training.candidates.0.name", "logistic", "  - name: logistic"),
]


@pytest.mark.parametrize(("path", "value", "line"), LINES)
def test_an_error_names_the_line_of_the_key_in_its_message(
    path: str, value: Any, line: str, tmp_path: Path
) -> None:
    """An error across keys has the line of the key that its message begins with, not that of the whole."""
    file = planted(tmp_path, path, value)
    with pytest.raises(SpecError) as caught:
        read(file)
    number = int(caught.value.where.removeprefix("line "))
    assert file.read_text().splitlines()[number - 1] == line


UNQUOTED = [
    ('start: "2024-01-01"', "start: 2024-01-05", 'schedule.start: quote the date: start: "2024-01-05"'),
    (
        "connection: shop\n",
        "connection: shop\n    start: 2024-02-05  # late\n",
        'sources.sales.start: quote the date: start: "2024-02-05"',
    ),
    (
        'available_at: "05:00"',
        "available_at: 18:30",
        'sources.sales.available_at: quote the time: available_at: "18:30"',
    ),
    ("statement: ", "statement: 12  # ", 'problem.statement: quote the text: statement: "12"'),
]


@pytest.mark.parametrize(("right", "wrong", "sentence"), UNQUOTED)
def test_a_text_without_quotes_is_shown_as_it_should_be_written(
    right: str, wrong: str, sentence: str, tmp_path: Path
) -> None:
    """YAML takes a bare date, hour or number for no text: the error names the key and quotes the value."""
    folder = shutil.copytree(WEEKLY, tmp_path / "weekly_sales")
    text = (folder / "usecase.yaml").read_text()
    assert right in text
    (folder / "usecase.yaml").write_text(text.replace(right, wrong, 1))
    with pytest.raises(SpecError) as caught:
        read(folder / "usecase.yaml")
    assert caught.value.found == sentence


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [", "\x00", "just words"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    """Empty, a list, broken YAML, binary: one sentence that names the file."""
    file = tmp_path / "usecase.yaml"
    file.write_text(text)
    sentence = refusal(file)
    assert str(file) in sentence
    assert "\n" not in sentence


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    """A tag that would make an object in an unsafe loader is an error and nothing happens."""
    file, trace = tmp_path / "usecase.yaml", tmp_path / "trace"
    file.write_text(
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{trace}]]"
    )
    assert "could not determine a constructor" in refusal(file)
    assert not trace.exists()


def test_a_bad_declaration_takes_down_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other use cases are still read, and the bad one's error is there to be shown."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    bad = planted(tmp_path, "gate.mistyped", 1, source=WEEKLY)
    good, errors = read_all()
    assert [spec.name for spec in good] == ["flight_delay"]
    assert len(errors) == 1
    assert str(errors[0]).startswith(f"{bad}: expected ")
    assert "found gate.mistyped: unknown key" in str(errors[0])
    assert names() == sorted(["flight_delay", "weekly_sales"], key=lambda name: str(folder_of(name)))


def folder_of(name: str) -> Path:
    """Return where a use case lies."""
    return next(folder for folder in folders() if folder.name == name)


def test_a_use_case_that_is_not_there_is_named_with_those_that_are() -> None:
    """The error lists the use cases and says how to make one."""
    with pytest.raises(SpecError, match=r"use case 'nothing': expected one of flight_delay; create it with"):
        load("nothing")


def test_the_template_is_no_use_case() -> None:
    """A folder that begins with an underscore is not run."""
    assert "_template" not in names()


@given(order=st.permutations(list(RAW["weekly_sales"])))
def test_the_digest_depends_on_what_is_declared_and_not_on_its_order(
    order: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keys in another order, or a default spelled out, declare the same thing."""
    folder = tmp_path_factory.mktemp("spec") / "weekly_sales"
    shutil.copytree(WEEKLY, folder)
    raw = {key: RAW["weekly_sales"][key] for key in order}
    raw["gate"] = {**raw["gate"], "alpha": 0.05}
    (folder / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    assert read(folder / "usecase.yaml").digest == read(WEEKLY / "usecase.yaml").digest


@pytest.mark.parametrize(
    "product", ["monitor", "labels", "losses", "drift", "limits", "findings", "decisions", "switches"]
)
def test_a_source_may_not_be_named_as_a_product(product: str, tmp_path: Path) -> None:
    """Its rows would stand in the place of Evergreen's own, and be written over by them."""
    raw = copy.deepcopy(RAW[WEEKLY.name])
    raw["sources"][product] = next(iter(raw["sources"].values()))
    (tmp_path / "usecase.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(SpecError, match=f"'{product}' is the name of one of Evergreen's own products"):
        read(tmp_path / "usecase.yaml")


@pytest.mark.parametrize("name", [*PREDICTION_COLUMNS[1:], "Model"])
def test_a_key_may_not_be_named_as_a_column_of_the_predictions(name: str, tmp_path: Path) -> None:
    """They have the key beside their own columns, and Delta and DuckDB ignore case."""
    sales = copy.deepcopy(RAW[WEEKLY.name]["sources"]["sales"])
    sales["columns"][name] = sales["columns"].pop("item")
    sales["key"] = ["store", name]
    said = refusal(planted(tmp_path / "a", "sources.sales", sales, source=WEEKLY))
    assert f"sources.sales.key: other names than the columns of the predictions, but found '{name}'" in said
    (line,) = re.findall("as `([^`]+)`", said)
    sales["columns"] |= yaml.safe_load(f"{{{line}}}")
    sales["key"] = ["store", f"sales_{name}"]
    del sales["columns"][name]
    spec = read(planted(tmp_path / "b", "sources.sales", sales, source=WEEKLY))
    assert spec.sources["sales"].columns[f"sales_{name}"].source == name


def test_the_names_that_a_key_may_not_have_are_those_of_the_tables() -> None:
    """A column that the predictions get is refused as a key from then on."""
    assert (*schemas.PREDICTIONS.names, ACTION) == PREDICTION_COLUMNS


def test_what_can_be_declared_since_attempts_were_recorded_leaves_digests_alone() -> None:
    """At its default a later field is in no digest, so old verdicts stay of this declaration; set, it is."""
    known = {"psi", "missing", "unseen", "requirements", "window", "report_rows"}
    assert set(Monitoring().model_dump(mode="json")) == known
    spec = load("flight_delay")
    training = spec.training.model_dump(mode="json")
    assert "walk_rows" not in training
    assert not any("window" in recipe for recipe in (*training["baselines"], *training["candidates"]))
    monitoring = spec.monitoring.model_copy(update={"false_alarms_per_year": 0.2})
    stricter = spec.model_copy(update={"monitoring": monitoring})
    assert stricter.digest != spec.digest


def test_a_recipe_that_is_declared_twice_is_refused(tmp_path: Path) -> None:
    """Two names of one recipe would have the same fits and share a walk; another window is another recipe."""
    raw = copy.deepcopy(RAW["weekly_sales"])
    recipe = raw["training"]["candidates"][0]
    raw["training"]["candidates"].append({**recipe, "name": "again"})
    said = "training: candidates: again is the same recipe as an earlier one; remove it"
    assert said in refusal(planted(tmp_path, "training", raw["training"], source=WEEKLY))
    raw["training"]["candidates"][-1]["window"] = 30
    spec = read(planted(tmp_path / "window", "training", raw["training"], source=WEEKLY))
    assert spec.training.candidates[-1].window == 30


@pytest.mark.parametrize("what", ["gate.alpha", "features.sql's text", "sources.sales.contract.tolerance"])
def test_the_digest_changes_with_what_a_result_depends_on(what: str, tmp_path: Path) -> None:
    """Another threshold or another line of SQL is another declaration; another folder is not."""
    before = read(WEEKLY / "usecase.yaml").digest
    if what.endswith("text"):
        file = planted(tmp_path, "name", "weekly_sales", source=WEEKLY)
        assert read(file).digest == before
        with (file.parent / "features.sql").open("a") as sql:
            sql.write("\n-- a comment\n")
    else:
        file = planted(tmp_path, what, 0.01, source=WEEKLY)
    assert read(file).digest != before


def test_an_ablation_declares_nothing_else_and_needs_something_to_fit_on(tmp_path: Path) -> None:
    """Asked for after each training it changes no result's key, and a group of all features is refused."""
    file = planted(tmp_path, "training.ablation", True, source=WEEKLY)
    assert read(file).training.ablation
    assert read(file).digest == read(WEEKLY / "usecase.yaml").digest
    of = RAW["weekly_sales"]["features"]
    file = planted(
        tmp_path / "all", "features.groups", {"all": of["numeric"] + of["categorical"]}, source=WEEKLY
    )
    assert read(file).features.groups
    file.write_text(file.read_text().replace("training:\n", "training:\n  ablation: true\n", 1))
    assert "training.ablation: without the group all no feature is left to fit on; declare" in refusal(file)


def test_a_source_begins_with_its_own_first_partition() -> None:
    """Partitions before a source's start, or after the schedule's end, are not asked for."""
    spec = load("flight_delay")
    assert spec.partitions("schedule", "2012-12-29", "2013-01-02") == [
        "2012-12-31",
        "2013-01-01",
        "2013-01-02",
    ]
    assert spec.partitions("outcomes", "2012-12-29", "2013-01-02") == ["2013-01-02"]
    assert spec.partitions("schedule", "2013-12-30", "2014-01-05") == ["2013-12-30"]
    assert spec.partitions("outcomes", "2012-12-29", "2013-01-01") == []


BANDS = Path(__file__).parents[1] / "usecases/flight_bands"
RAW[BANDS.name] = yaml.safe_load((BANDS / "usecase.yaml").read_text())
WRONG_CLASSES = [
    ("problem.classes", ["early", "late"], "classes: at least 3 names that differ by more than case, as"),
    ("problem.classes", [], "found none; two classes are a binary problem"),
    ("problem.classes", ["late", "on_time", "Late"], "found late, on_time, Late"),
    (
        "problem.classes",
        ["early", True, "late"],
        "True isn't a valid class name: columns and metrics are named after",
    ),
    ("problem.classes", ["early", "on time", "late"], "'on time' isn't a valid class name"),
    ("problem.kind", "binary", "classes: only a multiclass problem declares them, but found kind binary"),
    ("scoring.constant", 0.3, "scoring.constant: each class's probability, together 1, as {early: 0.…"),
    (
        "scoring.constant",
        {"early": 0.5, "late": 0.5},
        "found early 0.5, late 0.5; on_time is only in problem.classes",
    ),
    (
        "problem.classes",
        ["early", "on_tme", "late"],
        "; on_tme is only in problem.classes, on_time only in scoring.constant",
    ),
    ("scoring.constant", {"early": 0.5, "on_time": 0.5, "late": 0.5}, "found early 0.5, on_time 0.5, late"),
    ("scoring.constant", {"early": 1.5, "on_time": -0.5, "late": 0}, "found early 1.5, on_time -0.5"),
    (
        "scoring.constant",
        "often",
        "scoring.constant: a number, or for a multiclass problem a number for each",
    ),
    ("gate.objective", "squared_error", "'squared_error' doesn't fit multiclass; use log_loss, brier"),
    ("gate.requirements.0.metric", "recall@never", "'recall@never' isn't a multiclass metric; use accuracy"),
    ("gate.fairness", {"columns": ["origin"], "requirements": [{"metric": "tpr_ratio", "at_least": 0.8}]},
     "gate.fairness: selection rates need a binary problem, but found multiclass"),
    ("features.numeric", ["dep_delay", "prediction_late"], "'prediction_late' is a column of the predict"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), WRONG_CLASSES)
def test_classes_that_can_not_be_meant_are_refused(path: str, value: Any, said: str, tmp_path: Path) -> None:
    """Each mistake about classes has a sentence that says what was found, and what is valid."""
    assert said in refusal(planted(tmp_path, path, value, BANDS))


def test_a_fallback_by_class_is_only_of_several_classes(tmp_path: Path) -> None:
    """A binary problem's constant is one number."""
    said = "scoring.constant: a number, for a binary problem, but found early 0.5, late 0.5"
    assert said in refusal(planted(tmp_path, "scoring.constant", {"early": 0.5, "late": 0.5}))


def test_a_change_of_classes_makes_only_the_labels_source_stale(tmp_path: Path) -> None:
    """What is checked against the classes is made again; the other source, and every other kind, isn't."""
    before = read(BANDS / "usecase.yaml")
    after = read(planted(tmp_path, "problem.classes", ["late", "on_time", "early"], BANDS))
    assert before.digest_of("departures") == after.digest_of("departures")
    assert before.digest_of("arrivals") != after.digest_of("arrivals")
    assert "classes" not in read(SHIPPED / "usecase.yaml").model_dump()["problem"]
