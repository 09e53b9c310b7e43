"""What was measured, question by question: the page shows all of it, the model's card the most of it."""

from __future__ import annotations

from include.digits import beside
from include.promote.case import Check, required
from include.promote.checks import among, harm, judgeable
from include.promote.facts import Fairness, Slice
from include.spec.gate import Requirement
from include.verdict import classes, curves
from include.verdict.known import Known
from include.verdict.parts import Cell, Line, Section, Table, Tone, figure, num, percent, signed
from include.verdict.words import SERVED, better, deployed, named, spoken, unit

FOREST = 20  # slices in the drawing, those that lose the most
BARS = 15  # features in the drawing
MARKS: dict[bool | None, tuple[str, Tone]] = {
    True: ("passed", "good"),
    False: ("refused", "bad"),
    None: ("not judged", "warn"),
}


def checks(known: Known) -> Section:
    """Return every check with what it required and found."""
    lead = (
        "Each check can refuse by itself. A gain reads “mean [at least, inf)”: it is at least so much, as "
        "surely as the level says; above 0 the challenger loses less."
    )
    rows: list[Line] = [[one.name, one.required, one.found, _mark(one), one.note] for one in known.checks]
    head = ["Check", "Required", "Found, with its interval", "Outcome", "Note"]
    return Section("Every check", lead, [Table(head, rows)])


def comparison(known: Known) -> Section:
    """Return the losses and metrics of every model on the same rows, with the curves."""
    evidence, objective = known.evidence, known.spec.gate.objective
    if not known.rows:
        lead = f"No labelled test night after {evidence.last_fitted}: there is nothing to compare yet."
        return Section("On rows that nothing judged here had seen", lead)
    nights, metrics = evidence.losses.nights, classes.of_all(known)
    fitted = f"nothing was fitted or tuned later than {evidence.last_fitted}"
    if (refit := evidence.facts.refit) is not None:
        fitted = (
            f"a model of earlier nights predicted each; the one to serve, fitted on all, has {figure(refit)}"
        )
    lead = (
        f"{known.rows:,} labelled rows of {len(nights)} nights, {nights[0]} to {nights[-1]}; {fitted}. The "
        f"gate decides by the mean {spoken(objective)} ({unit(known)}). Each figure says whether less or "
        "more of it is better."
    )
    order = sorted(evidence.losses.sums, key=lambda name: (known.mean(name), name))
    head = ["Model", f"{spoken(objective)} (less)", *(f"{spoken(m)} ({better(m)})" for m in metrics)]
    rows: list[Line] = [
        [named(name), num(figure(known.mean(name))), *(num(figure(_metric(known, name, m))) for m in metrics)]
        for name in order
    ]
    charts = [curves.gain_by_night(known, known.gained())] if known.rival else []
    if known.tested is None:
        lead += " The rows themselves weren't kept, so there are no curves."
    else:
        charts += curves.DRAWN[known.spec.problem.kind](known, known.tested)
    tables = [Table(head, rows), *classes.tables(known)]
    return Section("On rows that nothing judged here had seen", lead, tables, charts)


def slices(known: Known) -> Section | None:
    """Return how the parts of the rows fare, those that lose the most first."""
    found, gate = known.evidence.facts.slices, known.spec.gate
    if not found:
        return None
    judged = [part for part in found if judgeable(part, gate)]
    lead = (
        f"By how much the mean {spoken(gate.objective)} rose in a part of the rows, in percent of that of "
        f"{named(known.evidence.facts.rival)}; below 0 is better. The interval holds the rise on either "
        f"side at the level that the slice is judged at, declared and automatic ones sharing alpha "
        f"{gate.alpha:g}, since of many slices one always looks worse. A slice refuses when even its "
        f"lower end is above {percent(gate.slices.tolerance)}; one with fewer "
        f"than {gate.slices.min_rows:,} rows, or on few nights, isn't judged."
    )
    rises = sorted(
        ((_rise(known, part, among(part, judged)), part) for part in judged), key=lambda one: -one[0][1]
    )
    few = [part for part in found if part not in judged]
    most = 100 * gate.slices.tolerance
    rows: list[Line] = [
        [part.name, "yes" if part.declared else "no", num(f"{sum(part.rows):,}"), *_losses(part),
         num(f"{rise:+.2f} % [{beside(low, most, 2, '{:+.#f}')[0]}, {high:+.2f}]"),
         Cell("worse", "bad") if low > most else Cell("held", "good")]
        for (rise, low, high), part in rises
    ]  # fmt: skip
    rows += [
        [part.name, "yes" if part.declared else "no", num(f"{sum(part.rows):,}"), *_losses(part), num("—"),
         Cell("too few rows", "warn")]
        for part in few
    ]  # fmt: skip
    head = ["Slice", "Declared", "Rows", "Challenger", named(known.evidence.facts.rival), "Rise", "Outcome"]
    shown = [(part.name, *rise) for rise, part in rises[:FOREST]]
    title = f"The {len(shown)} slices that fare worst, of {len(judged)}"
    charts = [curves.forest(title, shown, most)] if shown else []
    return Section("Slices", lead, [Table(head, rows, f"All {len(found)} slices", folded=True)], charts)


def fairness(known: Known) -> Section | None:
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


def importance(known: Known) -> Section | None:
    """Return what each feature is worth on the test rows."""
    found = known.evidence.facts.importance
    if not found:
        return None
    lead = (
        f"The rise of the mean {spoken(known.spec.gate.objective)} on the held-out nights when one "
        "feature's values are permuted among the rows: more is more important, around 0 the model hardly "
        f"uses it. Features that say the same share their worth.{deployed(known)}"
    )
    rows: list[Line] = [
        [name, num(signed(value))] for name, value in sorted(found.items(), key=lambda i: (-i[1], i[0]))
    ]
    table = Table(["Feature", "Rise of the loss"], rows, f"All {len(rows)} features", folded=True)
    return Section("Permutation importance", lead, [table], [curves.importance(known, found, BARS)])


def _allowed(most: float | None) -> str:
    if most is None:
        return "By how much the mean loss may rise isn't declared."
    return f"The mean loss may rise by {percent(most)} at most."


def edge_cases(known: Known) -> Section | None:
    """Return what the challenger made of harmed rows."""
    found = known.evidence.facts.edge_cases
    if not found:
        return None
    worst = sorted(found, key=lambda one: (one.held, -(one.rise or 0.0), one.name))
    lead = (
        f"Rows harmed on purpose: {sum(one.held for one in found)} of {len(found)} cases held (a finite "
        f"prediction a row, or a refusal in a sentence). {_allowed(known.spec.gate.robustness)}"
        f"{deployed(known)}"
    )
    rows: list[Line] = [
        [one.name, one.kind, Cell("held", "good") if one.held else Cell("broke", "bad"),
         num(percent(one.rise, sign=True, beside=known.spec.gate.robustness)), one.note]
        for one in worst
    ]  # fmt: skip
    head = ["Case", "Kind", "Outcome", "Rise of the loss", "Note"]
    return Section("Edge cases", lead, [Table(head, rows, "All cases, the worst first", folded=True)])


def serving(known: Known) -> Section | None:
    """Return what serving costs, and whether a fresh process predicts the same."""
    found = known.evidence.facts.serving
    if found is None:
        return None
    asked = {rule.metric: rule for rule in known.spec.gate.serving}
    same = "the same to the bit" if found.same else f"something else: {found.note}"
    lead = f"Loaded from its stored bytes in a fresh process, it predicted {same}."
    rows: list[Line] = [
        [spoken(name), num(text), SERVED.get(name, ""), bound]
        for name, value in sorted(found.figures.items())
        for text, bound in [_beside(value, asked.get(name))]
    ]
    return Section("Latency and size", lead, [Table(["Figure", "Found", "Unit", "Required"], rows)])


def doubts(known: Known) -> Section | None:
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
              [[n, num(beside(v, gate.leak.alone)[0])] for n, v in alone],
              "What one feature alone can tell (less is less suspicious)", folded=True),
        Table(["Feature", "Share of the scored rows"],
              [[n, num(percent(v, beside=gate.coverage))] for n, v in unseen],
              f"Values that are scored and were never fitted on ({bound})", folded=True),
    ]  # fmt: skip
    return Section("Leaks and coverage", lead, [table for table in tables if table.rows])


def _leaky(bound: float) -> str:
    if bound == 1:
        return "A feature may decide the label alone, since the declared bound is 1."
    return f"A feature that alone reaches {bound:g} is taken for a leak of the label."


def _mark(check: Check) -> Cell:
    return Cell(*MARKS[check.passed])


def _metric(known: Known, model: str, metric: str) -> float | None:
    return known.evidence.metrics.get(model, {}).get(metric)


def _losses(part: Slice) -> list[Cell]:
    rows = sum(part.rows)
    return [num(figure(sum(sums) / rows if rows else None)) for sums in (part.challenger, part.rival)]


def _rise(known: Known, part: Slice, sharing: int) -> tuple[float, float, float]:
    """Return by how many percent a slice's loss rose, with both ends: Student's t is symmetric."""
    shown, before = harm(part, known.spec.gate, sharing), sum(part.rival) / sum(part.rows)
    scale = 100 / before if before else 0.0
    return shown.mean * scale, shown.low * scale, (2 * shown.mean - shown.low) * scale


def _groups(one: Fairness) -> Table:
    names = [name for name in next(iter(one.groups.values()), {}) if name != "rows"]
    rows: list[Line] = [
        [group, num(f"{figures['rows']:,.0f}"), *(num(figure(figures.get(name))) for name in names)]
        for group, figures in sorted(one.groups.items())
    ]
    return Table([one.column, "Rows", *map(spoken, names)], rows, f"Groups of {one.column}")


def _between(one: Fairness, requirements: tuple[Requirement, ...]) -> Table:
    asked = {rule.metric: rule for rule in requirements}
    rows: list[Line] = [
        [spoken(name), num(text), bound]
        for name, value in sorted(one.figures.items())
        for text, bound in [_beside(value, asked.get(name))]
    ]
    title = f"Between the groups of {one.column} (a difference is best at 0, a ratio at 1)"
    return Table(["Figure", "Found", "Required"], rows, title)


def _beside(value: float, rule: Requirement | None) -> tuple[str, str]:
    return required(rule, value) if rule else (figure(value), "—")
