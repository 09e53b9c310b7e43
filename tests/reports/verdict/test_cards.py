"""The cards agree with the page, and are stored with the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mlflow import MlflowClient

from include.judge.evidence import SCHEMA, Evidence
from include.models.registry import Registry
from include.promote import verdicts
from include.reports.cards import model_card
from include.reports.html import escape_markdown
from include.reports.paths import data_card_path, model_card_path, page_path
from include.reports.verdict import DATA, MODEL, PAGE, draw_verdict
from include.reports.verdict_data import read_attempt
from include.reports.wording import action_rule
from include.spec import Problem
from include.storage.lake import Lake
from tests.promote.conftest import model, register
from tests.reports.verdict.conftest import SKILLS, World


def cards(world: World, key: str) -> tuple[str, str]:
    """Return the stored cards of an attempt's model and its data."""
    model = verdicts.attempt(world.lake, key)["model"]
    objects = (world.lake.get(place(model)) for place in (model_card_path, data_card_path))
    return tuple((data or b"").decode() for data in objects)  # type: ignore[return-value]


@pytest.mark.full
@pytest.mark.usefixtures("text")
def test_the_models_card_says_what_it_is_for_and_worth(judged: tuple[World, str]) -> None:
    """The model card has purpose, owner, recipe, training data, verdict, limits and digests."""
    world, key = judged
    row = verdicts.attempt(world.lake, key)
    card, _ = cards(world, key)

    assert card.startswith("# Model card: flight_delay version 2\n")
    for line in (
        world.spec.problem.statement,
        "| Owner | operations planning |",
        "| Estimator | hist_gradient_boosting: learning_rate 0.05",
        "| Fitted on | 200,000 rows of all history until 2013-01-30 |",
        "| Verdict | blessed |",
        "at level 0.95; above 0 is better |",
        "## Fairness between groups",
        "| Not for | decisions about groups other than by origin: no other groups were compared |",
        "carrier 1.9 %",
        "| temp missing | missing | passed | +10.0 % |  |",
        *(row[name] for name in ("model", "spec", "data", "code")),
    ):
        assert line in card, line


@pytest.mark.parametrize(
    ("recipe", "lines"),
    [
        (
            "boosting_30",
            ("| Estimator | hist_gradient_boosting: ", "rows of the last 30 partitions until"),
        ),
        ("prior", ("| Estimator | prior: ", "rows of all history until")),
        ("another", ("| Estimator | no longer declared |",)),
    ],
)
def test_the_models_card_knows_each_recipe_that_may_serve(
    judged: tuple[World, str], recipe: str, lines: tuple[str, ...]
) -> None:
    """A baseline, or a variant with a short memory, is as declared as a candidate."""
    world, key = judged
    attempt = read_attempt(world.lake, world.spec, key)
    card = model_card(replace(attempt, evidence=replace(attempt.evidence, recipe=recipe)), {})
    assert all(line in card for line in lines)


@pytest.mark.usefixtures("text")
def test_the_datas_card_says_where_it_comes_from(judged: tuple[World, str]) -> None:
    """The data card has each source with its contract, partitions, rows and quarantined share."""
    world, key = judged
    _, card = cards(world, key)

    for source in world.spec.sources:
        assert f"| {source} |" in card
    for line in (
        "| schedule | objects | the day after the partition, from 12:00 of the partition on |",
        "| 2013-02-01 to 2013-02-02 | 1 published, 1 refused | 990 | 10 (1.0 %) |",
        "| expect_column_values_to_be_between | column distance, min_value 20, max_value 16000 |",
        "| rows quarantined | at most 5.0 %, otherwise the partition is refused |",
        "| Label | late: arr_delay &gt; 15, from outcomes |",
        "| temp | number | °C | no | a feature of the same name |",
    ):
        assert line in card, line
    assert "7,777" not in card  # of a partition after the attempt


@pytest.mark.usefixtures("text")
def test_what_the_data_holds_is_text_in_a_card(judged: tuple[World, str]) -> None:
    """Tags and pipes in data are escaped."""
    card, _ = cards(*judged)

    assert "<" not in card
    assert "alert('planted')&lt;/script&gt; \\| \\`x\\`" in card
    tables = [block for block in card.split("\n\n") if block.startswith("|")]
    for table in tables:
        bars = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(bars) == 1, table


@pytest.mark.full
def test_a_card_knows_that_a_person_forced_its_model(flights: World) -> None:
    """The card keeps the forced verdict even if the gate's own page is drawn again."""
    key = flights.attempt(1, SKILLS, refused=True)
    verdicts.record_forced(flights.lake, verdicts.attempt(flights.lake, key), "ann", "the champion is broken")
    flights.page(key)
    card, _ = cards(flights, key)

    assert "| Verdict | forced |" in card
    assert "forced by ann: the champion is broken; the gate said: not blessed" in card


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry in which version 1 was trained."""
    folder = tmp_path_factory.mktemp("mlflow")
    world = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    with world.recording("weekly_sales", "key", "run") as run:
        assert register(world, run, model(1)) == "1"
    return world


@pytest.mark.full
def test_page_and_cards_go_with_the_model_version(registry: Registry, weekly: World) -> None:
    """The run has copies of page and cards; the version's description is the sentence, with links."""
    key = weekly.attempt(1, SKILLS)
    links = [("Verdict page", "https://airflow.example/report"), ("Airflow run", "https://airflow.example/r")]
    place = draw_verdict(weekly.lake, weekly.spec, key, registry, links)
    version = MlflowClient(registry.uri, registry.uri).get_model_version("weekly_sales", "1")
    row = verdicts.attempt(weekly.lake, key)
    assert version.tags == {"verdict": row["verdict"]}
    assert version.description.split("\n\n") == [
        escape_markdown(row["sentence"]),
        "[Verdict page](https://airflow.example/report)",
        "[Airflow run](https://airflow.example/r)",
    ]
    run, digest = registry.run_of("weekly_sales", "1"), verdicts.attempt(weekly.lake, key)["model"]

    assert place == page_path(verdicts.attempt(weekly.lake, key)["partition"], key)
    for path, there in (
        (PAGE, f"reports/{place}"),
        (MODEL, model_card_path(digest)),
        (DATA, data_card_path(digest)),
    ):
        assert registry.get(run, path) == weekly.lake.get(there)


@pytest.mark.full
def test_a_registry_that_is_down_costs_nothing(
    weekly: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If MLflow is down, the lake has page and cards, and a warning is logged."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    place = draw_verdict(weekly.lake, weekly.spec, weekly.attempt(1, SKILLS), Registry("http://127.0.0.1:9"))

    assert weekly.lake.get(f"reports/{place}")
    assert "weekly_sales v1: couldn't copy report and cards to MLflow" in caplog.text


@pytest.mark.full
def test_a_champion_whose_evidence_other_code_wrote_is_still_named(flights: World) -> None:
    """If the champion's evidence is unreadable, its fields are unknown and the rest is shown."""
    first = flights.attempt(1, SKILLS)
    flights.promote(first)
    second = flights.attempt(2, SKILLS)
    rows = verdicts.attempts(flights.lake)
    for row in rows:
        if row["key"] == first:
            row["evidence"] = row["evidence"].replace(f'"schema":{SCHEMA}', '"schema":1')
    old = replace(flights, lake=_LakeWithAttempts(flights.lake, rows))

    assert "<td>unknown</td>" in old.page(second)
    assert Evidence.from_json(rows[1]["evidence"]).champion


class _LakeWithAttempts(Lake):
    """A lake with other attempts, because rows of the append-only ledger can't be changed."""

    def __init__(self, lake: Lake, attempts: list[dict[str, object]]) -> None:
        self._attempts = attempts
        super().__init__("", lake.uri)
        self.uri = lake.uri

    def rows(self, table: str, where: object = None, **options: object) -> list[dict[str, object]]:  # type: ignore[override]
        if table != "attempts":
            return super().rows(table, where, **options)  # type: ignore[arg-type]
        key = (where or {}).get("key")  # type: ignore[attr-defined]
        return [row for row in self._attempts if key in (None, row["key"])]


@pytest.mark.parametrize(
    ("costs", "rule"),
    [
        (
            {0: {"wait": 0, "warn": 1}, 1: {"wait": 4, "warn": 1}},
            "warn from a probability of 0.25 on, else wait",
        ),
        ({0: {"go": 1, "stay": 0}, 1: {"go": 0, "stay": 3}}, "go from a probability of 0.25 on, else stay"),
        (
            {0: {"wait": 0, "call": 1, "visit": 3}, 1: {"wait": 9, "call": 5, "visit": 2}},
            "of wait, call, visit the one with the lowest expected cost",
        ),
    ],
)
def test_a_card_says_how_actions_follow(costs: dict[int, dict[str, float]], rule: str) -> None:
    """Two actions have a threshold, whichever is declared first; of more the cheapest is taken."""
    problem = Problem(kind="binary", statement="s", target="late", costs=costs)
    assert action_rule(problem) == rule
