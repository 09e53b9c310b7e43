"""How each class of a multiclass problem fares: too many figures for a line beside the others."""

from __future__ import annotations

from include.promote.evidence import CHALLENGER
from include.spec.metrics import FAMILIES
from include.verdict.known import Known
from include.verdict.parts import Line, Table, figure, num
from include.verdict.words import named

FIGURES = tuple(family for family, of in FAMILIES["multiclass"].items() if of == "class")


def of_all(known: Known) -> list[str]:
    """Return the challenger's metrics that a line of its own shows, the objective's aside."""
    found = {*known.evidence.metrics.get(CHALLENGER, {})} - {known.spec.gate.objective}
    single = {f"{family}@{name}" for family in FIGURES for name in known.spec.problem.classes}
    return sorted(found - single)


def tables(known: Known) -> list[Table]:
    """Return precision, recall and F1 of each class, challenger beside rival; none of another problem."""
    if not known.spec.problem.classes:
        return []
    models = [CHALLENGER, *([known.rival] if known.rival else [])]
    head = ["Class", *(f"{family} of {named(model)} (more)" for family in FIGURES for model in models)]
    rows: list[Line] = [
        [
            name,
            *(
                num(figure(known.evidence.metrics.get(model, {}).get(f"{family}@{name}")))
                for family in FIGURES
                for model in models
            ),
        ]
        for name in known.spec.problem.classes
    ]
    return [Table(head, rows, "Each class; a row counts for the class with the highest probability")]
