"""What is different since the champion: who it is, and what of data, code and declaration changed."""

from __future__ import annotations

from include.promote.evidence import Evidence
from include.verdict.known import Before, Known
from include.verdict.parts import Line, Section, Table, figure, num, percent, signed
from include.verdict.words import prior

MOVED = 10  # features that are shown


def changes(known: Known) -> Section:
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


def features(evidence: Evidence) -> set[str]:
    """Return the features that a model was judged with, as far as its evidence names them."""
    facts = evidence.facts
    return set(facts.coverage) | set(facts.importance) | set(facts.leak.alone)


def _sides(known: Known, before: Before) -> Table:
    """Return champion and challenger side by side."""
    then, now, old = before.attempt, known.row, before.evidence
    had, have = (features(old) if old else set()), features(known.evidence)
    digests: list[Line] = [[what, *_digests(then[column], now[column])] for what, column in DIGESTS]
    rows: list[Line] = [
        ["Training night", then["night"], now["night"]],
        ["Recipe", old.recipe if old else "not known", known.evidence.recipe],
        ["Last night fitted", old.fitted if old else "not known", known.evidence.fitted],
        ["Rows fitted", _rows(before.learnt.rows), _rows(known.learnt.rows)],
        [prior(known, old)[0], prior(known, old)[1], prior(known, known.evidence)[1]],
        ["Test nights", *(_nights(one) for one in (old, known.evidence))],
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


def _nights(evidence: Evidence | None) -> str:
    if evidence is None or not evidence.losses.nights:
        return "none"
    losses = evidence.losses
    return f"{len(losses.nights)}, {losses.nights[0]} to {losses.nights[-1]}, {sum(losses.rows):,} rows"


def _names(found: set[str]) -> str:
    return ", ".join(sorted(found)) or "none"


def _moved(known: Known, before: Before) -> list[Table]:
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
        [name, num(figure(old.mean)), num(figure(new.mean)), num(f"{signed(moved)} sd"),
         num(f"{percent(old.missing_share)} → {percent(new.missing_share)}")]
        if old.kind == "numeric"
        else [name, num(f"{old.distinct:,} values"), num(f"{new.distinct:,} values"), num("—"),
              num(f"{percent(old.missing_share)} → {percent(new.missing_share)}")]
        for _, name, moved, old, new in sorted(found, key=lambda one: (-one[0], one[1]))[:MOVED]
    ]  # fmt: skip
    head = ["Feature", "Mean, champion", "Mean, challenger", "Moved by", "Missing"]
    title = (
        "What the two were fitted on: the features that moved the most, in the champion's standard deviations"
    )
    return [Table(head, rows, title)] if rows else []
