"""The model card and the data card, in Markdown; they are stored with the model.

They are made from the same data as the verdict page, so all three agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from include.reports.html import (
    Line,
    Section,
    Table,
    escape_markdown,
    figure,
    markdown,
    metric_label,
    percent,
)
from include.reports.verdict_data import AttemptData
from include.reports.wording import TITLES, action_rule, constant_text, rival_name
from include.spec.source import Source
from include.train.recipes import recipes_by_name


def model_card(attempt: AttemptData, sections: Mapping[str, Section]) -> str:
    """Return the model card: purpose, recipe, verdict and limits, followed by the page's sections.

    Parameters
    ----------
    sections : the result of `include.reports.verdict.page_sections`.
    """
    name, version = escape_markdown(attempt.spec.name), escape_markdown(attempt.evidence.version)
    head = f"# Model card: {name} version {version}"
    own = [_purpose(attempt), _recipe(attempt), _verdict(attempt), _limits(attempt)]
    return "\n\n".join([head, *map(markdown, [*own, *sections.values()])]) + "\n"


def data_card(attempt: AttemptData) -> str:
    """Return the data card: where the data comes from, how it is used, and what must not be used."""
    name, partition = escape_markdown(attempt.spec.name), escape_markdown(attempt.evidence.partition)
    head = f"# Data card: {name} up to {partition}"
    sections = [_data(attempt), _sources(attempt), _columns(attempt), _contracts(attempt)]
    return "\n\n".join([head, *map(markdown, sections)]) + "\n"


def _purpose(attempt: AttemptData) -> Section:
    spec, problem = attempt.spec, attempt.spec.problem
    classes = f": {', '.join(problem.classes)}" if problem.classes else ""
    rows: list[Line] = [
        ["Predicts", f"{problem.target}, {problem.kind}{classes}"],
        ["Owner", problem.owner or "not declared"],
        ["Rows", f"{spec.features.spine}, one per {', '.join(spec.key)}"],
        ["Schedule", f"{spec.schedule.batch} ({spec.schedule.timezone})"],
    ]
    if problem.costs:
        rows.append(["Action", action_rule(problem)])
    return Section("Purpose", problem.statement, [Table(["", ""], rows)])


def _recipe(attempt: AttemptData) -> Section:
    evidence, training = attempt.evidence, attempt.spec.training
    recipe = recipes_by_name(attempt.spec).get(evidence.recipe)
    estimator = (
        f"{recipe.estimator}: {_pairs({**recipe.params, **recipe.options})}"
        if recipe
        else "no longer declared"
    )
    partitions = (recipe.window if recipe else None) or training.window
    window = f"the last {partitions} partitions" if partitions else "all history"
    rows: list[Line] = [
        ["Recipe", evidence.recipe],
        ["Estimator", estimator],
        ["Features", ", ".join(attempt.spec.features.columns)],
        ["Fitted on", f"{attempt.training_data.rows:,} rows of {window} until {evidence.fitted}"],
        [*constant_text(attempt, evidence)],
        ["Seed", str(training.seed)],
        ["Model", evidence.model],
        ["Declaration", evidence.spec],
        ["Training data", evidence.data],
        ["Code", evidence.code],
    ]
    return Section("Training", "", [Table(["", ""], rows)])


def _verdict(attempt: AttemptData) -> Section:
    gate, row, gain = attempt.spec.gate, attempt.newest_row, attempt.gain()
    rows: list[Line] = [
        ["Verdict", str(row["verdict"])],
        ["As recorded", str(row["sentence"])],
        ["Objective", metric_label(gate.objective)],
    ]
    if gain is not None:
        bound = f"at least {figure(gain.low)} at level {gain.level:.6g}"
        text = f"{figure(gain.mean)} per row, {bound}; above 0 is better"
        rows.append([f"Gain over {rival_name(attempt)}", text])
    return Section("Verdict", TITLES[str(row["verdict"])], [Table(["", ""], rows)])


def _limits(attempt: AttemptData) -> Section:
    spec, facts = attempt.spec, attempt.evidence.facts
    unseen = sorted((name, share) for name, share in facts.unseen_shares.items() if share > 0)
    failed = [case.name for case in facts.edge_cases if not case.passed]
    groups = ", ".join(spec.gate.fairness.columns) if spec.gate.fairness else "no column"
    rows: list[Line] = [
        ["Not for", f"rows other than those of {spec.features.spine}, another hour, or another label"],
        ["Not for", f"decisions about groups other than by {groups}: no other groups were compared"],
        ["Never uses", ", ".join(spec.problem.never_features) or "no column is forbidden"],
        ["Most reliable for", "values that occur in its training data"],
        [
            "Features with values not seen in training",
            ", ".join(f"{name} {percent(share)}" for name, share in unseen) or "none",
        ],
        ["Failed edge cases", ", ".join(failed) or "none"],
    ]
    if attempt.evidence.note:
        rows.append(["Not compared", attempt.evidence.note])
    return Section("Limits", "", [Table(["", ""], rows)])


def _data(attempt: AttemptData) -> Section:
    spec, evidence = attempt.spec, attempt.evidence
    hashed = [
        f"{source_name}.{column_name}"
        for source_name, source in spec.sources.items()
        for column_name, column in source.columns.items()
        if column.hashed
    ]
    partitions = evidence.losses.partitions
    first = f", from {partitions[0]} on" if partitions else ""
    rows: list[Line] = [
        ["Label", f"{spec.problem.target}: {spec.labels.sql}, from {spec.labels.source}"],
        ["Label delay", f"{spec.labels.delay} partitions"],
        ["Fitted on", f"{attempt.training_data.rows:,} rows until {evidence.fitted}"],
        ["Judged on", f"{attempt.rows:,} rows of {len(partitions)} partitions{first}"],
        ["Training data", evidence.data],
        ["Never features", ", ".join(spec.problem.never_features) or "no column is forbidden"],
        ["Stored only as a keyed hash", ", ".join(hashed) or "none"],
    ]
    lead = (
        "Features are point-in-time correct: a row is available from its source's hour on, so that no "
        "partition uses later data."
    )
    return Section("Data", lead, [Table(["", ""], rows)])


def _sources(attempt: AttemptData) -> Section:
    rows: list[Line] = []
    for name, source in attempt.spec.sources.items():
        published = [row for row in attempt.source_partitions if row["product"] == name]
        counts = sorted(Counter(row["outcome"] for row in published).items())
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in counts) or "none"
        partitions = sorted(row["partition"] for row in published)
        span = f"{partitions[0]} to {partitions[-1]}" if partitions else "—"
        good, quarantined = (sum(row[count] or 0 for row in published) for count in ("rows", "quarantined"))
        share = percent(quarantined / (good + quarantined)) if good + quarantined else "—"
        rows.append(
            [
                name,
                source.kind,
                _availability(source),
                span,
                outcomes,
                f"{good:,}",
                f"{quarantined:,} ({share})",
            ]
        )
    head = ["Source", "Kind", "Covers, and available", "Partitions", "Outcomes", "Rows", "Quarantined"]
    lead = "Rows that violate the contract are quarantined with the reason."
    return Section("Sources", lead, [Table(head, rows)])


def _availability(source: Source) -> str:
    days = {
        0: "the partition's own day",
        1: "the day after the partition",
        -1: "the day before the partition",
    }
    day = days.get(source.offset, f"the day {source.offset:+d} from the partition")
    at = source.available_at
    return f"{day}, from {at} of the partition on" if ":" in at else f"{day}, known {at} from its time"


def _columns(attempt: AttemptData) -> Section:
    features = attempt.spec.features.columns
    never_features = {name.lower() for name in attempt.spec.problem.never_features}

    def usage(name: str, hashed: bool) -> str:
        if hashed:
            return "stored as a keyed hash"
        if name.lower() in never_features:
            return "never a feature"
        return "a feature of the same name" if name in features else "stored as it is"

    head = ["Column", "Type", "Unit", "Required", "Usage"]
    tables = []
    for source_name, source in attempt.spec.sources.items():
        rows: list[Line] = [
            [
                name,
                column.type,
                column.unit or "—",
                "yes" if column.required else "no",
                usage(name, column.hashed),
            ]
            for name, column in source.columns.items()
        ]
        tables.append(Table(head, rows, source_name))
    return Section("Columns", "As stored, in UTC and in the named units.", tables)


def _contracts(attempt: AttemptData) -> Section:
    tables = []
    for name, source in attempt.spec.sources.items():
        contract = source.contract
        max_rows = f"{contract.max_rows:,}" if contract.max_rows else "any number of"
        rows: list[Line] = [
            ["rows of a partition", f"{contract.min_rows:,} to {max_rows}"],
            [
                "rows quarantined",
                f"at most {percent(contract.tolerance)}, otherwise the partition is refused",
            ],
        ]
        rows += [[rule.type, _pairs(rule.kwargs)] for rule in contract.expectations]
        tables.append(Table(["Rule", "Bound"], rows, name))
    return Section("Contracts", "Requirements on each partition of a source.", tables)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"
