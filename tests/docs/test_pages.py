"""The documentation holds together: its links lead somewhere, and what it names exists."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from include.cli.app import app
from tests.docs.pages import DOCS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
NAMED = re.compile(r"`((?:include|plugins|dags|tests|deploy|demo|benchmarks)/[\w./-]*?)/?`")
COMMAND = re.compile(r"python -m include ([a-z]+)")
MADE_BY_A_READER = {  # files that a how-to page has its reader write, and plugin folders of the map
    "include/usecases/churn",
    "include/usecases/coffee_sales",
    "include/usecases/coffee_shop",
}
# the words of the field, not ours: they were replaced, and shall not come back
REPLACED = re.compile(r"\b(ladder|nightly|rung|set aside|stepped down|spool|obstacle)\b", re.I)
QUESTIONS = (
    "point-in-time join",
    "model serves a partition",
    "model serves next",
    "add a metric",
    "source is late",
    "roll back",
)


def prose(page: Path) -> str:
    """Return a page without its fenced blocks and without what a command wrote into it."""
    text = re.sub(r"<!-- measured:.*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def names_of(file: Path) -> set[str]:
    """Return the functions, classes and methods that a module defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file that exists, and an anchor a heading of it."""
    for target, anchor in LINK.findall(prose(page)):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor[1:] in anchors(file), f"{page}: {target}{anchor}"


@pytest.mark.full
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_and_command_exists(page: Path) -> None:
    """A path in backticks is in the repository, and a command is one of the command line."""
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = page.read_text()
    added = set(re.findall(r"^# ((?:include|plugins|dags)/\S+)$", text, flags=re.MULTILINE))
    missing = {name for name in NAMED.findall(prose(page)) if not (ROOT / name).exists()}
    assert missing - added - MADE_BY_A_READER == set()
    assert set(COMMAND.findall(text)) - commands == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_uses_the_words_that_were_replaced(page: Path) -> None:
    """A reader meets the field's terms: fallback chain, partition, quarantine, demotion."""
    assert sorted(set(REPLACED.findall(prose(page)))) == []


def test_every_page_is_in_the_index() -> None:
    """Who starts at docs/README.md finds every page."""
    index = DOCS / "README.md"
    linked = {(index.parent / target).resolve() for target, _ in LINK.findall(index.read_text())}
    assert {page for page in DOCS.rglob("*.md") if page not in linked} == {index}


def test_the_six_questions_are_answered_by_two_files_each() -> None:
    """CONTRIBUTING has the questions; each answer names at most two modules, which define what it names."""
    rows = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(QUESTIONS)
    for row, question in zip(rows, QUESTIONS, strict=True):
        _, asked, answer, _ = row.split("|")
        assert question in asked
        files = NAMED.findall(answer)
        assert 1 <= len(files) <= 2, answer
        for file in files:
            assert (ROOT / file).is_file(), file
        defined = set().union(*(names_of(ROOT / file) for file in files))
        named = set(re.findall(r"`([A-Za-z_]+)`", answer))
        assert named <= defined, f"{answer}: {named - defined} defined in none of {files}"


def test_the_readme_is_for_three_minutes() -> None:
    """About 120 lines, the two commands, the hardware, and a map that covers the repository."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 125
    for needed in ("make demo", "make test", "2 cores", "8 GB", "Python 3.11 to 3.13", "Linux"):
        assert needed in text
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    rows = text.partition("## A map of the repository")[2].partition("\n## ")[0]
    assert len([line for line in rows.splitlines() if line.startswith("| `")]) <= 10
    named = {word.strip("/") for cell in re.findall(r"^\| ([^|]*) \|", rows, flags=re.MULTILINE) for word in
             re.findall(r"`([\w/]+)`", cell)}  # fmt: skip
    packages = {folder.parent.name for folder in (ROOT / "include").glob("*/__init__.py")}
    short = {name.removeprefix("include/").removeprefix("plugins/") for name in named}
    assert packages - short == set(), "a package of include/ that the map lacks"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {
        name.split("/")[0] for name in tracked.splitlines() if "/" in name and not name.startswith(".")
    }
    assert folders - {name.split("/")[0] for name in named} == set(), "a folder that the map lacks"


def test_the_glossary_is_in_order() -> None:
    """Its terms are sorted, each once."""
    terms = re.findall(r"^\| \*\*(.+?)\*\*", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)
    assert {"champion", "partition", "point-in-time", "quarantine", "walk-forward"} <= set(terms)


def test_the_runbook_knows_every_task() -> None:
    """A red task of our DAGs is in the runbook, or belongs to a stage that is."""
    page = (DOCS / "runbook.md").read_text()
    for stage in (
        "check_partition",
        "ingest.",
        "score.predict",
        "monitor.check",
        "monitor.alert",
        "train.fit",
    ):
        assert stage in page
    for alert in yaml.safe_load((ROOT / "deploy/prometheus/rules/evergreen.yaml").read_text())["groups"]:
        for rule in alert["rules"]:
            assert rule["alert"] in (DOCS / "how-to" / "prometheus.md").read_text()


def test_what_the_code_says_of_the_docs_exists() -> None:
    """A page that code or configuration refers to is there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if name.endswith((".py", ".yaml", ".sql", "Makefile")) and (ROOT / name).is_file():
            for page in re.findall(r"\bdocs/[\w/-]+\.md", (ROOT / name).read_text()):
                assert (ROOT / page).exists(), f"{name}: {page}"
