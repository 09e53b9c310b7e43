"""The verdict page: why an attempt was blessed or rejected, with every check, figure and chart behind it.

`draw_verdict` stores the page with the reports, and the model and data cards with the model, in the lake and
in MLflow. Each section of the page is a function, listed in `SECTIONS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from include.errors import EvergreenError
from include.judge.checks import alpha_shares, judgeable, loss_increase
from include.judge.context import Check, requirement_text
from include.judge.evidence import CHALLENGER, Evidence, Fairness, Slice, list_names
from include.judge.judge import PROMOTES
from include.models.registry import Registry
from include.promote import ledger, verdicts
from include.reports import charts
from include.reports.cards import data_card, model_card
from include.reports.html import (
    Cell,
    Line,
    Section,
    Table,
    Tone,
    escape_markdown,
    figure,
    metric_label,
    number_cell,
    percent,
    signed,
    templates,
)
from include.reports.paths import data_card_path, model_card_path, page_path
from include.reports.verdict_data import AttemptData, PreviousChampion, read_attempt
from include.reports.wording import (
    SERVING_UNITS,
    better_direction,
    constant_text,
    headline,
    loss_unit,
    model_name,
)
from include.spec import UseCase
from include.spec.gate import Requirement
from include.spec.metrics import class_metrics
from include.stats.formatting import figure_and_limit
from include.storage.lake import Lake

PAGE, MODEL, DATA = "evergreen/verdict.html", "evergreen/model_card.md", "evergreen/data_card.md"
FIGURES = class_metrics()
MAX_SLICES = 20  # in the chart
MAX_IMPORTANCES = 15  # in the chart
MAX_MOVED_FEATURES = 10  # in the table
DIGESTS = (("Declaration", "spec"), ("Training data", "data"), ("Code", "code"), ("Model", "model"))
TONES: dict[bool | None, Tone] = {True: "good", False: "bad", None: "warn"}
DEPLOYED = "These figures are of the deployed model, which was fitted on these rows too."
log = logging.getLogger(__name__)


def draw_verdict(
    lake: Lake,
    spec: UseCase,
    key: str,
    registry: Registry | None,
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Store an attempt's page and its model's cards; the same lake gives the same bytes.

    Parameters
    ----------
    key : of the attempt, or of the forced verdict on it.
    registry : its model version gets copies of page and cards, the verdict's sentence as its description, and
        the verdict as a tag, both with what blocks the switch. If it is down, that is logged and not an
        error, since the lake has them.
    links : label and URL of pages that the description leads to.

    Returns
    -------
    str
        The page's path below ``reports/``.

    Raises
    ------
    NotPublished
        if there is no such attempt.
    """
    attempt = read_attempt(lake, spec, key)
    path, model = page_path(attempt.evidence.partition, key), attempt.evidence.model
    sections = page_sections(attempt)
    texts = render_page(attempt, sections), model_card(attempt, sections), data_card(attempt)
    page, model_text, data_text = (text.encode() for text in texts)
    lake.replace(f"reports/{path}", page)
    lake.replace(model_card_path(model), model_text)
    lake.replace(data_card_path(model), data_text)
    if registry is not None:
        files = {PAGE: page, MODEL: model_text, DATA: data_text}
        _copy_to_registry(registry, attempt, files, links)
    return path


def draw_blocked(
    lake: Lake,
    spec: UseCase,
    key: str,
    registry: Registry | None,
    links: Sequence[tuple[str, str]] = (),
) -> None:
    """Draw the page of an attempt again that passed the gate and isn't switched to, with the reason."""
    if verdicts.attempt(lake, key)["verdict"] in PROMOTES:
        draw_verdict(lake, spec, key, registry, links)


def draw_forced(
    lake: Lake,
    spec: UseCase,
    key: str,
    registry: Registry | None,
    links: Sequence[tuple[str, str]] = (),
) -> None:
    """Draw the page of the forced verdict on an attempt; forcing the live model records no verdict."""
    forced = ledger.forced_key(key)
    if lake.rows("attempts", {"key": forced}):
        draw_verdict(lake, spec, forced, registry, links)


def _copy_to_registry(
    registry: Registry, attempt: AttemptData, files: dict[str, bytes], links: Sequence[tuple[str, str]]
) -> None:
    name, version = attempt.spec.name, attempt.evidence.version
    blocker, verdict = attempt.blocker, attempt.row["verdict"]
    texts = [attempt.row["sentence"], *([f"Not deployed: {blocker}"] if blocker else [])]
    paragraphs = [*map(escape_markdown, texts), *(f"[{label}]({url})" for label, url in links)]
    try:
        registry.put(registry.run_of(name, version), files)
        tags = {"verdict": f"{verdict}, not deployed" if blocker else verdict}
        registry.describe(name, version, "\n\n".join(paragraphs), tags)
    except EvergreenError as error:
        log.warning(
            "%s v%s: couldn't copy report and cards to MLflow; they are in the lake: %s", name, version, error
        )


def page_sections(attempt: AttemptData) -> dict[str, Section]:
    """Return the sections that have content, by name, in the page's order."""
    sections = {name: make(attempt) for name, make in SECTIONS.items()}
    return {name: section for name, section in sections.items() if section is not None}


def render_page(attempt: AttemptData, sections: Mapping[str, Section]) -> str:
    """Return the whole page; the same attempt gives the same text.

    Parameters
    ----------
    sections : the result of `page_sections`.
    """
    return templates.get_template("verdict.html").render(
        spec=attempt.spec,
        row=attempt.row,
        evidence=attempt.evidence,
        headline=headline(attempt),
        rows=attempt.rows,
        stale=attempt.spec.digest != attempt.evidence.spec,
        sections=sections.values(),
        # `include.reports.charts` has escaped every text in a chart
        inline=Markup,
        is_cell=lambda cell: isinstance(cell, Cell),
    )


def checks(attempt: AttemptData) -> Section:
    """Return every check with its requirement and the observed value."""
    lead = (
        "The model is blessed only if every blocking check passes; a requirement blocks only if it is "
        "declared as hard. A gain is shown as “mean [lower bound, inf)”: the "
        "true gain is at least the lower bound, at the stated level. Above 0 the challenger's loss is lower."
    )
    rows: list[Line] = [
        [check.key, check.name, check.required, check.observed, _outcome(check), check.note]
        for check in attempt.checks
    ]
    head = ["Check", "Measured", "Required", "Observed, with its interval", "Outcome", "Note"]
    return Section("Every check", lead, [Table(head, rows)])


def _outcome(check: Check) -> Cell:
    return Cell(check.outcome, TONES[check.passed])


def comparison(attempt: AttemptData) -> Section:
    """Return the losses and metrics of every model on the same rows, with curves."""
    evidence, objective = attempt.evidence, attempt.spec.gate.objective
    title = "Comparison on the test partitions"
    if not attempt.rows:
        lead = f"No labeled test partition after {evidence.last_fitted}: there is nothing to compare yet."
        return Section(title, lead)
    partitions, metrics = evidence.losses.partitions, overall_metrics(attempt)
    fitted = "Each partition was predicted by fits that were made before it."
    if (refit_loss := evidence.facts.refit_loss) is not None:
        fitted = (
            "Each partition was predicted by a model that was fitted on earlier partitions; the deployed "
            f"model, which was fitted on all of them, has a loss of {figure(refit_loss)}."
        )
    lead = (
        f"{attempt.rows:,} labeled rows of {len(partitions)} partitions, {partitions[0]} to "
        f"{partitions[-1]}. {fitted} The gate decides by the mean {metric_label(objective)} "
        f"({loss_unit(attempt)}). The header says whether less or more is better."
    )
    names = sorted(evidence.losses.sums, key=lambda name: (attempt.mean_loss(name), name))
    head = [
        "Model",
        f"{metric_label(objective)} (less)",
        *(f"{metric_label(metric)} ({better_direction(metric, attempt.spec)})" for metric in metrics),
    ]
    rows: list[Line] = [
        [
            model_name(name),
            number_cell(figure(attempt.mean_loss(name))),
            *(number_cell(figure(_metric(attempt, name, metric))) for metric in metrics),
        ]
        for name in names
    ]
    drawings = [charts.gain_by_partition(attempt, attempt.gain())] if attempt.rival else []
    if attempt.test_rows is None:
        lead += " The rows weren't stored, so there are no curves."
    else:
        drawings += charts.CHARTS_BY_KIND[attempt.spec.problem.kind](attempt, attempt.test_rows)
    return Section(title, lead, [Table(head, rows), *class_tables(attempt)], drawings)


def overall_metrics(attempt: AttemptData) -> list[str]:
    """Return the challenger's metrics of the whole problem, without the objective and per-class metrics."""
    metrics = {*attempt.evidence.metrics.get(CHALLENGER, {})} - {attempt.spec.gate.objective}
    per_class = {f"{family}@{name}" for family in FIGURES for name in attempt.spec.problem.classes}
    return sorted(metrics - per_class)


def class_tables(attempt: AttemptData) -> list[Table]:
    """Return a table of each class's metrics for challenger and rival, for a multiclass problem."""
    if not attempt.spec.problem.classes:
        return []
    models = [CHALLENGER, *([attempt.rival] if attempt.rival else [])]
    columns = [(family, model) for family in FIGURES for model in models]
    head = ["Class", *(f"{family} of {model_name(model)} (more)" for family, model in columns)]
    rows: list[Line] = [
        [
            name,
            *(number_cell(figure(_metric(attempt, model, f"{family}@{name}"))) for family, model in columns),
        ]
        for name in attempt.spec.problem.classes
    ]
    title = "By class; a row is predicted as the class with the highest probability"
    return [Table(head, rows, title)]


def _metric(attempt: AttemptData, model: str, metric: str) -> float | None:
    return attempt.evidence.metrics.get(model, {}).get(metric)


def slices(attempt: AttemptData) -> Section | None:
    """Return the losses of each slice, the largest increases first."""
    facts, gate = attempt.evidence.facts, attempt.spec.gate
    if not facts.slices:
        return None
    tolerance, rival = 100 * gate.slices.tolerance, model_name(facts.rival)
    lead = (
        f"The increase of the mean {metric_label(gate.objective)} in a slice of the rows, in percent of that "
        f"of {rival}; below 0 is better. The interval is two-sided, at the slice's share of alpha "
        f"({gate.alpha:g}): declared and automatic slices share it, because one of many slices always looks "
        f"worse. A slice fails if the lower end of its interval is above {percent(gate.slices.tolerance)}. "
        f"Slices with fewer than {gate.slices.min_rows:,} rows, or on few partitions, aren't judged."
    )
    judged = [part for part in facts.slices if judgeable(part, gate)]
    increases = sorted(
        ((_relative_increase(attempt, part, alpha_shares(part, judged)), part) for part in judged),
        key=lambda pair: -pair[0][1],
    )
    rows: list[Line] = []
    for (increase, low, high), part in increases:
        low_text = figure_and_limit(low, tolerance, 2, "{:+.#f}")[0]
        interval = number_cell(f"{increase:+.2f} % [{low_text}, {high:+.2f}]")
        outcome = Cell("worse", "bad") if low > tolerance else Cell("passed", "good")
        rows.append([*_slice_cells(part), interval, outcome])
    rows += [
        [*_slice_cells(part), number_cell("—"), Cell("too few rows", "warn")]
        for part in facts.slices
        if part not in judged
    ]
    head = ["Slice", "Declared", "Rows", "Challenger", rival, "Increase", "Outcome"]
    shown = [(part.name, *interval) for interval, part in increases[:MAX_SLICES]]
    title = f"The {len(shown)} worst slices of {len(judged)}"
    drawings = [charts.slice_chart(title, shown, tolerance)] if shown else []
    table = Table(head, rows, f"All {len(facts.slices)} slices", folded=True)
    return Section("Slices", lead, [table], drawings)


def _slice_cells(part: Slice) -> list[Cell | str]:
    rows = sum(part.rows)
    means = (figure(sum(sums) / rows if rows else None) for sums in (part.challenger, part.rival))
    return [
        part.name,
        "yes" if part.declared else "no",
        number_cell(f"{rows:,}"),
        *(number_cell(mean) for mean in means),
    ]


def _relative_increase(attempt: AttemptData, part: Slice, shares: int) -> tuple[float, float, float]:
    """Return the increase of a slice's loss in percent, with both bounds (Student's t is symmetric)."""
    increase, before = loss_increase(part, attempt.spec.gate, shares), sum(part.rival) / sum(part.rows)
    scale = 100 / before if before else 0.0
    return increase.mean * scale, increase.low * scale, (2 * increase.mean - increase.low) * scale


def fairness(attempt: AttemptData) -> Section | None:
    """Return the rates of each sensitive column's groups, and the differences between them."""
    rules = attempt.spec.gate.fairness
    if rules is None or not attempt.evidence.facts.fairness:
        return None
    lead = (
        f"A row is selected from a predicted probability of {rules.threshold:g} on. tpr is the share of "
        "actual positives that are selected, fpr the share of actual negatives that are selected, and "
        "calibration the mean prediction minus the observed rate (0 is best). Groups with fewer than "
        f"{rules.min_rows:,} rows aren't compared. A bound isn't met if two groups are shown to break it: "
        f"their interval is beyond it, at alpha ({attempt.spec.gate.alpha:g}) over all pairs of groups."
    )
    tables = [
        table
        for measured in attempt.evidence.facts.fairness
        for table in (_group_table(measured), _difference_table(measured, rules.requirements))
    ]
    return Section("Fairness between groups", lead, tables)


def _group_table(measured: Fairness) -> Table:
    names = [name for name in next(iter(measured.groups.values()), {}) if name != "rows"]
    rows: list[Line] = [
        [
            group,
            number_cell(f"{figures['rows']:,.0f}"),
            *(number_cell(figure(figures.get(name))) for name in names),
        ]
        for group, figures in sorted(measured.groups.items())
    ]
    head = [measured.column, "Rows", *map(metric_label, names)]
    return Table(head, rows, f"Groups of {measured.column}")


def _difference_table(measured: Fairness, requirements: tuple[Requirement, ...]) -> Table:
    by_metric = {requirement.metric: requirement for requirement in requirements}
    rows: list[Line] = []
    for name, value in sorted(measured.figures.items()):
        text, limit_text = _value_and_limit(value, by_metric.get(name))
        rows.append([metric_label(name), number_cell(text), limit_text])
    title = f"Between the groups of {measured.column} (a difference is best at 0, a ratio at 1)"
    return Table(["Figure", "Observed", "Required"], rows, title)


def _value_and_limit(value: float, requirement: Requirement | None) -> tuple[str, str]:
    return requirement_text(requirement, value) if requirement else (figure(value), "—")


def importance(attempt: AttemptData) -> Section | None:
    """Return each feature's permutation importance on the test rows."""
    importances = attempt.evidence.facts.importance
    if not importances:
        return None
    lead = (
        f"The increase of the mean {metric_label(attempt.spec.gate.objective)} on the held-out partitions "
        "when one feature's values are permuted among the rows. More is more important; near 0 the model "
        "hardly uses the feature. Features with the same information share their "
        f"importance. {DEPLOYED}"
    )
    rows: list[Line] = [
        [name, number_cell(signed(value))]
        for name, value in sorted(importances.items(), key=lambda item: (-item[1], item[0]))
    ]
    table = Table(["Feature", "Increase of the loss"], rows, f"All {len(rows)} features", folded=True)
    drawing = charts.importance_chart(attempt, importances, MAX_IMPORTANCES)
    return Section("Permutation importance", lead, [table], [drawing])


def edge_cases(attempt: AttemptData) -> Section | None:
    """Return how the challenger behaved on corrupted rows, the worst cases first."""
    cases, limit = attempt.evidence.facts.edge_cases, attempt.spec.gate.robustness
    if not cases:
        return None
    bound = "The gate doesn't limit how much the mean loss may increase."
    if limit is not None:
        bound = f"The mean loss may increase by at most {percent(limit)}."
    lead = (
        f"Rows were corrupted on purpose. {sum(case.passed for case in cases)} of {len(cases)} cases passed, "
        "which means a finite prediction for each row, or a clear error for input that can't be predicted. "
        f"{bound} {DEPLOYED}"
    )
    rows: list[Line] = [
        [
            case.name,
            case.kind,
            Cell("passed", "good") if case.passed else Cell("failed", "bad"),
            number_cell(percent(case.loss_increase, sign=True, limit=limit)),
            case.note,
        ]
        for case in sorted(cases, key=lambda case: (case.passed, -(case.loss_increase or 0.0), case.name))
    ]
    head = ["Case", "Kind", "Outcome", "Increase of the loss", "Note"]
    return Section("Edge cases", lead, [Table(head, rows, "All cases, the worst first", folded=True)])


def serving(attempt: AttemptData) -> Section | None:
    """Return the cost of serving, and whether a fresh process predicts the same."""
    measured = attempt.evidence.facts.serving
    if measured is None:
        return None
    result = "bit-identical" if measured.identical else f"different: {measured.note}"
    lead = (
        f"The model was loaded from its stored bytes in a fresh process. Its predictions there are {result}."
    )
    by_metric = {requirement.metric: requirement for requirement in attempt.spec.gate.serving}
    rows: list[Line] = []
    for name, value in sorted(measured.figures.items()):
        text, limit_text = _value_and_limit(value, by_metric.get(name))
        rows.append([metric_label(name), number_cell(text), SERVING_UNITS.get(name, ""), limit_text])
    return Section("Latency and size", lead, [Table(["Figure", "Observed", "Unit", "Required"], rows)])


def leakage_and_unseen_values(attempt: AttemptData) -> Section | None:
    """Return signs that the model is too good to be true, and scored values that it never saw in training."""
    facts, limit = attempt.evidence.facts, attempt.spec.gate.leak.max_score
    leakage = facts.leakage
    if not leakage.single_feature and not facts.unseen_shares:
        return None
    leak = f"A single feature, or a model of all, that reaches {limit:g} is considered a leak of the label."
    if limit == 1:
        leak = "Features may decide the label, since the declared bound is 1."
    reductions = [*leakage.past_loss_reductions, leakage.loss_reduction]
    texts = [percent(share) for share in reductions if share is not None]
    lead = (
        f"{leak} Reduction of the prior's loss by the earlier attempts and by this one, oldest first: "
        f"{', '.join(texts) or 'not measured'}."
    )
    tables = [table for table in (_leakage_table(attempt), _unseen_values_table(attempt)) if table.rows]
    return Section("Leakage and unseen values", lead, tables)


def _leakage_table(attempt: AttemptData) -> Table:
    leakage, problem = attempt.evidence.facts.leakage, attempt.spec.problem
    measure = "ROC-AUC" if problem.codes else "R²"
    measure += ", for its best class" if problem.classes else ""
    scores = sorted(leakage.single_feature.items(), key=lambda item: (-item[1], item[0]))
    scores += [(f"all features, {model}", score) for model, score in leakage.all_features.items()]
    limit = attempt.spec.gate.leak.max_score
    return Table(
        ["Feature", measure],
        [[name, number_cell(figure_and_limit(score, limit)[0])] for name, score in scores],
        "How well a small tree of each feature alone, and models of all, predict the label (less is less "
        "suspicious)",
        folded=True,
    )


def _unseen_values_table(attempt: AttemptData) -> Table:
    facts, limit = attempt.evidence.facts, attempt.spec.gate.max_unseen
    shares = sorted(facts.unseen_shares.items(), key=lambda item: (-item[1], item[0]))
    return Table(
        ["Feature", "Share of the scored rows", "With the champion"],
        [
            [
                name,
                number_cell(percent(share, limit=limit)),
                number_cell(percent(facts.champion_unseen_shares.get(name))),
            ]
            for name, share in shares
        ],
        f"Scored values that weren't seen in training (less is better, at most {percent(limit)} "
        "or as many as with the champion)",
        folded=True,
    )


def changes(attempt: AttemptData) -> Section:
    """Return what changed since the champion was trained."""
    title, champion = "Changes since the champion", attempt.champion
    if champion is None:
        return Section(title, "There was no champion to compare with.")
    row = champion.switch
    lead = (
        f"The champion is version {row['version']}, {ledger.kind_text(row['kind'])} on the evidence of "
        f"{row['judged_on']} and live from {row['effective_from']} on."
    )
    return Section(title, lead, [_change_table(attempt, champion), *_moved_features(attempt, champion)])


def _change_table(attempt: AttemptData, champion: PreviousChampion) -> Table:
    """Return the properties of champion and challenger."""
    before, now, old, new = champion.attempt, attempt.row, champion.evidence, attempt.evidence
    digests: list[Line] = [
        [label, before[column][:12], _digest_change(before[column], now[column])] for label, column in DIGESTS
    ]
    label, old_constant = constant_text(attempt, old)
    rows: list[Line] = [
        ["Training partition", before["partition"], now["partition"]],
        ["Recipe", old.recipe if old else "unknown", new.recipe],
        ["Last fitted partition", old.fitted if old else "unknown", new.fitted],
        ["Fitted rows", _row_count(champion.training_data.rows), _row_count(attempt.training_data.rows)],
        [label, old_constant, constant_text(attempt, new)[1]],
        ["Test partitions", _test_partitions(old), _test_partitions(new)],
        *digests,
    ]
    old_features, new_features = (judged_features(old) if old else set()), judged_features(new)
    if old_features and new_features:
        removed, added = old_features - new_features, new_features - old_features
        rows.append(["Features removed, features added", list_names(removed), list_names(added)])
    return Table(["", f"Champion v{before['version']}", f"Challenger v{now['version']}"], rows)


def judged_features(evidence: Evidence) -> set[str]:
    """Return the features that a model was judged with, as far as its evidence names them."""
    facts = evidence.facts
    return set(facts.unseen_shares) | set(facts.importance) | set(facts.leakage.single_feature)


def _digest_change(before: str, now: str) -> str:
    return f"{now[:12]} ({'unchanged' if before == now else 'changed'})"


def _row_count(count: int) -> str:
    return f"{count:,}" if count else "unknown"


def _test_partitions(evidence: Evidence | None) -> str:
    if evidence is None or not evidence.losses.partitions:
        return "none"
    losses = evidence.losses
    first, last = losses.partitions[0], losses.partitions[-1]
    return f"{len(losses.partitions)}, {first} to {last}, {sum(losses.rows):,} rows"


def _moved_features(attempt: AttemptData, champion: PreviousChampion) -> list[Table]:
    """Return a table of the features whose values differ most between the two models' training data."""
    features = []
    for name, old in champion.training_data.columns.items():
        new = attempt.training_data.columns.get(name)
        if new is None or name not in attempt.spec.features.columns:
            continue
        moved = (new.mean - old.mean) / old.std if old.kind == "numeric" and old.std > 0 else 0.0
        missing = new.missing_share - old.missing_share
        features.append((max(abs(moved), abs(missing)), name, moved, old, new))
    rows: list[Line] = []
    for _, name, moved, old, new in sorted(features, key=lambda item: (-item[0], item[1]))[
        :MAX_MOVED_FEATURES
    ]:
        if old.kind == "numeric":
            values = figure(old.mean), figure(new.mean), f"{signed(moved)} sd"
        else:
            values = f"{old.distinct:,} values", f"{new.distinct:,} values", "—"
        missing_text = f"{percent(old.missing_share)} → {percent(new.missing_share)}"
        rows.append([name, *map(number_cell, (*values, missing_text))])
    head = ["Feature", "Mean, champion", "Mean, challenger", "Moved by", "Missing"]
    title = "Training data: the features that moved the most, in the champion's standard deviations"
    return [Table(head, rows, title)] if rows else []


SECTIONS: dict[str, Callable[[AttemptData], Section | None]] = {
    "checks": checks,
    "comparison": comparison,
    "slices": slices,
    "fairness": fairness,
    "importance": importance,
    "edge cases": edge_cases,
    "serving": serving,
    "leakage and unseen values": leakage_and_unseen_values,
    "changes": changes,
}
