"""Store what a verdict rests on where people look: beside the reports, beside the model, and in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from include.errors import EvergreenError
from include.judge.checks import among, harm, judgeable
from include.judge.context import Check, required
from include.judge.evidence import CHALLENGER, Evidence, Fairness, Slice
from include.models.registry import Registry
from include.promote import ledger
from include.reports import charts as curves
from include.reports.cards import data_card, model_card
from include.reports.html import Cell, Line, Section, Table, Tone, figure, number_cell, percent, signed
from include.reports.paths import data_card_place, model_card_place, page_place
from include.reports.verdict_data import AttemptData, PreviousChampion, read_attempt
from include.reports.wording import (
    SERVED,
    better_direction,
    deployed_note,
    headline,
    loss_unit,
    metric_label,
    model_name,
    prior_text,
)
from include.spec import UseCase
from include.spec.gate import Requirement
from include.spec.metrics import class_metrics
from include.stats.formatting import figure_and_limit
from include.storage.lake import Lake

FIGURES = class_metrics()


def overall_metrics(known: AttemptData) -> list[str]:
    """Return the challenger's metrics that a line of its own shows, the objective's aside."""
    found = {*known.evidence.metrics.get(CHALLENGER, {})} - {known.spec.gate.objective}
    single = {f"{family}@{name}" for family in FIGURES for name in known.spec.problem.classes}
    return sorted(found - single)


def class_tables(known: AttemptData) -> list[Table]:
    """Return precision, recall and F1 of each class, challenger beside rival; none of another problem."""
    if not known.spec.problem.classes:
        return []
    models = [CHALLENGER, *([known.rival] if known.rival else [])]
    head = ["Class", *(f"{family} of {model_name(model)} (more)" for family in FIGURES for model in models)]
    rows: list[Line] = [
        [
            name,
            *(
                number_cell(figure(known.evidence.metrics.get(model, {}).get(f"{family}@{name}")))
                for family in FIGURES
                for model in models
            ),
        ]
        for name in known.spec.problem.classes
    ]
    return [Table(head, rows, "Each class; a row counts for the class with the highest probability")]


FOREST = 20  # slices in the drawing, those that lose the most
BARS = 15  # features in the drawing
MARKS: dict[bool | None, tuple[str, Tone]] = {
    True: ("passed", "good"),
    False: ("refused", "bad"),
    None: ("not judged", "warn"),
}


def checks(known: AttemptData) -> Section:
    """Return every check with what it required and found."""
    lead = (
        "Each check can refuse by itself. A gain reads “mean [at least, inf)”: it is at least so much, as "
        "surely as the level says; above 0 the challenger loses less."
    )
    rows: list[Line] = [[one.name, one.required, one.found, _mark(one), one.note] for one in known.checks]
    head = ["Check", "Required", "Found, with its interval", "Outcome", "Note"]
    return Section("Every check", lead, [Table(head, rows)])


def comparison(known: AttemptData) -> Section:
    """Return the losses and metrics of every model on the same rows, with the curves."""
    evidence, objective = known.evidence, known.spec.gate.objective
    if not known.rows:
        lead = f"No labelled test partition after {evidence.last_fitted}: there is nothing to compare yet."
        return Section("On rows that nothing judged here had seen", lead)
    partitions, metrics = evidence.losses.partitions, overall_metrics(known)
    fitted = f"nothing was fitted or tuned later than {evidence.last_fitted}"
    if (refit := evidence.facts.refit) is not None:
        fitted = (
            "a model of earlier partitions predicted each; the one to serve, fitted on all, has "
            f"{figure(refit)}"
        )
    lead = (
        f"{known.rows:,} labelled rows of {len(partitions)} partitions, {partitions[0]} to "
        f"{partitions[-1]}; {fitted}. The "
        f"gate decides by the mean {metric_label(objective)} ({loss_unit(known)}). Each figure says "
        "whether less or "
        "more of it is better."
    )
    order = sorted(evidence.losses.sums, key=lambda name: (known.mean(name), name))
    head = [
        "Model",
        f"{metric_label(objective)} (less)",
        *(f"{metric_label(m)} ({better_direction(m)})" for m in metrics),
    ]
    rows: list[Line] = [
        [
            model_name(name),
            number_cell(figure(known.mean(name))),
            *(number_cell(figure(_metric(known, name, m))) for m in metrics),
        ]
        for name in order
    ]
    charts = [curves.gain_by_partition(known, known.gained())] if known.rival else []
    if known.tested is None:
        lead += " The rows themselves weren't kept, so there are no curves."
    else:
        charts += curves.DRAWN[known.spec.problem.kind](known, known.tested)
    tables = [Table(head, rows), *class_tables(known)]
    return Section("On rows that nothing judged here had seen", lead, tables, charts)


def slices(known: AttemptData) -> Section | None:
    """Return how the parts of the rows fare, those that lose the most first."""
    found, gate = known.evidence.facts.slices, known.spec.gate
    if not found:
        return None
    judged = [part for part in found if judgeable(part, gate)]
    lead = (
        f"By how much the mean {metric_label(gate.objective)} rose in a part of the rows, in percent of "
        "that of "
        f"{model_name(known.evidence.facts.rival)}; below 0 is better. The interval holds the rise on either "
        f"side at the level that the slice is judged at, declared and automatic ones sharing alpha "
        f"{gate.alpha:g}, since of many slices one always looks worse. A slice refuses when even its "
        f"lower end is above {percent(gate.slices.tolerance)}; one with fewer "
        f"than {gate.slices.min_rows:,} rows, or on few partitions, isn't judged."
    )
    rises = sorted(
        ((_rise(known, part, among(part, judged)), part) for part in judged), key=lambda one: -one[0][1]
    )
    few = [part for part in found if part not in judged]
    most = 100 * gate.slices.tolerance
    rows: list[Line] = [
        [part.name, "yes" if part.declared else "no", number_cell(f"{sum(part.rows):,}"), *_losses(part),
         number_cell(f"{rise:+.2f} % [{figure_and_limit(low, most, 2, '{:+.#f}')[0]}, {high:+.2f}]"),
         Cell("worse", "bad") if low > most else Cell("held", "good")]
        for (rise, low, high), part in rises
    ]  # fmt: skip
    rows += [
        [part.name, "yes" if part.declared else "no", number_cell(f"{sum(part.rows):,}"), *_losses(part),
            number_cell("—"),
         Cell("too few rows", "warn")]
        for part in few
    ]  # fmt: skip
    head = [
        "Slice",
        "Declared",
        "Rows",
        "Challenger",
        model_name(known.evidence.facts.rival),
        "Rise",
        "Outcome",
    ]
    shown = [(part.name, *rise) for rise, part in rises[:FOREST]]
    title = f"The {len(shown)} slices that fare worst, of {len(judged)}"
    charts = [curves.slice_chart(title, shown, most)] if shown else []
    return Section("Slices", lead, [Table(head, rows, f"All {len(found)} slices", folded=True)], charts)


def fairness(known: AttemptData) -> Section | None:
    """Return how the groups of each sensitive column fare."""
    rules = known.spec.gate.fairness
    if rules is None or not known.evidence.facts.fairness:
        return None
    lead = (
        f"A row is selected from a predicted probability of {rules.threshold:g} on. tpr: share of the "
        "actual ones that are selected; fpr: share of the others that are; calibration: mean prediction "
        f"less the observed rate, 0 is best. Groups with fewer than {rules.min_rows:,} rows aren't "
        "compared."
    )
    tables = [
        table
        for one in known.evidence.facts.fairness
        for table in (_groups(one), _between(one, rules.requirements))
    ]
    return Section("Fairness between groups", lead, tables)


def importance(known: AttemptData) -> Section | None:
    """Return what each feature is worth on the test rows."""
    found = known.evidence.facts.importance
    if not found:
        return None
    lead = (
        f"The rise of the mean {metric_label(known.spec.gate.objective)} on the held-out partitions when one "
        "feature's values are permuted among the rows: more is more important, around 0 the model hardly "
        f"uses it. Features that say the same share their worth.{deployed_note(known)}"
    )
    rows: list[Line] = [
        [name, number_cell(signed(value))]
        for name, value in sorted(found.items(), key=lambda i: (-i[1], i[0]))
    ]
    table = Table(["Feature", "Rise of the loss"], rows, f"All {len(rows)} features", folded=True)
    return Section("Permutation importance", lead, [table], [curves.importance_chart(known, found, BARS)])


def _allowed(most: float | None) -> str:
    if most is None:
        return "By how much the mean loss may rise isn't declared."
    return f"The mean loss may rise by {percent(most)} at most."


def edge_cases(known: AttemptData) -> Section | None:
    """Return what the challenger made of harmed rows."""
    found = known.evidence.facts.edge_cases
    if not found:
        return None
    worst = sorted(found, key=lambda one: (one.held, -(one.rise or 0.0), one.name))
    lead = (
        f"Rows harmed on purpose: {sum(one.held for one in found)} of {len(found)} cases held (a finite "
        f"prediction a row, or a refusal in a sentence). {_allowed(known.spec.gate.robustness)}"
        f"{deployed_note(known)}"
    )
    rows: list[Line] = [
        [one.name, one.kind, Cell("held", "good") if one.held else Cell("broke", "bad"),
         number_cell(percent(one.rise, sign=True, beside=known.spec.gate.robustness)), one.note]
        for one in worst
    ]  # fmt: skip
    head = ["Case", "Kind", "Outcome", "Rise of the loss", "Note"]
    return Section("Edge cases", lead, [Table(head, rows, "All cases, the worst first", folded=True)])


def serving(known: AttemptData) -> Section | None:
    """Return what serving costs, and whether a fresh process predicts the same."""
    found = known.evidence.facts.serving
    if found is None:
        return None
    asked = {rule.metric: rule for rule in known.spec.gate.serving}
    same = "the same to the bit" if found.same else f"something else: {found.note}"
    lead = f"Loaded from its stored bytes in a fresh process, it predicted {same}."
    rows: list[Line] = [
        [metric_label(name), number_cell(text), SERVED.get(name, ""), bound]
        for name, value in sorted(found.figures.items())
        for text, bound in [_beside(value, asked.get(name))]
    ]
    return Section("Latency and size", lead, [Table(["Figure", "Found", "Unit", "Required"], rows)])


def doubts(known: AttemptData) -> Section | None:
    """Return what could be too good to be true, and what is scored without having been learnt."""
    facts, gate = known.evidence.facts, known.spec.gate
    alone = sorted(facts.leak.alone.items(), key=lambda item: (-item[1], item[0]))
    unseen = sorted(facts.coverage.items(), key=lambda item: (-item[1], item[0]))
    if not alone and not unseen:
        return None
    measure = "ROC-AUC" if known.spec.problem.codes else "R²"
    measure += ", of the class that it tells best," if known.spec.problem.classes else ""
    saved = [percent(share) for share in (*facts.leak.history, facts.leak.saved) if share is not None]
    lead = (
        f"{_leaky(gate.leak.alone)} Of the loss "
        "of always saying the mean, this attempt and those before it save, oldest first: "
        f"{', '.join(saved) or 'not measured'}."
    )
    bound = f"less is better, at most {percent(gate.coverage)}"
    tables = [
        Table(["Feature alone", f"{measure} of a small tree"],
              [[n, number_cell(figure_and_limit(v, gate.leak.alone)[0])] for n, v in alone],
              "What one feature alone can tell (less is less suspicious)", folded=True),
        Table(["Feature", "Share of the scored rows"],
              [[n, number_cell(percent(v, beside=gate.coverage))] for n, v in unseen],
              f"Values that are scored and were never fitted on ({bound})", folded=True),
    ]  # fmt: skip
    return Section("Leaks and coverage", lead, [table for table in tables if table.rows])


def _leaky(bound: float) -> str:
    if bound == 1:
        return "A feature may decide the label alone, since the declared bound is 1."
    return f"A feature that alone reaches {bound:g} is taken for a leak of the label."


def _mark(check: Check) -> Cell:
    return Cell(*MARKS[check.passed])


def _metric(known: AttemptData, model: str, metric: str) -> float | None:
    return known.evidence.metrics.get(model, {}).get(metric)


def _losses(part: Slice) -> list[Cell]:
    rows = sum(part.rows)
    return [number_cell(figure(sum(sums) / rows if rows else None)) for sums in (part.challenger, part.rival)]


def _rise(known: AttemptData, part: Slice, sharing: int) -> tuple[float, float, float]:
    """Return by how many percent a slice's loss rose, with both ends: Student's t is symmetric."""
    shown, before = harm(part, known.spec.gate, sharing), sum(part.rival) / sum(part.rows)
    scale = 100 / before if before else 0.0
    return shown.mean * scale, shown.low * scale, (2 * shown.mean - shown.low) * scale


def _groups(one: Fairness) -> Table:
    names = [name for name in next(iter(one.groups.values()), {}) if name != "rows"]
    rows: list[Line] = [
        [
            group,
            number_cell(f"{figures['rows']:,.0f}"),
            *(number_cell(figure(figures.get(name))) for name in names),
        ]
        for group, figures in sorted(one.groups.items())
    ]
    return Table([one.column, "Rows", *map(metric_label, names)], rows, f"Groups of {one.column}")


def _between(one: Fairness, requirements: tuple[Requirement, ...]) -> Table:
    asked = {rule.metric: rule for rule in requirements}
    rows: list[Line] = [
        [metric_label(name), number_cell(text), bound]
        for name, value in sorted(one.figures.items())
        for text, bound in [_beside(value, asked.get(name))]
    ]
    title = f"Between the groups of {one.column} (a difference is best at 0, a ratio at 1)"
    return Table(["Figure", "Found", "Required"], rows, title)


def _beside(value: float, rule: Requirement | None) -> tuple[str, str]:
    return required(rule, value) if rule else (figure(value), "—")


MOVED = 10  # features that are shown


def changes(known: AttemptData) -> Section:
    """Return what changed since the champion was trained."""
    title = "What changed since the champion"
    if known.before is None:
        return Section(title, "There was no champion to compare with.")
    row = known.before.switch
    lead = (
        f"The champion is version {row['version']}, {row['kind']} on the evidence of {row['evidence']} and "
        f"serving from {row['effective']} on."
    )
    return Section(title, lead, [_sides(known, known.before), *_moved(known, known.before)])


def judged_features(evidence: Evidence) -> set[str]:
    """Return the features that a model was judged with, as far as its evidence names them."""
    facts = evidence.facts
    return set(facts.coverage) | set(facts.importance) | set(facts.leak.alone)


def _sides(known: AttemptData, before: PreviousChampion) -> Table:
    """Return champion and challenger side by side."""
    then, now, old = before.attempt, known.row, before.evidence
    had, have = (judged_features(old) if old else set()), judged_features(known.evidence)
    digests: list[Line] = [[what, *_digests(then[column], now[column])] for what, column in DIGESTS]
    rows: list[Line] = [
        ["Training partition", then["partition"], now["partition"]],
        ["Recipe", old.recipe if old else "not known", known.evidence.recipe],
        ["Last partition fitted", old.fitted if old else "not known", known.evidence.fitted],
        ["Rows fitted", _rows(before.learnt.rows), _rows(known.learnt.rows)],
        [prior_text(known, old)[0], prior_text(known, old)[1], prior_text(known, known.evidence)[1]],
        ["Test partitions", *(_partitions(one) for one in (old, known.evidence))],
        *digests,
    ]
    if had and have:
        rows.append(["Features gone, features new", _names(had - have), _names(have - had)])
    return Table(["", f"Champion v{then['version']}", f"Challenger v{now['version']}"], rows)


DIGESTS = (("Declaration", "spec"), ("Training data", "data"), ("Code", "code"), ("Model", "model"))


def _digests(then: str, now: str) -> tuple[str, str]:
    return then[:12], f"{now[:12]} ({'the same' if then == now else 'changed'})"


def _rows(count: int) -> str:
    return f"{count:,}" if count else "not known"


def _partitions(evidence: Evidence | None) -> str:
    if evidence is None or not evidence.losses.partitions:
        return "none"
    losses = evidence.losses
    return (
        f"{len(losses.partitions)}, {losses.partitions[0]} to {losses.partitions[-1]}, "
        f"{sum(losses.rows):,} rows"
    )


def _names(found: set[str]) -> str:
    return ", ".join(sorted(found)) or "none"


def _moved(known: AttemptData, before: PreviousChampion) -> list[Table]:
    """Return the features whose values differ the most between what the two were fitted on."""
    found = []
    for name, old in before.learnt.columns.items():
        new = known.learnt.columns.get(name)
        if new is None or name not in known.spec.features.columns:
            continue
        moved = (new.mean - old.mean) / old.std if old.kind == "numeric" and old.std > 0 else 0.0
        missing = new.missing_share - old.missing_share
        found.append((max(abs(moved), abs(missing)), name, moved, old, new))
    rows: list[Line] = [
        [name, number_cell(figure(old.mean)), number_cell(figure(new.mean)),
            number_cell(f"{signed(moved)} " "sd"),
         number_cell(f"{percent(old.missing_share)} → {percent(new.missing_share)}")]
        if old.kind == "numeric"
        else [name, number_cell(f"{old.distinct:,} " "values"), number_cell(f"{new.distinct:,} " "values"),
            number_cell("—"),
              number_cell(f"{percent(old.missing_share)} → {percent(new.missing_share)}")]
        for _, name, moved, old, new in sorted(found, key=lambda one: (-one[0], one[1]))[:MOVED]
    ]  # fmt: skip
    head = ["Feature", "Mean, champion", "Mean, challenger", "Moved by", "Missing"]
    title = (
        "What the two were fitted on: the features that moved the most, in the champion's standard deviations"
    )
    return [Table(head, rows, title)] if rows else []


templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


PARTS: dict[str, Callable[[AttemptData], Section | None]] = {
    "checks": checks,
    "comparison": comparison,
    "slices": slices,
    "fairness": fairness,
    "importance": importance,
    "edge cases": edge_cases,
    "serving": serving,
    "doubts": doubts,
    "changes": changes,
}


def page_sections(known: AttemptData) -> dict[str, Section]:
    """Return the sections that there is something to say in, in the page's order, by name."""
    return {name: part for name, make in PARTS.items() if (part := make(known)) is not None}


def render_page(known: AttemptData, parts: Mapping[str, Section]) -> str:
    """Return the whole page; the same attempt gives the same text.

    Parameters
    ----------
    parts : the `answers`.
    """
    return templates.get_template("verdict.html").render(
        spec=known.spec,
        row=known.row,
        evidence=known.evidence,
        said=headline(known),
        rows=known.rows,
        stale=known.spec.digest != known.evidence.spec,
        sections=parts.values(),
        drawn=_drawn,
        is_cell=lambda cell: isinstance(cell, Cell),
    )


def _drawn(svg: str) -> Markup:
    """Return a drawing as it is: `include.reports.charts` has escaped every text in it."""
    return Markup(svg)  # noqa: S704


log = logging.getLogger(__name__)
PAGE, MODEL, DATA = "evergreen/verdict.html", "evergreen/model_card.md", "evergreen/data_card.md"


def draw_verdict(lake: Lake, spec: UseCase, key: str, registry: Registry | None) -> str:
    """Store an attempt's page and its model's cards; drawn again of the same lake they have the same bytes.

    Parameters
    ----------
    key : of the attempt, or of the forced verdict on it.
    registry : whose model version gets them as well; one that is down is logged and no error, since the lake
        has them.

    Returns
    -------
    str
        The page's place below ``reports/``.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    """
    known = read_attempt(lake, spec, key)
    place, model = page_place(known.evidence.partition, key), known.evidence.model
    parts = page_sections(known)
    texts = render_page(known, parts), model_card(known, parts), data_card(known)
    shown, card, data = (text.encode() for text in texts)
    lake.replace(f"reports/{place}", shown)
    lake.replace(model_card_place(model), card)
    lake.replace(data_card_place(model), data)
    if registry is not None:
        _hand_over(registry, spec, known.evidence.version, {PAGE: shown, MODEL: card, DATA: data})
    return place


def draw_forced(lake: Lake, spec: UseCase, key: str, registry: Registry | None) -> None:
    """Draw what a person said of an attempt; where the live model was forced nothing was recorded."""
    said = ledger.forced_key(key)
    if lake.rows("attempts", {"key": said}):
        draw_verdict(lake, spec, said, registry)


def _hand_over(registry: Registry, spec: UseCase, version: str, files: dict[str, bytes]) -> None:
    try:
        registry.put(registry.run_of(spec.name, version), files)
    except EvergreenError as error:
        log.warning("%s v%s: report and cards are in the lake only: %s", spec.name, version, error)
