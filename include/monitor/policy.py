"""What a partition leads to: nothing, an alert, a training, a champion rolled back or served no more. Pure.

An alert is told once and again only after some quiet partitions, however many partitions find it. One bad
partition is weather for a model; the same finding several partitions in a row is a cause, and asks for one
training at a time. While a champion that stepped down has no successor, a training is asked for each week.
Rolling back and stepping down are steps of `include.rollout` or of a person; the partition from which on one
holds has it as its decision, and tells it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import pyarrow as pa

from include.errors import EvergreenError
from include.monitor import findings
from include.monitor.findings import Check, Finding
from include.monitor.state import PRODUCT
from include.promote import ledger
from include.promote.ledger import Row
from include.spec import UseCase
from include.spec.clock import day_of
from include.spec.stages import Retraining
from include.stats.intervals import partitions_needed
from include.storage import schemas
from include.storage.lake import Lake

# A broken feed (missing, unseen, rung, data) is no cause: what is learnt from it would be as broken.
CAUSES: dict[str, Check] = {"degraded": "performance", "drifted": "drift", "concept": "concept"}
# Not drift: each season is far from what the model learnt.
TOLD: tuple[Check, ...] = (
    "data", "fallback", "labels", "missing", "unseen", "jump", "performance", "concept"
)  # fmt: skip
MONTH = 30
DEMOTED = "demoted"  # the kind of cause that no declaration is needed for
WEEK = 7  # days between two trainings that a demotion asks for: by then there is other evidence
Act = Literal["nothing", "alert", "retrain", "roll back", "stop serving"]  # the later, the weightier


@dataclass(frozen=True)
class AlertItem:
    """One thing that a person is told.

    Parameters
    ----------
    check, subject, value, threshold, note : of the finding; of a switch of the champion, ``switch`` and the
        version that serves.
    """

    check: str
    subject: str
    value: float | None
    threshold: float | None
    note: str


@dataclass(frozen=True)
class Decision:
    """What a partition decided, and why.

    Parameters
    ----------
    decision : the weightiest of what follows.
    cause : the name under which a training is asked for, whatever the decision; empty where none is.
    alerts : what a person is told.
    """

    decision: Act
    cause: str
    reason: str
    alerts: tuple[AlertItem, ...] = ()


@dataclass(frozen=True)
class Demotion:
    """A champion that stepped down and has no successor yet.

    Parameters
    ----------
    since : the first partition on which it serves no more.
    fitted : the last partition that it was fitted on, which its successor can't be judged on; empty if
        unknown.
    """

    since: str
    fitted: str = ""


@dataclass(frozen=True)
class PartitionState:
    """A partition as the policy sees it.

    Parameters
    ----------
    model : digest of its champion, or of the one that stepped down; empty before the first promotion.
    alarms : its findings in alarm; none where nobody monitored it.
    switched : that the champion was rolled back or stepped down from this partition on, if it was.
    act : which of the two, as a decision.
    vacancy : why no champion serves it, and what does instead; empty where one serves.
    demotion : of the champion that stepped down, where that is why.
    decided : None for the partition that is to be decided, and where nobody monitored.
    """

    key: str
    model: str
    alarms: tuple[Finding, ...] = ()
    switched: AlertItem | None = None
    act: Literal["roll back", "stop serving"] = "roll back"
    vacancy: str = ""
    demotion: Demotion | None = None
    decided: Decision | None = None


def decide(history: Sequence[PartitionState], spec: UseCase) -> Decision:
    """Decide the newest partition by what was found and decided before it.

    Parameters
    ----------
    history : the partitions in their order without a gap, the one to decide last. More than `reach`
        partitions before it change nothing.
    """
    partition = history[-1]
    alerts, before = _alerts(history, spec)
    if partition.demotion:
        cause, why = _successor(history, spec, partition.demotion)
    else:
        cause, why = _training(history, spec.retraining)
    parts = [why]
    parts += [f"tells of {_listed(alerts)}"] if alerts else []
    parts += [f"told before: {_listed(before)}"] if before else []
    if partition.switched:
        alerts = (partition.switched, *alerts)
        parts.insert(0, partition.switched.note)
    found: Act = "retrain" if cause else "alert" if alerts else "nothing"
    return Decision(partition.act if partition.switched else found, cause, "; ".join(parts), alerts)


def policy_window(spec: UseCase) -> int:
    """Return how many partitions before one its decision looks at."""
    rules = spec.retraining
    return max(
        spec.alerts.quiet, spec.monitoring.sudden_changes.quiet, MONTH + rules.cooldown, rules.consecutive - 1
    )


def _alerts(
    history: Sequence[PartitionState], spec: UseCase
) -> tuple[tuple[AlertItem, ...], tuple[AlertItem, ...]]:
    """Return what the partition tells, and what is in alarm as well and was told a short while ago."""
    new: list[AlertItem] = []
    before: list[AlertItem] = []
    for check in TOLD:
        jump = check == "jump"
        quiet = spec.monitoring.sudden_changes.quiet if jump else spec.alerts.quiet
        decided = [partition.decided for partition in history[-1 - quiet : -1] if partition.decided]
        told = {a.subject for decision in decided for a in decision.alerts if a.check == check}
        for found in sorted((f for f in history[-1].alarms if f.check == check), key=lambda f: f.subject):
            alert = AlertItem(check, found.subject, found.value, found.threshold, found.note)
            # the promised rate of jumps counts one alert, whichever columns, in so many partitions
            (before if (told if jump else alert.subject in told) else new).append(alert)
    return tuple(new), tuple(before)


def _listed(alerts: Sequence[AlertItem]) -> str:
    shown = ", ".join(f"{alert.check} {alert.subject}" for alert in alerts[:6])
    return shown + (f" and {len(alerts) - 6} more" if len(alerts) > 6 else "")


def _training(history: Sequence[PartitionState], rules: Retraining) -> tuple[str, str]:
    """Return the cause by which the partition asks for a training, empty if it doesn't, and why."""
    partition = history[-1]
    if not partition.model:
        return "", partition.vacancy
    streaks = []
    for kind in rules.when:
        found = _streaks(history[-rules.consecutive :], CAUSES[kind])
        lasting = sorted(subject for subject, partitions in found.items() if partitions >= rules.consecutive)
        if lasting:
            partitions = (
                f"{rules.consecutive} partitions in a row" if rules.consecutive > 1 else "this partition"
            )
            return _asked(history, rules, kind, f"{kind}: {', '.join(lasting)} {partitions}")
        streaks += [f"{subject} {kind} for {partitions}" for subject, partitions in sorted(found.items())]
    if streaks:
        return "", f"{', '.join(streaks)} of {rules.consecutive} partitions in a row"
    return "", f"nothing is {' or '.join(rules.when) or 'watched'}"


def _successor(history: Sequence[PartitionState], spec: UseCase, demotion: Demotion) -> tuple[str, str]:
    """Return the cause by which a partition without a champion asks for a training, and why; or why it can't.

    It asks on the first such partition, and by another name each week: a cause names the run that it starts.
    Neither `retraining.cooldown` nor the month's budget counts here, since each partition is served worse.
    """
    partition, gate, delay = history[-1], spec.gate, spec.labels.delay
    if demotion.fitted:
        later = [key for key in spec.clock.keys(demotion.fitted, partition.key) if key > demotion.fitted]
        # the labels of the last fitted partitions came with the first of these, and those of the last are to
        # come
        matured = max(len(later) - 2 * delay, 0)
        needed = max(gate.min_partitions, partitions_needed(gate.block_partitions))
        if matured < needed:
            why = (
                f"a training needs {needed} matured test partitions after {demotion.fitted}, the last "
                "that the "
            )
            return "", f"{partition.vacancy}; {why}champion was fitted on, and would have {matured}"
    cause = f"{DEMOTED}-{partition.model[:12]}-"
    for earlier in history[:-1]:
        lately = earlier.key >= demotion.since and (day_of(partition.key) - day_of(earlier.key)).days < WEEK
        if lately and earlier.decided and earlier.decided.cause == cause + earlier.key:
            why = f"a training was asked for on {earlier.key}, the next is {WEEK} days later"
            return cause + earlier.key, f"{partition.vacancy}; {why}"
    return cause + partition.key, f"{partition.vacancy}; a successor is to be trained"


def _asked(history: Sequence[PartitionState], rules: Retraining, kind: str, why: str) -> tuple[str, str]:
    """Return the cause's name and why, or no name while an earlier training has to be waited for.

    A cause keeps its name until the cool-down is over, so a partition that nobody acted on holds up no other.
    """
    partition, last = history[-1], len(history) - 1
    first: dict[str, int] = {}
    for place in range(max(last - MONTH - rules.cooldown, 0), last):
        decided = history[place].decided
        if decided and decided.cause and not decided.cause.startswith(DEMOTED):
            first.setdefault(decided.cause, place)
    own = f"{kind}-{partition.model[:12]}"
    for cause, place in first.items():
        if last - place <= rules.cooldown:
            since = f"asked for on {history[place].key}"
            return (
                (cause, f"{why}, {since}")
                if cause.startswith(own)
                else (
                    "",
                    f"{why}; a training was {since}, the next may be {rules.cooldown + 1} partitions later",
                )
            )
    recent = sum(last - place <= MONTH for place in first.values())
    if recent >= rules.max_per_month:
        return (
            "",
            (
                f"{why}; {recent} trainings were asked for in {MONTH} partitions, no more than "
                f"{rules.max_per_month} may"
            ),
        )
    return f"{own}-{partition.key}", why


def _streaks(history: Sequence[PartitionState], check: Check) -> dict[str, int]:
    """Return for each subject in alarm on the newest partition how many partitions it has been.

    Without a gap.

    A partition that another model served is a gap.
    """
    partitions = [
        {f.subject for f in partition.alarms if f.check == check and partition.model == history[-1].model}
        for partition in history
    ]
    streaks: dict[str, int] = {}
    for subject in partitions[-1]:
        count = 0
        for alarmed in reversed(partitions):
            if subject not in alarmed:
                break
            count += 1
        streaks[subject] = count
    return streaks


PASSES = 20
BACKWARD = (ledger.ROLLED_BACK, ledger.DEMOTED)
UNDECIDED = Decision("nothing", "", "")


def publish_decisions(lake: Lake, spec: UseCase, partition: str) -> Decision:
    """Publish what is decided now of a monitored partition and of those after it.

    Return the partition's decision.
    """
    for _ in range(PASSES):
        history = _history(lake, spec, partition)
        new = []
        for place, each in enumerate(history):
            if each.key < partition or each.decided is None:
                continue
            decision = decide(history[: place + 1], spec)
            if decision != each.decided:
                history[place] = replace(each, decided=decision)
                new.append(history[place])
        if not new:
            decided = next(each.decided for each in history if each.key == partition)
            assert decided is not None
            return decided
        rows = pa.Table.from_pylist([_row(each) for each in new], schema=schemas.DECISIONS)
        lake.publish("decisions", rows, {"partition": [each.key for each in new]})
    raise EvergreenError(
        f"{spec.name}/decisions/{partition}",
        required="findings that hold still",
        found="others each time they are read",
        remedy="run it again when the runs of its neighbours have ended",
    )


def _history(lake: Lake, spec: UseCase, partition: str) -> list[PartitionState]:
    """Return the partitions that a partition's decision looks at, itself.

    And all after it that were monitored.
    """
    where = {"product": PRODUCT, "outcome": "published"}
    read = lake.read("partitions", where, ["partition"])
    monitored = set() if read is None else set(read["partition"].to_pylist())
    first = spec.clock.shift(partition, -policy_window(spec))
    keys = spec.clock.keys(first, max({partition, *monitored}))
    alarms = defaultdict(list)
    for row in lake.rows("findings", {"partition": keys, "outcome": "alarm"}):
        alarms[row["partition"]].append(row)
    decided = {row["partition"]: _decision(row) for row in lake.rows("decisions", {"partition": keys})}
    switches = ledger.switches(lake)
    champions = ledger.champions(switches)
    demotions: dict[int, Demotion] = {}
    history = []
    for key in keys:
        serving = next((row for row in reversed(champions) if row["effective"] <= key), None)
        switched, down, demotion = None, False, None
        if serving and serving["kind"] == ledger.DEMOTED:
            if serving["switch"] not in demotions:
                demotions[serving["switch"]] = Demotion(serving["effective"], _fitted(lake, serving))
            demotion = demotions[serving["switch"]]
        if serving and serving["effective"] == key and serving["kind"] in BACKWARD:
            kind, version = serving["kind"], f"v{serving['version']}"
            down = kind == ledger.DEMOTED
            does = "serves no more" if down else "serves again"
            note = f"{kind}: {version} {does} from this partition on ({serving['reason']})"
            switched = AlertItem("switch", version, None, None, note)
        there = key in monitored or key == partition
        history.append(
            PartitionState(
                key,
                str(serving["model"]) if serving else "",
                tuple(findings.from_rows(alarms[key])) if there else (),
                switched,
                "stop serving" if down else "roll back",
                ledger.vacancy(switches, key),
                demotion,
                decided.get(key, UNDECIDED) if there else None,
            )
        )
    return history


def _fitted(lake: Lake, champion: Row) -> str:
    """Return the last partition that a champion was fitted on, empty where nothing recorded says so."""
    for attempt in lake.rows("attempts", {"key": champion["attempt"]}):
        evidence = json.loads(attempt["evidence"])
        return str(evidence.get("fitted") or evidence["last_fitted"])
    return ""


def _row(partition: PartitionState) -> dict[str, str]:
    decided = partition.decided
    assert decided is not None
    told = json.dumps([asdict(alert) for alert in decided.alerts], ensure_ascii=False)
    return {
        "partition": partition.key,
        "decision": decided.decision,
        "cause": decided.cause,
        "reason": decided.reason,
        "alerts": told,
    }


def _decision(row: dict[str, str]) -> Decision:
    alerts = tuple(AlertItem(**alert) for alert in json.loads(row.get("alerts") or "[]"))
    return Decision(row["decision"], row["cause"], row["reason"], alerts)  # type: ignore[arg-type]  # as written
