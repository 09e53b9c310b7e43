"""The words of the verdict page and the cards: what a verdict means, what happens next, and names of figures.

The headline needs no knowledge of statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.judge.evidence import CHALLENGER, CHAMPION, Evidence
from include.judge.judge import BLESSED, FORCED, NOT_BLESSED, NOT_ENOUGH, PROMOTES, RUBBER_STAMPED
from include.models import outputs
from include.promote.ledger import PROMOTED, REFRESHED, REPLACED, ROLLED_BACK
from include.reports.html import Tone, figure, figure_pair, metric_label, percent
from include.reports.verdict_data import AttemptData
from include.spec import Problem, UseCase
from include.spec.metrics import SERVING_METRICS, greater_is_better
from include.storage.lake import Row

TONES: dict[str, Tone] = {
    BLESSED: "good",
    RUBBER_STAMPED: "good",
    NOT_BLESSED: "bad",
    NOT_ENOUGH: "warn",
    FORCED: "warn",
}
TITLES = {
    BLESSED: "The recipe that did best on past partitions passed every check and may replace the champion.",
    RUBBER_STAMPED: "The first model is accepted: there was no champion to compare it with.",
    NOT_BLESSED: "The new model is rejected.",
    NOT_ENOUGH: "There isn't enough evidence yet: the new model is rejected for now.",
    FORCED: "An operator forced the promotion of the new model, whatever the gate decided.",
}
CHAMPIONS = {  # by the kind of the switch that made it the champion
    PROMOTED: "The gate accepted it: its recipe did best on past partitions.",
    REFRESHED: "The gate accepted it: a newer fit of the recipe that served before.",
    FORCED: "A person forced its promotion, whatever the gate decided.",
    ROLLED_BACK: "It serves again since a rollback.",
    REPLACED: "It replaced a champion that lost more than a baseline.",
}
SERVING_UNITS = {
    metric.name: f"{metric.description}; {'more' if metric.greater_is_better else 'less'} is better"
    for metric in SERVING_METRICS
}
MAX_CHECK_NAMES = 3  # in a sentence


@dataclass(frozen=True)
class Headline:
    """The decision in a few sentences: its color, a title, the reasons, and what happens next."""

    tone: Tone
    title: str
    reasons: Sequence[str]
    next_step: str


def headline(attempt: AttemptData) -> Headline:
    """Return the verdict in plain words."""
    verdict = str(attempt.row["verdict"])
    title = TITLES.get(verdict, verdict)
    if attempt.newer_champion and verdict in PROMOTES:
        title = "The new model passed, but it is too old to be deployed."
    elif attempt.blocker:
        title = "The new model passed, but it isn't deployed."
    elif verdict == BLESSED and attempt.evidence.is_refresh:
        title = "The serving recipe, fitted again on newer data, may replace the champion."
    return Headline(TONES.get(verdict, ""), title, _reasons(attempt), _next_step(attempt, verdict))


def why_champion(champions: Sequence[Row]) -> str:
    """Return in a sentence why the last of some champions serves, oldest first; nobody served before them."""
    *earlier, last = champions
    others = [row["version"] for row in earlier if row["model"] != last["model"]]
    if last["kind"] == ROLLED_BACK and others:
        return f"It serves again: version {others[-1]} was rolled back."
    if last["kind"] == PROMOTED and not earlier:
        return "The gate accepted it: there was no champion before."
    return CHAMPIONS[last["kind"]]


def rival_name(attempt: AttemptData) -> str:
    """Return the model to beat in words: ``the champion, version 3`` or ``the baseline prior``."""
    if attempt.rival == CHAMPION:
        version = f", version {attempt.champion.switch['version']}" if attempt.champion else ""
        return f"the champion{version}"
    return f"the {model_name(attempt.rival)}" if attempt.rival else "nothing"


def model_name(model: str) -> str:
    """Return a model's name in the losses as words: ``baseline prior``."""
    return model.replace(":", " ")


def better_direction(metric: str, spec: UseCase) -> str:
    """Return which way a metric is better."""
    return "more" if greater_is_better(metric, spec) else "less"


def constant_text(attempt: AttemptData, evidence: Evidence | None) -> tuple[str, str]:
    """Return a label for the constant of a training, and its value, "—" if there is no evidence."""
    classes = attempt.spec.problem.classes
    label = "Share of each class in training" if classes else "Mean label in training"
    if (quantile := attempt.spec.gate.quantile) is not None:
        label = f"Quantile {quantile:g} of the labels in training"
    if evidence is None:
        return label, figure(None)
    return label, outputs.describe_constant(attempt.spec, evidence.constant, figure)


def action_rule(problem: Problem) -> str:
    """Return how actions follow from predictions, as ``warn from a probability of 0.2 on, else wait``."""
    if problem.threshold is None:
        return f"of {', '.join(problem.actions)} the one with the lowest expected cost"
    below, above = sorted(problem.actions, key=lambda name: -problem.costs["1"][name])
    return f"{above} from a probability of {figure(problem.threshold)} on, else {below}"


def loss_unit(attempt: AttemptData) -> str:
    """Return the unit of the objective's loss."""
    return attempt.spec.objective.unit.format(target=attempt.spec.problem.target) or "no unit"


def _reasons(attempt: AttemptData) -> list[str]:
    reasons = [_comparison(attempt)] if attempt.rows and attempt.rival else []
    failed = [check for check in attempt.checks if check.passed is False and check.blocking]
    not_met = [check for check in attempt.checks if check.passed is False and not check.blocking]
    judged = [check for check in attempt.checks if check.passed is not None]
    gain = attempt.gain()
    if failed and len(judged) < len(attempt.checks):
        reasons.append(f"There is too little evidence: {'; '.join(check.sentence() for check in failed)}.")
    elif failed:
        names = "; ".join(check.name for check in failed[:MAX_CHECK_NAMES])
        more = f" and {len(failed) - MAX_CHECK_NAMES} more" if len(failed) > MAX_CHECK_NAMES else ""
        reasons.append(f"{len(failed)} of {len(judged)} checks failed: {names}{more}.")
        if gain is not None and gain.mean > 0 >= gain.low:
            reasons.append("The gain may still be chance.")
    else:
        reasons.append(f"All {len(judged) - len(not_met)} {'blocking ' if not_met else ''}checks passed.")
    if not_met:
        reasons.append(f"Not met, which doesn't block: {'; '.join(check.name for check in not_met)}.")
    return [*reasons, f"{attempt.evidence.note}."] if attempt.evidence.note else reasons


def _comparison(attempt: AttemptData) -> str:
    """Return the mean losses of the challenger's and the rival's walks as a sentence."""
    walk_loss, rival_loss = attempt.mean_loss(CHALLENGER), attempt.mean_loss(attempt.rival)
    partitions = len(attempt.evidence.losses.partitions)
    difference = ""
    if rival_loss:
        share = percent(abs(rival_loss - walk_loss) / rival_loss, limit=0)
        difference = f": {share} {'less' if walk_loss < rival_loss else 'more'}"
    walk_text, rival_text = figure_pair(walk_loss, rival_loss)
    rows = "that models of its recipe, each fitted on earlier partitions, had never seen, their"
    return (
        f"On {partitions} partitions with {attempt.rows:,} rows {rows} "
        f"{metric_label(attempt.spec.gate.objective)} was {walk_text}, and that of "
        f"{rival_name(attempt)} was {rival_text}{difference}. Less is better."
    )


def _next_step(attempt: AttemptData, verdict: str) -> str:
    if attempt.newer_champion and verdict != FORCED:
        return (
            "The attempt is recorded and not deployed: a champion was judged on newer partitions, up to "
            f"{attempt.newer_champion}."
        )
    if attempt.blocker:
        return f"It isn't deployed. {attempt.blocker[0].upper()}{attempt.blocker[1:]}."
    if verdict == NOT_ENOUGH:
        advice = "Train again once more partitions have matured."
        return f"{_live_model(attempt)}. {advice}"
    if verdict == NOT_BLESSED:
        return f"{_live_model(attempt)}. The next training is judged on its own."
    if verdict == FORCED:
        return "It serves from the next unserved partition on. An operator can roll it back with one command."
    return _rollout(attempt)


def _live_model(attempt: AttemptData) -> str:
    """Return what goes on serving after a rejection."""
    if attempt.champion is None:
        baseline = attempt.evidence.selection.get("baseline", "baseline")
        return f"There is no champion: the best baseline, {baseline}, serves"
    return f"Version {attempt.champion.switch['version']} stays champion"


def _rollout(attempt: AttemptData) -> str:
    """Return how a model that passed goes live."""
    gate, live = attempt.spec.gate, attempt.champion is not None
    steps = {
        "immediate": "it serves from the next unserved partition on",
        "shadow": "it is scored in shadow next to the champion, and serves once its live losses pass",
        "canary": "it is scored in shadow next to the champion, then serves "
        f"{percent(gate.rollout.share)} of the rows, and all of them once its live losses pass",
    }
    refresh = attempt.evidence.is_refresh
    step = steps[gate.rollout.kind if live and not refresh else "immediate"]
    if gate.approval == "all" or (gate.approval == "changes" and not refresh):
        return (
            f"An operator has {gate.approval_hours:g} hours to approve it; no answer means no. "
            f"Once approved, {step}."
        )
    return f"{step[0].upper()}{step[1:]}."
