"""The verdict page explains the decision in plain words and shows all evidence for it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from include.judge.judge import BLESSED, FORCED, NOT_BLESSED, NOT_ENOUGH, RUBBER_STAMPED, checks_of
from include.promote import ledger, verdicts
from include.reports.paths import page_path
from include.reports.verdict import draw_forced
from include.reports.verdict import render_page as render
from include.reports.verdict_data import read_attempt
from include.reports.wording import TITLES, headline, why_champion
from tests.reports.verdict.conftest import HOSTILE, SKILLS, World

VOID = {"meta", "br", "img", "use", "path", "rect"}
CURVES = {
    "Gain over the champion, version 1, by partition",
    "ROC",
    "Precision and recall",
    "Calibration",
    "Scores of the challenger",
    "The 4 worst slices of 4",
    "Feature importance",
}


class Read(HTMLParser):
    """A parsed page: its tags, texts in order, table rows and charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.drawings: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row, a cell or a drawing."""
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "svg":
            self.drawings.append(str(dict(attrs)["aria-label"]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that holds nothing."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """See that what ends is what was begun last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect what is to be read."""
        if "style" in self._open[-1:]:
            self.style += data
        elif data.strip():
            self.texts.append(" ".join(data.split()))
            if {"td", "th"} & set(self._open):
                self.rows[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        """All that is to be read."""
        return " ".join(self.texts)

    def row(self, first: str) -> list[str]:
        """Return the rest of the one row that begins with a name."""
        [cells] = [row[1:] for row in self.rows if row[:1] == [first]]
        return cells


@pytest.fixture(scope="session")
def page(text: str) -> Read:
    """The page of a challenger that met a champion."""
    return Read(text)


@pytest.mark.full
def test_the_sentence_comes_first(page: Read, judged: tuple[World, str]) -> None:
    """Decision, reasons, next step and the recorded sentence come before every table."""
    world, key = judged
    row = verdicts.attempt(world.lake, key)

    assert page.texts[2] == TITLES[row["verdict"]] == TITLES[BLESSED]
    first = page.text[: page.text.index("Every check")]
    assert (
        "On 24 partitions with 2,400 rows that models of its recipe, each fitted on earlier partitions, had "
        "never seen, their log loss was 0.5559, and that of the champion, version 1 was 0.5816" in first
    )
    assert "0.5816: 4.4 % less. Less is better." in first
    assert "It serves from the next unserved partition on." in first
    assert " ".join(row["sentence"].split()) in first


def test_every_check_is_there(page: Read, judged: tuple[World, str]) -> None:
    """Each check is a row with key, name, requirement, observed value, outcome and note."""
    world, key = judged
    checks = checks_of(verdicts.attempt(world.lake, key)["checks"])

    assert len(checks) > 10
    for one in checks:
        outcome = "passed" if one.passed else "failed"
        assert [one.key, one.name, one.required, one.observed, outcome, one.note] in page.rows, one.key
    assert any("[" in one.observed and ", inf)" in one.observed for one in checks)


def test_a_rejection_names_the_checks_that_failed_and_who_stays(flights: World) -> None:
    """The title, the number and names of the failed checks, and the champion that goes on serving."""
    flights.promote(flights.attempt(1, SKILLS))
    attempt = read_attempt(flights.lake, flights.spec, flights.attempt(2, SKILLS, refused=True))
    result = headline(attempt)
    assert result.title == "The new model is rejected."
    assert result.reasons[1].startswith(f"1 of {len(attempt.checks)} checks failed: ")
    assert result.next_step == "Version 1 stays champion. The next training is judged on its own."


@pytest.mark.full
def test_a_requirement_that_is_not_met_is_red_and_said_not_to_block(flights: World) -> None:
    """A model that isn't kept back by a requirement is blessed, and its page shows the requirement in red."""
    flights = flights.with_gate({"requirements": [{"metric": "roc_auc", "at_least": 0.99}]})
    text = flights.page(flights.attempt(1, {name: s for name, s in SKILLS.items() if name != "champion"}))
    page = Read(text)
    assert page.texts[2] == TITLES[RUBBER_STAMPED]
    assert "Not met, which doesn't block: roc_auc." in page.text
    assert page.row("requirements")[3] == "not met (not blocking)"
    assert re.search(r'class="[^"]*bad[^"]*"[^>]*>(<[^>]*>)*not met \(not blocking\)', text)


def test_the_curves_are_drawn(page: Read) -> None:
    """The page has every chart of a binary problem."""
    assert set(page.drawings) == CURVES


def test_each_model_has_a_line_of_its_own_in_the_curves_and_their_legend(page: Read, text: str) -> None:
    """Two baselines have different dash patterns, in light and dark mode."""
    for title in ("ROC", "Precision and recall"):
        svg = text[text.index(f'aria-label="{title}"') :]
        strokes = re.findall(r'style="fill: none; ([^"]*)"', svg[: svg.index("</svg>")])
        curves, legend = strokes[: -len(SKILLS)], strokes[-len(SKILLS) :]  # the legend is drawn last
        assert len(set(legend)) == len(SKILLS)
        assert set(legend) <= set(curves)
    assert {"baseline logistic", "baseline prior"} <= set(page.texts)


def test_what_was_measured_is_there(page: Read) -> None:
    """Every kind of fact is on the page."""
    assert page.row("origin = EWR")[:2] == ["yes", "600"]
    assert page.row("distance in [184, 502)")[0] == "no"
    assert page.row("JFK") == ["900", "0.01", "0.1", "0.3", "0.5"]
    assert page.row("tpr difference") == ["0.1", "at most 0.2"]
    assert page.row("temp missing") == ["missing", "passed", "+10.0 %", ""]
    assert page.row("p95 ms")[0] == "5.25"
    assert page.row("p95 ms")[2] == "at most 20"
    assert page.row("Code") == ["commit-1", "commit-2 (changed)"]
    assert page.row("Recipe") == ["logistic", "boosting"]
    assert ["departs_minute", "+0.019"] in page.rows
    assert ["visib", "0.60"] not in page.rows
    assert ["visib", "1.0 %", "—"] in page.rows
    assert page.row("all features, challenger") == ["0.715"]
    moved = page.rows[
        page.rows.index(["Feature", "Mean, champion", "Mean, challenger", "Moved by", "Missing"]) + 1
    ]
    assert moved[3].endswith(" sd")


def test_a_page_asks_the_network_for_nothing(page: Read, text: str) -> None:
    """The page has no script and no external reference."""
    tags = {tag for tag, _ in page.tags}

    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "action")]
        addresses = {v for name, v in attributes.items() if "href" in name}
        assert all(str(address).startswith("#") for address in addresses)
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert len(text) < 400_000


def test_each_part_of_a_drawing_is_there_once(page: Read) -> None:
    """Ids are unique across all charts of a page."""
    named = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(named) == len(set(named))


def test_what_the_data_holds_is_shown_and_not_run(page: Read, text: str) -> None:
    """A script in a category's name or a check's note is escaped, in tables and in charts."""
    assert "<script" not in text
    assert "<img" not in text
    assert " ".join(HOSTILE.split()) in " ".join(page.row("dest unseen"))
    assert "dest = </td><script>alert('planted" in page.text


@pytest.mark.full
def test_the_same_attempt_has_the_same_bytes(judged: tuple[World, str], text: str) -> None:
    """A page or card that is drawn again has the same bytes."""
    world, key = judged
    stored = {name: world.lake.get(name) for top in ("reports", "models") for name in world.lake.keys(top)}

    assert len(stored) == 3
    assert world.page(key) == text
    assert {name: world.lake.get(name) for name in stored} == stored


def test_without_enough_evidence_it_says_so(flights: World) -> None:
    """Without rows, the page says what is missing and lists the checks that weren't judged."""
    key = flights.attempt(1, SKILLS, count=0, keep=False)
    page = Read(flights.page(key))

    assert verdicts.attempt(flights.lake, key)["verdict"] == NOT_ENOUGH
    assert page.texts[2] == TITLES[NOT_ENOUGH]
    assert "There is too little evidence: matured test partitions 0, required at least 14 (" in page.text
    assert "there is nothing to compare yet" in page.text
    assert page.row("recipe") == ["recipe", "enough evidence", "not judged", "not judged", ""]
    assert "ROC" not in page.drawings


@pytest.mark.full
def test_few_partitions_are_drawn_without_an_interval(flights: World) -> None:
    """With too few partitions for an interval, there are curves and no bound."""
    page = Read(flights.page(flights.attempt(1, SKILLS, count=1)))

    assert "ROC" in page.drawings
    assert "confidence" not in page.text


def test_rows_that_were_not_kept_cost_only_the_curves(flights: World) -> None:
    """An attempt without stored rows has a page without curves."""
    page = Read(flights.page(flights.attempt(1, SKILLS, keep=False)))

    assert "The rows weren't stored, so there are no curves." in page.text
    assert "ROC" not in page.drawings
    assert "Gain over the baseline logistic, by partition" in page.drawings


@pytest.mark.full
def test_the_first_model_has_no_champion_to_be_shown_beside(flights: World) -> None:
    """Without a champion, the strongest baseline is the rival, and there are no changes to show."""
    key = flights.attempt(1, SKILLS)
    page = Read(flights.page(key))

    assert verdicts.attempt(flights.lake, key)["verdict"] == RUBBER_STAMPED
    assert "that of the baseline logistic was " in page.text
    assert "There was no champion to compare with." in page.text


def test_one_class_alone_has_no_curve(flights: World) -> None:
    """Test rows of a single class give no ROC curve and no error."""
    skill = {"challenger": 0.0, "baseline:prior": 0.0}
    key = flights.attempt(1, skill, labels=0.0)

    assert "ROC" not in Read(flights.page(key)).drawings


@pytest.mark.full
def test_a_regression_shows_residuals(weekly: World) -> None:
    """A regression has charts of predictions and residuals, in the target's unit."""
    page = Read(weekly.page(weekly.attempt(1, SKILLS)))

    assert {"Predicted and actual, 500 of 2,400 rows", "Residuals"} <= set(page.drawings)
    assert "squared units of units_sold" in page.text
    assert "ROC" not in page.drawings


@pytest.mark.full
def test_what_a_person_forced_says_so_for_good(judged: tuple[World, str], flights: World) -> None:
    """A forced verdict has its own page with operator and reason; the gate's page stays."""
    key = flights.attempt(1, SKILLS, refused=True)
    before = flights.page(key)
    row = verdicts.record_forced(
        flights.lake, verdicts.attempt(flights.lake, key), "ann <b>", "the champion is broken"
    )
    draw_forced(flights.lake, flights.spec, key, None)
    forced = (flights.lake.get("reports/" + page_path(row["partition"], row["key"])) or b"").decode()

    assert Read(before).texts[2] == TITLES[NOT_BLESSED]
    assert Read(forced).texts[2] == TITLES[FORCED]
    assert "forced by ann <b>: the champion is broken; the gate said: not blessed" in Read(forced).text
    assert (flights.lake.get("reports/" + page_path(row["partition"], key)) or b"").decode() == before
    assert len(flights.lake.keys("reports/verdict")) == 2


def test_what_happens_next_follows_the_declaration(flights: World) -> None:
    """The page announces approval and rollout steps as declared."""
    flights.promote(flights.attempt(1, SKILLS))
    better = {**SKILLS, "challenger": 0.95, "champion": 0.2}

    for gate, sentence in (
        ({}, "It serves from the next unserved partition on"),
        (
            {"approval": "changes", "approval_hours": 6},
            "An operator has 6 hours to approve it; no answer means no.",
        ),
        ({"rollout": {"kind": "shadow"}}, "It is scored in shadow next to the champion, and serves once"),
        ({"rollout": {"kind": "canary", "share": 0.25}}, "then serves 25.0 % of the rows"),
    ):
        asks = flights.with_gate(gate)
        attempt = read_attempt(asks.lake, asks.spec, asks.attempt(2, better))
        result = headline(attempt)
        assert result.reasons[-1] == f"All {len(attempt.checks)} checks passed."
        assert sentence in result.next_step


def test_without_a_champion_a_rejection_says_which_baseline_serves(flights: World) -> None:
    """The first model that is rejected leaves the best baseline in service, which the page names."""
    key = flights.attempt(1, SKILLS, refused=True)
    step = headline(read_attempt(flights.lake, flights.spec, key)).next_step
    assert step.startswith("There is no champion: the best baseline, prior, serves")


@pytest.mark.full
def test_a_refit_of_the_serving_recipe_is_said_to_be_one(flights: World) -> None:
    """It serves at once whatever the rollout, is approved only where all are, and has a title of its own."""
    flights.promote(flights.attempt(1, SKILLS))
    key = ""
    for gate, sentence in (
        ({"rollout": {"kind": "shadow"}}, "It serves from the next unserved partition on"),
        ({"approval": "changes"}, "It serves from the next unserved partition on"),
        ({"approval": "all", "approval_hours": 6}, "An operator has 6 hours to approve it"),
    ):
        asks = flights.with_gate(gate)
        key = asks.attempt(2, SKILLS, refresh=True)
        result = headline(read_attempt(asks.lake, asks.spec, key))
        assert result.title == "The serving recipe, fitted again on newer data, may replace the champion."
        assert result.next_step.startswith(sentence)
    assert "which serves already: a refresh. its weight is the largest" in Read(asks.page(key)).text


@pytest.mark.full
def test_a_champion_that_replaced_a_worse_one_is_named_by_its_recipe(flights: World) -> None:
    """It is of the training of an attempt, whose model and recipe are others."""
    flights.promote(first := flights.attempt(1, SKILLS))
    row = {**ledger.switches(flights.lake)[0], "kind": ledger.REPLACED, "recipe": "ridge", "model": "f" * 64}
    ledger.record_switch(flights.lake, lambda _: [row])
    page = Read(flights.page(flights.attempt(2, SKILLS)))
    assert page.row("Recipe") == ["ridge", "boosting"]
    assert "f" * 12 in [row[1] for row in page.rows if row[:1] == ["Model"]]
    assert verdicts.attempt(flights.lake, first)["model"] != "f" * 64


def test_an_old_attempt_says_that_the_declaration_changed(judged: tuple[World, str]) -> None:
    """A page that is drawn under a changed declaration says so."""
    world, key = judged
    then, now = (
        render(read_attempt(world.lake, spec, key), {})
        for spec in (world.spec, world.with_gate({"alpha": 0.01}).spec)
    )

    assert "declaration changed since" not in then
    assert "declaration changed since" in now


@pytest.mark.full
def test_an_older_training_is_said_not_to_be_deployed(flights: World) -> None:
    """An attempt that is older than the champion's evidence is reported as not deployed."""
    flights.promote(flights.attempt(5, SKILLS))
    page = Read(flights.page(flights.attempt(1, SKILLS)))
    assert "too old to be deployed" in page.text or "is rejected" in page.text
    assert "recorded and not deployed: a champion was judged on newer partitions" in page.text
    assert "There is no champion" not in page.text


def test_a_page_says_that_another_switch_came_first(flights: World) -> None:
    """A challenger that passed against a champion that serves no longer doesn't read as if it served."""
    flights.promote(flights.attempt(1, SKILLS))
    overtaken = flights.attempt(2, SKILLS)
    (champion,) = ledger.champions(ledger.switches(flights.lake))
    ledger.record_switch(flights.lake, lambda _: [{**champion, "version": "7", "model": "7" * 64}])
    result = headline(read_attempt(flights.lake, flights.spec, overtaken))
    assert result.title == "The new model passed, but it isn't deployed."
    superseded = (
        "Superseded: judged against version 1 (logistic), but version 7 (logistic) serves: train again."
    )
    assert result.next_step == f"It isn't deployed. {superseded}"


@pytest.mark.full
def test_the_page_says_whose_losses_they_are(flights: World) -> None:
    """The page says which figures are of the recipe's walk, and which of the deployed model."""
    page = Read(flights.page(flights.attempt(1, SKILLS)))
    assert "models of its recipe, each fitted on earlier partitions" in page.text
    assert "These figures are of the deployed model, which was fitted on these rows too." in page.text


@pytest.mark.full
def test_the_page_names_one_date_of_fitting(flights: World) -> None:
    """The header has the last fitted partition; the check's date is when the last labels were known."""
    text = Read(flights.page(flights.attempt(1, SKILLS))).text

    assert "fitted on the partitions until 2013-01-30" in text
    assert text.count("2013-01-31") == text.count("after 2013-01-31, when the last labels used") == 1


@pytest.mark.full
def test_after_a_rollback_the_page_still_names_whom_it_was_compared_with(flights: World) -> None:
    """After a rollback, the page still names the champion of the comparison."""
    first = flights.attempt(1, SKILLS)
    flights.promote(first)
    flights.promote(flights.attempt(2, SKILLS))
    key = flights.attempt(3, SKILLS)
    before = flights.page(key)
    assert "the champion, version 2" in Read(before).text
    flights.promote(first)
    assert "the champion, version 2" in Read(flights.page(key)).text


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        (["promoted"], "The gate accepted it: there was no champion before."),
        (["promoted", "promoted"], "The gate accepted it: its recipe did best on past partitions."),
        (["promoted", "forced"], "A person forced its promotion, whatever the gate decided."),
        (["rolled back"], "It serves again since a rollback."),  # of the only model, from a later partition
        (["promoted", "refreshed", "rolled back"], "It serves again: version 2 was rolled back."),
    ],
)
def test_why_a_champion_serves_is_one_reason(kinds: list[str], sentence: str) -> None:
    """Of two possible reasons the page gives the one that the switches say."""
    rows = [{"version": str(n), "model": str(n), "kind": kind} for n, kind in enumerate(kinds, 1)]
    assert why_champion(rows) == sentence
