"""What a verdict means and what happens next, in words that need no statistics; and what the figures mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.judge.evidence import CHALLENGER, CHAMPION, Evidence
from include.judge.judge import BLESSED, FORCED, NOT_BLESSED, NOT_ENOUGH, RUBBER_STAMPED
from include.models import outputs
from include.reports.html import Tone, figure, figures, percent
from include.reports.verdict_data import AttemptData
from include.spec.metrics import OBJECTIVES, SERVING_METRICS, greater_is_better

TONES: dict[str, Tone] = {
    BLESSED: "good",
    RUBBER_STAMPED: "good",
    NOT_BLESSED: "bad",
    NOT_ENOUGH: "warn",
    FORCED: "warn",
}
TITLES = {
    BLESSED: "The new model is better and may replace the champion.",
    RUBBER_STAMPED: "The first model is let in: there was no champion to compare it with.",
    NOT_BLESSED: "The new model stays out.",
    NOT_ENOUGH: "It is too early to tell: the new model stays out for now.",
    FORCED: "A person let the new model in, whatever the gate said.",
}
SERVED = {
    metric.name: f"{metric.description}; {'more' if metric.greater_is_better else 'less'} is better"
    for metric in SERVING_METRICS
}
CHECKS_NAMED = 3  # names of checks in a sentence


@dataclass(frozen=True)
class Headline:
    """What a manager reads: in a colour, what was decided, why, and what happens next."""

    tone: Tone
    title: str
    why: Sequence[str]
    then: str


def headline(known: AttemptData) -> Headline:
    """Return the verdict in plain words."""
    verdict = str(known.row["verdict"])
    title = TITLES.get(verdict, verdict)
    if known.newer and verdict in (BLESSED, RUBBER_STAMPED):
        title = "It passed, and is too old to be deployed."
    return Headline(TONES.get(verdict, ""), title, _why(known), _then(known, verdict))


def rival_name(known: AttemptData) -> str:
    """Return who had to be beaten, in words: ``the champion, version 3`` or ``the baseline prior``."""
    if known.rival == CHAMPION:
        number = f", version {known.before.switch['version']}" if known.before else ""
        return f"the champion{number}"
    return f"the {model_name(known.rival)}" if known.rival else "nobody"


def model_name(model: str) -> str:
    """Return a model's name in the losses as words: ``baseline prior``."""
    return model.replace(":", " ")


def metric_label(name: str) -> str:
    """Return a metric's or an objective's name as words: ``log loss``."""
    return name.replace("_", " ")


def better_direction(metric: str) -> str:
    """Return which way a metric is better."""
    return "more" if greater_is_better(metric) else "less"


def prior_text(known: AttemptData, evidence: Evidence | None) -> tuple[str, str]:
    """Return what the training prior is called, and what it was, "—" where it isn't known."""
    name = "Share of each class in training" if known.spec.problem.classes else "Mean label in training"
    return name, outputs.describe_constant(known.spec, evidence.prior, figure) if evidence else figure(None)


def loss_unit(known: AttemptData) -> str:
    """Return what the objective's loss is measured in."""
    units = {objective.name: objective.unit for objective in OBJECTIVES}
    return units[known.spec.gate.objective].format(target=known.spec.problem.target) or "no unit"


def deployed_note(known: AttemptData) -> str:
    """Return what is to be said of figures of the stored model, where it isn't the one that was judged."""
    walked = known.spec.gate.evidence == "walk_forward"
    return " These are of the model to serve, which was fitted on these rows too." if walked else ""


def _why(known: AttemptData) -> list[str]:
    found = [_compared(known)] if known.rows and known.rival else []
    failed = [check for check in known.checks if check.passed is False]
    asked = [check for check in known.checks if check.passed is not None]
    shown = known.gained()
    if failed and len(asked) < len(known.checks):
        found.append(f"There is too little to judge by: {'; '.join(check.sentence() for check in failed)}.")
    elif failed:
        names = "; ".join(check.name for check in failed[:CHECKS_NAMED])
        more = f" and {len(failed) - CHECKS_NAMED} more" if len(failed) > CHECKS_NAMED else ""
        found.append(f"{len(failed)} of {len(asked)} checks refused it: {names}{more}.")
        if shown is not None and shown.mean > 0 >= shown.low:
            found.append("What it gained may still be chance.")
    else:
        found.append(f"All {len(asked)} checks let it pass.")
    return [*found, f"{known.evidence.note}."] if known.evidence.note else found


def _compared(known: AttemptData) -> str:
    """Return the losses side by side."""
    new, old = known.mean(CHALLENGER), known.mean(known.rival)
    partitions, objective = len(known.evidence.losses.partitions), metric_label(known.spec.gate.objective)
    share = f": {percent(abs(old - new) / old, beside=0)} {'less' if new < old else 'more'}" if old else ""
    ours, theirs = figures(new, old)
    whose = "that it had never seen, its"
    if known.spec.gate.evidence == "walk_forward":
        whose = "that models of its recipe, each fitted on earlier partitions, had never seen, their"
    return (
        f"On {partitions} partitions with {known.rows:,} rows {whose} {objective} was "
        f"{ours} against {theirs} of {rival_name(known)}{share}, and less is better."
    )


def _then(known: AttemptData, verdict: str) -> str:
    gate, serves = known.spec.gate, known.before is not None and not known.vacant
    if known.newer and verdict != FORCED:
        return f"It is recorded and not deployed: a champion was judged on newer partitions, {known.newer}."
    if verdict in (NOT_BLESSED, NOT_ENOUGH):
        stays = _nobody(known)
        if known.before:
            version = f"Version {known.before.switch['version']}"
            stays = f"{version} stays champion"
            if known.vacant:
                stays = f"{version} stepped down and has no successor yet: its baseline goes on serving"
        if verdict == NOT_ENOUGH:
            return f"{stays}. This attempt isn't counted; a training with more matured partitions will tell."
        return f"{stays}. The next training makes another attempt; each one has to show its gain more surely."
    if verdict == FORCED:
        return (
            "It serves from the next partition that isn't served yet; one form or one command takes it back."
        )
    steps = {
        "immediate": "it serves from the next partition that isn't served yet",
        "shadow": "it is scored beside the champion, and serves once its live losses have shown that it may",
        "canary": f"it is scored beside the champion, then serves {percent(gate.rollout.share)} of the "
        "rows, and all of them once its live losses have shown that it may",
    }
    then = steps[gate.rollout.kind if serves else "immediate"]
    if gate.approval == "human":
        patience = f"A person has {gate.approval_hours:g} hours to approve it, and silence means no"
        return f"{patience}. Once approved, {then}."
    return f"{then[0].upper()}{then[1:]}."


def _nobody(known: AttemptData) -> str:
    said = outputs.describe_constant(known.spec, known.spec.fallback, figure)
    return f"No model serves yet: every row gets the declared {said}"
