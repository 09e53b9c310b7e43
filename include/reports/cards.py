"""Two cards that go with a model wherever it goes: what it is for and worth, and what it was made from.

They say what the page says, from the same facts, in Markdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from include.reports.html import Line, Section, Table, escape_markdown, figure, markdown, percent
from include.reports.verdict_data import AttemptData
from include.reports.wording import TITLES, metric_label, prior_text, rival_name
from include.spec.source import Source


def model_card(known: AttemptData, parts: Mapping[str, Section]) -> str:
    """Return what the model is for, how it was made, what it is worth, and what it isn't for.

    Parameters
    ----------
    parts : the page's `answers`, which the card repeats in words and figures.
    """
    head = (
        f"# Model card: {escape_markdown(known.spec.name)} version {escape_markdown(known.evidence.version)}"
    )
    own = [_purpose(known), _recipe(known), _judged(known), _limits(known)]
    return "\n\n".join([head, *map(markdown, [*own, *parts.values()])]) + "\n"


def data_card(known: AttemptData) -> str:
    """Return where the data comes from, what of it was used, and what of it may never be."""
    head = (
        f"# Data card: {escape_markdown(known.spec.name)} up to {escape_markdown(known.evidence.partition)}"
    )
    parts = [_data(known), _sources(known), _columns(known), _contracts(known)]
    return "\n\n".join([head, *map(markdown, parts)]) + "\n"


def _purpose(known: AttemptData) -> Section:
    problem = known.spec.problem
    classes = ", ".join(problem.classes)
    rows: list[Line] = [
        ["Predicts", f"{problem.target}, {problem.kind}{f': {classes}' if classes else ''}"],
        ["For", problem.owner or "nobody is named"],
        ["Rows", f"of {known.spec.features.spine}, each by {', '.join(known.spec.key)}"],
        ["When", f"{known.spec.schedule.batch} ({known.spec.schedule.timezone})"],
    ]
    return Section("What it is for", problem.statement, [Table(["", ""], rows)])


def _recipe(known: AttemptData) -> Section:
    evidence, training = known.evidence, known.spec.training
    recipe = next((one for one in training.candidates if one.name == evidence.recipe), None)
    window = f"the last {training.window} partitions" if training.window else "all history"
    rows: list[Line] = [
        ["Recipe", evidence.recipe],
        ["Estimator", f"{recipe.estimator}: {_pairs(recipe.params)}" if recipe else "not declared any more"],
        ["Features", ", ".join(known.spec.features.columns)],
        ["Fitted on", f"{known.learnt.rows:,} rows of {window} until {evidence.fitted}"],
        [*prior_text(known, evidence)],
        ["Seed", str(training.seed)],
        ["Model", evidence.model],
        ["Declaration", evidence.spec],
        ["Training data", evidence.data],
        ["Code", evidence.code],
    ]
    return Section("How it was made", "", [Table(["", ""], rows)])


def _judged(known: AttemptData) -> Section:
    gate, row, shown = known.spec.gate, known.newest, known.gained()
    rows: list[Line] = [
        ["Verdict", str(row["verdict"])],
        ["As recorded", str(row["sentence"])],
        ["Judged by", f"{metric_label(gate.objective)}, {gate.evidence.replace('_', ' ')}"],
    ]
    if shown is not None:
        least = f"at least {figure(shown.low)} at level {shown.level:.6g}"
        rows.append(
            [f"Gain over {rival_name(known)}", f"{figure(shown.mean)} a row, {least}; above 0 is better"]
        )
    return Section("Verdict", TITLES[str(row["verdict"])], [Table(["", ""], rows)])


def _limits(known: AttemptData) -> Section:
    spec = known.spec
    unseen = {name: share for name, share in known.evidence.facts.coverage.items() if share > 0}
    broke = [one.name for one in known.evidence.facts.edge_cases if not one.held]
    groups = ", ".join(spec.gate.fairness.columns) if spec.gate.fairness else "no column"
    rows: list[Line] = [
        ["Not for", f"rows other than those of {spec.features.spine}, another hour, or another label"],
        ["Not for", f"decisions about groups other than by {groups}: nothing was compared there"],
        ["Never uses", ", ".join(spec.problem.never_features) or "no column is forbidden"],
        ["Surest on", "values that it was fitted on: see the shares of those that it never was, below"],
        [
            "Features with such values",
            ", ".join(f"{n} {percent(s)}" for n, s in sorted(unseen.items())) or "none",
        ],
        ["Edge cases that broke it", ", ".join(broke) or "none"],
    ]
    if known.evidence.note:
        rows.append(["Not compared", known.evidence.note])
    return Section("Limits", "", [Table(["", ""], rows)])


def _data(known: AttemptData) -> Section:
    spec, evidence = known.spec, known.evidence
    hashed = [
        f"{name}.{c}" for name, s in spec.sources.items() for c, column in s.columns.items() if column.hashed
    ]
    partitions = evidence.losses.partitions
    rows: list[Line] = [
        ["Label", f"{spec.problem.target}: {spec.labels.sql}, from {spec.labels.source}"],
        ["Known", f"{spec.labels.delay} partitions after the one it is about"],
        ["Fitted on", f"{known.learnt.rows:,} rows until {evidence.fitted}"],
        [
            "Judged on",
            (
                f"{known.rows:,} rows of {len(partitions)} "
                f"partitions{f', from {partitions[0]} on' if partitions else ''}"
            ),
        ],
        ["Training data", evidence.data],
        ["Never features", ", ".join(spec.problem.never_features) or "none are forbidden"],
        ["Kept only as a keyed hash", ", ".join(hashed) or "none"],
    ]
    lead = "A row counts as known from its source's hour on, so that no partition sees what came later."
    return Section("What it is made from", lead, [Table(["", ""], rows)])


def _sources(known: AttemptData) -> Section:
    """Return what came of each source's partitions."""
    rows: list[Line] = []
    for name, source in known.spec.sources.items():
        made = [one for one in known.partitions if one["product"] == name]
        came = Counter(one["outcome"] for one in made)
        good, aside = (sum(one[what] or 0 for one in made) for what in ("rows", "quarantined"))
        partitions = sorted(one["partition"] for one in made)
        share = percent(aside / (good + aside)) if good + aside else "—"
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(came.items())) or "none"
        span = f"{partitions[0]} to {partitions[-1]}" if partitions else "—"
        rows.append([name, source.kind, _known(source), span, outcomes, f"{good:,}", f"{aside:,} ({share})"])
    head = ["Source", "Kind", "About, and known from", "Partitions", "Outcomes", "Rows", "Set aside"]
    return Section(
        "Sources", "Rows that break the contract are set aside with the reason.", [Table(head, rows)]
    )


def _known(source: Source) -> str:
    day = {0: "the partition's own day", 1: "the day after the partition", -1: "the day before the partition"}
    about = day.get(source.offset, f"the day {source.offset:+d} from the partition")
    return f"{about}, from {source.available_at} of the partition on"


def _columns(known: AttemptData) -> Section:
    used = set(known.spec.features.columns)
    tables = [
        Table(
            ["Column", "Type", "Unit", "Required", "Kept"],
            [
                [name, column.type, column.unit or "—", "yes" if column.required else "no",
                 "as a keyed hash" if column.hashed else "never a feature"
                 if name in known.spec.problem.never_features else "a feature by its own name"
                 if name in used else "as it is"]
                for name, column in source.columns.items()
            ],
            title,
        )
        for title, source in known.spec.sources.items()
    ]  # fmt: skip
    return Section("Columns", "As they are kept, in UTC and in the units that are named.", tables)


def _contracts(known: AttemptData) -> Section:
    tables = []
    for name, source in known.spec.sources.items():
        rule = source.contract
        most = f"{rule.max_rows:,}" if rule.max_rows else "any number of"
        rows: list[Line] = [
            ["rows of a partition", f"{rule.min_rows:,} to {most}"],
            ["rows set aside", f"at most {percent(rule.tolerance)}, else the partition is refused"],
        ]
        rows += [[one.type, _pairs(one.kwargs)] for one in rule.expectations]
        tables.append(Table(["Rule", "Bound"], rows, name))
    return Section("Contracts", "What each partition of a source must hold.", tables)


def _pairs(given: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "none"
